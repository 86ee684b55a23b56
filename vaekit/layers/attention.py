"""Attention inside a map, and from a map to tokens, through PyTorch's scaled_dot_product_attention."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.norm import group_norm


class SelfAttention(nn.Module):
    """x + attention(norm(x)) over all positions of a map. `(b, c, *s)` → `(b, c, *s)`."""

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        _check_heads(channels, heads)
        self.heads = heads
        self.norm = group_norm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)  # a key bias has no effect through the softmax
        self.out = _zero(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = rearrange(self.to_qkv(h), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b h s d -> b s (h d)")
        return x + self.out(h).transpose(1, 2).reshape(x.shape)


class CrossAttention(nn.Module):
    """x + attention(norm(x), tokens): every position of a map reads the tokens, or a learned empty one.

    Shapes: x `(b, c, *s)`, tokens (b, t, token_dim) → `(b, c, *s)`.
    """

    def __init__(self, channels: int, token_dim: int, *, heads: int) -> None:
        super().__init__()
        _check_heads(channels, heads)
        self.heads = heads
        self.norm = group_norm(channels)
        # the empty token lets a position read nothing, and gives a single token something to be weighed against
        self.empty = nn.Parameter(torch.randn(1, 1, token_dim) * 0.02)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_kv = nn.Linear(token_dim, 2 * channels, bias=False)
        self.out = _zero(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "b c *s"], tokens: Float[Tensor, "b t k"]) -> Float[Tensor, "b c *s"]:
        h = self.norm(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.empty.expand(len(tokens), -1, -1), tokens], dim=1)
        q = rearrange(self.to_q(h), "b s (h d) -> b h s d", h=self.heads)
        k, v = rearrange(self.to_kv(tokens), "b t (two h d) -> two b h t d", two=2, h=self.heads)
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b h s d -> b s (h d)")
        return x + self.out(h).transpose(1, 2).reshape(x.shape)


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _check_heads(channels: int, heads: int) -> None:
    if heads < 1 or channels % heads:
        raise ValueError(f"attention: {channels} channels do not divide into heads={heads}. Change width or heads.")
