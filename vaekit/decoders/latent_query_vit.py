"""The vision transformer that turns mask tokens into patches, reading a row of latent tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.head import Tokens
from vaekit.layers.patches import FromTokens, grid_of, patch_sides
from vaekit.layers.positions import PositionKind, Positions
from vaekit.layers.transformer import MLPKind, NormKind, Transformer, join, start, token_norm


@decoder("latent_query_vit", tags=("signal", "image", "volume", "attention"), cite="yu2024b")
class LatentQueryViTDecoder(Decoder):
    """One mask token per patch goes through a transformer beside the tokens of z, and comes out as the patch: TiTok's.

        mask token ─ + positions ─────────┐
        z ─ linear ─ + places ────────────┼─► norm ─► [(norm ─ attention) + ─ (norm ─ MLP) +] × depth
        tokens of the condition ─ linear ─┘          ─► those of the patches ─► norm ─ linear ─ unpatch ─► y

    A map latent, a row (c, K) or one of more dimensions, has a token per position; a vector latent becomes `tokens` of
    them.

    Shapes: z `(b, *latent)` → y `(b, *out_shape)` with 1 to 3 spatial dimensions.

    Args:
        latent_shape: the latent's shape, wired.
        out_shape: y's shape, wired.
        cond_dim: width of the condition's tokens, wired.
        width: features of a token.
        depth: how many blocks.
        heads: of each attention; they divide the width.
        tokens: what a vector latent becomes.
        patch: side of a patch, one number or one for each dimension; None takes the power of 2 that leaves at most 16
            along the longest side.
        smooth: a 3-convolution over y, which can mend the seams between patches.
        positions: of the patches: "sincos" or "learned".
        mlp: "gelu", or "swiglu" of as many weights.
        mlp_ratio: inner width of the MLPs, in units of the width.
        norm: "layer" or "rms".
        qk_norm: normalise queries and keys, which keeps attention's scores bounded.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network.

    References:
        An Image is Worth 32 Tokens for Reconstruction and Generation (Yu et al., 2024),
        https://arxiv.org/abs/2406.07550; Masked Autoencoders Are Scalable Vision Learners (He et al., 2022),
        https://arxiv.org/abs/2111.06377

    Example:
        >>> import torch, vaekit
        >>> decoder = vaekit.decoder["latent_query_vit"]((12, 16), (3, 32, 32), width=32, depth=2, heads=2)
        >>> decoder(torch.randn(2, 12, 16)).shape
        torch.Size([2, 3, 32, 32])
    """

    ranks = (1, 2, 3)

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 8,
        tokens: int = 32,
        patch: int | Sequence[int] | None = None,
        smooth: bool = False,
        positions: PositionKind = "sincos",
        mlp: MLPKind = "gelu",
        mlp_ratio: float = 4.0,
        norm: NormKind = "layer",
        qk_norm: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"tokens: expected at least 1, got {tokens}.")
        patch = patch_sides(out_shape[1:], patch)
        self.grid = grid_of(out_shape[1:], patch)
        self.tokens = Tokens(latent_shape, width, tokens)
        self.mask = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.positions = Positions(self.grid, width, positions)
        self.cond = nn.Linear(cond_dim, width) if cond_dim else None
        self.norm_in = token_norm(norm, width)
        self.blocks = Transformer(
            width, depth, heads=heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, checkpoint=checkpoint
        )
        self.norm = token_norm(norm, width)
        self.out = FromTokens(width, out_shape, patch, smooth=smooth)
        start(self)

    def forward(
        self, z: Float[Tensor, "b *latent"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c *s"]:
        patches = self.mask + self.positions(self.grid)
        row = torch.cat([patches.expand(len(z), -1, -1), self.tokens(z)], dim=1)
        y = self.blocks(self.norm_in(join(row, self.cond, cond)))
        return self.out(self.norm(y[:, : len(patches)]), self.grid)
