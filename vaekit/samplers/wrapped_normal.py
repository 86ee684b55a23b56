"""The wrapped normal posterior in the Poincaré ball."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.poincare import WrappedNormal, ball_dimension, check_curvature, from_normal
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("wrapped_normal", tags=("ball",), cite=("mathieu2019", "nagano2019"))
class WrappedNormalSampler(Sampler):
    """z = exp_μ(v), v ~ N(0, diag σ²(h)), with μ = exp_0(m(h)) in the Poincaré ball: q(z|x) is a wrapped normal.

    The head gives m first and log σ² second. σ is in units of the ball's own distance, at every μ. The KL has no closed
    form: the `kl` loss estimates it by the drawn z. Single precision reaches some 12/√c from the center, so many
    dimensions need a small σ.

    Shapes: h `(b, k, *t)` → z `(*n, b, d)`, a vector latent. Unit of log q: nats, over the Riemannian volume.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape (d,), wired.
        curvature: c > 0, where the ball has curvature -c and radius 1/√c.
        log_variance: smallest and largest log σ².

    Raises:
        ValueError: where c is not positive, the bounds are not in order, or the latent is a map.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019),
        https://arxiv.org/abs/1901.06033; A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning
        (Nagano et al., 2019), https://arxiv.org/abs/1902.02992

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["wrapped_normal"]((400,), (20,), curvature=4.0)(torch.randn(5, 400))
        >>> bool((level.z.norm(dim=-1) < 0.5).all())
        True
    """

    space = "ball"

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        curvature: float = 1.0,
        log_variance: tuple[float, float] = (-20.0, 4.0),
    ) -> None:
        super().__init__()
        low, high = log_variance
        if not low < high:
            raise ValueError(f"log_variance: expected bounds low < high, got {log_variance}.")
        self.low, self.high = low, high
        self.curvature = check_curvature(curvature)
        self.head = Head(in_shape, (ball_dimension(latent_shape),), 2)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        tangent, log_variance = at_least_float32(self.head(h)).unbind(1)
        center = from_normal(torch.zeros_like(tangent), tangent, self.curvature)
        scale = (0.5 * log_variance.clamp(self.low, self.high)).exp()
        q = WrappedNormal(center, scale, self.curvature, validate_args=False)
        return Level(q.rsample(sample_shape), q)
