"""The discretized logistic likelihood."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.grid import DiscretizedLogistics, Grid
from vaekit.layers.positive import Amount, Positive, first_scale


@likelihood("discretized_logistic", tags=("levels", "image"), cite=("kingma2016", "salimans2017"))
class DiscretizedLogisticLikelihood(Likelihood):
    """P(x|z) = Π_i σ((x_i + δ/2 - y_i)/s) - σ((x_i - δ/2 - y_i)/s): a logistic density, gathered into levels.

    The likelihood of 8-bit images: a probability, so that bits per dimension can be told from it, where densities of
    rounded values grow without a bound. The outermost levels take the tails. Values are read as the nearest of `bins`
    levels over the data range; with data_range=None they are the integers from 0 to bins - 1.

    Shapes: y `(*n, b, channels(c), *s)`, event shape `(*input_shape)`. Unit: nats; y and s count in units in which the
    data range is from -1 to 1.

    Args:
        input_shape: the data's shape, wired.
        data_range: smallest and largest value of the data, wired.
        bins: number of levels.
        scale: s. A number; "learned", one trained scalar; "channel", one for each channel; "pixel", one per value,
            from as many channels again of y. All but a number start at 0.5.
        smallest: a fitted s stays above this value.

    Raises:
        ValueError: where there are fewer than two levels, or the scale is neither a positive number nor one of the
            names.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016; its appendix),
        https://arxiv.org/abs/1606.04934; PixelCNN++ (Salimans et al., 2017), https://arxiv.org/abs/1701.05517

    Example:
        >>> import torch, vaekit
        >>> p = vaekit.likelihood["discretized_logistic"]((1,), (0.0, 1.0), bins=3, scale=0.5)(torch.zeros(3, 1))
        >>> p.log_prob(torch.tensor([[0.0], [0.5], [1.0]])).exp()
        tensor([0.2689, 0.4621, 0.2689])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None,
        *,
        bins: int = 256,
        scale: Amount = "learned",
        smallest: float = 1e-3,
    ) -> None:
        super().__init__()
        self.grid = Grid(data_range, bins, "bins")
        self.scale = Positive("scale", scale, input_shape, start=first_scale((-1.0, 1.0)), low=smallest)
        self.event_dims = len(input_shape)

    def channels(self, c: int) -> int:
        """c, or twice as many with a scale per pixel."""
        return c * (1 + self.scale.read)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        loc, scale = self.scale(y, 1)
        loc, scale = loc[..., None], scale[..., None]  # a mixture of one
        p = DiscretizedLogistics(loc, scale, torch.zeros_like(loc), self.grid)
        return Independent(p, self.event_dims, validate_args=False)
