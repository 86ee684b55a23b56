"""Student's t likelihood."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, StudentT

from vaekit.kinds import Likelihood, likelihood
from vaekit.layers.positive import Amount, Positive, first_scale


@likelihood("student_t", tags=("real",), cite="takahashi2018")
class StudentTLikelihood(Likelihood):
    """log p(x|z) = Σ_i log t_ν(x_i; y_i, s): far outliers cost their logarithm, not their square.

    The degrees of freedom ν stay above 1, where the mean exists; at large ν this is the Gaussian.

    Shapes: y `(*n, b, channels(c), *s)`, event shape `(*input_shape)`; channels for a scale per pixel come before those
    for degrees of freedom. Unit: nats.

    Args:
        input_shape: the data's shape, wired.
        data_range: smallest and largest value of the data, wired; None for unbounded data.
        df: ν. A number above 1; "learned", one trained scalar, 5 at first; "channel", one for each channel; "pixel",
            one per value, from as many channels again of y.
        scale: s. A positive number, "learned", "channel" or "pixel"; all but a number start at a quarter of the data
            range, or at 1.
        smallest: a fitted s stays above this value.

    Raises:
        ValueError: where ν is not above 1, or the scale is neither a positive number nor one of the names.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation (Takahashi et al., 2018),
        https://www.ijcai.org/proceedings/2018/374

    Example:
        >>> import torch, vaekit
        >>> likelihood = vaekit.likelihood["student_t"]((1,), df=2.0, scale=1.0)
        >>> likelihood(torch.zeros(1, 1)).log_prob(torch.zeros(1, 1))
        tensor([-1.0397])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = None,
        *,
        df: Amount = "learned",
        scale: Amount = "learned",
        smallest: float = 1e-3,
    ) -> None:
        super().__init__()
        if not isinstance(df, str) and not 1 < df < math.inf:
            raise ValueError(f"df: expected a number above 1, 'learned', 'channel' or 'pixel'; got {df}.")
        above = df if isinstance(df, str) else df - 1
        self.above = Positive("df", above, input_shape, start=4.0, low=1e-2)
        self.scale = Positive("scale", scale, input_shape, start=first_scale(data_range), low=smallest)
        self.event_dims = len(input_shape)

    def channels(self, c: int) -> int:
        """c, and as many again for each of scale and ν that is per pixel."""
        return c * (1 + self.scale.read + self.above.read)

    def forward(self, y: Float[Tensor, "..."]) -> Distribution:
        loc, *raw, above = self.above(y, 1 + self.scale.read)
        scale = self.scale.number(raw[0] if raw else loc)
        df, scale = (t.expand_as(loc) for t in (1 + above, scale))
        return Independent(StudentT(df, loc, scale, validate_args=False), self.event_dims, validate_args=False)
