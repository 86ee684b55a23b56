"""The diagonal Gaussian posterior."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head, HeadKind
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("gaussian", cite="kingma2014")
class GaussianSampler(Sampler):
    """q(z|x) = N(z; μ(h), diag σ²(h)), drawn by z = μ + σ ε.

    The head gives μ first and log σ² second; log σ² is clamped, so that neither σ nor its logarithm overflows.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, a vector or a map. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        log_variance: smallest and largest log σ².
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: where the bounds are not in order, or h is a map of another size than the latent's.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["gaussian"]((400,), (20,))(torch.randn(5, 400), (3,))
        >>> level.z.shape, level.q.event_shape
        (torch.Size([3, 5, 20]), torch.Size([20]))
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        log_variance: tuple[float, float] = (-30.0, 20.0),
        head: HeadKind = "linear",
    ) -> None:
        super().__init__()
        low, high = log_variance
        if not low < high:
            raise ValueError(f"log_variance: expected bounds low < high, got {log_variance}.")
        self.low, self.high = low, high
        self.head = Head(in_shape, latent_shape, 2, head)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_variance = at_least_float32(self.head(h)).unbind(1)
        scale = (0.5 * log_variance.clamp(self.low, self.high)).exp()
        q = Independent(Normal(mean, scale, validate_args=False), mean.ndim - 1, validate_args=False)
        return Level(q.rsample(sample_shape), q)
