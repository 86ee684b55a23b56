"""A density made of one normal kernel at each of many points."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Kernels(Distribution):
    """p(z) = Σ_i w_i N(z; z_i, L Lᵀ): one normal, moved to every point.

    Args:
        points: z_i, flattened, (k, d).
        log_weights: log w_i, (k,).
        scale_tril: L, lower triangular (d, d).
        event_shape: z's shape, of d numbers.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, points: Tensor, log_weights: Tensor, scale_tril: Tensor, event_shape: Sequence[int]) -> None:
        self.points, self.log_weights, self.scale_tril = points, log_weights, scale_tril
        super().__init__(torch.Size(), torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """All of the reals."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The weighted mean of the points."""
        return (self.log_weights.exp() @ self.points).unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats."""
        z = value.flatten(-len(self.event_shape))
        # where the kernel is a standard normal, the distances are one matrix and not one vector for each pair
        white, centers = (self._whiten(t) for t in (z.reshape(-1, z.shape[-1]), self.points))
        distance = torch.cdist(white, centers, compute_mode="donot_use_mm_for_euclid_dist").square()
        log_p = (self.log_weights - 0.5 * distance).logsumexp(-1)
        volume = self.scale_tril.diagonal().log().sum() + 0.5 * z.shape[-1] * math.log(2 * math.pi)
        return (log_p - volume).reshape(z.shape[:-1])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Points drawn by their weights, with a kernel's noise on each."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            chosen = torch.multinomial(self.log_weights.exp(), shape.numel(), replacement=True)
            noise = torch.randn_like(self.points[chosen])
            z = self.points[chosen] + noise @ self.scale_tril.T
            return z.reshape(*shape, *self.event_shape)

    def _whiten(self, x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.scale_tril, x.T, upper=False).T
