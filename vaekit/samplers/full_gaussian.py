"""The Gaussian posterior with a full or low-rank covariance."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, LowRankMultivariateNormal, MultivariateNormal

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32
from vaekit.layers.reshaped import Reshaped
from vaekit.records import Level


@sampler("full_gaussian", tags=("gaussian",), cite="kingma2014")
class FullGaussianSampler(Sampler):
    """q(z|x) = N(z; μ(h), Σ(h)), Σ = S (I + A)(I + A)ᵀ S, or S (I + A Aᵀ) S of low rank, with S = diag σ(h).

    A is strictly lower triangular, or `(d, rank)`. Its entries stay within ±30, so that Σ can be inverted in single
    precision whatever the features are. The KL to a diagonal normal is in closed form. A map latent is one vector of
    all its numbers.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        rank: None for every covariance, with d (d - 1) / 2 numbers read from h; r for Σ that is diagonal but for r
            directions, with d r numbers: for large latents.

    Raises:
        ValueError: where the rank is not between 1 and the latent's size, or h is a map of another size than the
            latent's.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114; An Introduction to
        Variational Autoencoders (Kingma & Welling, 2019; full covariance, section 2.5.1),
        https://arxiv.org/abs/1906.02691

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["full_gaussian"]((400,), (20,))(torch.randn(5, 400), (3,))
        >>> level.z.shape, level.q.event_shape
        (torch.Size([3, 5, 20]), torch.Size([20]))
    """

    below: Tensor

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int], *, rank: int | None = None) -> None:
        super().__init__()
        size = math.prod(latent_shape)
        if rank is not None and not 1 <= rank <= size:
            raise ValueError(f"rank: expected None, or 1 to the latent's size {size}; got {rank}.")
        self.rank, self.latent_shape = rank, tuple(latent_shape)
        self.head = Head(in_shape, latent_shape, 2)
        entries = size * (size - 1) // 2 if rank is None else size * rank
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), entries)) if entries else None
        self.register_buffer("below", torch.tril_indices(size, size, -1), persistent=False)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_variance = at_least_float32(self.head(h)).flatten(2).unbind(1)
        scale = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        entries = mean.new_zeros(len(mean), 0) if self.mix is None else 30 * (at_least_float32(self.mix(h)) / 30).tanh()
        q = Reshaped(self._normal(mean, scale, entries), self.latent_shape)
        return Level(q.rsample(sample_shape), q)

    def _normal(self, mean: Tensor, scale: Tensor, entries: Tensor) -> Distribution:
        if self.rank is not None:
            factor = scale[..., None] * entries.unflatten(-1, (-1, self.rank))
            return LowRankMultivariateNormal(mean, factor, scale.square(), validate_args=False)
        row, column = self.below.unbind(0)
        example = torch.arange(len(mean), device=mean.device)[:, None]
        lower = torch.diag_embed(scale).index_put((example, row, column), scale[:, row] * entries)
        return MultivariateNormal(mean, scale_tril=lower, validate_args=False)
