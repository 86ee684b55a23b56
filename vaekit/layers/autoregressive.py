"""Networks that read a sequence or a map of codes and predict each from those before it."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class CausalTransformer(nn.Module):
    """Codes (b, t) → logits (b, t, codes): place i reads the codes before i, the start token first of all.

    Args:
        size: number of codes.
        length: t.
        cond_dim: width of the condition's tokens, whose mean joins the start token; 0 without one.
        width: of the tokens.
        depth: number of blocks.
        heads: of each attention.
        dropout: in training.
    """

    mask: Tensor

    def __init__(
        self, size: int, length: int, cond_dim: int, *, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {width} channels can't be split into {heads} heads. Choose a divisor of width.")
        self.codes = nn.Embedding(size, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.given = nn.Linear(cond_dim, width) if cond_dim else None
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, F.gelu, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        mask = torch.full((length, length), -math.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, index: Int[Tensor, "b t"], cond: Float[Tensor, "b s k"] | None = None) -> Float[Tensor, "b t n"]:
        start = self.start.expand(len(index), -1, -1)
        if self.given is not None and cond is not None:
            start = start + self.given(cond.mean(1))[:, None]
        seen = torch.cat([start, self.codes(index[:, :-1])], 1) + self.place[: index.shape[1]]
        mask = self.mask[: index.shape[1], : index.shape[1]].to(seen.dtype)
        for block in self.blocks:
            seen = block(seen, src_mask=mask, is_causal=True)
        return self.out(seen)


class PixelCNN(nn.Module):
    """Codes (b, t₁, t₂) → logits (b, t₁, t₂, codes): each place reads those above it and to the left in its row.

    A vertical and a horizontal stack of gated masked convolutions, so that no place above is hidden.

    References:
        Conditional Image Generation with PixelCNN Decoders (van den Oord et al., 2016),
        https://arxiv.org/abs/1606.05328
    """

    def __init__(self, size: int, cond_dim: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.codes = nn.Embedding(size, width)
        self.first = _GatedBlock(width, cond_dim, kernel=7, first=True, dropout=0.0)
        self.blocks = nn.ModuleList(
            _GatedBlock(width, cond_dim, kernel=3, first=False, dropout=dropout) for _ in range(depth)
        )
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, size, 1))

    def forward(self, index: Int[Tensor, "b h w"], cond: Float[Tensor, "b s k"] | None = None) -> Tensor:
        x = self.codes(index).movedim(-1, 1)
        given = None if cond is None else cond.mean(1)
        down, right = self.first(x, x, given)
        for block in self.blocks:
            down, right = block(down, right, given)
        return self.out(right).movedim(1, -1)


class _GatedBlock(nn.Module):
    """One step of both stacks; the first one does not see the place itself."""

    def __init__(self, width: int, cond_dim: int, *, kernel: int, first: bool, dropout: float) -> None:
        super().__init__()
        self.kernel, self.first = kernel, first
        self.vertical = nn.Conv2d(width, 2 * width, (kernel // 2 + 1, kernel))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = nn.Conv2d(width, 2 * width, (1, kernel // 2 + (0 if first else 1)))
        self.out = nn.Conv2d(width, width, 1)
        self.given = nn.Linear(cond_dim, 4 * width) if cond_dim else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, down: Tensor, right: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        half = self.kernel // 2
        # rows up to and with this one; a row's stack reads it shifted down by one, so that only rows above are seen
        vertical = self.vertical(F.pad(down, (half, half, half, 0)))
        above = F.pad(vertical, (0, 0, 1, 0))[:, :, :-1]
        padded = F.pad(right, (half, 0, 0, 0))
        horizontal = self.horizontal(padded[..., :-1] if self.first else padded) + self.across(above)
        if self.given is not None and cond is not None:
            a, b = self.given(cond)[:, :, None, None].chunk(2, 1)
            vertical, horizontal = vertical + a, horizontal + b
        new = self.out(self.dropout(_gate(horizontal)))
        return _gate(vertical), new if self.first else right + new


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()
