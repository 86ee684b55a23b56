"""The Perceiver as an encoder: a few latents read any number of inputs."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.positions import FourierPositions
from vaekit.layers.token_row import tokens_of
from vaekit.layers.transformer import Block, MLPKind, NormKind, Transformer, join, start, token_norm


@encoder("perceiver", tags=("tabular", "signal", "image", "volume", "attention"), cite=("jaegle2022", "jaegle2021"))
class PerceiverEncoder(Encoder):
    """K learned latents attend to all values of x, each with features of its position, and then to each other.

        x, with Fourier features of its positions ─┐
        tokens of the condition ─ linear ──────────┼─► cross-attention ─► [attention ─ MLP] × depth ─► norm ─► h
        K latents ─────────────────────────────────┘

    The cost is that of inputs × K, with no patches and no grid: h does not depend on the order in which the inputs
    come, only on the positions that they bring. A map latent `(c, K)` has one position per latent; a vector latent
    reads all of them.

    Shapes: x `(b, c, *s)` with any number of spatial dimensions → h (b, width, K). Alone, the encoder takes other
    sizes as well, as finer or coarser looks at the same extent. Of tabular data each column is a position.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, (c, K) or a vector; wired.
        cond_dim: width of the condition's tokens, wired.
        width: features of a latent.
        depth: blocks in which the latents read each other.
        heads: of each attention; they divide the width.
        tokens: K; None takes the latent's, or 64 for a vector latent.
        bands: frequencies of the position features per axis, from one half wave per extent to the highest that the
            data's grid can show.
        mlp: "gelu", or "swiglu" of as many weights.
        mlp_ratio: inner width of the MLPs, in units of the width.
        norm: "layer" or "rms".
        qk_norm: normalise queries and keys, which keeps attention's scores bounded.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, or the latent is a map of another kind.

    References:
        Perceiver IO: A General Architecture for Structured Inputs & Outputs (Jaegle et al., 2022),
        https://arxiv.org/abs/2107.14795; Perceiver: General Perception with Iterative Attention (Jaegle et al., 2021),
        https://arxiv.org/abs/2103.03206

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["perceiver"]((1, 6, 7, 8), (4, 16), width=32, depth=2, heads=2)
        >>> encoder(torch.rand(2, 1, 6, 7, 8)).shape
        torch.Size([2, 32, 16])
    """

    sequence = True

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        width: int = 256,
        depth: int = 6,
        heads: int = 8,
        tokens: int | None = None,
        bands: int = 32,
        mlp: MLPKind = "gelu",
        mlp_ratio: float = 4.0,
        norm: NormKind = "layer",
        qk_norm: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.tabular = len(in_shape) == 1
        channels, size = (1, in_shape) if self.tabular else (in_shape[0], in_shape[1:])
        self.positions = FourierPositions(size, bands)
        features = channels + self.positions.features
        self.queries = nn.Parameter(torch.randn(1, tokens_of(latent_shape, tokens, default=64), width) * width**-0.5)
        self.cond = nn.Linear(cond_dim, features) if cond_dim else None
        self.read = Block(width, heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, context_dim=features)
        self.blocks = Transformer(
            width, depth, heads=heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm, checkpoint=checkpoint
        )
        self.norm = token_norm(norm, width)
        start(self)

    def forward(self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None) -> Float[Tensor, "b w q"]:
        return self.attend(join(self.inputs(x), self.cond, cond))

    def inputs(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b places features"]:
        """The values at each position, with the position's features behind them."""
        size = tuple(x.shape[1:] if self.tabular else x.shape[2:])
        values = x.reshape(len(x), -1, math.prod(size)).mT
        return torch.cat([values, self.positions(size).to(x.dtype).expand(len(x), -1, -1)], dim=2)

    def attend(self, inputs: Float[Tensor, "b places features"]) -> Float[Tensor, "b w q"]:
        """Inputs in any order → h."""
        return self.norm(self.blocks(self.read(self.queries, inputs))).mT
