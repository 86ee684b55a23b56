"""The Poincaré ball of curvature -c, radius 1/√c, and normal distributions over it.

Densities are with respect to the ball's Riemannian volume, λ(z)^d dz with λ(z) = 2 / (1 - c|z|²): q and p alike, so
that their KL is the same as with any other measure. For the log-density per unit of dz, add d log λ(z).

Single precision reaches points some 12/√c from the center, double precision some 23/√c: keep scale · √dimension below.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.layers.inverse_cdf import draw, log_integral
from vaekit.layers.precision import wide


def ball_dimension(latent_shape: Sequence[int]) -> int:
    """The d of a vector latent in the ball.

    Raises:
        ValueError: where the latent is a map.
    """
    if len(latent_shape) != 1 or latent_shape[0] < 1:
        raise ValueError(
            f"latent: expected a vector, which the ball is made of; got {tuple(latent_shape)}. Set latent to a number."
        )
    return latent_shape[0]


def check_curvature(c: float) -> float:
    """The curvature's size c.

    Raises:
        ValueError: where it is not positive.
    """
    if not 0 < c < math.inf:
        raise ValueError(f"curvature: expected a positive number c, for a ball of curvature -c; got {c}.")
    return float(c)


# -- geometry ----------------------------------------------------------------------------------------------------------


def margin(dtype: torch.dtype) -> float:
    """How far from the boundary points stay, relative to the radius."""
    return 1e-10 if dtype == torch.float64 else 1e-5


def project(x: Tensor, c: float) -> Tensor:
    """The nearest point of the closed ball of radius (1 - margin)/√c."""
    largest = (1 - margin(x.dtype)) / math.sqrt(c)
    return x * (largest / _length(x)).clamp_max(1.0)


def conformal(x: Tensor, c: float) -> Tensor:
    """λ(x) = 2 / (1 - c|x|²), `(*n)`: lengths at x are λ times Euclidean ones."""
    return 2 / _gap(x, c)[..., 0]


def mobius_add(x: Tensor, y: Tensor, c: float) -> Tensor:
    """x ⊕ y, the isometry of the ball that takes 0 to x, applied to y."""
    # with s = x + y all terms of the denominator are positive, and nothing cancels at y ≈ -x
    s = x + y
    s2 = c * s.square().sum(-1, keepdim=True)
    return (_gap(x, c) * s + s2 * x) / (s2 + _gap(x, c) * _gap(y, c))


def distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    """The length of the geodesic between x and y, `(*n)`."""
    return _distance(x, y, c)[..., 0]


def exp_map(x: Tensor, u: Tensor, c: float) -> Tensor:
    """Where the geodesic that leaves x with the velocity u is at time 1."""
    return from_normal(x, u * conformal(x, c)[..., None], c)


def log_map(x: Tensor, y: Tensor, c: float) -> Tensor:
    """The velocity u at x with exp_x(u) = y."""
    return to_normal(x, y, c) / conformal(x, c)[..., None]


def from_normal(center: Tensor, v: Tensor, c: float) -> Tensor:
    """The point at normal coordinates v around a center: as far from it as v is long, in the direction of v."""
    length = math.sqrt(c) * _length(v)
    return project(mobius_add(center, (length / 2).tanh() / length * v, c), c)


def to_normal(center: Tensor, z: Tensor, c: float) -> Tensor:
    """Normal coordinates v of z around a center; the length of v is their distance."""
    s = z - center
    direction = _gap(center, c) * s - c * s.square().sum(-1, keepdim=True) * center  # of -center ⊕ z
    return _distance(center, z, c) * direction / _length(direction)


def _gap(x: Tensor, c: float) -> Tensor:
    return (1 - c * x.square().sum(-1, keepdim=True)).clamp_min(margin(x.dtype))


def _length(x: Tensor) -> Tensor:
    """|x| with a gradient also at 0, `(*n, 1)`."""
    return x.square().sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny).sqrt()


def _distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    # the same as by arcosh or artanh, which lose all digits at short and long distances
    sinh = math.sqrt(c) * _length(x - y) / (_gap(x, c) * _gap(y, c)).sqrt()
    return 2 / math.sqrt(c) * sinh.asinh()


def log_sinhc(squared: Tensor) -> Tensor:
    """log(sinh(y)/y) of y²: by how much spheres grow faster than flat ones."""
    small = squared < 0.01
    y = torch.where(small, torch.ones_like(squared), squared).sqrt()
    series = squared / 6 - squared.square() / 180 + squared.pow(3) / 2835 - squared.pow(4) / 37800
    return torch.where(small, series, y + torch.log(-torch.expm1(-2 * y) / (2 * y)))


# -- distributions -----------------------------------------------------------------------------------------------------


class _Ball(constraints.Constraint):
    """Points of the open ball of curvature -c."""

    event_dim = 1

    def __init__(self, c: float) -> None:
        self.c = c
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.c * value.square().sum(-1) < 1


class WrappedNormal(Distribution):
    """z = exp_μ(v), v ~ N(0, diag σ²): q(z) = N(v; 0, diag σ²) (√c r / sinh(√c r))^(d-1), r = |v| = d(μ, z).

    v are normal coordinates at μ: those of the center, brought to μ along the geodesic. They keep lengths, so that σ is
    in units of the ball's own distance everywhere.

    Args:
        center: μ, points of the ball (*b, d).
        scale: σ > 0, (*b, d), or (*b, 1) for all directions alike.
        curvature: c > 0, where the ball has curvature -c.
        validate_args: whether arguments are checked.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019),
        https://arxiv.org/abs/1901.06033; A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning
        (Nagano et al., 2019), https://arxiv.org/abs/1902.02992
    """

    arg_constraints = {  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        "scale": constraints.independent(constraints.positive, 1)
    }
    has_rsample = True

    def __init__(
        self, center: Tensor, scale: Tensor, curvature: float = 1.0, validate_args: bool | None = None
    ) -> None:
        self.c = check_curvature(curvature)
        self.center, self.scale = torch.broadcast_tensors(center, scale)
        super().__init__(self.center.shape[:-1], self.center.shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The open ball."""
        return _Ball(self.c)

    @property
    def mean(self) -> Tensor:
        """μ, the point with the least expected squared distance to z (Fréchet's mean)."""
        return self.center

    @property
    def mode(self) -> Tensor:
        """μ."""
        return self.center

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*n, *b, d), with gradients in μ and σ."""
        center, scale = wide(self.center), wide(self.scale)
        shape = self._extended_shape(torch.Size(sample_shape))
        v = scale * torch.randn(shape, dtype=center.dtype, device=center.device)
        return project(from_normal(center, v, self.c).to(self.center.dtype), self.c)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z) with respect to the Riemannian volume, `(*n, *b)` nats."""
        if self._validate_args:
            self._validate_sample(value)
        scale = wide(self.scale)
        v = to_normal(wide(self.center), wide(value), self.c)
        log_normal = -0.5 * ((v / scale).square() + math.log(2 * math.pi)) - scale.log()
        spread = (v.shape[-1] - 1) * log_sinhc(self.c * v.square().sum(-1))
        return (log_normal.sum(-1) - spread).to(self.center.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "WrappedNormal":
        """The same distribution with another batch shape."""
        shape = torch.Size(batch_shape) + self.event_shape
        return WrappedNormal(self.center.expand(shape), self.scale.expand(shape), self.c, validate_args=False)


class RiemannianNormal(Distribution):
    """q(z) = exp(-d(μ, z)² / 2σ²) / Z(σ), Z = |S^(d-1)| ∫ exp(-r² / 2σ²) (sinh(√c r)/√c)^(d-1) dr.

    The density of the greatest entropy for its mean and spread. Z and the law of the radius r = d(μ, z) come from a
    table in r, without the alternating sum of error functions, which cancels in more than a few dimensions.

    Args:
        center: μ, points of the ball (*b, d).
        scale: σ > 0, `(*b)`.
        curvature: c > 0, where the ball has curvature -c.
        validate_args: whether arguments are checked.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019),
        https://arxiv.org/abs/1901.06033
    """

    arg_constraints = {  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        "scale": constraints.positive
    }
    has_rsample = True

    def __init__(
        self, center: Tensor, scale: Tensor, curvature: float = 1.0, validate_args: bool | None = None
    ) -> None:
        self.c, self.d = check_curvature(curvature), center.shape[-1]
        batch = torch.broadcast_shapes(center.shape[:-1], scale.shape)
        self.center, self.scale = center.expand(*batch, self.d), scale.expand(batch)
        super().__init__(batch, center.shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The open ball."""
        return _Ball(self.c)

    @property
    def mean(self) -> Tensor:
        """μ, the point with the least expected squared distance to z (Fréchet's mean)."""
        return self.center

    @property
    def mode(self) -> Tensor:
        """μ."""
        return self.center

    def _log_weight(self, radius: Tensor) -> Tensor:
        """log of the radius's density without its constant, `(*b, m)`."""
        growth = (self.d - 1) * (radius.log() + log_sinhc(self.c * radius.square())) if self.d > 1 else 0.0
        return growth - 0.5 * (radius / wide(self.scale)[..., None]).square()

    def _bulk(self) -> tuple[Tensor, Tensor]:
        """Where the radius lies but for some 10⁻¹⁸ of its mass."""
        with torch.no_grad():
            scale = wide(self.scale)
            tiny = torch.finfo(scale.dtype).tiny ** 0.25
            a = (self.d - 1) * self.c * scale.square()
            y = (a + a.square()).sqrt().clamp_min(tiny)
            for _ in range(6):  # Newton's method for the likeliest radius y/√c, where y tanh(y) = a
                tanh = y.tanh()
                y = (y - (y * tanh - a) / (tanh + y * (1 - tanh.square()))).clamp_min(tiny)
            radius = y / math.sqrt(self.c)
            # the log-density is concave, and its curvature falls with the radius towards 1/σ²
            left = (1 / scale.square() + (self.d - 1) * self.c / y.clamp_max(300.0).sinh().square()).rsqrt()
            return (radius - 9 * left).clamp_min(0), radius + 9 * scale

    def log_normaliser(self) -> Tensor:
        """log Z(σ), `(*b)`, in the widest precision."""
        log_area = math.log(2) + 0.5 * self.d * math.log(math.pi) - math.lgamma(0.5 * self.d)
        return log_area + log_integral(self._log_weight, *self._bulk())

    def radius(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of d(μ, z), `(*n, *b)`, in the widest precision, with a gradient in σ."""
        return draw(self._log_weight, *self._bulk(), sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*n, *b, d), with gradients in μ and σ."""
        center, radius = wide(self.center), self.radius(sample_shape)
        normal = torch.randn(*radius.shape, self.d, dtype=center.dtype, device=center.device)
        v = radius[..., None] * F.normalize(normal, dim=-1)
        return project(from_normal(center, v, self.c).to(self.center.dtype), self.c)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z) with respect to the Riemannian volume, `(*n, *b)` nats."""
        if self._validate_args:
            self._validate_sample(value)
        ratio = distance(wide(value), wide(self.center), self.c) / wide(self.scale)
        return (-0.5 * ratio.square() - self.log_normaliser()).to(self.center.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RiemannianNormal":
        """The same distribution with another batch shape."""
        batch = torch.Size(batch_shape)
        center, scale = self.center.expand(*batch, self.d), self.scale.expand(batch)
        return RiemannianNormal(center, scale, self.c, validate_args=False)
