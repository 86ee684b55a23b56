"""The Laplace likelihood."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Laplace

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.location_scale import LocationScale, Scale


@likelihood("laplace", tags=("real",))
class LaplaceLikelihood(Likelihood):
    """log p(x|z) = Σ_i log Laplace(x_i; y_i, s): absolute errors, weighed by a scale that is fixed or fitted.

    Shapes: y (*n, b, channels(c), *s), event shape `(*input_shape)`. Unit: nats.

    Args:
        input_shape: the data's shape, wired.
        data_range: smallest and largest value of the data, wired; None for unbounded data.
        scale: s. A number; "learned", one trained scalar; "pixel", one per value, from as many channels again of y;
            "optimal", in training the batch's mean absolute error, in evaluation its running mean. "learned" and
            "pixel" start at a quarter of the data range, or at 1.
        smallest: a fitted s stays above this value.

    Raises:
        ValueError: where the scale is neither a positive number nor one of the names.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021),
        https://arxiv.org/abs/2006.13202, whose argument for the Gaussian's scale this carries over

    Example:
        >>> import torch, vaekit
        >>> vaekit.likelihood["laplace"]((1,), scale=0.5)(torch.zeros(1, 1)).log_prob(torch.ones(1, 1))
        tensor([-2.])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = None,
        *,
        scale: Scale = "learned",
        smallest: float = 1e-3,
    ) -> None:
        super().__init__()
        self.spread = LocationScale(Laplace, torch.abs, torch.abs, input_shape, data_range, scale, smallest)

    def channels(self, c: int) -> int:
        """c, or twice as many with a scale per pixel."""
        return self.spread.channels(c)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        return self.spread(y)
