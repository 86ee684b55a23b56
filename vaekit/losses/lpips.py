"""Learned perceptual image patch similarity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Loss, loss
from vaekit.layers.conv_stack import LAYERS, ConvStack
from vaekit.layers.fixed import Fixed
from vaekit.layers.torchvision_weights import package_file, read
from vaekit.records import Output

_NETWORKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "alex": ("alexnet", tuple(LAYERS["alexnet"])),
    "vgg": ("vgg16", ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")),
    "squeeze": ("squeezenet1_1", tuple(LAYERS["squeezenet1_1"])),
}


@loss("lpips", tags=("image", "perceptual"), cite="zhang2018")
class LPIPSLoss(Loss):
    """Σ_l mean_place w_l · (u_l(x) - u_l(x̂))², u = f / √(‖f‖² + 10⁻¹⁰), f_l a network's features, x̂ the mean of p(x|z).

    Features are brought to unit length at each place; w_l was learned from what people find similar. Heads w_l are
    those of the package lpips, version 0.1; networks are torchvision's. They are fixed, made on first use, and not
    saved with the model. "vgg" is the usual choice to train with, "alex" the one to report.

    The package divides by ‖f‖ + 10⁻¹⁰, whose gradient in f is NaN where all features of a place are 0: only the
    activation before it, flat there, stops that. Here the constant is under the root, and the gradient is finite. Both
    agree at 0, and for norms well above 10⁻⁵, as in photos; in between, this one is smaller.

    Grey images are given as three equal channels; of two, or more than three channels each is taken as a grey image,
    and the loss is the mean over them.

    Shapes: Output → (b,). No unit: 0 for x̂ = x; a mean over places, summed over layers.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the images, wired.
        net: "vgg", "alex" or "squeeze". Images have at least 16 pixels a side for the first, 31 for the second, 17 for
            the third.
        weights: of the network, without the heads: "pretrained" (torchvision's cache, or its download), a file
            (safetensors or a torch checkpoint) of tensors named `features.*`, or "random".
        size: side to which images are brought, as 64 for small ones; None keeps theirs.

    Raises:
        ValueError: where the data are no images, have no range or are too small, or the network is unknown.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where lpips or torchvision is missing.

    References:
        The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (Zhang et al., 2018),
        https://arxiv.org/abs/1801.03924

    Example:
        >>> import torch, vaekit
        >>> term = vaekit.term("lpips", weight=0.5, net="squeeze", weights="random")
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 28, 28), loss=["nll", term, "kl"])
        >>> list(vae.loss(torch.rand(2, 1, 28, 28)).terms)
        ['nll', 'lpips', 'kl']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        net: Literal["vgg", "alex", "squeeze"] = "vgg",
        weights: str = "pretrained",
        size: int | None = None,
    ) -> None:
        super().__init__()
        if net not in _NETWORKS:
            raise ValueError(f"net: expected 'vgg', 'alex' or 'squeeze', got {net!r}.")
        name, layers = _NETWORKS[net]
        instead = "data of more pixels" if net == "vgg" else "net='vgg', which takes 16"
        self.features = ConvStack(
            name, weights, in_shape=input_shape, data_range=data_range, layers=layers, size=size, instead=instead
        )
        self.net, self.heads = net, Fixed(_Heads, net)

    def check(self, out: Output) -> None:
        """The heads are there: a model that was saved is loaded without them, and one that is built needs them."""
        _heads_of(self.net)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return self.features.compare(out, self._apart)

    def _apart(self, i: int, f: Float[Tensor, "n b k h w"], g: Float[Tensor, "b k h w"]) -> Float[Tensor, "n b"]:
        return (_unit(f) - _unit(g)).square().mean((-2, -1)) @ self.heads.at(f).get_buffer(f"of_{i}")


class _Heads(nn.Module):
    """What each layer's channels weigh."""

    def __init__(self, net: str) -> None:
        super().__init__()
        for key, weight in read(_heads_of(net)).items():
            self.register_buffer(f"of_{key.removeprefix('lin').split('.')[0]}", weight.flatten())


def _heads_of(net: str) -> Path:
    return package_file("lpips", "weights", "v0.1", f"{net}.pth", user="the loss 'lpips'")


def _unit(f: Float[Tensor, "*b k h w"]) -> Float[Tensor, "*b k h w"]:
    return f * (f.square().sum(-3, keepdim=True) + 1e-10).rsqrt()
