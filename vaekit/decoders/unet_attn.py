"""The decoder half of a U-Net-like autoencoder: a MidBlock and UpBlocks that cross-attend to tokens of z."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.attention import CrossAttention, SelfAttention
from vaekit.layers.head import Stem, Tokens
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import Upsample, convolution, depth_for, pyramid, widths
from vaekit.layers.residual import ResidualBlock
from vaekit.layers.unet import MidBlock, attends


class UpBlock(nn.Module):
    """↑2 conv ─ [residual ─ (self-attention)] × blocks ─ cross-attention to tokens of z (and of the condition)."""

    def __init__(
        self,
        rank: int,
        c_in: int,
        c_out: int,
        size: Sequence[int],
        *,
        blocks: int,
        attention: bool,
        heads: int,
        token_dim: int,
    ) -> None:
        super().__init__()
        self.up = Upsample(rank, c_in, c_out, size)
        self.residuals = nn.ModuleList(ResidualBlock(rank, c_out, c_out) for _ in range(blocks))
        self.attentions = nn.ModuleList(SelfAttention(c_out, heads=heads) for _ in range(blocks if attention else 0))
        self.to_tokens = CrossAttention(c_out, token_dim, heads=heads) if token_dim else None

    def forward(self, y: Float[Tensor, "b c *s"], tokens: Float[Tensor, "b t k"]) -> Float[Tensor, "b d *u"]:
        y = self.up(y)
        for i, residual in enumerate(self.residuals):
            y = residual(y)
            if self.attentions:
                y = self.attentions[i](y)
        return y if self.to_tokens is None else self.to_tokens(y, tokens)


@decoder("unet_attn", tags=("signal", "image", "volume", "attention"), cite="rombach2022")
class UNetAttnDecoder(Decoder):
    """The way up of a U-Net whose skips carry z, never the encoder: each UpBlock cross-attends to tokens of z.

        z ─┬─► stem ─► MidBlock ─► UpBlock × depth ─► norm ─ silu ─ conv ─► y
           └─► tokens ─────┴──────────┘   (and the condition's tokens)

        MidBlock    residual ─ self-attention ─ cross-attention ─ residual
        UpBlock     ↑2 conv ─ [residual ─ (self-attention)] × blocks ─ cross-attention

    A vector latent is projected to a few tokens, a map latent has one per position.

    Shapes: z `(b, *latent)` → y `(b, *out_shape)` with 1 to 3 spatial dimensions of any size.

    Args:
        latent_shape: the latent's shape, which fixes the depth where it is a map; wired.
        out_shape: y's shape, wired.
        cond_dim: width of the condition's tokens, wired.
        width: channels at full size; doubled at each halving, up to 4 times.
        depth: number of doublings; None starts from a map whose longest side is at most 4.
        blocks: residual blocks in each UpBlock.
        attention: self-attention in the UpBlocks whose map has a longest side of at most this number, or, given
            several numbers, of exactly one of them. The MidBlock always has it.
        cross_attention: the longest side up to which UpBlocks cross-attend; None: all of them.
        heads: heads of every attention.
        tokens: tokens that a vector latent becomes.
        token_dim: width of a token; None takes 2·width.

    Raises:
        ValueError: where the data's size can't be reached from the latent's map, or heads do not divide the channels.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752; Perceiver IO (Jaegle et al., 2022), https://arxiv.org/abs/2107.14795

    Example:
        >>> import torch, vaekit
        >>> decoder = vaekit.decoder["unet_attn"]((2,), (3, 25, 37), width=16)
        >>> decoder(torch.randn(2, 2)).shape
        torch.Size([2, 3, 25, 37])
    """

    ranks = (1, 2, 3)

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 64,
        depth: int | None = None,
        blocks: int = 2,
        attention: int | Sequence[int] = 16,
        cross_attention: int | None = None,
        heads: int = 4,
        tokens: int = 4,
        token_dim: int | None = None,
    ) -> None:
        super().__init__()
        rank, depth = len(out_shape) - 1, depth_for(out_shape[1:], latent_shape, depth)
        sizes, channels = pyramid(out_shape[1:], depth), widths(width, depth, most=4)
        token_dim = 2 * width if token_dim is None else token_dim
        self.stem = Stem(latent_shape, channels[-1], sizes[-1])
        self.tokens = Tokens(latent_shape, token_dim, tokens)
        self.cond_tokens = nn.Linear(cond_dim, token_dim) if cond_dim else None
        self.mid = MidBlock(rank, channels[-1], heads=heads, token_dim=token_dim)
        self.ups = nn.ModuleList(
            UpBlock(
                rank,
                channels[i + 1],
                channels[i],
                sizes[i],
                blocks=blocks,
                attention=attends(sizes[i], attention),
                heads=heads,
                token_dim=token_dim if cross_attention is None or max(sizes[i]) <= cross_attention else 0,
            )
            for i in reversed(range(depth))
        )
        self.norm, self.out = group_norm(width), convolution(rank, width, out_shape[0])

    def forward(
        self, z: Float[Tensor, "b *latent"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c *s"]:
        tokens = self.tokens(z)
        if self.cond_tokens is not None and cond is not None:
            tokens = torch.cat([tokens, self.cond_tokens(cond)], dim=1)
        y = self.mid(self.stem(z), tokens)
        for up in self.ups:
            y = up(y, tokens)
        return self.out(F.silu(self.norm(y)))
