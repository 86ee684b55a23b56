"""The von Mises likelihood."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.distributions import VonMises as TorchVonMises

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.positive import Amount, Positive


@likelihood("von_mises", tags=("angles",), cite="mardia2000")
class VonMisesLikelihood(Likelihood):
    """p(x|z) = Π_i exp(κ cos(x_i - μ_i)) / (2π I₀(κ)): angles, for which both ends of the range are the same point.

    The data range is one turn: (-π, π), (0, 360), (0, 24) for hours of the day. Without a range, angles are in radians.
    The direction μ is that of the vector (1 + y_c, y_s), so that it has no jump: y's first c channels and the next c.
    At y = 0 it is the middle of the range. The mean is the direction.

    Shapes: y `(*n, b, channels(c), *s)`, event shape `(*input_shape)`. Unit: nats, of a density in the data's units.

    Args:
        input_shape: the data's shape, wired.
        data_range: one turn, wired.
        concentration: κ, the larger the narrower. A number; "learned", one trained scalar; "channel", one for each
            channel; "pixel", one per value, from c more channels of y.

    Raises:
        ValueError: where the concentration is neither a positive number nor one of the names.

    References:
        Directional Statistics (Mardia & Jupp, 2000), https://doi.org/10.1002/9780470316979

    Example:
        >>> import torch, vaekit
        >>> likelihood = vaekit.likelihood["von_mises"]((1,), (0.0, 360.0), concentration=2.0)
        >>> likelihood(torch.tensor([[0.0, -1.0]])).mean  # 45° before the middle of the range
        tensor([[135.]])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None,
        *,
        concentration: Amount = "learned",
    ) -> None:
        super().__init__()
        self.concentration = Positive("concentration", concentration, input_shape)
        self.turn = (-math.pi, math.pi) if data_range is None else data_range
        self.event_dims = len(input_shape)

    def channels(self, c: int) -> int:
        """Two numbers per channel, three with a concentration per pixel."""
        return c * (2 + self.concentration.read)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        cos, sin, concentration = self.concentration(y, 2)
        return Independent(VonMises(1 + cos, sin, concentration, self.turn), self.event_dims, validate_args=False)


class VonMises(Distribution):
    """A von Mises over one turn of any length.

    Args:
        cos: length along the middle of the turn, of a vector that has the direction.
        sin: along the point a quarter of a turn later.
        concentration: κ, broadcasts to them.
        turn: where the turn begins and ends.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, cos: Tensor, sin: Tensor, concentration: Tensor, turn: tuple[float, float]) -> None:
        length = (cos.square() + sin.square() + 1e-12).sqrt()  # a vector of no length has a gradient, too
        self.cos, self.sin, self.concentration = cos / length, sin / length, concentration.expand_as(cos)
        self.turn, self.middle, self.radian = turn, sum(turn) / 2, (turn[1] - turn[0]) / (2 * math.pi)
        super().__init__(cos.shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The turn."""
        return constraints.interval(*self.turn)

    @property
    def mean(self) -> Tensor:
        """The direction."""
        return self.middle + self.radian * torch.atan2(self.sin, self.cos)

    @property
    def mode(self) -> Tensor:
        """The direction."""
        return self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats."""
        angle = (value - self.middle) / self.radian
        along = self.cos * angle.cos() + self.sin * angle.sin() - 1
        log_normalizer = torch.special.i0e(self.concentration).log() + math.log(2 * math.pi * self.radian)
        return self.concentration * along - log_normalizer

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws within the turn."""
        with torch.no_grad():
            base = TorchVonMises(torch.atan2(self.sin, self.cos), self.concentration, validate_args=False)
            return self.middle + self.radian * base.sample(torch.Size(sample_shape))
