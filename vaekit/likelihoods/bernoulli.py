"""The Bernoulli likelihood."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from vaekit.kinds import Likelihood, likelihood


@likelihood("bernoulli", tags=("binary",), cite="kingma2014")
class BernoulliLikelihood(Likelihood):
    """log p(x|z) = Σ_i x_i log σ(y_i) + (1 - x_i) log(1 - σ(y_i)): the decoder gives logits.

    Grey values between 0 and 1 are taken too, as is customary; the sum is then the negative cross-entropy and no
    normalised density.

    Shapes: y `(*n, b, *input_shape)`, event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch, vaekit
        >>> vaekit.likelihood["bernoulli"]((1, 2, 2))(torch.zeros(3, 1, 2, 2)).log_prob(torch.ones(3, 1, 2, 2))
        tensor([-2.7726, -2.7726, -2.7726])
    """

    support = (0.0, 1.0)

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dims = len(input_shape)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        return Independent(Bernoulli(logits=y, validate_args=False), self.event_dims, validate_args=False)
