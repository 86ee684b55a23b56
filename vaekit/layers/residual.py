"""The residual block of encoders and decoders."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.modulation import Modulation
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import convolution


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1-convolution on the skip where the width changes.

        x ─┬─ norm ─ silu ─ conv ─ norm ─ (modulation by cond) ─ silu ─ dropout ─ conv ─ + ─►
           └────────────────────────── (1-conv) ────────────────────────────────────────┘

    Shapes: x `(b, c_in, *s)`, cond (b, t, cond_dim) → `(b, c_out, *s)`.
    """

    def __init__(self, rank: int, c_in: int, c_out: int, *, cond_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(c_in), convolution(rank, c_in, c_out)
        self.norm2, self.conv2 = group_norm(c_out), convolution(rank, c_out, c_out)
        self.modulation = Modulation(cond_dim, c_out) if cond_dim else None
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if c_in == c_out else convolution(rank, c_in, c_out, kernel=1)

    def forward(
        self, x: Float[Tensor, "b c_in *s"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c_out *s"]:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.modulation is not None and cond is not None:
            h = self.modulation(h, cond)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))
