"""Distributions that can be drawn from and have no density."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Implicit(Distribution):
    """z ~ draw(n): samples without a density.

    Args:
        draw: how many → that many samples, `(n, *event_shape)`.
        event_shape: z's shape.
        name: what the distribution is called in messages.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, draw: Callable[[int], Tensor], event_shape: Sequence[int], name: str) -> None:
        self.draw, self.name = draw, name
        super().__init__(torch.Size(), torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """All of the reals."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws `(*sample_shape, *event_shape)`."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            return self.draw(shape.numel()).reshape(*shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """There is none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{self.name} can be sampled and has no density. For bounds on log p(x), fit 'flow', 'gmm' or 'kde'."
        )
