"""The continuous Bernoulli likelihood."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.precision import at_least_float32

_SERIES_BELOW = 0.5  # where the closed forms begin to lose digits, and four terms of the series have them all


@likelihood("continuous_bernoulli", tags=("bounded",), cite="loaizaganem2019")
class ContinuousBernoulliLikelihood(Likelihood):
    """log p(x|z) = Σ_i y_i x_i - log((e^{y_i} - 1) / y_i), x in [0, 1]: the density that grey values want.

    It is the Bernoulli's expression, normalised over the interval. Its mean is 1/(1 - e^-y) - 1/y, not σ(y).

    Shapes: y `(*n, b, *input_shape)`, event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem & Cunningham,
        2019), https://arxiv.org/abs/1907.06845

    Example:
        >>> import torch, vaekit
        >>> p = vaekit.likelihood["continuous_bernoulli"]((2,))(torch.zeros(1, 2))
        >>> p.mean, p.log_prob(torch.tensor([[0.1, 0.9]]))
        (tensor([[0.5000, 0.5000]]), tensor([0.]))
    """

    support = (0.0, 1.0)

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dims = len(input_shape)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        return Independent(ContinuousBernoulli(at_least_float32(y)), self.event_dims, validate_args=False)


class ContinuousBernoulli(Distribution):
    """p(x) = y e^{yx} / (e^y - 1) on [0, 1], by its natural parameter y. torch's own loses digits near y = 0.

    Args:
        natural: y = log λ/(1 - λ).
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, natural: Tensor) -> None:
        self.natural = natural
        super().__init__(natural.shape, validate_args=False)

    @property
    def support(self) -> Any:
        """From 0 to 1."""
        return constraints.unit_interval

    @property
    def mean(self) -> Tensor:
        """1/(1 - e^-y) - 1/y."""
        y, size = self.natural.clamp(-_SERIES_BELOW, _SERIES_BELOW), self.natural.abs().clamp_min(_SERIES_BELOW)
        square = y.square()
        series = y / 12 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40)))
        closed = self.natural.sign() * (0.5 - (-size).exp() / (-size).expm1() - 1 / size)
        return 0.5 + torch.where(self.natural.abs() < _SERIES_BELOW, series, closed)

    @property
    def mode(self) -> Tensor:
        """The end that the density rises to."""
        return (self.natural > 0).to(self.natural.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats: y (x - 1/2) - log(sinh(y/2) / (y/2))."""
        y, size = self.natural.clamp(-_SERIES_BELOW, _SERIES_BELOW), self.natural.abs().clamp_min(_SERIES_BELOW)
        square = y.square()
        series = square / 24 * (1 - square / 120 * (1 - square / 63 * (1 - square * 3 / 160)))
        closed = 0.5 * size + (-(-size).expm1() / size).log()
        return self.natural * (value - 0.5) - torch.where(self.natural.abs() < _SERIES_BELOW, series, closed)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, by the inverse of the cumulative distribution."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.natural.dtype, device=self.natural.device)
            size = self.natural.abs().clamp_min(1e-6)
            down = (-(u * (-size).expm1()).log1p() / size).clamp_max(1)  # of the density that falls as e^{-|y| x}
            return torch.where(self.natural > 0, 1 - down, down)
