"""The vision transformer with latent tokens, whose outputs are a row without a place in the image."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.patches import ToTokens, grid_of, patch_sides
from vaekit.layers.positions import PositionKind, Positions
from vaekit.layers.token_row import tokens_of
from vaekit.layers.transformer import MLPKind, NormKind, Transformer, join, start, token_norm


@encoder("latent_query_vit", tags=("signal", "image", "volume", "attention"), cite="yu2024b")
class LatentQueryViTEncoder(Encoder):
    """K learned tokens go through a transformer beside the patches, and come out as h: the encoder of TiTok.

        x ─► patches ─ linear ─ + positions ─┐
        K queries ───────────────────────────┼─► norm ─► [(norm ─ attention) + ─ (norm ─ MLP) +] × depth
        tokens of the condition ─ linear ────┘             ─► those of the queries ─► norm ─► h

    No token belongs to a place, so that one image takes as many as its content needs and not as its size does. A map
    latent `(c, K)` has one position per token; a vector latent reads all of them.

    Shapes: x `(b, c, *s)` with 1 to 3 spatial dimensions, each at least a patch → h (b, width, K). Alone, the encoder
    takes other sizes as well. Odd sides are padded with their last values.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, (c, K) or a vector; wired.
        cond_dim: width of the condition's tokens, wired.
        width: features of a token.
        depth: how many blocks.
        heads: of each attention; they divide the width.
        tokens: K; None takes the latent's, or 32 for a vector latent.
        patch: side of a patch, one number or one for each dimension; None takes the power of 2 that leaves at most 16
            along the longest side.
        positions: of the patches: "sincos", which are computed for any size, or "learned", which are interpolated.
        mlp: "gelu", or "swiglu" of as many weights.
        mlp_ratio: inner width of the MLPs, in units of the width.
        norm: "layer" or "rms".
        qk_norm: normalise queries and keys, which keeps attention's scores bounded.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, the latent is a map of another kind, or data are smaller than a
            patch.

    References:
        An Image is Worth 32 Tokens for Reconstruction and Generation (Yu et al., 2024),
        https://arxiv.org/abs/2406.07550

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["latent_query_vit"]((3, 32, 32), (12, 16), width=32, depth=2, heads=2)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 32, 16])
    """

    ranks = (1, 2, 3)
    sequence = True

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 8,
        tokens: int | None = None,
        patch: int | Sequence[int] | None = None,
        positions: PositionKind = "sincos",
        mlp: MLPKind = "gelu",
        mlp_ratio: float = 4.0,
        norm: NormKind = "layer",
        qk_norm: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.patch = patch_sides(in_shape[1:], patch)
        self.embed = ToTokens(in_shape[0], self.patch, width)
        self.positions = Positions(grid_of(in_shape[1:], self.patch), width, positions)
        self.queries = nn.Parameter(torch.randn(tokens_of(latent_shape, tokens), width) * width**-0.5)
        self.cond = nn.Linear(cond_dim, width) if cond_dim else None
        self.norm_in = token_norm(norm, width)
        self.blocks = Transformer(
            width, depth, heads=heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, checkpoint=checkpoint
        )
        self.norm = token_norm(norm, width)
        start(self)

    def forward(self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None) -> Float[Tensor, "b w q"]:
        patches = self.embed(x) + self.positions(grid_of(x.shape[2:], self.patch))
        row = torch.cat([self.queries.expand(len(x), -1, -1), patches], dim=1)
        h = self.blocks(self.norm_in(join(row, self.cond, cond)))
        return self.norm(h[:, : len(self.queries)]).mT
