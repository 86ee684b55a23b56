"""The posterior of Hamiltonian steps under a learned metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.leapfrog import Pace, generalized_leapfrog, gradient, inverse_of_square
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("riemannian_hamiltonian", tags=("hamiltonian",), cite=("chadebec2020", "chadebec2022"))
class RiemannianHamiltonianSampler(Sampler):
    """z = z_K of K steps on -log p(x, z) + ½ ρᵀ G⁻¹ ρ + ½ log det G, G⁻¹ = Σ_i L_i L_iᵀ exp(-‖z - c_i‖²/T²) + λ I.

    Steps start at z_0 ~ N(μ(h), diag σ²(h)) with ρ_0 ~ N(0, G(z_0)/β0), and are those of the generalised leapfrog. c_i
    = μ(x_i) and the lower triangular L_i = L(x_i) are those of the last `centroids` examples seen in training: the
    batch's own with their gradients, older ones as they were. They are saved with the model, and stay in evaluation.
    The entries of L_i are tanh's, and exp(tanh)'s on the diagonal, since steps under a large G⁻¹ go astray.

    log q is log N(z_0; μ, σ²) + log N(ρ_0; 0, G(z_0)/β0) - log N(ρ_K; 0, G(z_K)) - ½ d log β0, so that exp(log p(x, z)
    - log q) has the mean p(x) whatever the metric is, where `fixed_point` iterations solve the implicit equations. The
    level's q is the normal of z_0, whose mean stands for the example. Without `log_joint` no step is made, and z = z_0.

    Shapes: h `(b, k, *t)` → z (*n, b, d), a vector. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        steps: K, the number of leapfrog steps.
        step_size: step size at first, learned for each latent dimension.
        max_step: what step sizes stay below.
        beta: β0, the precision of the momentum at first, below 1 for tempering.
        learn_beta: whether β0 is trained.
        centroids: how many examples make the metric.
        temperature: T, how far an example reaches, in z's unit.
        regularization: λ, the inverse metric far from all examples.
        fixed_point: iterations for each implicit equation.

    Raises:
        ValueError: where a number is out of range, or the latent is a map.

    References:
        Geometry-Aware Hamiltonian Variational Auto-Encoder (Chadebec et al., 2020), https://arxiv.org/abs/2010.11518;
        Data Augmentation in High Dimensional Low Sample Size Setting Using a Geometry-Based Variational Autoencoder
        (Chadebec et al., 2022), https://arxiv.org/abs/2105.00026

    Example:
        >>> import torch, vaekit
        >>> sampler = vaekit.use("riemannian_hamiltonian", steps=2, centroids=50)
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler=sampler)
        >>> vae.encode(torch.rand(5, 1, 4, 4), n=3).z.shape
        torch.Size([3, 5, 2])
    """

    compiles = False
    exports = False  # it follows gradients of the model's density, which torch.export can't trace

    centroids: Tensor
    kernels: Tensor
    cursor: Tensor
    rows: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        steps: int = 3,
        step_size: float = 0.001,
        max_step: float = 0.1,
        beta: float = 0.3,
        learn_beta: bool = True,
        centroids: int = 100,
        temperature: float = 1.5,
        regularization: float = 0.01,
        fixed_point: int = 5,
    ) -> None:
        super().__init__()
        if len(latent_shape) != 1:
            raise ValueError(
                f"latent: expected a vector for this metric, got the map {tuple(latent_shape)}. Give an int."
            )
        for name, count in (("centroids", centroids), ("fixed_point", fixed_point)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        for name, value in (("temperature", temperature), ("regularization", regularization)):
            if not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}.")
        (d,) = latent_shape
        self.temperature, self.regularization, self.fixed_point = temperature, regularization, fixed_point
        self.head = Head(in_shape, latent_shape, 2)
        self.factor = Head(in_shape, (d * (d + 1) // 2,), 1)
        self.pace = Pace(latent_shape, steps, step_size, max_step, beta, learn_beta)
        self.register_buffer("centroids", torch.zeros(centroids, d))
        self.register_buffer("kernels", torch.zeros(centroids, d, d))  # a zero kernel: no example there yet
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))
        self.register_buffer("rows", torch.tril_indices(d, d), persistent=False)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_variance = at_least_float32(self.head(h)).unbind(1)
        scale = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        q = Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)
        start = q.rsample(sample_shape)
        if log_joint is None:
            return Level(start, q)
        metric = self.metric(h, mean)
        step, beta = at_least_float32(self.pace.step()), at_least_float32(self.pace.beta())
        tempering = at_least_float32(self.pace.tempering())
        noise, force = torch.randn_like(start), partial(gradient, log_joint)
        first = metric.at(start)
        momentum = beta.rsqrt() * first.color(noise)
        z, momentum = generalized_leapfrog(start, momentum, step, force, metric.at, tempering, self.fixed_point)
        last = metric.at(z)
        # log N(ρ_0; 0, G/β0) holds ½ d log β0, which |det| takes off again
        kinetic = 0.5 * (last.whiten(momentum).square() - noise.square()).sum(-1) + first.log_root - last.log_root
        return Level(z, q, log_q=q.log_prob(start) + kinetic)

    def metric(self, h: Float[Tensor, "b k *t"], mean: Float[Tensor, "b d"]) -> "KernelMetric":
        """The metric of the examples kept so far; in training, those of the batch take the places of the oldest."""
        centroids, kernels = at_least_float32(self.centroids), at_least_float32(self.kernels)
        if self.training:
            kept = min(len(mean), len(centroids))
            lower = self._lower(h)[-kept:]
            place = (self.cursor + torch.arange(kept, device=mean.device)) % len(centroids)
            centroids = centroids.to(mean).index_copy(0, place, mean[-kept:])
            kernels = kernels.to(mean).index_copy(0, place, lower @ lower.mT)
            with torch.no_grad():
                self.centroids.copy_(centroids)
                self.kernels.copy_(kernels)
                self.cursor += kept
        return KernelMetric(centroids, kernels, self.temperature, self.regularization)

    def _lower(self, h: Tensor) -> Tensor:
        entries = at_least_float32(self.factor(h)).squeeze(1).tanh()
        row, column = self.rows.unbind()
        entries = torch.where(row == column, entries.exp(), entries)
        d = self.centroids.shape[1]
        flat = entries.new_zeros(len(entries), d * d).index_copy(1, row * d + column, entries)
        return flat.unflatten(1, (d, d))


@dataclass(frozen=True)
class KernelMetric:
    """G⁻¹(z) = Σ_i M_i e^(-‖z - c_i‖²/T²) + λ I, for c_i (k, d) and M_i (k, d, d)."""

    centroids: Tensor
    kernels: Tensor
    temperature: float
    regularization: float

    def at(self, z: Float[Tensor, "*n b d"]) -> "KernelPlace":
        """The metric at z."""
        distance = (z[..., None, :] - self.centroids).square().sum(-1)
        weight = (-distance / self.temperature**2).exp()
        eye = torch.eye(z.shape[-1], device=z.device, dtype=z.dtype)
        inverse = (weight @ self.kernels.flatten(1)).unflatten(-1, eye.shape) + self.regularization * eye
        return KernelPlace(self, z, weight, inverse)


@dataclass(frozen=True)
class KernelPlace:
    """The metric at z: G⁻¹ = R Rᵀ, with R lower triangular. ρ ~ N(0, G) is R⁻ᵀ γ, and γ = Rᵀ ρ."""

    metric: KernelMetric
    z: Tensor
    weight: Tensor
    inverse: Tensor

    @cached_property
    def root(self) -> Tensor:
        """R."""
        return torch.linalg.cholesky_ex(self.inverse).L  # the plain one waits for the device, to see if it failed

    @property
    def log_root(self) -> Tensor:
        """log det R = -½ log det G."""
        return self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def whiten(self, momentum: Tensor) -> Tensor:
        """Rᵀ ρ."""
        return (self.root.mT @ momentum[..., None])[..., 0]

    def color(self, noise: Tensor) -> Tensor:
        """R⁻ᵀ γ."""
        return torch.linalg.solve_triangular(self.root.mT, noise[..., None], upper=True)[..., 0]

    def velocity(self, momentum: Tensor) -> Tensor:
        """G⁻¹ ρ."""
        return (self.inverse @ momentum[..., None])[..., 0]

    def slope(self, momentum: Tensor) -> Tensor:
        """∂_z (½ ρᵀ G⁻¹ ρ + ½ log det G) = Σ_i (z - c_i) w_i tr((G - ρ ρᵀ) M_i) / T²."""
        excess = self.covariance - momentum[..., :, None] * momentum[..., None, :]
        share = self.weight * (excess.flatten(-2) @ self.metric.kernels.flatten(1).mT) / self.metric.temperature**2
        return share.sum(-1, keepdim=True) * self.z - share @ self.metric.centroids

    @cached_property
    def covariance(self) -> Tensor:
        """G."""
        return inverse_of_square(self.root)
