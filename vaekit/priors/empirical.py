"""The latents themselves as a prior."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.fitting import flat_points, mark_fitted, require_fitted, start_unfitted
from vaekit.layers.implicit import Implicit


@prior("empirical", tags=("fitted",))
class EmpiricalPrior(FittedPrior):
    """z ~ 1/n Σ_i δ(z - z_i): a stored latent, drawn with replacement.

    Samples are as good as the decoder, and as new as a reconstruction: a check of what a fitted density loses, more
    than a generator. It has no density, and can't be used before the fit.

    Shapes: event shape `(*latent)`, batch shape ().

    Args:
        latent_shape: the latent's shape, wired.
        points: how many latents are kept at most, drawn at random where there are more.
        seed: of the choice of points.

    Raises:
        ValueError: where `points` is below 1; at a fit, where there are no points or one holds NaN; at a call, where
            nothing was fitted yet.

    Example:
        >>> import torch, vaekit
        >>> prior = vaekit.prior["empirical"]((2,), points=50)
        >>> prior.fit(torch.ones(10, 2))
        >>> prior().sample((3,)).unique()
        tensor([1.])
    """

    has_density = False

    points: Tensor
    count: Tensor
    fitted: Tensor
    is_fitted: bool

    def __init__(self, latent_shape: Sequence[int], *, points: int = 10_000, seed: int = 0) -> None:
        super().__init__()
        if points < 1:
            raise ValueError(f"points: expected at least 1, got {points}.")
        self.latent_shape, self.seed = tuple(latent_shape), seed
        self.register_buffer("points", torch.zeros(points, *latent_shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        start_unfitted(self)

    @torch.no_grad()
    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        every = flat_points(z, 1, "empirical")
        chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed))[: len(self.points)]
        self.points.zero_()
        self.points[: len(chosen)] = every[chosen.to(every.device)].unflatten(1, self.latent_shape).to(self.points)
        self.count.fill_(len(chosen))
        mark_fitted(self)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        require_fitted(self, "empirical")
        return Implicit(self._draw, self.latent_shape, "empirical")

    def _draw(self, n: int) -> Tensor:
        # double precision: single has fewer steps in [0, 1) than there may be points
        place = torch.rand(n, device=self.points.device, dtype=torch.float64) * self.count
        return self.points[place.long().clamp_max(len(self.points) - 1)]
