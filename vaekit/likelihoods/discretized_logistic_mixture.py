"""The mixture of discretized logistics."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.grid import DiscretizedLogistics, Grid, spread
from vaekit.layers.positive import Positive, first_scale


@likelihood("discretized_logistic_mixture", tags=("levels", "image"), cite="salimans2017")
class DiscretizedLogisticMixtureLikelihood(Likelihood):
    """P(x|z) = Π_i Σ_k w_ik [σ((x_i + δ/2 - μ_ik)/s_ik) - σ((x_i - δ/2 - μ_ik)/s_ik)]: for values of several modes.

    y's channels are the logits of w, then μ, then log s, each as c times K. Given z, channels are independent: of
    PixelCNN++ this is the mixture, not its coupling of red, green and blue. Values are read as the nearest of `bins`
    levels over the data range; with data_range=None they are the integers from 0 to bins - 1.

    Shapes: y `(*n, b, 3·K·c, *s)`, event shape `(*input_shape)`. Unit: nats; μ and s count in units in which the data
    range is from -1 to 1.

    Args:
        input_shape: the data's shape, wired.
        data_range: smallest and largest value of the data, wired.
        components: K.
        bins: number of levels.
        smallest: s, which starts at 0.5, stays above this value.

    Raises:
        ValueError: where there is no component, or there are fewer than two levels.

    References:
        PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications
        (Salimans et al., 2017), https://arxiv.org/abs/1701.05517

    Example:
        >>> import torch, vaekit
        >>> likelihood = vaekit.likelihood["discretized_logistic_mixture"]((3, 8, 8), (0.0, 1.0), components=5)
        >>> likelihood.channels(3), likelihood(torch.randn(2, 45, 8, 8)).mean.shape
        (45, torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None,
        *,
        components: int = 10,
        bins: int = 256,
        smallest: float = 1e-3,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}.")
        self.grid = Grid(data_range, bins, "bins")
        self.scale = Positive("scale", "pixel", input_shape, start=first_scale((-1.0, 1.0)), low=smallest)
        self.components, self.event_dims = components, len(input_shape)

    def channels(self, c: int) -> int:
        """Three numbers for each component of each channel."""
        return 3 * self.components * c

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        logits, loc, scale = (spread(part, self.event_dims, self.components) for part in self.scale(y, 2))
        p = DiscretizedLogistics(loc, scale, logits.log_softmax(-1), self.grid)
        return Independent(p, self.event_dims, validate_args=False)
