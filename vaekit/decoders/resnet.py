"""The residual convolutional decoder."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.head import Stem
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import Upsample, convolution, depth_for, pyramid, widths
from vaekit.layers.residual import ResidualBlock


@decoder("resnet", tags=("signal", "image", "volume"), cite="he2016")
class ResNetDecoder(Decoder):
    """Residual blocks at every size, with upsampling convolutions between the sizes.

        z ─► stem ─► [residual × blocks ─ ↑2 conv] × depth ─► residual × blocks ─ norm ─ silu ─ conv ─► y

    Shapes: z `(b, *latent)` → y `(b, *out_shape)` with 1 to 3 spatial dimensions of any size.

    Args:
        latent_shape: the latent's shape, which fixes the depth where it is a map; wired.
        out_shape: y's shape, wired.
        cond_dim: width of the condition's tokens, which modulate every block; wired.
        width: channels at full size; doubled at each halving, up to 8 times.
        depth: number of doublings; None starts from a map whose longest side is at most 4.
        blocks: residual blocks at each size.
        dropout: part of the activations dropped inside the blocks in training.

    Raises:
        ValueError: where the data's size can't be reached from the latent's map by doubling.

    References:
        Identity Mappings in Deep Residual Networks (He et al., 2016), https://arxiv.org/abs/1603.05027

    Example:
        >>> import torch, vaekit
        >>> vaekit.decoder["resnet"]((16,), (1, 28, 28), width=8)(torch.randn(2, 16)).shape
        torch.Size([2, 1, 28, 28])
    """

    ranks = (1, 2, 3)

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 32,
        depth: int | None = None,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        rank, depth = len(out_shape) - 1, depth_for(out_shape[1:], latent_shape, depth)
        sizes, channels = pyramid(out_shape[1:], depth), widths(width, depth, most=8)
        self.stem = Stem(latent_shape, channels[-1], sizes[-1])
        self.levels = nn.ModuleList(
            nn.ModuleList(ResidualBlock(rank, c, c, cond_dim=cond_dim, dropout=dropout) for _ in range(blocks))
            for c in reversed(channels)
        )
        self.ups = nn.ModuleList(
            Upsample(rank, channels[i], channels[i - 1], sizes[i - 1]) for i in range(depth, 0, -1)
        )
        self.norm, self.out = group_norm(width), convolution(rank, width, out_shape[0])

    def forward(
        self, z: Float[Tensor, "b *latent"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c *s"]:
        y = self.stem(z)
        for i, level in enumerate(self.levels):
            if i:
                y = self.ups[i - 1](y)
            for block in cast(nn.ModuleList, level):
                y = block(y, cond)
        return self.out(F.silu(self.norm(y)))
