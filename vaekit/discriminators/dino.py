"""The discriminator on top of a frozen vision transformer."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.norm import group_norm
from vaekit.layers.precision import at_least_float32
from vaekit.layers.spectral import spectral
from vaekit.layers.timm_backbone import Backbone


@discriminator("dino", tags=("image", "pretrained"), cite=("sauer2023", "caron2021"))
class DINODiscriminator(Discriminator):
    """logits_l = W (h + (C₉ h)) / √2, h = C₁ f_l(x): heads on the tokens of several blocks of a frozen transformer.

    f_l are the patch tokens after block l with the class token added, C_k a convolution along the row of tokens, which
    closes to a ring, with normalisation and leaky ReLU. All weights have spectral norm 1. The heads alone are trained
    and saved; the transformer is made on first use. Augmentation belongs to the loss.

    Shapes: x (b, c, h, w) of any size → one (b, t) per block, t the transformer's places. Features: each head's
    (b, k, t) before W.

    Args:
        in_shape: the data's shape, wired.
        data_range: of the images, wired.
        backbone: a name that `timm.list_models()` shows.
        weights: "pretrained" (timm's, from its cache or a download), a file, or "random".
        layers: after which blocks; None takes the last of each quarter: 2, 5, 8, 11 of twelve.
        size: side to which images are brought; None takes the transformer's own.
        kernel: width of the second convolution.
        spectral_norm: whether weights are divided by their largest singular value.
        virtual_batch: examples that are normalised together, place by place, as StyleGAN-T does with 8; None takes
            group normalisation, which judges examples alone.

    Raises:
        ValueError: where the data are no images or have no range, timm knows no such network or layer, the kernel is
            even or wider than the row of tokens, or `virtual_batch` < 1.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where timm can't be imported.

    References:
        StyleGAN-T: Unlocking the Power of GANs for Fast Large-Scale Text-to-Image Synthesis (Sauer et al., 2023),
        https://arxiv.org/abs/2301.09515; Emerging Properties in Self-Supervised Vision Transformers
        (Caron et al., 2021), https://arxiv.org/abs/2104.14294

    Example:
        >>> import torch, vaekit
        >>> critic = vaekit.discriminator["dino"]((3, 32, 32), backbone="test_vit", weights="random", layers=(2, 5))
        >>> [tuple(logits.shape) for logits in critic(torch.rand(2, 3, 32, 32))]
        [(2, 100), (2, 100)]
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        backbone: str = "vit_small_patch8_224.dino",
        weights: str = "pretrained",
        layers: Sequence[int] | None = None,
        size: int | None = None,
        kernel: int = 9,
        spectral_norm: bool = True,
        virtual_batch: int | None = None,
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd width, got {kernel}.")
        if virtual_batch is not None and virtual_batch < 1:
            raise ValueError(f"virtual_batch: expected at least 1, or None, got {virtual_batch}.")
        self.backbone = Backbone(
            backbone, weights, in_shape=in_shape, data_range=data_range, layers=layers, readout=True
        )
        self.size = self.backbone.own_size if size is None else (size, size)
        shapes = self.backbone.shapes(in_shape[1:], self.size)
        tokens = min(math.prod(place) for _, *place in shapes)
        if kernel // 2 > tokens:
            raise ValueError(f"kernel: {kernel} is too wide for a row of {tokens} tokens. Take a larger size.")
        self.heads = nn.ModuleList([_Head(k, kernel, spectral_norm, virtual_batch) for k, *_ in shapes])
        self.out = nn.ModuleList([_convolution(k, 1, 1, spectral_norm) for k, *_ in shapes])

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        return [out(h).squeeze(1) for out, h in zip(self.out, self.features(x), strict=True)]

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Each head's hidden activations (b, k, t)."""
        return [head(f) for head, f in zip(self.heads, self.backbone(x, self.size), strict=True)]


class _Head(nn.Module):
    def __init__(self, channels: int, kernel: int, spectral_norm: bool, virtual_batch: int | None) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 1, spectral_norm)
        self.second = _convolution(channels, channels, kernel, spectral_norm)
        self.norms = nn.ModuleList(
            [group_norm(channels) if virtual_batch is None else _BatchNorm(channels, virtual_batch) for _ in range(2)]
        )

    def forward(self, f: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k t"]:
        tokens = f.flatten(2).to(self.first.weight.dtype)
        h = F.leaky_relu(self.norms[0](self.first(tokens)), 0.2)
        return (h + F.leaky_relu(self.norms[1](self.second(h)), 0.2)) / math.sqrt(2)


class _BatchNorm(nn.Module):
    """Each channel normalised over the places of some examples together, always by the statistics of the moment."""

    def __init__(self, channels: int, examples: int) -> None:
        super().__init__()
        self.examples = examples
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b k t"]) -> Float[Tensor, "b k t"]:
        # the most examples, up to the wanted number, that divide the batch
        together = next(n for n in range(min(self.examples, len(x)), 0, -1) if len(x) % n == 0)
        groups = at_least_float32(x).reshape(-1, together, *x.shape[1:])
        variance, mean = torch.var_mean(groups, (1, 3), correction=0, keepdim=True)
        groups = (groups - mean) * (variance + 1e-5).rsqrt()
        return groups.reshape(x.shape).to(x.dtype) * self.weight[:, None] + self.bias[:, None]


def _convolution(c_in: int, c_out: int, kernel: int, spectral_norm: bool) -> nn.Conv1d:
    layer = nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2, padding_mode="circular")
    return spectral(layer) if spectral_norm else layer
