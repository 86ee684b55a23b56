"""A timm network as a fixed function of images: made on first use, never trained, moved or saved with the model."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.fixed import Fixed
from vaekit.layers.precision import at_least_float32
from vaekit.layers.timm_weights import filled, outline

Size: TypeAlias = tuple[int, int]
LastNorm: TypeAlias = Literal["none", "learned", "plain"]


class Backbone:
    """x `(b, c, h, w)` in the data's range → maps `(b, k, h', w')` of a frozen timm network, fine to coarse.

    No module: its weights are no parameters of the model, follow the data to their device, and are looked for on the
    first call, so that a saved model is built again without them. Until then, shapes come from a network on the meta
    device, which also answers for meta tensors.

    Images go to three channels (see `to_three`), to [0, 1], to the wanted size, and to the mean and standard deviation
    that the network was trained with. Sizes are reached by bilinear interpolation with antialiasing. Without a wanted
    size, images stay as they are, continued by their last row and column to a multiple of the coarsest map's stride; a
    network that takes one size only gets that. Arithmetic is in float32 under autocast and for half-precision x.

    Args:
        name: a name that `timm.list_models()` shows, with or without a tag.
        weights: "pretrained" (timm's, from its cache or a download), a file (safetensors or a torch checkpoint), or
            "random" (the same in every process).
        in_shape: the images' shape, `(c, h, w)`.
        data_range: smallest and largest value of the images.
        layers: which maps, counted as timm does: stages of a convolutional network, blocks of a transformer. None:
            all of different sizes, or of a transformer's blocks the last of each quarter.
        norm: the network's last norm over the maps: "none", "learned", or "plain", without its scale and shift.
        readout: add the class token to each position, where there is one.

    Raises:
        ValueError: for data that are no images or have no range, a name that timm does not know, or layers that the
            network lacks.
        MissingPackage: where timm can't be imported.
    """

    def __init__(
        self,
        name: str,
        weights: str = "pretrained",
        *,
        in_shape: Sequence[int],
        data_range: tuple[float, float] | None,
        layers: Sequence[int] | None = None,
        norm: LastNorm = "none",
        readout: bool = False,
    ) -> None:
        if len(in_shape) != 3:
            raise ValueError(f"backbone: expected images (c, h, w), got data of shape {tuple(in_shape)}.")
        if data_range is None:
            raise ValueError("backbone: expected a data_range, to bring images to the network's, got None. Give one.")
        self.name, self.norm = name, norm
        self.low, self.high = data_range
        self._outline = outline(name)
        config = _config(self._outline)
        self.own_size: Size = tuple(config["input_size"][1:])
        self.one_size = bool(config.get("fixed_input_size")) and not getattr(self._outline, "dynamic_img_size", False)
        maps: Any = self._outline.feature_info
        self.layers = _chosen(layers, [each["reduction"] for each in maps], name)
        self.strides = tuple(maps[i]["reduction"] for i in self.layers)
        self.readout = readout and getattr(self._outline, "cls_token", None) is not None
        self._network = Fixed(_network, name, weights, norm == "plain")

    def __call__(self, x: Float[Tensor, "b c h w"], size: Size | None = None) -> list[Tensor]:
        """The maps of the chosen layers, for images brought to `size`."""
        if x.is_meta:
            return [at_least_float32(x).new_empty(len(x), *shape) for shape in self.shapes(x.shape[2:], size)]
        network, prepared = self._network.at(x), self._prepared(x, size)
        with torch.autocast(x.device.type, enabled=False):
            return self._maps(network.model, network(prepared))

    def pooled(self, x: Float[Tensor, "b c h w"], size: Size | None = None) -> Float[Tensor, "b k"]:
        """What the network's own classifier would read."""
        if x.is_meta:
            return at_least_float32(x).new_empty(len(x), self._outline(self._blank(x.shape[2:], size)).shape[1])
        network, prepared = self._network.at(x), self._prepared(x, size)
        with torch.autocast(x.device.type, enabled=False):
            return network.model(network(prepared))

    def shapes(self, place: Sequence[int], size: Size | None = None) -> list[tuple[int, ...]]:
        """Each map's shape `(k, h', w')` for images of size `place`."""
        return [tuple(found.shape[1:]) for found in self._maps(self._outline, self._blank(place, size))]

    def _maps(self, model: Any, x: Tensor) -> list[Tensor]:
        wanted: dict[str, Any] = {"return_prefix_tokens": True} if self.readout else {}
        found = model.forward_intermediates(
            x, indices=list(self.layers), norm=self.norm != "none", stop_early=True, intermediates_only=True, **wanted
        )
        return [maps + tokens[:, 0, :, None, None] for maps, tokens in found] if self.readout else list(found)

    def _blank(self, place: Sequence[int], size: Size | None) -> Tensor:
        device = next(self._outline.parameters()).device
        return torch.zeros(1, 3, *self._target(place, size), device=device)

    def _target(self, place: Sequence[int], size: Size | None) -> Size:
        """The size that images of size `place` come to."""
        if self.one_size and size not in (None, self.own_size):
            raise ValueError(
                f"size: timm's {self.name!r} takes images of {self.own_size} only, and its maps are wanted for {size}. "
                "Take a backbone that adapts (vit, deit, eva, swin, or a convolutional one), or another latent."
            )
        if size is not None:
            return size
        step = max(self.strides)
        return self.own_size if self.one_size else (-(-place[0] // step) * step, -(-place[1] // step) * step)

    def _prepared(self, x: Tensor, size: Size | None) -> Tensor:
        x = (to_three(at_least_float32(x)) - self.low) / (self.high - self.low)
        target = self._target(x.shape[2:], size)
        if tuple(x.shape[2:]) == target:
            return x
        if size is None and not self.one_size:
            return F.pad(x, (0, target[1] - x.shape[3], 0, target[0] - x.shape[2]), mode="replicate")
        return F.interpolate(x, target, mode="bilinear", align_corners=False, antialias=True)


class _Network(nn.Module):
    """A timm network, and as its own pass images in [0, 1] → what the network was trained on."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, config = model, _config(model)
        mean, deviation = (torch.tensor(config[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
        self.register_buffer("scale", 1 / deviation)
        self.register_buffer("shift", -mean / deviation)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _network(name: str, weights: str, plain: bool) -> _Network:
    """The network with its weights; `plain` takes the learned scale and shift off its last norm."""
    model = filled(name, weights)
    last = getattr(model, "norm", None)
    if plain and isinstance(last, nn.LayerNorm) and last.elementwise_affine:
        nn.init.ones_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
    return _Network(model)


def _config(model: Any) -> Any:
    return model.pretrained_cfg


def to_three(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """Any number of channels as three: channel i is the mean of those numbered i, i + 3, …; fewer are repeated.

    A grey image becomes three equal channels, and a colour image stays what it is.
    """
    c = x.shape[1]
    if c == 3:
        return x
    if c < 3:
        return torch.cat([x] * 3, 1)[:, :3]
    return torch.stack([x[:, i::3].mean(1) for i in range(3)], 1)


def _chosen(layers: Sequence[int] | None, strides: Sequence[int], name: str) -> tuple[int, ...]:
    count = len(strides)
    if layers is None:
        quarters = len(set(strides)) == 1 and count > 4
        return tuple(count * i // 4 - 1 for i in range(1, 5)) if quarters else tuple(range(count))
    chosen = sorted(i + count if i < 0 else i for i in layers)
    if not chosen or chosen[0] < 0 or chosen[-1] >= count or len(set(chosen)) != len(chosen):
        raise ValueError(
            f"layers: timm's {name!r} has the layers 0 to {count - 1}: expected some of them, got {list(layers)}."
        )
    return tuple(chosen)
