"""The encoder half of a U-Net-like autoencoder: DownBlocks and a MidBlock, with attention."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.attention import CrossAttention, SelfAttention
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import Downsample, convolution, depth_for, pyramid, widths
from vaekit.layers.residual import ResidualBlock
from vaekit.layers.unet import MidBlock, attends


class DownBlock(nn.Module):
    """[residual ─ (self-attention)] × blocks ─ (cross-attention to the condition) ─ conv ↓2."""

    def __init__(
        self, rank: int, c_in: int, c_out: int, *, blocks: int, attention: bool, heads: int, cond_dim: int
    ) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(ResidualBlock(rank, c_in, c_in) for _ in range(blocks))
        self.attentions = nn.ModuleList(SelfAttention(c_in, heads=heads) for _ in range(blocks if attention else 0))
        self.to_cond = CrossAttention(c_in, cond_dim, heads=heads) if cond_dim else None
        self.down = Downsample(rank, c_in, c_out)

    def forward(
        self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b d *u"]:
        for i, residual in enumerate(self.residuals):
            x = residual(x)
            if self.attentions:
                x = self.attentions[i](x)
        if self.to_cond is not None and cond is not None:
            x = self.to_cond(x, cond)
        return self.down(x)


@encoder("unet_attn", tags=("signal", "image", "volume", "attention"), cite="rombach2022")
class UNetAttnEncoder(Encoder):
    """The way down of a U-Net, with self-attention where maps are small and cross-attention to a condition.

        x ─► conv ─► DownBlock × depth ─► MidBlock ─► norm ─ silu ─► h

        DownBlock   [residual ─ (self-attention)] × blocks ─ (cross-attention to cond) ─ conv ↓2
        MidBlock    residual ─ self-attention ─ (cross-attention to cond) ─ residual

    The down path hands nothing to the decoder: all that the decoder knows of x goes through z.

    Shapes: x `(b, c, *s)` with 1 to 3 spatial dimensions of any size → h `(b, k, *⌈s/2^depth⌉)`.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, which fixes the depth where it is a map; wired.
        cond_dim: width of the condition's tokens, wired.
        width: channels at full size; doubled at each halving, up to 4 times.
        depth: number of halvings; None halves until the longest side is at most 4.
        blocks: residual blocks in each DownBlock.
        attention: self-attention in the DownBlocks whose map has a longest side of at most this number, or, given
            several numbers, of exactly one of them. The MidBlock always has it.
        heads: heads of every attention.

    Raises:
        ValueError: where the latent's map can't be reached by halving, or the heads do not divide the channels.

    References:
        U-Net (Ronneberger et al., 2015), https://arxiv.org/abs/1505.04597;
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["unet_attn"]((3, 64, 64), (4, 8, 8), width=16)
        >>> encoder(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 64, 8, 8])
    """

    ranks = (1, 2, 3)

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 64,
        depth: int | None = None,
        blocks: int = 2,
        attention: int | Sequence[int] = 16,
        heads: int = 4,
    ) -> None:
        super().__init__()
        rank, depth = len(in_shape) - 1, depth_for(in_shape[1:], latent_shape, depth)
        sizes, channels = pyramid(in_shape[1:], depth), widths(width, depth, most=4)
        self.stem = convolution(rank, in_shape[0], width)
        self.downs = nn.ModuleList(
            DownBlock(
                rank,
                channels[i],
                channels[i + 1],
                blocks=blocks,
                attention=attends(sizes[i], attention),
                heads=heads,
                cond_dim=cond_dim,
            )
            for i in range(depth)
        )
        self.mid = MidBlock(rank, channels[-1], heads=heads, token_dim=cond_dim)
        self.norm = group_norm(channels[-1])

    def forward(
        self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b h *u"]:
        h = self.stem(x)
        for down in self.downs:
            h = down(h, cond)
        return F.silu(self.norm(self.mid(h, cond)))
