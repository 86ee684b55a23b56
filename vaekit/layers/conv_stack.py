"""Features of x and x̂ in a frozen classifier of torchvision: what perceptual losses compare."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.fixed import Fixed
from vaekit.layers.precision import at_least_float32
from vaekit.layers.torchvision_weights import filled, outline
from vaekit.records import Output

Pooling: TypeAlias = Literal["max", "l2"]
Maps: TypeAlias = dict[int, Tensor]
"""Features by the place of the layer that gives them."""

IMAGE = "image"
"""The layer before the first: three channels in [0, 1]."""

_VGG16 = {"relu1_1": 1, "relu1_2": 3, "relu2_1": 6, "relu2_2": 8, "relu3_1": 11, "relu3_2": 13, "relu3_3": 15}
_VGG16 |= {"relu4_1": 18, "relu4_2": 20, "relu4_3": 22, "relu5_1": 25, "relu5_2": 27, "relu5_3": 29}
LAYERS: Mapping[str, Mapping[str, int]] = {
    "vgg16": _VGG16,
    "alexnet": {"relu1": 1, "relu2": 4, "relu3": 7, "relu4": 9, "relu5": 11},
    "squeezenet1_1": {"relu1": 1, "fire3": 4, "fire5": 7, "fire6": 9, "fire7": 10, "fire8": 11, "fire9": 12},
}
"""Places in torchvision's `features`, by the name of what is taken there."""


