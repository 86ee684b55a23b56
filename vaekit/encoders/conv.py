"""The plain convolutional encoder."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.modulation import Modulation
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import Downsample, convolution, depth_for, widths


@encoder("conv", tags=("signal", "image", "volume"))
class ConvEncoder(Encoder):
    """Strided convolutions: each level halves the sides and doubles the width.

        x ─► [conv ↓2 ─ norm ─ (modulation by cond) ─ silu] × depth ─► h

    Shapes: x `(b, c, *s)` with 1 to 3 spatial dimensions of any size → h `(b, k, *⌈s/2^depth⌉)`.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, which fixes the depth where it is a map; wired.
        cond_dim: width of the condition's tokens, wired.
        width: channels of the first level.
        depth: number of halvings; None halves until the longest side is at most 4.

    Raises:
        ValueError: where the latent's map can't be reached by halving.

    Example:
        >>> import torch, vaekit
        >>> vaekit.encoder["conv"]((3, 25, 37), (4, 7, 10))(torch.rand(2, 3, 25, 37)).shape
        torch.Size([2, 64, 7, 10])
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
    ) -> None:
        super().__init__()
        rank, depth = len(in_shape) - 1, depth_for(in_shape[1:], latent_shape, depth)
        channels = [in_shape[0], *widths(width, max(depth, 1) - 1, most=8)]
        steps = list(zip(channels, channels[1:], strict=False))
        self.convs = nn.ModuleList(Downsample(rank, a, b) if depth else convolution(rank, a, b) for a, b in steps)
        self.norms = nn.ModuleList(group_norm(b) for _, b in steps)
        self.modulations = nn.ModuleList(Modulation(cond_dim, b) for _, b in steps if cond_dim)

    def forward(
        self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b h *u"]:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if cond is not None and self.modulations:
                x = self.modulations[i](x, cond)
            x = F.silu(x)
        return x
