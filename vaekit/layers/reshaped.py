"""A density over vectors as one over maps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, constraints, kl_divergence
from torch.distributions.kl import register_kl


class Reshaped(Distribution):
    """p(z) = base(flatten(z)): a distribution over vectors `(d,)`, read as one over `event_shape`.

    KL divergences between it and a diagonal normal are in closed form where its base has a covariance.

    Args:
        base: any distribution over vectors, whose batch shape stays.
        event_shape: the shape of z; its numbers are as many as the base's.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = True

    def __init__(self, base: Distribution, event_shape: Sequence[int]) -> None:
        self.base = base
        super().__init__(base.batch_shape, torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """All of the reals."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The base's mean, reshaped."""
        return self.base.mean.unflatten(-1, self.event_shape)

    @property
    def mode(self) -> Tensor:
        """The base's mode, reshaped."""
        return self.base.mode.unflatten(-1, self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The base's variance of each number, reshaped."""
        return self.base.variance.unflatten(-1, self.event_shape)

    def entropy(self) -> Tensor:
        """The base's entropy, in nats."""
        return self.base.entropy()

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats."""
        return self.base.log_prob(value.flatten(-len(self.event_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw that gradients pass through."""
        return self.base.rsample(torch.Size(sample_shape)).unflatten(-1, self.event_shape)


@register_kl(Reshaped, Independent)
def _to_diagonal(q: Reshaped, p: Independent) -> Tensor:
    """KL(N(m, Σ) ‖ N(μ, diag s²)) = E_q[-log p] - H(q), which needs of Σ its diagonal and determinant only."""
    if not isinstance(p.base_dist, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError
    variance = p.base_dist.variance
    spread = (q.variance + (q.mean - p.base_dist.loc).square()) / variance
    cross_entropy = 0.5 * (spread + variance.log() + math.log(2 * math.pi))
    return cross_entropy.flatten(-len(q.event_shape)).sum(-1) - q.entropy()


@register_kl(Independent, Reshaped)
def _from_diagonal(q: Independent, p: Reshaped) -> Tensor:
    if not isinstance(q.base_dist, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError
    start = -len(q.event_shape)
    # a diagonal matrix, since torch knows the pair of two full normals
    scale = torch.diag_embed(q.base_dist.scale.flatten(start))
    full = MultivariateNormal(q.base_dist.loc.flatten(start), scale_tril=scale, validate_args=False)
    return kl_divergence(full, p.base)


@register_kl(Reshaped, Reshaped)
def _between_reshaped(q: Reshaped, p: Reshaped) -> Tensor:
    if p.event_shape != q.event_shape:
        raise NotImplementedError
    return kl_divergence(q.base, p.base)
