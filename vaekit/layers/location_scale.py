"""The scale of a location-scale likelihood: fixed, learned, learned per pixel, or the batch's own optimum."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

from vaekit.layers.positive import first_scale, soft_clip

Scale: TypeAlias = float | Literal["learned", "pixel", "optimal"]


class LocationScale(nn.Module):
    """y → Independent(family(loc, scale)), with the scale chosen by `scale`.

        a number      that scale
        "learned"     one trained scalar, which starts at a quarter of the data range; at 1 for unbounded data
        "pixel"       log-scales in the second half of y's channels, around the same
        "optimal"     in training the scale that maximises the batch's likelihood, afterwards its running mean

    Args:
        family: `Normal` or `Laplace`.
        moment: residual → the statistic whose mean gives the optimal scale, increasing in the residual's size.
        root: the statistic's inverse, mean moment → scale.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        scale: see above.
        smallest: no scale but a fixed one gets below this value.

    Raises:
        ValueError: where the scale is neither a positive number nor one of the names.
    """

    mean_moment: Tensor
    seen: Tensor

    def __init__(
        self,
        family: Callable[..., Distribution],
        moment: Callable[[Tensor], Tensor],
        root: Callable[[Tensor], Tensor],
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None,
        scale: Scale,
        smallest: float,
    ) -> None:
        super().__init__()
        if isinstance(scale, str):
            if scale not in ("learned", "pixel", "optimal"):
                raise ValueError(f"scale: expected a positive number, 'learned', 'pixel' or 'optimal'; got {scale!r}.")
        elif not scale > 0 or not math.isfinite(scale):
            raise ValueError(f"scale: expected a positive number, got {scale}.")
        if not smallest > 0:
            raise ValueError(f"smallest: expected a positive scale, got {smallest}.")
        self.family, self.moment, self.root, self.scale, self.smallest = family, moment, root, scale, smallest
        self.event_dims = len(input_shape)
        self._start = math.log(first_scale(data_range))
        self._least_moment = float(moment(torch.tensor(float(smallest), dtype=torch.float64, device="cpu")))
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.tensor(self._start))
        elif scale == "optimal":
            self.register_buffer("mean_moment", moment(torch.ones(())))
            self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def channels(self, c: int) -> int:
        """Channels of y for c channels of data."""
        return 2 * c if self.scale == "pixel" else c

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        if self.scale == "pixel":
            loc, log_scale = y.chunk(2, dim=-self.event_dims)
            return self.spread(loc, soft_clip(log_scale + self._start, math.log(self.smallest)).exp())
        if self.scale == "learned":
            return self.spread(y, soft_clip(self.log_scale, math.log(self.smallest)).exp())
        if self.scale == "optimal":
            return OptimalScale(self, y) if self.training else self.spread(y, self.running_scale())
        return self.spread(y, y.new_full((), float(self.scale)))

    def spread(self, loc: Tensor, scale: Tensor) -> Distribution:
        """The distribution over the data's shape."""
        return Independent(
            self.family(loc, scale.to(loc.dtype), validate_args=False), self.event_dims, validate_args=False
        )

    def running_scale(self) -> Tensor:
        """The scale that the batches seen in training call for."""
        return self.root(self.mean_moment).clamp_min(self.smallest)

    def optimal_scale(self, residual: Tensor) -> Tensor:
        """The scale that maximises the likelihood of these residuals; it also moves the running one."""
        moment = self.moment(residual).mean()
        with torch.no_grad():
            now = moment.to(self.mean_moment)
            self.mean_moment.copy_(torch.where(self.seen, self.mean_moment.lerp(now, 0.01), now))
            self.seen.fill_(True)
        return self.root(moment.clamp_min(self._least_moment))


class OptimalScale(Distribution):
    """A location-scale distribution at the scale that is best for the values whose `log_prob` is asked.

    Its log-density depends on the whole batch. In evaluation mode the likelihood gives a plain distribution instead.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = True

    def __init__(self, likelihood: LocationScale, loc: Tensor) -> None:
        self.likelihood, self.loc = likelihood, loc
        split = loc.ndim - likelihood.event_dims
        super().__init__(loc.shape[:split], loc.shape[split:], validate_args=False)

    @property
    def support(self) -> Any:
        """All of the reals."""
        return constraints.independent(constraints.real, self.likelihood.event_dims)

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The location."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) at the scale that is best for `value`, `(*n, b)` nats."""
        return self.likelihood.spread(self.loc, self.likelihood.optimal_scale(value - self.loc)).log_prob(value)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw at the running scale."""
        return self.likelihood.spread(self.loc, self.likelihood.running_scale()).rsample(sample_shape)
