"""The Laplace posterior."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Laplace

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("laplace", cite="kingma2014")
class LaplaceSampler(Sampler):
    """q(z|x) = Π_i Laplace(z_i; μ_i(h), b_i(h)): independent, with heavier tails than a normal.

    The KL to a normal or a Laplace prior is in closed form.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.

    Raises:
        ValueError: where h is a map of another size than the latent's.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014; section 2.4), https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch, vaekit
        >>> vaekit.sampler["laplace"]((400,), (20,))(torch.randn(5, 400)).z.shape
        torch.Size([5, 20])
    """

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.head = Head(in_shape, latent_shape, 2)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_scale = at_least_float32(self.head(h)).unbind(1)
        base = Laplace(mean, log_scale.clamp(-15.0, 10.0).exp(), validate_args=False)
        q = Independent(base, mean.ndim - 1, validate_args=False)
        return Level(q.rsample(sample_shape), q)
