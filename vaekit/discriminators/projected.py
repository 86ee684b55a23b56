"""The discriminator of Projected GAN: fixed features, mixed at random, and a small head per scale."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.norm import group_norm
from vaekit.layers.spectral import spectral
from vaekit.layers.timm_backbone import Backbone


@discriminator("projected", tags=("image", "pretrained"), cite="sauer2021")
class ProjectedDiscriminator(Discriminator):
    """logits_l = D_l(u_l), u_l = A_l ↑(u_{l+1} + B_l f_l(x)): a head D_l for each scale l of a frozen network's maps f.

    B mixes channels and A, after the coarser map was added and doubled, scales. Both are random 1-convolutions that
    stay as they are: they hide parts of the features from each head, so that none is won at a glance. Heads and mixing
    are saved; the network is made on first use. Augmentation belongs to the loss.

    Shapes: x (b, c, h, w) of any size → one (b, 1, h_l, w_l) per scale, fine to coarse. Features: each head's map
    before its last convolution.

    Args:
        in_shape: the data's shape, wired.
        data_range: of the images, wired.
        backbone: a name that `timm.list_models()` shows; convolutional ones have maps of several scales.
        weights: "pretrained" (timm's, from its cache or a download), a file, or "random".
        layers: which maps, counted as timm does; None takes the last four.
        size: side to which images are brought; None takes the network's own.
        width: channels of the finest mixed map, doubled at each scale; and of the heads, up to 8 times as many.
        smallest: side at which a head stops halving.
        seed: of the random mixing.

    Raises:
        ValueError: where the data are no images or have no range, timm knows no such network or layer, or `width` is
            odd or not positive.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where timm can't be imported.

    References:
        Projected GANs Converge Faster (Sauer et al., 2021), https://arxiv.org/abs/2111.01007; with group in place of
        batch normalisation, so that examples are judged alone

    Example:
        >>> import torch, vaekit
        >>> critic = vaekit.discriminator["projected"]((3, 32, 32), backbone="test_resnet", weights="random", width=8)
        >>> [tuple(logits.shape) for logits in critic(torch.rand(2, 3, 32, 32))]
        [(2, 1, 2, 2), (2, 1, 2, 2), (2, 1, 2, 2), (2, 1, 2, 2)]
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        backbone: str = "tf_efficientnet_lite0.in1k",
        weights: str = "pretrained",
        layers: Sequence[int] | None = None,
        size: int | None = None,
        width: int = 64,
        smallest: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width: expected an even number of at least 2, got {width}.")
        if smallest < 1:
            raise ValueError(f"smallest: expected at least 1, got {smallest}.")
        layers = (-4, -3, -2, -1) if layers is None else layers
        self.backbone = Backbone(backbone, weights, in_shape=in_shape, data_range=data_range, layers=layers)
        self.size = self.backbone.own_size if size is None else (size, size)
        shapes = self.backbone.shapes(in_shape[1:], self.size)
        self.mixing = _Mixing([k for k, *_ in shapes], width, seed)
        # a mixed map has twice the size of its own scale
        self.heads = nn.ModuleList(
            [
                _Head(c, 2 * min(place), width, smallest)
                for c, (_, *place) in zip(self.mixing.channels, shapes, strict=True)
            ]
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        found = self.features(x)
        return [head.out(h) for head, h in zip(self.heads, found, strict=True)]  # type: ignore[operator]

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Each head's hidden map, fine to coarse."""
        maps = [f.to(self.mixing.scales_0.dtype) for f in self.backbone(x, self.size)]
        return [head(u) for head, u in zip(self.heads, self.mixing(maps), strict=True)]


class _Mixing(nn.Module):
    """Random 1-convolutions across channels and scales. Buffers: saved with the heads that learned on them."""

    scales_0: Tensor

    def __init__(self, given: Sequence[int], width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        wide = [width * 2**i for i in range(len(given))]
        self.channels = [width, *(c // 2 for c in wide[1:])]  # what is handed on fits the next finer map
        for name, before, after in (("channels", given, wide), ("scales", wide, self.channels)):
            for i, (a, b) in enumerate(zip(before, after, strict=True)):
                mix = torch.randn(b, a, 1, 1, generator=generator) / math.sqrt(a)
                self.register_buffer(f"{name}_{i}", mix)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        for i in reversed(range(len(maps))):
            h = F.conv2d(maps[i], getattr(self, f"channels_{i}"))
            h = h + found[-1] if found else h
            finer = maps[i - 1].shape[2:] if i else [2 * s for s in h.shape[2:]]
            h = F.interpolate(h, finer, mode="bilinear", align_corners=True)
            found.append(F.conv2d(h, getattr(self, f"scales_{i}")))
        return found[::-1]


class _Head(nn.Module):
    """Strided convolutions down to a side of `smallest`, each with normalisation and leaky ReLU."""

    def __init__(self, channels: int, side: int, width: int, smallest: int) -> None:
        super().__init__()
        halvings = max(0, math.ceil(math.log2(side / smallest)))
        steps: list[nn.Module] = []
        for left in reversed(range(halvings)):
            wide = width * 2 ** max(0, 3 - left)
            steps += [spectral(nn.Conv2d(channels, wide, 4, 2, 1)), group_norm(wide), nn.LeakyReLU(0.2)]
            channels = wide
        self.body = nn.Sequential(*steps)
        self.out = spectral(nn.Conv2d(channels, 1, min(4, max(1, side >> halvings)), bias=False))

    def forward(self, u: Tensor) -> Tensor:
        return self.body(u)
