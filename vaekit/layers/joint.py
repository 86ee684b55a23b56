"""Numbers and codes in one latent vector: (z, one-hot, one-hot, …)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, constraints, kl_divergence, register_kl


class Joint(Distribution):
    """p(z) p(k): a density over the first values of a vector, and codes whose one-hot vectors are the others.

    Args:
        numbers: the density, event shape (d,).
        index: `Independent` `Categorical`s over (v,) codes.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = False

    def __init__(self, numbers: Distribution, index: Independent) -> None:
        self.numbers, self.index = numbers, index
        self.size = numbers.event_shape[0]
        self.codes, self.categories = index.event_shape[0], index.base_dist.logits.shape[-1]  # type: ignore[union-attr]
        event = torch.Size([self.size + self.codes * self.categories])
        super().__init__(numbers.batch_shape, event, validate_args=False)

    @property
    def support(self) -> Any:
        """Real vectors."""
        return constraints.real_vector

    @property
    def base(self) -> Categorical:
        """The codes' categoricals, batch shape (b, v)."""
        return self.index.base_dist  # type: ignore[return-value]

    @property
    def mode(self) -> Tensor:
        """The density's mode and the likeliest codes."""
        return self.join(self.numbers.mode, self.base.logits.argmax(-1))

    @property
    def mean(self) -> Tensor:
        """The density's mean and the codes' probabilities."""
        return torch.cat([self.numbers.mean, self.base.probs.flatten(-2)], -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with one-hot codes."""
        with torch.no_grad():
            return self.join(self.numbers.sample(sample_shape), self.index.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) + Σ log p(k), nats; a relaxed one-hot vector counts as its largest entry."""
        index = value[..., self.size :].unflatten(-1, (self.codes, self.categories)).argmax(-1)
        return self.numbers.log_prob(value[..., : self.size]) + self.index.log_prob(index)

    def join(self, numbers: Tensor, index: Tensor) -> Tensor:
        """Numbers and codes as one vector."""
        return torch.cat([numbers, F.one_hot(index, self.categories).to(numbers.dtype).flatten(-2)], -1)


@register_kl(Joint, Joint)
def _kl_joint(q: Joint, p: Joint) -> Tensor:
    return kl_divergence(q.numbers, p.numbers) + kl_divergence(q.index, p.index)
