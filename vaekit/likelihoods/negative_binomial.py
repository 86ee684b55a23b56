"""The negative binomial likelihood."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.counts import MeanNegativeBinomial, log_rate
from vaekit.layers.positive import Amount, Positive


@likelihood("negative_binomial", tags=("counts",), cite=("gronbech2020", "lopez2018"))
class NegativeBinomialLikelihood(Likelihood):
    """p(x|z) = Π_i NB(x_i; μ_i, θ), log μ = y: counts of mean μ and variance μ + μ²/θ.

    log μ is softly clipped to ±15. Give data as they were counted, not scaled: `data_range=None`, or the range of the
    counts. Values between counts have the expression with Γ for factorials; below 0 it is -∞. Of genes,
    `dispersion="channel"` is scVI's choice.

    Shapes: y `(*n, b, channels(c), *s)`, event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.
        dispersion: θ, the smaller the wider. A number; "learned", one trained scalar; "channel", one for each channel;
            "pixel", one per value, from as many channels again of y.

    Raises:
        ValueError: where the dispersion is neither a positive number nor one of the names.

    References:
        scVAE: variational auto-encoders for single-cell gene expression data (Grønbech et al., 2020),
        https://doi.org/10.1093/bioinformatics/btaa293; Deep generative modeling for single-cell transcriptomics
        (Lopez et al., 2018), https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> import torch, vaekit
        >>> p = vaekit.likelihood["negative_binomial"]((2,), dispersion=1.0)(torch.zeros(1, 2))
        >>> p.mean, p.log_prob(torch.tensor([[0.0, 1.0]])).exp()
        (tensor([[1., 1.]]), tensor([0.1250]))
    """

    least = 0.0

    def __init__(self, input_shape: Sequence[int], *, dispersion: Amount = "learned") -> None:
        super().__init__()
        self.dispersion = Positive("dispersion", dispersion, input_shape)
        self.event_dims = len(input_shape)

    def channels(self, c: int) -> int:
        """c, or twice as many with a dispersion per pixel."""
        return c * (1 + self.dispersion.read)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        log_mean, dispersion = self.dispersion(y, 1)
        p = MeanNegativeBinomial(log_rate(log_mean), dispersion)
        return Independent(p, self.event_dims, validate_args=False)
