"""The standard normal prior."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaekit.kinds import Prior, prior


@prior("standard", cite="kingma2014")
class StandardPrior(Prior):
    """p(z) = N(z; 0, I).

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Example:
        >>> import vaekit
        >>> vaekit.prior["standard"]((20,))().event_shape
        torch.Size([20])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        # buffers, so that the density follows the model's device and dtype; not saved, since they never change
        self.register_buffer("loc", torch.zeros(*latent_shape), persistent=False)
        self.register_buffer("scale", torch.ones(*latent_shape), persistent=False)

    def at(self, shape: tuple[int, ...]) -> Distribution:
        """The same density over latents of another size."""
        return Independent(
            Normal(self.loc.new_zeros(shape), self.scale.new_ones(shape), validate_args=False), len(shape)
        )

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        return Independent(Normal(self.loc, self.scale, validate_args=False), self.loc.ndim, validate_args=False)
