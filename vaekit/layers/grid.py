"""Data on a grid of levels, such as 8-bit images, and logistic densities over it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

CHUNK = 16
"""Levels that are looked at together where all of them are: more would be many times the data's memory."""


class Grid:
    """`levels` values at equal steps over the data range; without a range the integers from 0 on.

    Raises:
        ValueError: where there are fewer than two levels.
    """

    def __init__(self, data_range: tuple[float, float] | None, levels: int, name: str) -> None:
        if levels < 2:
            raise ValueError(f"{name}: expected at least 2 values that the data take, got {levels}.")
        self.levels = levels
        self.low, self.high = (0.0, levels - 1.0) if data_range is None else data_range
        self.step = (self.high - self.low) / (levels - 1)

    def index(self, x: Tensor) -> Tensor:
        """The nearest level, as a floating-point number."""
        return ((x - self.low) / self.step).round().clamp(0, self.levels - 1)

    def value(self, index: Tensor) -> Tensor:
        """The data's value at a level."""
        return self.low + self.step * index

    def possible(self, x: Tensor, log_p: Tensor) -> Tensor:
        """log p, and -∞ for values that lie more than half a step outside of the range."""
        inside = (x > self.low - 0.5001 * self.step) & (x < self.high + 0.5001 * self.step)
        return log_p.masked_fill(~inside, -torch.inf)

    def expect(self, tail: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """E[x] = low + step Σ_k P(level ≥ k), from the tails at levels `(chunk,)`, `(*n, chunk)` each."""
        chunks = torch.arange(1, self.levels, dtype=like.dtype, device=like.device).split(CHUNK)
        total = tail(chunks[0]).sum(-1)
        for k in chunks[1:]:
            total = total + tail(k).sum(-1)
        return self.value(total)

    def likeliest(self, log_p: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """The value of greatest log p, from those at levels `(chunk,)`, `(*n, chunk)` each."""
        chunks = torch.arange(self.levels, dtype=like.dtype, device=like.device).split(CHUNK)
        best, place = log_p(chunks[0]).max(-1)
        for start, k in enumerate(chunks[1:], 1):
            found, where = log_p(k).max(-1)
            place = torch.where(found > best, where + start * CHUNK, place)
            best = torch.maximum(found, best)
        return self.value(place.to(like.dtype))


class DiscretizedLogistics(Distribution):
    """P(x) = Σ_m w_m [σ((x + δ/2 - μ_m)/s_m) - σ((x - δ/2 - μ_m)/s_m)]: a mixture over a grid of steps δ.

    The outermost levels take all that lies beyond them. Everything but the grid's own values is counted in units in
    which the range is from -1 to 1.

    Args:
        loc: μ, `(*n, m)`.
        scale: s, broadcasts to it.
        log_weight: log w, broadcasts to it.
        grid: the levels.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, loc: Tensor, scale: Tensor, log_weight: Tensor, grid: Grid) -> None:
        self.loc, self.scale, self.log_weight = torch.broadcast_tensors(loc, scale, log_weight)
        self.grid, self.width = grid, 2 / (grid.levels - 1)
        super().__init__(self.loc.shape[:-1], validate_args=False)

    @property
    def support(self) -> Any:
        """The data range."""
        return constraints.interval(self.grid.low, self.grid.high)

    @property
    def mean(self) -> Tensor:
        """Σ_x x P(x), exactly."""
        loc, scale, weight = self.loc[..., None], self.scale[..., None], self.log_weight.exp()[..., None]
        return self.grid.expect(
            lambda k: (weight * ((loc - (k - 0.5) * self.width + 1) / scale).sigmoid()).sum(-2), self.loc
        )

    @property
    def mode(self) -> Tensor:
        """The most probable level."""
        return self.grid.likeliest(lambda k: self._log_mass(k, each=True), self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P of the level next to a value, nats; -∞ outside of the range."""
        return self.grid.possible(value, self._log_mass(self.grid.index(value)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws on the grid."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand((*shape, self.loc.shape[-1]), dtype=self.loc.dtype, device=self.loc.device)
            gumbel = -(-u.clamp_min(torch.finfo(u.dtype).tiny).log()).log()
            chosen = (self.log_weight + gumbel).argmax(-1, keepdim=True)
            loc, scale = (t.expand(*shape, -1).gather(-1, chosen)[..., 0] for t in (self.loc, self.scale))
            u = torch.rand(shape, dtype=loc.dtype, device=loc.device).clamp_min(torch.finfo(loc.dtype).tiny)
            x = loc + scale * (u.log() - (-u).log1p())
            return self.grid.value(((x + 1) / self.width).round().clamp(0, self.grid.levels - 1))

    def _log_mass(self, k: Tensor, *, each: bool = False) -> Tensor:
        """log P at levels of the batch's shape; `each`: at levels `(chunk,)` for all of the batch, `(*n, chunk)`."""
        loc, scale, log_weight = self.loc, self.scale, self.log_weight
        if each:
            loc, scale, log_weight = (t[..., None, :] for t in (loc, scale, log_weight))
        k = k[..., None]
        upper = ((k + 0.5) * self.width - 1 - loc) / scale
        width = self.width / scale
        # σ(b) - σ(a) = σ(b) σ(-a) (1 - e^(a-b)): no difference of near numbers, so that far tails stay exact
        below = F.logsigmoid(upper).masked_fill(k >= self.grid.levels - 1, 0)
        above = F.logsigmoid(width - upper).masked_fill(k <= 0, 0)
        inside = (-(-width).expm1()).log().masked_fill((k <= 0) | (k >= self.grid.levels - 1), 0)
        return (log_weight + below + above + inside).logsumexp(-1)


def spread(y: Float[Tensor, "..."], event_dims: int, count: int) -> Float[Tensor, "... count"]:
    """`count` channels for each one of the data, `(*n, c·count, *s)` → `(*n, c, *s, count)`."""
    return y.unflatten(-event_dims, (-1, count)).movedim(-event_dims, -1)
