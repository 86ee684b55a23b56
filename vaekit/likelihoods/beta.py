"""The beta likelihood."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta, Distribution, Independent

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.positive import Amount, Positive


@likelihood("beta", tags=("bounded",), cite="ferrari2004")
class BetaLikelihood(Likelihood):
    """p(x|z) = Π_i Beta(x_i; m_i ν, (1 - m_i) ν), with the mean m = σ(y) and the concentration ν.

    For proportions, such as DNA methylation. The density has no bound at 0 and 1, so that values, draws and m are moved
    into [ε, 1 - ε]; what p gives beyond is then missing from its integral, which matters where m ν or (1 - m) ν is well
    below 1. Where many values are exactly 0 or 1, as in images, `continuous_bernoulli` fits better.

    Shapes: y `(*n, b, channels(c), *s)`, event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.
        concentration: ν, the larger the narrower. A number; "learned", one trained scalar; "channel", one for each
            channel; "pixel", one per value, from as many channels again of y.
        eps: ε.

    Raises:
        ValueError: where the concentration is neither a positive number nor one of the names, or ε not between 0 and
            1/2.

    References:
        Beta Regression for Modelling Rates and Proportions (Ferrari & Cribari-Neto, 2004),
        https://doi.org/10.1080/0266476042000214501

    Example:
        >>> import torch, vaekit
        >>> p = vaekit.likelihood["beta"]((2,), concentration=2.0)(torch.zeros(1, 2))
        >>> p.mean, p.log_prob(torch.tensor([[0.1, 0.9]])).abs() < 1e-6
        (tensor([[0.5000, 0.5000]]), tensor([True]))
    """

    support = (0.0, 1.0)

    def __init__(self, input_shape: Sequence[int], *, concentration: Amount = "learned", eps: float = 1e-3) -> None:
        super().__init__()
        if not 0 < eps < 0.5:
            raise ValueError(f"eps: expected a number between 0 and 1/2, got {eps}.")
        self.concentration = Positive("concentration", concentration, input_shape, start=2.0)
        self.eps, self.event_dims = eps, len(input_shape)

    def channels(self, c: int) -> int:
        """c, or twice as many with a concentration per pixel."""
        return c * (1 + self.concentration.read)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        logit, concentration = self.concentration(y, 1)
        mean = self.eps + (1 - 2 * self.eps) * logit.sigmoid()
        return Independent(InnerBeta(mean, concentration, self.eps), self.event_dims, validate_args=False)


class InnerBeta(Beta):
    """A beta whose values, draws and mode are moved into [ε, 1 - ε].

    Args:
        mean: m.
        concentration: ν, broadcasts to it.
        eps: ε.
    """

    has_rsample = False

    def __init__(self, mean: Tensor, concentration: Tensor, eps: float) -> None:
        self.eps = eps
        super().__init__(mean * concentration, (1 - mean) * concentration, validate_args=False)

    @property
    def mode(self) -> Tensor:
        """Where the density is greatest: inside if α and β exceed 1, else at an end."""
        a, b = self.concentration1, self.concentration0
        inside = (a > 1) & (b > 1)
        mode = torch.where(inside, (a - 1) / torch.where(inside, a + b - 2, 1.0), (a > b).to(a.dtype))
        return mode.clamp(self.eps, 1 - self.eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p at the value, moved into [ε, 1 - ε]; nats."""
        return super().log_prob(value.clamp(self.eps, 1 - self.eps))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, moved into [ε, 1 - ε]."""
        with torch.no_grad():
            return super().rsample(torch.Size(sample_shape)).clamp(self.eps, 1 - self.eps)
