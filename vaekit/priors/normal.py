"""The learned normal prior."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaekit.kinds import Prior, prior


@prior("normal", tags=("learned",))
class NormalPrior(Prior):
    """p(z) = N(z; m, diag s²) with learned m and s, a standard normal at first.

    With a free affine map at the decoder's entrance it models no more than `standard` does; it is of use where z is
    shared, as in ladders or with a frozen decoder.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.

    Example:
        >>> import vaekit
        >>> vaekit.prior["normal"]((20,))().event_shape
        torch.Size([20])
    """

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(*latent_shape))
        self.log_scale = nn.Parameter(torch.zeros(*latent_shape))

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        return Independent(Normal(self.loc, self.log_scale.exp(), validate_args=False), self.loc.ndim)
