"""The vision transformer as an encoder."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.patches import ToTokens, grid_of, patch_sides
from vaekit.layers.positions import PositionKind, Positions
from vaekit.layers.transformer import MLPKind, NormKind, Transformer, join, start, token_norm


@encoder("vit", tags=("signal", "image", "volume", "attention"), cite=("dosovitskiy2021", "yu2022"))
class ViTEncoder(Encoder):
    """A transformer over patches, which gives one feature vector per patch.

        x ─► patches ─ linear ─ + positions ─► [(norm ─ attention) + ─ (norm ─ MLP) +] × depth ─► norm ─► h
                                    └─ tokens of the condition join the row

    The grid of patches is the map of the latent. For a vector latent h is that map as well, which the sampler's head
    reads as a whole, or one vector with `pool`.

    Shapes: x `(b, c, *s)` with 1 to 3 spatial dimensions, each at least a patch, other sizes at run time as well → h
    `(b, width, *⌈s/patch⌉)`, or (b, width) with `pool`. Odd sides are padded with their last values.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, whose map says how many patches there are; wired.
        cond_dim: width of the condition's tokens, wired.
        width: features of a token.
        depth: how many blocks.
        heads: of each attention; they divide the width.
        patch: side of a patch, one number or one for each dimension; None takes what makes the latent's map, or for a
            vector the power of 2 that leaves at most 16 along the longest side.
        pool: how a vector latent's h comes about: "none" leaves the map, "mean" averages it, "token" reads a learned
            token beside the patches.
        positions: "sincos", which are computed for any size, or "learned", which are interpolated to other sizes.
        mlp: "gelu", or "swiglu" of as many weights.
        mlp_ratio: inner width of the MLPs, in units of the width.
        norm: "layer" or "rms".
        qk_norm: normalise queries and keys, which keeps attention's scores bounded.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, the patches do not make the latent's map, or data are smaller than
            a patch.

    References:
        An Image is Worth 16x16 Words (Dosovitskiy et al., 2021), https://arxiv.org/abs/2010.11929;
        Vector-quantized Image Modeling with Improved VQGAN (Yu et al., 2022), https://arxiv.org/abs/2110.04627

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["vit"]((3, 32, 32), (4, 8, 8), width=32, depth=2, heads=2)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder(torch.rand(2, 3, 24, 40)).shape
        (torch.Size([2, 32, 8, 8]), torch.Size([2, 32, 6, 10]))
    """

    ranks = (1, 2, 3)
    any_size = True

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 8,
        patch: int | Sequence[int] | None = None,
        pool: Literal["none", "mean", "token"] = "none",
        positions: PositionKind = "sincos",
        mlp: MLPKind = "gelu",
        mlp_ratio: float = 4.0,
        norm: NormKind = "layer",
        qk_norm: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_pool(pool, latent_shape)
        self.patch = patch_sides(in_shape[1:], patch, tuple(latent_shape[1:]) or None)
        self.pool = pool
        self.embed = ToTokens(in_shape[0], self.patch, width)
        self.positions = Positions(grid_of(in_shape[1:], self.patch), width, positions)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02) if pool == "token" else None
        self.cond = nn.Linear(cond_dim, width) if cond_dim else None
        self.blocks = Transformer(
            width, depth, heads=heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, checkpoint=checkpoint
        )
        self.norm = token_norm(norm, width)
        start(self)

    def forward(
        self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b h *u"]:
        grid = grid_of(x.shape[2:], self.patch)
        tokens = self.embed(x) + self.positions(grid)
        count = tokens.shape[1]
        if self.token is not None:
            tokens = torch.cat([tokens, self.token.expand(len(x), -1, -1)], dim=1)
        h = self.blocks(join(tokens, self.cond, cond))
        if self.token is not None:
            return self.norm(h[:, count])
        h = self.norm(h[:, :count])
        return h.mean(1) if self.pool == "mean" else h.mT.reshape(len(x), -1, *grid)


def _check_pool(pool: str, latent_shape: Sequence[int]) -> None:
    if pool not in ("none", "mean", "token"):
        raise ValueError(f"pool: expected 'none', 'mean' or 'token', got {pool!r}.")
    if pool != "none" and len(latent_shape) > 1:
        raise ValueError(
            f"pool: {pool!r} makes one vector of all patches, and latent={tuple(latent_shape)} is a map. Leave pool "
            "out, or give latent as an int."
        )
