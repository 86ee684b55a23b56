"""The plain convolutional decoder."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.head import Stem
from vaekit.layers.modulation import Modulation
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import Upsample, convolution, depth_for, pyramid, widths


@decoder("conv", tags=("signal", "image", "volume"))
class ConvDecoder(Decoder):
    """Upsampling convolutions, the mirror image of the `conv` encoder.

        z ─► stem ─► [norm ─ (modulation by cond) ─ silu ─ ↑2 conv] × depth ─ norm ─ silu ─ conv ─► y

    Nearest-neighbour upsampling to the exact size, odd ones too, and no transposed convolution: no checkerboard.

    Shapes: z `(b, *latent)` → y `(b, *out_shape)` with 1 to 3 spatial dimensions.

    Args:
        latent_shape: the latent's shape, which fixes the depth where it is a map; wired.
        out_shape: y's shape, wired.
        cond_dim: width of the condition's tokens, wired.
        width: channels of the level at full size.
        depth: number of doublings; None starts from a map whose longest side is at most 4.

    Raises:
        ValueError: where the data's size can't be reached from the latent's map by doubling.

    References:
        Deconvolution and Checkerboard Artifacts (Odena et al., 2016), https://doi.org/10.23915/distill.00003

    Example:
        >>> import torch, vaekit
        >>> vaekit.decoder["conv"]((4, 7, 10), (3, 25, 37))(torch.randn(2, 4, 7, 10)).shape
        torch.Size([2, 3, 25, 37])
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
    ) -> None:
        super().__init__()
        rank, depth = len(out_shape) - 1, depth_for(out_shape[1:], latent_shape, depth)
        sizes = pyramid(out_shape[1:], depth)
        channels = [width, *widths(width, max(depth, 1) - 1, most=8)][: depth + 1]
        levels = range(depth, 0, -1)
        self.stem = Stem(latent_shape, channels[-1], sizes[-1])
        self.norms = nn.ModuleList(group_norm(channels[i]) for i in (*levels, 0))
        self.modulations = nn.ModuleList(Modulation(cond_dim, channels[i]) for i in (*levels, 0) if cond_dim)
        self.convs = nn.ModuleList(
            [
                *(Upsample(rank, channels[i], channels[i - 1], sizes[i - 1]) for i in levels),
                convolution(rank, channels[0], out_shape[0]),
            ]
        )

    def forward(
        self, z: Float[Tensor, "b *latent"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c *s"]:
        y = self.stem(z)
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            y = norm(y)
            if cond is not None and self.modulations:
                y = self.modulations[i](y, cond)
            y = conv(F.silu(y))
        return y
