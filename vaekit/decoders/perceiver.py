"""The Perceiver as a decoder: positions ask the latents for their values."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.head import Tokens
from vaekit.layers.positions import FourierPositions
from vaekit.layers.transformer import Block, MLPKind, NormKind, Transformer, join, start, token_norm


@decoder("perceiver", tags=("tabular", "signal", "image", "volume", "attention"), cite="jaegle2022")
class PerceiverDecoder(Decoder):
    """The tokens of z attend to each other; then each position of y, known by its Fourier features, attends to them.

        z ─ linear ─ + places ────────────┐
        tokens of the condition ─ linear ─┴─► [attention ─ MLP] × depth ─┐
        Fourier features of y's positions ─ linear ──────────────────────┴─► cross-attention ─ MLP ─► norm ─ linear ─► y

    Every position is decoded by itself, given z: y is a function of continuous positions, which can be asked for
    another size. A map latent, a row (c, K) or one of more dimensions, has a token per position; a vector latent
    becomes `tokens` of them.

    Shapes: z `(b, *latent)` → y `(b, *out_shape)` with any number of spatial dimensions. Of tabular data each column is
    a position.

    Args:
        latent_shape: the latent's shape, wired.
        out_shape: y's shape, wired.
        cond_dim: width of the condition's tokens, wired.
        width: features of a token and of a position.
        depth: blocks in which the tokens read each other.
        heads: of each attention; they divide the width.
        tokens: what a vector latent becomes.
        bands: frequencies of the position features per axis, from one half wave per extent to the highest that the
            data's grid can show.
        mlp: "gelu", or "swiglu" of as many weights.
        mlp_ratio: inner width of the MLPs, in units of the width.
        norm: "layer" or "rms".
        qk_norm: normalise queries and keys, which keeps attention's scores bounded.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, or another size is asked for of tabular data.

    References:
        Perceiver IO: A General Architecture for Structured Inputs & Outputs (Jaegle et al., 2022),
        https://arxiv.org/abs/2107.14795

    Example:
        >>> import torch, vaekit
        >>> decoder = vaekit.decoder["perceiver"]((4, 16), (3, 25, 37), width=32, depth=2, heads=2)
        >>> decoder(torch.randn(2, 4, 16)).shape, decoder(torch.randn(2, 4, 16), size=(50, 74)).shape
        (torch.Size([2, 3, 25, 37]), torch.Size([2, 3, 50, 74]))
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 256,
        depth: int = 6,
        heads: int = 8,
        tokens: int = 64,
        bands: int = 32,
        mlp: MLPKind = "gelu",
        mlp_ratio: float = 4.0,
        norm: NormKind = "layer",
        qk_norm: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"tokens: expected at least 1, got {tokens}.")
        self.tabular = len(out_shape) == 1
        channels, size = (1, out_shape) if self.tabular else (out_shape[0], out_shape[1:])
        self.size = tuple(size)
        self.tokens = Tokens(latent_shape, width, tokens)
        self.cond = nn.Linear(cond_dim, width) if cond_dim else None
        self.blocks = Transformer(
            width, depth, heads=heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, checkpoint=checkpoint
        )
        self.positions = FourierPositions(size, bands)
        self.ask = nn.Linear(self.positions.features, width)
        self.answer = Block(width, heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, context_dim=width)
        self.norm, self.out = token_norm(norm, width), nn.Linear(width, channels)
        start(self)

    def forward(
        self,
        z: Float[Tensor, "b *latent"],
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        size: Sequence[int] | None = None,
    ) -> Float[Tensor, "b c *s"]:
        if size is not None and self.tabular:
            raise ValueError(f"size: tabular data have no other size, got {tuple(size)}. Leave it out.")
        size = self.size if size is None else tuple(size)
        tokens = self.blocks(join(self.tokens(z), self.cond, cond))
        queries = self.ask(self.positions(size).to(tokens.dtype))[None]  # one batch of questions for all of z
        y = self.out(self.norm(self.answer(queries, tokens))).mT
        return y.reshape(len(z), math.prod(size)) if self.tabular else y.reshape(len(z), -1, *size)