class ConvStack:
    """x, x̂ → their maps at some layers of a fixed network, and a number per example from a distance between them.

    x̂ is the mean of p(x|z). Images are brought from the data range to [0, 1] and to the network's normalisation. One
    channel is repeated three times; of two, or more than three, each is a grey image of its own, and an example's
    number is the mean over them. x passes without a graph, apart from x̂: one pass of both together would keep x's
    activations for a backward pass that does not need them. Arithmetic is in at least single precision, also under
    autocast.

    Losses in one network that look at the same p(x|z) share its passes.

    Args:
        name: "vgg16", "alexnet" or "squeezenet1_1".
        weights: "pretrained", a file, or "random": see `torchvision_weights.filled`.
        in_shape: the images' shape, `(c, h, w)`.
        data_range: smallest and largest value of the images.
        layers: names out of `LAYERS[name]`, or "image", in any order.
        size: side to which images are brought, by bilinear interpolation with antialiasing; None keeps theirs.
        pooling: "max" as trained, or "l2": the root of a smoothed square, which has no aliasing.
        instead: what to choose where images are too small, for the message.

    Raises:
        ValueError: where the data are no images or have no range, are smaller than the layers need, or a layer is
            unknown or named twice.
        MissingPackage: where torchvision can't be imported.
    """

    def __init__(
        self,
        name: str,
        weights: str = "pretrained",
        *,
        in_shape: Sequence[int],
        data_range: tuple[float, float] | None,
        layers: Sequence[str],
        size: int | None = None,
        pooling: Pooling = "max",
        instead: str = "earlier layers",
    ) -> None:
        if len(in_shape) != 3:
            raise ValueError(f"{name}: expected images (c, h, w), got data of shape {tuple(in_shape)}.")
        if data_range is None:
            raise ValueError(f"{name}: expected a data_range, to bring images to the network's, got None. Give one.")
        if size is not None and size < 1:
            raise ValueError(f"size: expected a side of at least 1, or None, got {size}.")
        known = {IMAGE: -1, **LAYERS[name]}
        if not layers or isinstance(layers, str) or len(set(layers)) < len(layers) or not set(layers) <= set(known):
            raise ValueError(f"layers: expected some of {', '.join(known)}, each once; got {layers!r}.")
        self.places = [known[layer] for layer in layers]
        self.low, self.high = data_range
        self.size = size
        self.greys = 1 if in_shape[0] in (1, 3) else in_shape[0]
        self._outline = _Network(outline(name), pooling)
        self._fixed = Fixed(_network, name, str(weights), pooling)
        self._key = (name, str(weights), pooling, self.low, self.high, size)
        self._check_size(in_shape[1:], name, layers, instead)

    def compare(
        self,
        out: Output,
        apart: Callable[[int, Float[Tensor, "n b k h w"], Float[Tensor, "b k h w"]], Float[Tensor, "n b"]],
    ) -> Float[Tensor, " b"]:
        """Σ_i apart(i, f_i(x̂), f_i(x)) over the layers, averaged over draws and grey channels.

        Args:
            out: of a pass through the model.
            apart: i, the maps of x̂ and those of x, without a graph → numbers `(n, b)`.
        """
        with torch.autocast(out.x.device.type, enabled=False):
            made, wanted = self._maps(out)
            each = [
                apart(i, made[place].unflatten(0, (-1, len(wanted[place]))), wanted[place])
                for i, place in enumerate(self.places)
            ]
            return torch.stack(each).sum(0).mean(0).reshape(-1, self.greys).mean(1)

    def weighed(self, weights: Sequence[float] | None) -> list[float]:
        """One weight for each layer: those given, or ones.

        Raises:
            ValueError: where one is negative, or they are not as many as the layers.
        """
        weights = [1.0] * len(self.places) if weights is None else [float(w) for w in weights]
        if len(weights) != len(self.places) or not all(0 <= w < float("inf") for w in weights):
            raise ValueError(
                f"layer_weights: expected {len(self.places)} numbers of at least 0, one for each layer; got {weights}."
            )
        return weights

    def _maps(self, out: Output) -> tuple[Maps, Maps]:
        """Maps of x̂ `(n·b, k, h, w)` and of x `(b, k, h, w)`, where b counts grey channels."""
        network = self._outline if out.x.is_meta else self._fixed.at(out.y)
        made, wanted = self._seen(out, network)
        if -1 not in made:
            made[-1] = self._image(out.p_x.mean.reshape(-1, *out.x.shape[1:]))
        network(made, self.places)
        with torch.no_grad():
            if -1 not in wanted:
                wanted[-1] = self._image(out.x).to(made[-1].dtype)
            network(wanted, self.places)
        return made, wanted

    def _seen(self, out: Output, network: nn.Module) -> tuple[Maps, Maps]:
        """Maps that another loss has asked for, to which new ones are added.

        They are kept on p(x|z), and go with it: another view of the same values, with another gradient, has another
        p(x|z).
        """
        p_x: Any = out.p_x
        if not hasattr(p_x, "_conv_maps"):
            p_x._conv_maps = {}
        key = (*self._key, torch.is_grad_enabled())
        kept = p_x._conv_maps.get(key)
        if kept is None or kept[0] is not network or kept[1] is not out.x:
            p_x._conv_maps[key] = kept = (network, out.x, {}, {})
        return kept[2:]

    def _image(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b_ 3 h_ w_"]:
        """Three channels in [0, 1], of the wanted size."""
        if self.greys > 1:
            x = x.flatten(0, 1)[:, None]
        x = (at_least_float32(x) - self.low) / (self.high - self.low)
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        return x.expand(-1, 3, -1, -1)

    def _check_size(self, place: Sequence[int], name: str, layers: Sequence[str], instead: str) -> None:
        if self._takes(*((self.size, self.size) if self.size else place)):
            return
        least = next(n for n in range(1, 1000) if self._takes(n, n))
        got = f"size={self.size}" if self.size else f"{tuple(place)}"
        last = max(layers, key=lambda layer: LAYERS[name].get(layer, -1))
        raise ValueError(
            f"{name}: {last} needs images of at least {least} pixels a side, got {got}. Choose {instead}, or "
            f"size={max(64, least)} to enlarge them."
        )

    def _takes(self, h: int, w: int) -> bool:
        try:
            self._outline({-1: torch.empty(1, 3, h, w, device="meta")}, self.places)
        except RuntimeError:  # nothing is left after some layer
            return False
        return True


class _Network(nn.Module):
    """Images in [0, 1] → maps, with the normalisation that torchvision's weights were trained with."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, stack: nn.Sequential, pooling: Pooling) -> None:
        super().__init__()
        pools = pooling == "l2"
        self.stack = nn.ModuleList(_L2Pool() if pools and isinstance(f, nn.MaxPool2d) else f for f in stack)
        device = next(stack.parameters()).device
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        self.register_buffer("mean", torch.tensor(mean, device=device).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, device=device).reshape(1, 3, 1, 1), persistent=False)
        self.to(device)

    def forward(self, maps: Maps, places: Sequence[int]) -> None:
        """Add the maps at some places to those that are there, each from the nearest before it."""
        for place in sorted(places):
            if place in maps:
                continue
            start = max(before for before in maps if before < place)
            h = (maps[-1] - self.mean) / self.deviation if start == -1 else maps[start]
            for i in range(start + 1, place + 1):
                h = self.stack[i](h)
            maps[place] = h


class _L2Pool(nn.Module):
    """√(g ∗ h²) at every second position, g a Hann window of three positions a side."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        hann = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", torch.outer(hann, hann)[None, None], persistent=False)

    def forward(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h_ w_"]:
        window = self.window.expand(h.shape[1], -1, -1, -1)
        # the constant keeps the root's slope finite at 0
        return (F.conv2d(h.square(), window, stride=2, padding=1, groups=h.shape[1]) + 1e-12).sqrt()


def _network(name: str, weights: str, pooling: Pooling) -> _Network:
    return _Network(filled(name, weights), pooling)
