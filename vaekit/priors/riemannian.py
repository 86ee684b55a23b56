"""The uniform density over the latents' own geometry."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.fitting import flat_points, location_and_scale, mark_fitted, require_fitted, start_unfitted
from vaekit.layers.implicit import Implicit
from vaekit.layers.leapfrog import inverse_of_square, leapfrog
from vaekit.layers.precision import at_least_float32


@prior("riemannian", tags=("fitted",), cite="chadebec2022b")
class RiemannianPrior(FittedPrior):
    """p(z) ∝ √det G(z), with G(z) = Σ_i Σ_i⁻¹ exp(-(z - c_i)ᵀ Σ_i⁻¹ (z - c_i) / ρ²) + λ exp(-τ ‖z‖²) I.

    G is a metric of the latent space, and p is uniform in its volume: flatter than the latents' own density where they
    are, and next to nothing elsewhere. c_i are the latents nearest to the centres of k-means, and Σ_i the covariances
    of the latents around them. z is in units of the latents' spread. Draws come from Hamiltonian Monte Carlo that
    starts at random c_i. There is no normalised density, and no use before the fit.

    Shapes: event shape `(*latent)`, batch shape ().

    Args:
        latent_shape: the latent's shape, wired.
        centroids: how many c_i.
        neighbours: how many latents give a Σ_i, to whose covariance a tenth of its mean variance is added.
        radius: ρ; None for √d, with which a lone c_i stands for a normal of covariance Σ_i.
        regularization: λ.
        decay: τ.
        chain: transitions of the Monte Carlo chain for each draw.
        leaps: leapfrog steps of a transition.
        step_size: largest step, in units of the median of each Σ_i's smallest spread.
        seed: of the choice of c_i.

    Raises:
        ValueError: where a number is out of range; at a fit, where there are fewer than two points or one holds NaN; at
            a call, where nothing was fitted yet.

    References:
        A Geometric Perspective on Variational Autoencoders (Chadebec & Allassonnière, 2022),
        https://arxiv.org/abs/2209.07370

    Example:
        >>> import torch, vaekit
        >>> prior = vaekit.prior["riemannian"]((2,), centroids=10, chain=5)
        >>> prior.fit(torch.randn(100, 2))
        >>> prior().sample((3,)).shape
        torch.Size([3, 2])
    """

    has_density = False

    centroids: Tensor
    precisions: Tensor
    count: Tensor
    location: Tensor
    scale: Tensor
    step: Tensor
    fitted: Tensor
    is_fitted: bool
    is_fitted: bool
    place: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        centroids: int = 200,
        neighbours: int = 50,
        radius: float | None = None,
        regularization: float = 0.01,
        decay: float = 0.1,
        chain: int = 50,
        leaps: int = 10,
        step_size: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, count, least in (
            ("centroids", centroids, 1), ("neighbours", neighbours, 2), ("chain", chain, 1), ("leaps", leaps, 1),
        ):  # fmt: skip
            if count < least:
                raise ValueError(f"{name}: expected at least {least}, got {count}.")
        for name, value in (("regularization", regularization), ("decay", decay), ("step_size", step_size)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a positive number, got {value}.")
        if radius is not None and not 0 < radius < math.inf:
            raise ValueError(f"radius: expected None or a positive number, got {radius}.")
        d = math.prod(latent_shape)
        self.latent_shape, self.neighbours, self.seed = tuple(latent_shape), neighbours, seed
        self.square_radius = float(d) if radius is None else radius**2
        self.regularization, self.decay = regularization, decay
        self.chain, self.leaps, self.step_size = chain, leaps, step_size
        self.register_buffer("centroids", torch.zeros(centroids, d))
        self.register_buffer("precisions", torch.zeros(centroids, d, d))  # of zero, where there are fewer centroids
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("location", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))
        self.register_buffer("step", torch.ones(()))
        self.register_buffer("place", torch.arange(centroids), persistent=False)
        start_unfitted(self)

    @torch.no_grad()
    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        points = flat_points(z, 2, "riemannian").to(torch.promote_types(z.dtype, torch.float32))
        location, scale = location_and_scale(points)
        generator = torch.Generator().manual_seed(self.seed)
        # more points per centre change k-means little, and distances between all take memory
        chosen = torch.randperm(len(points), generator=generator)[: 256 * len(self.centroids)]
        points = ((points - location) / scale)[chosen.to(points.device)]
        centres = medoids(points, len(self.centroids), generator)
        nearest = torch.cdist(centres, points).topk(min(self.neighbours, len(points)), largest=False).indices
        around = points[nearest]
        around = around - around.mean(1, keepdim=True)
        covariance = around.mT @ around / (around.shape[1] - 1)
        variance = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-8)
        covariance = covariance + 0.1 * variance[:, None, None] * torch.eye(points.shape[1]).to(points)
        self.centroids.zero_()
        self.precisions.zero_()
        self.centroids[: len(centres)] = centres.to(self.centroids)
        self.precisions[: len(centres)] = torch.linalg.inv(covariance).to(self.precisions)
        self.count.fill_(len(centres))
        self.location.copy_(location)
        self.scale.copy_(scale)
        self.step.copy_(self.step_size * torch.linalg.eigvalsh(covariance)[:, 0].median().sqrt())
        mark_fitted(self)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        require_fitted(self, "riemannian")
        return Implicit(self._draw, self.latent_shape, "riemannian")

    def log_volume(self, z: Float[Tensor, "n *latent"]) -> Float[Tensor, " n"]:
        """½ log det G(z), (n,): log p(z) but for a constant."""
        return self._volume((z.flatten(1) - self.location) / self.scale)[0]

    def _volume(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """½ log det G (n,) and its gradient (n, d), at points in units of the latents' spread."""
        centroids, precisions = at_least_float32(self.centroids), at_least_float32(self.precisions)
        offset = u[:, None] - centroids
        weighed = (offset.transpose(0, 1) @ precisions).transpose(0, 1)  # Σ_i⁻¹ (u - c_i), (n, k, d)
        log_weight = -(offset * weighed).sum(-1) / self.square_radius
        log_weight = torch.where(self.place < self.count, log_weight, -math.inf)
        log_far = math.log(self.regularization) - self.decay * u.square().sum(-1, keepdim=True)
        # the largest is divided out, so that G does not vanish far from everything
        size = torch.maximum(log_weight.amax(1, keepdim=True), log_far)
        weight, far = (log_weight - size).exp(), (log_far - size).exp()
        eye = torch.eye(u.shape[1], device=u.device, dtype=u.dtype)
        metric = (weight @ precisions.flatten(1)).unflatten(1, eye.shape) + far[..., None] * eye
        root = torch.linalg.cholesky_ex(metric).L
        inverse = inverse_of_square(root)
        pull = weight * (inverse.flatten(1) @ precisions.flatten(1).mT) / self.square_radius
        trace = inverse.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
        slope = -(pull[..., None] * weighed).sum(1) - self.decay * far * trace * u
        return root.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * u.shape[1] * size[:, 0], slope

    def _draw(self, n: int) -> Tensor:
        first = (torch.rand(n, device=self.centroids.device) * self.count).long().clamp_max(len(self.centroids) - 1)
        drawn = [
            self._walk(start) for start in at_least_float32(self.centroids[first]).split(1024)
        ]  # in parts, for the memory
        return (self.location + self.scale * torch.cat(drawn)).unflatten(1, self.latent_shape)

    def _walk(self, u: Tensor) -> Tensor:
        """Hamiltonian Monte Carlo from u (n, d), a chain for each row."""
        volume = self._volume(u)[0]
        ones = torch.ones(self.leaps, device=u.device, dtype=u.dtype)
        for _ in range(self.chain):
            momentum = torch.randn_like(u)
            step = self.step.to(u) * torch.rand_like(u[:, :1])  # some are short, for where the density is narrow
            moved, end = leapfrog(u, momentum, step, lambda u: self._volume(u)[1], ones)
            reached = self._volume(moved)[0]
            gain = reached - volume + 0.5 * (momentum.square() - end.square()).sum(1)
            accept = torch.rand_like(gain).log() < gain  # a move to where G overflowed gives NaN, and is refused
            u = torch.where(accept[:, None], moved, u)
            volume = torch.where(accept, reached, volume)
        return u


def medoids(points: Float[Tensor, "n d"], k: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    """The points nearest to the centres of k-means, seeded by k-means++; all points, where there are no more than k."""
    if len(points) <= k:
        return points
    centres = points[:1]
    distance = torch.full((len(points),), math.inf).to(points)
    for _ in range(k - 1):
        distance = torch.minimum(distance, (points - centres[-1]).square().sum(1))
        chosen = torch.multinomial(distance.cpu() + 1e-12, 1, generator=generator)
        centres = torch.cat([centres, points[chosen.to(points.device)]])
    for _ in range(20):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add(0, nearest, points)
        counts = torch.bincount(nearest, minlength=k)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return points[torch.cdist(centres, points).argmin(1)]
