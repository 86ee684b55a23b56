"""The discriminator of VQGAN+: blurred halvings, and one grid of logits whatever the image's size."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.blur import Blur
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import convolution, widths

_POOLS: dict[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


@discriminator("vqgan_plus", tags=("signal", "image", "volume"), cite=("weber2024", "yu2024b"))
class VQGANPlusDiscriminator(Discriminator):
    """logits = C₅ act(C₁ max↓(h)), h = act(N blur↓(C₃ … act(C₅ x))): patches, found without aliases and pooled.

    C_k are convolutions with kernels of k, N is group normalisation, and act is leaky ReLU of slope 0.1. The maximum
    brings maps to at most `pool` places a side.

    Shapes: x `(b, c, *s)`, one to three spatial dimensions of any size → [`(b, 1, *t)`], t at most `pool`. Features:
    the map after each activation; the last one makes the logits.

    Args:
        in_shape: the data's shape, wired.
        width: channels at the first stage, doubled at each.
        stages: blurred halvings.
        taps: length of the blur: (1, 2, 1), (1, 3, 3, 1) or (1, 4, 6, 4, 1).
        pool: largest side of the map of logits.

    Raises:
        ValueError: where the data have no spatial dimension or are smaller than the halvings, or an argument is
            smaller than 1, or `taps` than 2.

    References:
        MaskBit: Embedding-free Image Generation via Bit Tokens (Weber et al., 2024), https://arxiv.org/abs/2409.16211;
        An Image is Worth 32 Tokens for Reconstruction and Generation (Yu et al., 2024),
        https://arxiv.org/abs/2406.07550

    Example:
        >>> import torch, vaekit
        >>> vaekit.discriminator["vqgan_plus"]((3, 45, 32), width=8)(torch.rand(5, 3, 45, 32))[0].shape
        torch.Size([5, 1, 6, 4])
    """

    def __init__(
        self, in_shape: Sequence[int], *, width: int = 128, stages: int = 3, taps: int = 4, pool: int = 16
    ) -> None:
        super().__init__()
        if not 2 <= len(in_shape) <= 4:
            raise ValueError(f"vqgan_plus: expected maps to judge, got data of shape {tuple(in_shape)}. Use 'mlp'.")
        for name, value, least in (("width", width, 1), ("stages", stages, 1), ("taps", taps, 2), ("pool", pool, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}.")
        if min(in_shape[1:]) < 2**stages:
            shown = "×".join(map(str, in_shape[1:]))
            raise ValueError(f"stages: {stages} need sides of at least {2**stages}, got {shown}. Set fewer.")
        self.rank, self.pool = len(in_shape) - 1, pool
        wide = [width, *widths(width, stages - 1, most=2 ** (stages - 1))]
        self.levels = nn.ModuleList([nn.Sequential(convolution(self.rank, in_shape[0], width, 5), nn.LeakyReLU(0.1))])
        for a, b in zip(wide, wide[1:], strict=False):
            blur = Blur(self.rank, taps=taps)
            steps = (convolution(self.rank, a, b), blur, group_norm(b), nn.LeakyReLU(0.1))
            self.levels.append(nn.Sequential(*steps))
        self.mix = nn.Sequential(convolution(self.rank, wide[-1], wide[-1], 1), nn.LeakyReLU(0.1))
        self.out = convolution(self.rank, wide[-1], 1, 5)

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        return [self.out(self.features(x)[-1])]

    def features(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """Each stage's map `(b, width, *t)`, and the pooled one."""
        found = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        pooled = _POOLS[self.rank](x, [min(self.pool, side) for side in x.shape[2:]])
        return [*found, self.mix(pooled)]
