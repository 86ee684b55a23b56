"""The residual convolutional encoder."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import Downsample, convolution, depth_for, widths
from vaekit.layers.residual import ResidualBlock


@encoder("resnet", tags=("signal", "image", "volume"), cite="he2016")
class ResNetEncoder(Encoder):
    """Residual blocks at every size, with strided convolutions between the sizes.

        x ─► conv ─► [residual × blocks ─ conv ↓2] × depth ─► residual × blocks ─ norm ─ silu ─► h

    Shapes: x `(b, c, *s)` with 1 to 3 spatial dimensions of any size → h `(b, k, *⌈s/2^depth⌉)`.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, which fixes the depth where it is a map; wired.
        cond_dim: width of the condition's tokens, which modulate every block; wired.
        width: channels at full size; doubled at each halving, up to 8 times.
        depth: number of halvings; None halves until the longest side is at most 4.
        blocks: residual blocks at each size.
        dropout: part of the activations dropped inside the blocks in training.

    Raises:
        ValueError: where the latent's map can't be reached by halving.

    References:
        Identity Mappings in Deep Residual Networks (He et al., 2016), https://arxiv.org/abs/1603.05027

    Example:
        >>> import torch, vaekit
        >>> vaekit.encoder["resnet"]((1, 28, 28), (16,), width=8)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 64, 4, 4])
    """

    ranks = (1, 2, 3)

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 32,
        depth: int | None = None,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        rank, depth = len(in_shape) - 1, depth_for(in_shape[1:], latent_shape, depth)
        channels = widths(width, depth, most=8)
        self.stem = convolution(rank, in_shape[0], width)
        self.levels = nn.ModuleList(
            nn.ModuleList(ResidualBlock(rank, c, c, cond_dim=cond_dim, dropout=dropout) for _ in range(blocks))
            for c in channels
        )
        self.downs = nn.ModuleList(Downsample(rank, a, b) for a, b in zip(channels, channels[1:], strict=False))
        self.norm = group_norm(channels[-1])

    def forward(
        self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b h *u"]:
        h = self.stem(x)
        for i, level in enumerate(self.levels):
            if i:
                h = self.downs[i - 1](h)
            for block in cast(nn.ModuleList, level):
                h = block(h, cond)
        return F.silu(self.norm(h))
