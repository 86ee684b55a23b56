"""A normal density with a full covariance, fitted to the latents."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.fitting import flat_points, mark_fitted, require_fitted, start_unfitted
from vaekit.layers.reshaped import Reshaped


@prior("full_gaussian", tags=("fitted",), cite="ghosh2020")
class FullGaussianPrior(FittedPrior):
    """p(z) = N(z; m, Σ) with the latents' mean and covariance, shrunk: Σ ← (1 - s) Σ + s tr(Σ)/d I.

    The KL of a Gaussian posterior to it is in closed form.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        shrinkage: s in [0, 1]; above 0, fewer points than dimensions are enough.

    Raises:
        ValueError: where s is outside [0, 1]; at a fit, where there are fewer than two points, or so few or so flat
            that Σ has no inverse.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436; A
        well-conditioned estimator for large-dimensional covariance matrices (Ledoit & Wolf, 2004),
        https://doi.org/10.1016/S0047-259X(03)00096-4

    Example:
        >>> import torch, vaekit
        >>> prior = vaekit.prior["full_gaussian"]((2,))
        >>> prior.fit(torch.randn(100, 2) + 5)
        >>> bool((prior().mean > 4).all())
        True
    """

    loc: Tensor
    scale_tril: Tensor
    fitted: Tensor
    is_fitted: bool

    def __init__(self, latent_shape: Sequence[int], *, shrinkage: float = 1e-3) -> None:
        super().__init__()
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: expected a number in [0, 1], got {shrinkage}.")
        self.shrinkage, self.latent_shape = shrinkage, tuple(latent_shape)
        d = math.prod(latent_shape)
        self.register_buffer("loc", torch.zeros(d))
        self.register_buffer("scale_tril", torch.eye(d))
        start_unfitted(self)

    @torch.no_grad()
    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        points = flat_points(z, 2, "full_gaussian").double()
        covariance = torch.cov(points.T).reshape(len(self.loc), len(self.loc))
        level = covariance.diagonal().mean()
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * level * torch.eye(len(covariance)).to(points)
        scale_tril, failed = torch.linalg.cholesky_ex(covariance)
        # rounding may let a singular matrix through, with a diagonal near 0
        if failed or scale_tril.diagonal().square().min() < 1e-12 * level:
            raise ValueError(
                f"full_gaussian: the covariance of {len(points)} latents in {points.shape[1]} dimensions has no "
                "inverse. Give more data, or raise shrinkage."
            )
        self.loc.copy_(points.mean(0))
        self.scale_tril.copy_(scale_tril)
        mark_fitted(self)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        require_fitted(self, "full_gaussian")
        normal = MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)
        return Reshaped(normal, self.latent_shape)
