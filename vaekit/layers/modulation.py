"""How a condition enters a network: a scale and a shift per channel."""

from jaxtyping import Float
from torch import Tensor, nn


class Modulation(nn.Module):
    """x · (1 + a(c)) + b(c), with a and b linear in the mean of the condition's tokens c, and zero at first.

    Shapes: x `(b, k, *s)`, cond (b, t, cond_dim) → `(b, k, *s)`.

    References:
        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), https://arxiv.org/abs/1709.07871
    """

    def __init__(self, cond_dim: int, channels: int) -> None:
        super().__init__()
        self.to_scale_shift = nn.Linear(cond_dim, 2 * channels)
        nn.init.zeros_(self.to_scale_shift.weight)
        nn.init.zeros_(self.to_scale_shift.bias)

    def forward(self, x: Float[Tensor, "b k *s"], cond: Float[Tensor, "b t c"]) -> Float[Tensor, "b k *s"]:
        scale, shift = self.to_scale_shift(cond.mean(1)).reshape(*x.shape[:1], -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        return x * (1 + scale) + shift
