"""Transformers over rows of tokens, with norms before the layers; attention through scaled_dot_product_attention."""

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.recompute import recomputed

MLPKind: TypeAlias = Literal["gelu", "swiglu"]
NormKind: TypeAlias = Literal["layer", "rms"]


def token_norm(kind: NormKind, width: int) -> nn.Module:
    """LayerNorm or RMSNorm over a token's features.

    Raises:
        ValueError: for another kind.
    """
    if kind not in ("layer", "rms"):
        raise ValueError(f"norm: expected 'layer' or 'rms', got {kind!r}.")
    return nn.LayerNorm(width, eps=1e-6) if kind == "layer" else nn.RMSNorm(width, eps=1e-6)


class TokenAttention(nn.Module):
    """out(softmax(q kᵀ / √d) v) over heads of d features: the tokens read each other, or those of a context.

    With `qk_norm`, q and k are normalised head by head, so that no score grows without bound.

    Shapes: x (b, n, width), context (b, m, context_dim) → (b, n, width). A batch of one x serves all contexts.

    Raises:
        ValueError: where the heads do not divide the width.
    """

    def __init__(
        self, width: int, heads: int, *, context_dim: int | None = None, qk_norm: bool = False, norm: NormKind = "layer"
    ) -> None:
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(f"heads: expected a number that divides width={width}, got {heads}.")
        self.heads = heads
        self.to_q = None if context_dim is None else nn.Linear(width, width)
        self.to_qkv = nn.Linear(width, 3 * width) if context_dim is None else None
        self.to_kv = None if context_dim is None else nn.Linear(context_dim, 2 * width)
        self.norm_q = token_norm(norm, width // heads) if qk_norm else None
        self.norm_k = token_norm(norm, width // heads) if qk_norm else None
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "#b n w"], context: Float[Tensor, "#b m k"] | None = None
    ) -> Float[Tensor, "#b n w"]:
        if self.to_qkv is not None:
            q, k, v = rearrange(self.to_qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        else:
            assert self.to_q is not None and self.to_kv is not None
            q = rearrange(self.to_q(x), "b n (h d) -> b h n d", h=self.heads)
            k, v = rearrange(self.to_kv(context), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype)
        h = F.scaled_dot_product_attention(q.expand(len(k), -1, -1, -1), k, v)
        return self.out(rearrange(h, "b h n d -> b n (h d)"))


class TokenMLP(nn.Module):
    """W₂ gelu(W₁ x), of `ratio` times the width inside; "swiglu": W₂ (silu(W₁ x) · W₃ x), of as many weights.

    Raises:
        ValueError: for another kind, or a ratio that leaves no width.
    """

    def __init__(self, width: int, ratio: float, kind: MLPKind) -> None:
        super().__init__()
        if kind not in ("gelu", "swiglu"):
            raise ValueError(f"mlp: expected 'gelu' or 'swiglu', got {kind!r}.")
        self.gated = kind == "swiglu"
        # three matrices instead of two: 2/3 of the width, in eights as matrix products like it
        hidden = -(-int(width * ratio * 2 / 3) // 8) * 8 if self.gated else int(width * ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio: expected a positive number, got {ratio}.")
        self.inner = nn.Linear(width, 2 * hidden if self.gated else hidden)
        self.outer = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        h = self.inner(x)
        if not self.gated:
            return self.outer(F.gelu(h))
        gate, value = h.chunk(2, dim=-1)
        return self.outer(F.silu(gate) * value)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with a context, attention reads norm(context).

    Shapes: x (b, n, width), context (b, m, context_dim) → (b, n, width). A batch of one x serves all contexts.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        mlp: MLPKind = "gelu",
        norm: NormKind = "layer",
        qk_norm: bool = False,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.attention = TokenAttention(width, heads, context_dim=context_dim, qk_norm=qk_norm, norm=norm)
        self.norm1, self.norm2 = token_norm(norm, width), token_norm(norm, width)
        self.norm_context = None if context_dim is None else token_norm(norm, context_dim)
        self.mlp = TokenMLP(width, mlp_ratio, mlp)

    def forward(
        self, x: Float[Tensor, "#b n w"], context: Float[Tensor, "#b m k"] | None = None
    ) -> Float[Tensor, "#b n w"]:
        seen = context if self.norm_context is None else self.norm_context(context)
        x = x + self.attention(self.norm1(x), seen)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """`depth` blocks, one after the other: (b, n, width) → the same. A norm behind them belongs to who uses them.

    Args:
        width: features of a token.
        depth: how many blocks; 0 leaves the tokens as they are.
        heads: of the attention, each of width / heads features.
        mlp_ratio: inner width of the MLPs, in units of the width.
        mlp: "gelu" or "swiglu".
        norm: "layer" or "rms".
        qk_norm: normalise queries and keys.
        checkpoint: recompute each block for the gradient in place of keeping what is inside.

    Raises:
        ValueError: where settings make no transformer.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        heads: int,
        mlp_ratio: float,
        mlp: MLPKind,
        norm: NormKind,
        qk_norm: bool,
        checkpoint: bool,
    ) -> None:
        super().__init__()
        if depth < 0:
            raise ValueError(f"depth: expected at least 0 blocks, got {depth}.")
        self.checkpoint = checkpoint
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=mlp_ratio, mlp=mlp, norm=norm, qk_norm=qk_norm) for _ in range(depth)
        )

    def forward(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        for block in self.blocks:
            x = recomputed(block, x) if self.checkpoint else block(x)
        return x


def join(
    tokens: Float[Tensor, "b n w"], project: nn.Module | None, cond: Float[Tensor, "b t k"] | None
) -> Float[Tensor, "b m w"]:
    """The tokens with those of a condition, projected to their width, behind them."""
    return tokens if project is None or cond is None else torch.cat([tokens, project(cond)], dim=1)


def start(module: nn.Module) -> None:
    """First weights of all linear layers inside: uniform with a variance of 2 / (inputs + outputs), biases of 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
