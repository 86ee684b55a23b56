"""Histograms of the latents as p(z)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.kinds import FittedPrior, prior


class Histogram(Distribution):
    """A product of histograms, one for each dimension: p(z) = Π_d height_d(bin of z_d).

    Args:
        edges: lower edge and width of the bins of each dimension, (2, d).
        mass: mass of each bin, (d, bins).
        shape: the event's shape, d in all.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, edges: Tensor, mass: Tensor, shape: Sequence[int]) -> None:
        self.low, self.width, self.mass = edges[0], edges[1], mass
        super().__init__(event_shape=torch.Size(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats; -inf outside the bins."""
        z = value.flatten(-len(self.event_shape))
        place = ((z - self.low) / self.width).floor()
        inside = (place >= 0) & (place < self.mass.shape[1])
        index = place.clamp(0, self.mass.shape[1] - 1).long()
        mass = self.mass.expand(*z.shape, -1).gather(-1, index[..., None])[..., 0]
        return torch.where(inside, (mass / self.width).log(), -math.inf).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws: a bin by its mass, then a point of it."""
        index = torch.distributions.Categorical(probs=self.mass, validate_args=False).sample(sample_shape)
        z = self.low + self.width * (index + torch.rand_like(index, dtype=self.low.dtype))
        return z.reshape(*z.shape[:-1], *self.event_shape)


@prior("histogram", tags=("fitted",))
class HistogramPrior(FittedPrior):
    """p(z) = Π_d histogram_d(z_d): each latent dimension as it is, independent of the others.

    Until it is fitted, it is uniform between -4 and 4.

    Shapes: event shape (*latent). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        bins: bins of each dimension.
        smoothing: counts added to every bin, so that none is empty.

    Raises:
        ValueError: where there are no bins or the smoothing is negative; at `fit`, where there are fewer than two
            latents, or some are not finite.
    """

    edges: Tensor
    mass: Tensor

    def __init__(self, latent_shape: Sequence[int], *, bins: int = 32, smoothing: float = 0.1) -> None:
        super().__init__()
        if bins < 1 or smoothing < 0:
            raise ValueError(f"expected bins of at least 1 and smoothing of at least 0; got {bins} and {smoothing}.")
        self.shape, self.bins, self.smoothing = tuple(latent_shape), bins, smoothing
        d = math.prod(self.shape)
        self.register_buffer("edges", torch.stack([torch.full((d,), -4.0), torch.full((d,), 8.0 / bins)]))
        self.register_buffer("mass", torch.full((d, bins), 1.0 / bins))

    def fit(self, z: Tensor) -> None:
        """Count the latents (n, *latent) into bins between the smallest and the largest of each dimension."""
        z = z.flatten(1)
        if len(z) < 2 or not torch.isfinite(z).all():
            raise ValueError(f"histogram: expected at least two finite latents, got {len(z)}.")
        low, high = z.min(0).values, z.max(0).values
        width = ((high - low) / self.bins).clamp_min(1e-6) * 1.0001  # the largest latent falls into the last bin
        index = ((z - low) / width).long().clamp(0, self.bins - 1)
        counts = torch.zeros_like(self.mass).scatter_add_(1, index.T, torch.ones_like(z.T)) + self.smoothing
        self.edges.copy_(torch.stack([low, width]))
        self.mass.copy_(counts / counts.sum(1, keepdim=True))

    def forward(
        self, cond: Tensor | None = None, *, posterior: Callable[[Tensor], Distribution] | None = None
    ) -> Distribution:
        """The density as it was last fitted."""
        return Histogram(self.edges, self.mass, self.shape)
