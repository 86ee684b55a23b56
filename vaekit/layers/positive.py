"""Positive parameters of a likelihood: fixed, trained, or read from the decoder's output."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.precision import at_least_float32

Amount: TypeAlias = float | Literal["learned", "channel", "pixel"]


def soft_clip(x: Tensor, low: float, high: float = math.inf) -> Tensor:
    """x between its bounds, near the identity inside; a gradient stays beyond them, so that values can come back."""
    if high < math.inf:
        x = high - F.softplus(high - x)
    return low + F.softplus(x - low)


def first_scale(data_range: tuple[float, float] | None) -> float:
    """Where a trained scale begins: a quarter of the data range, 1 for unbounded data.

    By Adam at 1e-3 a scale of 1 takes more than a thousand steps down to what images in [0, 1] need, and until then
    the KL outweighs what a latent could bring.
    """
    return 1.0 if data_range is None else (data_range[1] - data_range[0]) / 4


class Positive(nn.Module):
    """y → parts of y, and a positive number that goes with each of them, as `amount` says.

        a number      that number
        "learned"     one trained number
        "channel"     one trained number for each channel of the data
        "pixel"       one per value, e^y from as many channels more of y as the data have

    Args:
        name: the argument's name, for messages.
        amount: see above.
        input_shape: the data's shape.
        start: where a trained number begins, and a read one is for y = 0.
        low: all but a fixed number stay above this value.
        high: and below this one.

    Raises:
        ValueError: where the amount is neither a positive number nor one of the names, or the bounds do not hold
            `start`.
    """

    def __init__(
        self,
        name: str,
        amount: Amount,
        input_shape: Sequence[int],
        *,
        start: float = 1.0,
        low: float = 1e-3,
        high: float = 1e4,
    ) -> None:
        super().__init__()
        if isinstance(amount, str):
            if amount not in ("learned", "channel", "pixel"):
                raise ValueError(
                    f"{name}: expected a positive number, 'learned', 'channel' or 'pixel'; got {amount!r}."
                )
        elif not 0 < amount < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {amount}.")
        if not 0 < low < start < high:
            raise ValueError(f"smallest: expected a value between 0 and {start:g}, got {low}.")
        self.amount, self.event_dims = amount, len(input_shape)
        self.start, self.low, self.high = math.log(start), math.log(low), math.log(high)
        if amount == "learned":
            self.free = nn.Parameter(torch.zeros(()))
        elif amount == "channel":
            self.free = nn.Parameter(torch.zeros(input_shape[0], *(1,) * (self.event_dims - 1)))

    @property
    def read(self) -> int:
        """How many parts of y the number takes: 0 or 1."""
        return int(self.amount == "pixel")

    def forward(self, y: Float[Tensor, "..."], parts: int) -> tuple[Tensor, ...]:
        """`parts` parts of y's channels, in float32 at least, and the number, which broadcasts to them."""
        split = at_least_float32(y).chunk(parts + self.read, dim=-self.event_dims)
        return *split[:parts], self.number(split[-1])

    def number(self, y: Tensor) -> Tensor:
        """The number alone, from its own part of y; elsewhere y gives the precision and the device."""
        if not isinstance(self.amount, str):
            return y.new_full((), self.amount)
        raw = y if self.read else self.free.to(y.dtype)
        return soft_clip(raw + self.start, self.low, self.high).exp()
