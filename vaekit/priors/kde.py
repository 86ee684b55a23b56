"""A kernel density estimate of the latents."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.fitting import flat_points, mark_fitted, require_fitted, start_unfitted
from vaekit.layers.kernels import Kernels


@prior("kde", tags=("fitted",), cite="scott1992")
class KernelDensityPrior(FittedPrior):
    """p(z) = 1/n Σ_i N(z; z_i, f² Σ): a normal kernel of the latents' covariance Σ at each of n stored latents.

    f is Scott's n^(-1/(d+4)), Silverman's (n (d+2)/4)^(-1/(d+4)), or a number. It can't be used before the fit.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        points: how many latents are kept at most, drawn at random where there are more.
        bandwidth: f: "scott", "silverman" or a number.
        seed: of the choice of points.

    Raises:
        ValueError: where an argument is out of range; at a fit, where there are too few points for a covariance with
            an inverse; at a call, where nothing was fitted yet.

    References:
        Multivariate Density Estimation (Scott, 1992), https://doi.org/10.1002/9780470316849; Density Estimation for
        Statistics and Data Analysis (Silverman, 1986), https://doi.org/10.1201/9781315140919

    Example:
        >>> import torch, vaekit
        >>> prior = vaekit.prior["kde"]((2,), points=50)
        >>> prior.fit(torch.randn(100, 2))
        >>> prior().sample((3,)).shape
        torch.Size([3, 2])
    """

    points: Tensor
    count: Tensor
    scale_tril: Tensor
    fitted: Tensor
    is_fitted: bool

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        points: int = 1000,
        bandwidth: float | Literal["scott", "silverman"] = "scott",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if points < 2:
            raise ValueError(f"points: expected at least 2, got {points}.")
        if bandwidth not in ("scott", "silverman") and (isinstance(bandwidth, str) or not 0 < bandwidth < math.inf):
            raise ValueError(f"bandwidth: expected 'scott', 'silverman' or a positive number, got {bandwidth!r}.")
        self.bandwidth, self.seed, self.latent_shape = bandwidth, seed, tuple(latent_shape)
        d = math.prod(latent_shape)
        self.register_buffer("points", torch.zeros(points, d))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale_tril", torch.eye(d))
        start_unfitted(self)

    @torch.no_grad()
    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        every = flat_points(z, 2, "kde")
        chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed))[: len(self.points)]
        kept = every[chosen.to(every.device)]
        n, d = kept.shape
        covariance = torch.cov(kept.double().T).reshape(d, d)
        scale_tril, failed = torch.linalg.cholesky_ex(covariance)
        if failed or scale_tril.diagonal().square().min() < 1e-12 * covariance.diagonal().mean():
            raise ValueError(
                f"kde: the covariance of {n} points in {d} dimensions has no inverse. Give more data and raise "
                "points, or use 'empirical'."
            )
        self.points.zero_()
        self.points[:n] = kept.to(self.points)
        self.count.fill_(n)
        self.scale_tril.copy_(self._factor(n, d) * scale_tril)
        mark_fitted(self)

    def _factor(self, n: int, d: int) -> float:
        if isinstance(self.bandwidth, str):
            return (n if self.bandwidth == "scott" else n * (d + 2) / 4) ** (-1 / (d + 4))
        return float(self.bandwidth)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        require_fitted(self, "kde")
        place = torch.arange(len(self.points), device=self.points.device)
        weight = -self.count.to(self.points.dtype).log()
        log_weights = torch.where(place < self.count, weight, torch.full_like(weight, -math.inf))
        return Kernels(self.points, log_weights, self.scale_tril, self.latent_shape)
