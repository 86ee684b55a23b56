"""Distributions over the unit sphere S^(d-1) in R^d. Densities are with respect to its area."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from vaekit.layers.head import Head
from vaekit.layers.inverse_cdf import draw
from vaekit.layers.precision import at_least_float32, wide


def sphere_dimension(latent_shape: Sequence[int]) -> int:
    """The d of a vector latent on the sphere.

    Raises:
        ValueError: where the latent is a map, or d < 2.
    """
    if len(latent_shape) != 1 or latent_shape[0] < 2:
        raise ValueError(
            f"latent: expected a vector of at least 2 dimensions, which the sphere lies in; got {tuple(latent_shape)}. "
            "Set latent=2 or more."
        )
    return latent_shape[0]


class SphereHead(nn.Module):
    """h → a unit vector μ, (b, d), and a concentration κ in [smallest, largest], (b,)."""

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int], smallest: float, largest: float) -> None:
        super().__init__()
        self.d = sphere_dimension(latent_shape)
        if not 0 < smallest < largest <= 1e6:
            raise ValueError(
                f"concentration: expected 0 < smallest < largest <= 1e6, got smallest={smallest}, largest={largest}."
            )
        self.smallest, self.largest = smallest, largest
        self.head = Head(in_shape, (self.d + 1,), 1)

    def forward(self, h: Float[Tensor, "b k *t"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        direction, free = at_least_float32(self.head(h)[:, 0]).split((self.d, 1), -1)
        axis = torch.zeros_like(direction)
        axis[..., 0] = 1.0
        # features that say nothing of a direction get the first axis
        lost = direction.square().sum(-1, keepdim=True) < 1e-12
        loc = F.normalize(torch.where(lost, axis, direction), dim=-1)
        return loc, (F.softplus(free[..., 0]) + self.smallest).clamp_max(self.largest)


class _Sphere(constraints.Constraint):
    """Vectors of length one."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value.norm(dim=-1) - 1).abs() < 1e-4


sphere = _Sphere()


