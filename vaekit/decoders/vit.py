"""The vision transformer as a decoder."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.patches import FromTokens, grid_of, patch_sides
from vaekit.layers.positions import PositionKind, Positions
from vaekit.layers.transformer import MLPKind, NormKind, Transformer, join, start, token_norm


@decoder("vit", tags=("signal", "image", "volume", "attention"), cite=("he2022", "yu2022"))
class ViTDecoder(Decoder):
    """A transformer over the places of z, each of which becomes a patch of y.

        z ─► linear ─ + positions ─► [(norm ─ attention) + ─ (norm ─ MLP) +] × depth ─► norm ─ linear ─ unpatch ─► y
                          └─ tokens of the condition join the row

    A map latent has a token per place, a vector latent becomes all tokens by one linear layer.

    Shapes: z `(b, *latent)` → y `(b, *out_shape)` with 1 to 3 spatial dimensions; a map of another size `(b, c, *t)` →
    `(b, channels, *t·patch)`, or what `forward` is told as `size` of it.

    Args:
        latent_shape: the latent's shape, whose map says how many patches there are; wired.
        out_shape: y's shape, wired.
        cond_dim: width of the condition's tokens, wired.
        width: features of a token.
        depth: how many blocks.
        heads: of each attention; they divide the width.
        patch: side of a patch, one number or one for each dimension; None takes what makes the latent's map, or for a
            vector the power of 2 that leaves at most 16 along the longest side.
        smooth: a 3-convolution over y, which can mend the seams between patches.
        positions: "sincos", which are computed for any size, or "learned", which are interpolated to other sizes.
        mlp: "gelu", or "swiglu" of as many weights.
        mlp_ratio: inner width of the MLPs, in units of the width.
        norm: "layer" or "rms".
        qk_norm: normalise queries and keys, which keeps attention's scores bounded.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, or the patches do not make the latent's map.

    References:
        Masked Autoencoders Are Scalable Vision Learners (He et al., 2022), https://arxiv.org/abs/2111.06377;
        Vector-quantized Image Modeling with Improved VQGAN (Yu et al., 2022), https://arxiv.org/abs/2110.04627

    Example:
        >>> import torch, vaekit
        >>> decoder = vaekit.decoder["vit"]((4, 8, 8), (3, 32, 32), width=32, depth=2, heads=2)
        >>> decoder(torch.randn(2, 4, 8, 8)).shape, decoder(torch.randn(2, 4, 6, 10)).shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 24, 40]))
    """

    ranks = (1, 2, 3)
    any_size = True

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 8,
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
        _check_rank(latent_shape, out_shape)
        patch = patch_sides(out_shape[1:], patch, tuple(latent_shape[1:]) or None)
        self.grid, self.is_map, self.width = grid_of(out_shape[1:], patch), len(latent_shape) > 1, width
        self.embed = nn.Linear(latent_shape[0], width if self.is_map else width * math.prod(self.grid))
        self.positions = Positions(self.grid, width, positions)
        self.cond = nn.Linear(cond_dim, width) if cond_dim else None
        self.blocks = Transformer(
            width, depth, heads=heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, checkpoint=checkpoint
        )
        self.norm = token_norm(norm, width)
        self.out = FromTokens(width, out_shape, patch, smooth=smooth)
        start(self)

    def forward(  # type: ignore[override]
        self,
        z: Float[Tensor, "b *latent"],
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        size: Sequence[int] | None = None,
    ) -> Float[Tensor, "b c *s"]:
        grid = tuple(z.shape[2:]) if self.is_map else self.grid
        tokens = self.embed(z.flatten(2).mT if self.is_map else z).reshape(len(z), -1, self.width)
        tokens = tokens + self.positions(grid)
        y = self.blocks(join(tokens, self.cond, cond))[:, : tokens.shape[1]]
        return self.out(self.norm(y), grid, size)


def _check_rank(latent_shape: Sequence[int], out_shape: Sequence[int]) -> None:
    if len(latent_shape) > 1 and len(latent_shape) != len(out_shape):
        raise ValueError(
            f"latent: {tuple(latent_shape)} is a map of {len(latent_shape) - 1} dimensions, and the data have "
            f"{len(out_shape) - 1}. A row of tokens goes with the decoders 'latent_query_vit' and 'perceiver'."
        )
