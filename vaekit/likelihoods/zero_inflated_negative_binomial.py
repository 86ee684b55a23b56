"""The zero-inflated negative binomial likelihood."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.counts import MeanNegativeBinomial, log_rate
from vaekit.layers.positive import Amount, Positive


@likelihood("zero_inflated_negative_binomial", tags=("counts",), cite="lopez2018")
class ZeroInflatedNegativeBinomialLikelihood(Likelihood):
    """p(x|z) = Π_i π_i [x_i = 0] + (1 - π_i) NB(x_i; μ_i, θ): counts, of which some were missed and read 0.

    y's channels are log μ, softly clipped to ±15, then the logits of π. Give data as they were counted, not scaled:
    `data_range=None`, or the range of the counts. `dispersion="channel"` is scVI's choice.

    Shapes: y `(*n, b, channels(c), *s)`, event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.
        dispersion: θ, the smaller the wider. A number; "learned", one trained scalar; "channel", one for each channel;
            "pixel", one per value, from as many channels again of y.

    Raises:
        ValueError: where the dispersion is neither a positive number nor one of the names.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> import torch, vaekit
        >>> p = vaekit.likelihood["zero_inflated_negative_binomial"]((1,), dispersion=1.0)(torch.zeros(2, 2))
        >>> p.mean.T, p.log_prob(torch.tensor([[0.0], [1.0]])).exp()
        (tensor([[0.5000, 0.5000]]), tensor([0.7500, 0.1250]))
    """

    least = 0.0

    def __init__(self, input_shape: Sequence[int], *, dispersion: Amount = "learned") -> None:
        super().__init__()
        self.dispersion = Positive("dispersion", dispersion, input_shape)
        self.event_dims = len(input_shape)

    def channels(self, c: int) -> int:
        """Two numbers per channel, three with a dispersion per pixel."""
        return c * (2 + self.dispersion.read)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        log_mean, missed, dispersion = self.dispersion(y, 2)
        p = ZeroInflated(MeanNegativeBinomial(log_rate(log_mean), dispersion), missed)
        return Independent(p, self.event_dims, validate_args=False)


class ZeroInflated(Distribution):
    """π [x = 0] + (1 - π) base(x).

    Args:
        base: a distribution over counts.
        logits: of π, of the base's shape.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, base: MeanNegativeBinomial, logits: Tensor) -> None:
        self.base, self.logits = base, logits
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """All counts."""
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        """(1 - π) times the base's mean."""
        return (-self.logits).sigmoid() * self.base.mean

    @property
    def mode(self) -> Tensor:
        """Zero or the base's mode, whichever is more probable."""
        mode = self.base.mode
        return torch.where(self.log_prob(mode) > self.log_prob(torch.zeros_like(mode)), mode, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats; -∞ below 0."""
        counted = F.logsigmoid(-self.logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(F.logsigmoid(self.logits), counted), counted)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the base, some of them replaced by 0."""
        with torch.no_grad():
            counted = self.base.sample(torch.Size(sample_shape))
            return torch.where(torch.rand_like(counted) < self.logits.sigmoid(), 0.0, counted)
