"""A Gaussian mixture, fitted to the latents."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.fitting import flat_points, mark_fitted, require_fitted, start_unfitted
from vaekit.layers.reshaped import Reshaped
from vaekit.optional import require


@prior("gmm", tags=("fitted",), cite="ghosh2020")
class GaussianMixturePrior(FittedPrior):
    """p(z) = Σ_k π_k N(z; m_k, Σ_k), fitted by expectation maximisation with scikit-learn.

    Unlike 'mixture', it is not trained with the model.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        components: K, the number of normals.
        covariance: "full" or "diag"; a full one keeps K d² numbers.
        regularization: added to the variances, in the latent's unit squared.
        iterations: steps of expectation maximisation at most.
        seed: of the starting point, drawn by k-means.

    Raises:
        MissingPackage: at a fit, where scikit-learn is not installed.
        ValueError: where an argument is out of range; at a fit, where there are fewer points than components.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436

    Example:
        >>> import torch, vaekit
        >>> prior = vaekit.prior["gmm"]((2,), components=2)
        >>> prior.fit(torch.cat([torch.randn(50, 2) - 9, torch.randn(50, 2) + 9]))
        >>> prior().sample((3,)).shape
        torch.Size([3, 2])
    """

    weights: Tensor
    means: Tensor
    spread: Tensor
    fitted: Tensor
    is_fitted: bool

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        components: int = 10,
        covariance: Literal["full", "diag"] = "full",
        regularization: float = 1e-6,
        iterations: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("components", components), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}.")
        if covariance not in ("full", "diag"):
            raise ValueError(f"covariance: expected 'full' or 'diag', got {covariance!r}.")
        if regularization < 0:
            raise ValueError(f"regularization: expected a number of at least 0, got {regularization}.")
        self.covariance, self.regularization, self.iterations, self.seed = covariance, regularization, iterations, seed
        self.latent_shape = tuple(latent_shape)
        d = math.prod(latent_shape)
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, d))
        # standard deviations, or Cholesky factors
        spread = torch.ones(components, d) if covariance == "diag" else torch.eye(d).repeat(components, 1, 1)
        self.register_buffer("spread", spread)
        start_unfitted(self)

    @torch.no_grad()
    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        sklearn = require("sklearn.mixture", user="prior 'gmm'", extra="train")
        components = len(self.weights)
        points = flat_points(z, max(components, 2), "gmm")
        mixture = sklearn.GaussianMixture(
            components,
            covariance_type=self.covariance,
            reg_covar=self.regularization,
            max_iter=self.iterations,
            random_state=self.seed,
        ).fit(points.cpu().double().numpy())
        covariances = torch.as_tensor(mixture.covariances_)
        self.weights.copy_(torch.as_tensor(mixture.weights_))
        self.means.copy_(torch.as_tensor(mixture.means_))
        mark_fitted(self)
        self.spread.copy_(covariances.sqrt() if self.covariance == "diag" else torch.linalg.cholesky(covariances))

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        require_fitted(self, "gmm")
        choice = Categorical(logits=self.weights.log(), validate_args=False)
        return MixtureSameFamily(choice, self._normals(), validate_args=False)

    def _normals(self) -> Distribution:
        if self.covariance == "diag":
            means, scales = (t.unflatten(-1, self.latent_shape) for t in (self.means, self.spread))
            base = Normal(means, scales, validate_args=False)
            return Independent(base, len(self.latent_shape), validate_args=False)
        normal = MultivariateNormal(self.means, scale_tril=self.spread, validate_args=False)
        return Reshaped(normal, self.latent_shape)
