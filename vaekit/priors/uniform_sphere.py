"""The uniform prior on the sphere."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit.kinds import Prior, prior
from vaekit.layers.sphere import UniformSphere, sphere_dimension


@prior("uniform_sphere", tags=("sphere",), cite="davidson2018")
class UniformSpherePrior(Prior):
    """p(z) = 1 / |S^(d-1)|: all directions alike.

    Shapes: event shape (d,), batch shape (). Unit of log p: nats, over the sphere's area.

    Args:
        latent_shape: the latent's shape (d,), wired.

    Raises:
        ValueError: where the latent is a map or has one dimension.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), https://arxiv.org/abs/1804.00891

    Example:
        >>> import vaekit
        >>> vaekit.prior["uniform_sphere"]((20,))().sample((5,)).shape
        torch.Size([5, 20])
    """

    spaces = ("sphere",)

    like: Tensor

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.d = sphere_dimension(latent_shape)
        self.register_buffer("like", torch.zeros(()), persistent=False)  # follows the model's device and dtype

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        return UniformSphere(self.d, self.like.dtype, self.like.device)
