"""The categorical likelihood."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.grid import Grid, spread
from vaekit.layers.precision import at_least_float32


@likelihood("categorical", tags=("levels", "image"), cite="oord2016b")
class CategoricalLikelihood(Likelihood):
    """P(x|z) = Π_i softmax(y_i)[level of x_i]: a free probability for each level of each value.

    Values are read as the nearest of `levels` over the data range; with data_range=None they are the integers from 0
    to levels - 1, such as classes or tokens. The mean is over the levels' values; where their order means nothing,
    take the mode.

    Shapes: y `(*n, b, levels·c, *s)`, with a channel's logits side by side; event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.
        data_range: smallest and largest value of the data, wired.
        levels: how many values the data take.

    Raises:
        ValueError: where there are fewer than two levels.

    References:
        Pixel Recurrent Neural Networks (van den Oord et al., 2016; its discrete softmax),
        https://arxiv.org/abs/1601.06759

    Example:
        >>> import torch, vaekit
        >>> likelihood = vaekit.likelihood["categorical"]((3, 8, 8), (0.0, 1.0), levels=16)
        >>> likelihood.channels(3), likelihood(torch.randn(2, 48, 8, 8)).mean.shape
        (48, torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self, input_shape: Sequence[int], data_range: tuple[float, float] | None, *, levels: int = 256
    ) -> None:
        super().__init__()
        self.grid, self.event_dims = Grid(data_range, levels, "levels"), len(input_shape)

    def channels(self, c: int) -> int:
        """One logit for each level of each channel."""
        return self.grid.levels * c

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        logits = spread(at_least_float32(y), self.event_dims, self.grid.levels)
        return Independent(Levels(logits.log_softmax(-1), self.grid), self.event_dims, validate_args=False)


class Levels(Distribution):
    """A categorical over the values of a grid.

    Args:
        log_p: log-probabilities, `(*n, levels)`.
        grid: the levels.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, log_p: Tensor, grid: Grid) -> None:
        self.log_p, self.grid = log_p, grid
        super().__init__(log_p.shape[:-1], validate_args=False)

    @property
    def support(self) -> Any:
        """The data range."""
        return constraints.interval(self.grid.low, self.grid.high)

    @property
    def mean(self) -> Tensor:
        """Σ_x x P(x)."""
        level = torch.arange(self.grid.levels, dtype=self.log_p.dtype, device=self.log_p.device)
        return self.grid.value(self.log_p.exp() @ level)

    @property
    def mode(self) -> Tensor:
        """The most probable value."""
        return self.grid.value(self.log_p.argmax(-1).to(self.log_p.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """log P of the level next to a value, nats; -∞ outside of the range."""
        index = self.grid.index(value).long()
        shape = torch.broadcast_shapes(index.shape, self.batch_shape)
        log_p = self.log_p.expand(*shape, -1).gather(-1, index.expand(shape)[..., None])[..., 0]
        return self.grid.possible(value, log_p)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws on the grid."""
        with torch.no_grad():
            index = torch.distributions.Categorical(logits=self.log_p, validate_args=False).sample(sample_shape)
            return self.grid.value(index.to(self.log_p.dtype))