class Zonal(Distribution, ABC):
    """A density on the sphere that depends on the angle to μ alone.

    The angle is drawn by inverting its CDF, the direction around μ is uniform, and a reflection brings the pole to μ:
    there is no loop, and draws have gradients in μ and κ. All is computed in double precision where the device has it.

    Args:
        loc: μ, unit vectors (*b, d), d ≥ 2.
        concentration: κ ≥ 0, `(*b)`.
        validate_args: whether arguments are checked.
    """

    arg_constraints = {  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        "loc": sphere,
        "concentration": constraints.nonnegative,
    }
    support = sphere  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        if loc.ndim < 1 or loc.shape[-1] < 2:
            raise ValueError(f"loc: expected vectors of at least 2 dimensions, got the shape {tuple(loc.shape)}.")
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.d = loc.shape[-1]
        self.loc, self.concentration = loc.expand(*batch, self.d), concentration.expand(batch)
        super().__init__(batch, torch.Size((self.d,)), validate_args=validate_args)

    @abstractmethod
    def _log_weight(self, squared_chord: Tensor, kappa: Tensor) -> Tensor:
        """Log of the unnormalised density at |z - μ|², at most 0 and 0 at μ."""

    @abstractmethod
    def _log_normaliser(self, kappa: Tensor) -> Tensor: ...

    @abstractmethod
    def _mean_cosine(self, kappa: Tensor) -> Tensor:
        """E[z·μ]."""

    @abstractmethod
    def _bulk(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine of the likeliest angle, and minus the second derivative of the angle's log-density there."""

    @abstractmethod
    def _entropy(self, kappa: Tensor) -> Tensor: ...

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z) with respect to the sphere's area, `(*n, *b)` nats."""
        if self._validate_args:
            self._validate_sample(value)
        kappa = wide(self.concentration)
        # z·μ = 1 - |z - μ|²/2, without the rounding of a length that is one only to single precision
        chord = (wide(value) - wide(self.loc)).square().sum(-1)
        return (self._log_weight(chord, kappa) - self._log_normaliser(kappa)).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """-E[log q], `(*b)` nats."""
        return self._entropy(wide(self.concentration)).to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """E[z], (*b, d): inside of the sphere."""
        return self._mean_cosine(wide(self.concentration)).to(self.loc.dtype)[..., None] * self.loc

    @property
    def mode(self) -> Tensor:
        """μ."""
        return self.loc

    def angle(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the angle between z and μ, `(*n, *b)`, in the widest precision."""
        kappa = wide(self.concentration)

        def log_density(angle: Tensor) -> Tensor:
            log_f = self._log_weight(4 * (angle / 2).sin().square(), kappa[..., None])
            return log_f + (self.d - 2) * angle.sin().clamp_min(0).log() if self.d > 2 else log_f

        with torch.no_grad():
            cosine, steepness = self._bulk(kappa)
            center = torch.atan2((1 - cosine.square()).clamp_min(0).sqrt(), cosine)
            reach = 10 / steepness.clamp_min(1e-12).sqrt()
            low, high = (center - reach).clamp_min(0), (center + reach).clamp_max(math.pi)
        return draw(log_density, low, high, sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*n, *b, d), with gradients in μ and κ."""
        shape = self._extended_shape(torch.Size(sample_shape))
        angle = self.angle(sample_shape)[..., None]
        loc = wide(self.loc)
        around = F.normalize(torch.randn(*shape[:-1], self.d - 1, dtype=loc.dtype, device=loc.device), dim=-1)
        at_pole = torch.cat([angle.cos(), angle.sin() * around], -1)
        # Householder's reflection that brings the pole to -sμ, the sign s being the one without cancellation
        sign = torch.where(loc[..., :1] < 0, -1.0, 1.0).to(loc.dtype)
        mirror = torch.cat([loc[..., :1] + sign, loc[..., 1:]], -1)
        along = 2 * (at_pole * mirror).sum(-1, keepdim=True) / mirror.square().sum(-1, keepdim=True)
        return (sign * (along * mirror - at_pole)).to(self.loc.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Zonal":
        """The same distribution with another batch shape."""
        batch = torch.Size(batch_shape)
        return type(self)(self.loc.expand(*batch, self.d), self.concentration.expand(batch), validate_args=False)


class VonMisesFisher(Zonal):
    """q(z) = exp(κ μ·z) κ^ν / ((2π)^(d/2) I_ν(κ)) with ν = d/2 - 1: the normal distribution of the sphere.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), https://arxiv.org/abs/1804.00891
    """

    def _log_weight(self, squared_chord: Tensor, kappa: Tensor) -> Tensor:
        return -0.5 * kappa * squared_chord

    def _log_normaliser(self, kappa: Tensor) -> Tensor:
        return 0.5 * self.d * math.log(2 * math.pi) + log_bessel(0.5 * self.d - 1, kappa)[0]

    def _mean_cosine(self, kappa: Tensor) -> Tensor:
        return log_bessel(0.5 * self.d - 1, kappa)[1]

    def _bulk(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        rest = self.d - 2
        cosine = 2 * kappa / (rest + (rest**2 + 4 * kappa.square()).sqrt()).clamp_min(1e-12)
        sine2 = (1 - cosine.square()).clamp_min(torch.finfo(kappa.dtype).tiny)
        return cosine, kappa * cosine + rest / sine2

    def _entropy(self, kappa: Tensor) -> Tensor:
        log_i, cosine = log_bessel(0.5 * self.d - 1, kappa)
        return 0.5 * self.d * math.log(2 * math.pi) + log_i + kappa * (1 - cosine)


class PowerSpherical(Zonal):
    """q(z) ∝ (1 + μ·z)^κ: close to von Mises-Fisher, with elementary functions for its constant and its KL.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437
    """

    def _log_weight(self, squared_chord: Tensor, kappa: Tensor) -> Tensor:
        return kappa * torch.log1p(-(squared_chord / 4).clamp_max(1 - torch.finfo(kappa.dtype).eps))

    def _shapes(self, kappa: Tensor) -> tuple[Tensor, float]:
        """α and β: (1 + μ·z)/2 is Beta(α, β)."""
        beta = 0.5 * (self.d - 1)
        return kappa + beta, beta

    def _log_normaliser(self, kappa: Tensor) -> Tensor:
        alpha, beta = self._shapes(kappa)
        return beta * math.log(4 * math.pi) + torch.lgamma(alpha) - torch.lgamma(alpha + beta)

    def _mean_cosine(self, kappa: Tensor) -> Tensor:
        return kappa / (kappa + self.d - 1)

    def _bulk(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        rest = self.d - 2
        cosine = kappa / (kappa + rest).clamp_min(torch.finfo(kappa.dtype).tiny)
        sine2 = (1 - cosine.square()).clamp_min(torch.finfo(kappa.dtype).tiny)
        return cosine, kappa / (1 + cosine) + rest / sine2

    def _entropy(self, kappa: Tensor) -> Tensor:
        alpha, beta = self._shapes(kappa)
        return self._log_normaliser(kappa) - kappa * (torch.digamma(alpha) - torch.digamma(alpha + beta))


class UniformSphere(Distribution):
    """p(z) = 1 / |S^(d-1)| = Γ(d/2) / (2 π^(d/2)).

    Args:
        dimension: d ≥ 2.
        dtype: of the draws, torch's default by default.
        device: of the draws.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    support = sphere  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = True

    def __init__(self, dimension: int, dtype: torch.dtype | None = None, device: Any = None) -> None:
        if dimension < 2:
            raise ValueError(f"dimension: expected at least 2, got {dimension}.")
        self.d, self.dtype, self.device = dimension, dtype or torch.get_default_dtype(), device
        self.log_area = math.log(2) + 0.5 * dimension * math.log(math.pi) - math.lgamma(0.5 * dimension)
        super().__init__(torch.Size(), torch.Size((dimension,)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """-log |S|, the same everywhere."""
        return torch.full_like(value[..., 0], -self.log_area)

    def entropy(self) -> Tensor:
        """log |S|."""
        return torch.full((), self.log_area, dtype=self.dtype, device=self.device)

    @property
    def mean(self) -> Tensor:
        """E[z] = 0, the center of the sphere."""
        return torch.zeros(self.d, dtype=self.dtype, device=self.device)

    @property
    def mode(self) -> Tensor:
        """The first axis, as good as any other point."""
        axis = self.mean
        axis[0] = 1.0
        return axis

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*n, d)."""
        normal = torch.randn(*self._extended_shape(torch.Size(sample_shape)), dtype=self.dtype, device=self.device)
        return F.normalize(normal, dim=-1)


@register_kl(VonMisesFisher, UniformSphere)
@register_kl(PowerSpherical, UniformSphere)
def _kl_zonal_uniform(q: Zonal, p: UniformSphere) -> Tensor:
    return p.log_area - q.entropy()


# -- the modified Bessel function of the first kind --------------------------------------------------------------------

_STEPS = 16


def _debye(terms: int) -> list[list[float]]:
    """Coefficients a_kj of Debye's polynomials u_k(p) = p^k Σ_j a_kj p^(2j), DLMF 10.41.9."""
    u, found = {0: Fraction(1)}, []
    for _ in range(terms):
        found.append([float(u[power]) for power in sorted(u)])
        following: dict[int, Fraction] = {}
        for m, a in u.items():
            following[m + 1] = following.get(m + 1, Fraction(0)) + a * m / 2 + a / (8 * (m + 1))
            following[m + 3] = following.get(m + 3, Fraction(0)) - a * m / 2 - 5 * a / (8 * (m + 3))
        u = following
    return found


_DEBYE = _debye(10)


def _olver(order: float, x: Tensor) -> Tensor:
    """log(I_μ(x) e^(-x) x^(-μ)) for large orders μ and any x ≥ 0, DLMF 10.41.3."""
    length = (order**2 + x.square()).sqrt()
    p2 = (order / length).square()
    series = torch.zeros_like(x)
    for coefficients in reversed(_DEBYE):  # Horner's rule in 1/length, and inside of it in p²
        polynomial = torch.zeros_like(x)
        for a in reversed(coefficients):
            polynomial = polynomial * p2 + a
        series = series / length + polynomial
    spread = order**2 / (length + x) - order * (order + length).log()
    return spread - 0.5 * (2 * math.pi * length).log() + series.log()


def log_bessel(order: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """log(I_ν(x) e^(-x) x^(-ν)) and I_(ν+1)(x) / I_ν(x) for ν ≥ 0 and x ≥ 0, finite also at 0.

    Olver's expansion holds at ν + 16. The ratios ρ_ν = I_(ν+1) / (x I_ν) lead down from there by
    ρ_(ν-1) = 1 / (2ν + x² ρ_ν), without cancellation, since all terms are positive.

    References:
        NIST Digital Library of Mathematical Functions, 10.29 and 10.41, https://dlmf.nist.gov/10.41
    """
    top = order + _STEPS
    log_i = _olver(top, x)
    ratio = (_olver(top + 1, x) - log_i).exp()
    for step in range(_STEPS):
        ratio = 1 / (2 * (top - step) + x.square() * ratio)
        log_i = log_i - ratio.log()
    return log_i, x * ratio
