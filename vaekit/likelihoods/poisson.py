"""The Poisson likelihood."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Poisson

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.counts import log_rate, possible
from vaekit.layers.precision import at_least_float32


@likelihood("poisson", tags=("counts",), cite="gronbech2020")
class PoissonLikelihood(Likelihood):
    """log p(x|z) = Σ_i x_i y_i - e^{y_i} - log x_i!: counts, whose variance is their mean.

    y is the log-rate, softly clipped to ±15. Give data as they were counted, not scaled: `data_range=None`, or the
    range of the counts. Values between counts have the expression with x! = Γ(x + 1); below 0 it is -∞.

    Shapes: y `(*n, b, *input_shape)`, event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.

    References:
        scVAE: variational auto-encoders for single-cell gene expression data (Grønbech et al., 2020),
        https://doi.org/10.1093/bioinformatics/btaa293

    Example:
        >>> import torch, vaekit
        >>> p = vaekit.likelihood["poisson"]((3,))(torch.zeros(1, 3))
        >>> p.mean, p.log_prob(torch.tensor([[0.0, 1.0, 2.0]]))
        (tensor([[1., 1., 1.]]), tensor([-3.6931]))
    """

    least = 0.0

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dims = len(input_shape)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        return Independent(LogPoisson(log_rate(at_least_float32(y))), self.event_dims, validate_args=False)


class LogPoisson(Poisson):
    """A Poisson by the logarithm of its rate."""

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats; -∞ below 0."""
        x = value.clamp_min(0)
        return possible(value, x * self.log_rate - self.rate - (x + 1).lgamma())
