"""The learned mixture of normals."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vaekit.kinds import Prior, prior


@prior("mixture", tags=("learned",), cite="dilokthanakul2016")
class MixturePrior(Prior):
    """p(z) = Σ_k π_k N(z; m_k, diag s_k²) with learned weights, means and scales.

    The KL to it has no closed form: the `kl` loss estimates it by the drawn z.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        components: K, the number of normals.
        spread: standard deviation of the first means around 0; they have to differ, or all components stay equal.

    Raises:
        ValueError: where there are no components, or the spread is not positive.

    References:
        Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders (Dilokthanakul et al., 2016),
        https://arxiv.org/abs/1611.02648

    Example:
        >>> import vaekit
        >>> vaekit.prior["mixture"]((2,), components=5)().sample((3,)).shape
        torch.Size([3, 2])
    """

    def __init__(self, latent_shape: Sequence[int], *, components: int = 10, spread: float = 1.0) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}.")
        if not spread > 0:
            raise ValueError(f"spread: expected a positive number, got {spread}.")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(components, *latent_shape))
        self.log_scale = nn.Parameter(torch.zeros(components, *latent_shape))

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        parts = Independent(Normal(self.loc, self.log_scale.exp(), validate_args=False), self.loc.ndim - 1)
        return MixtureSameFamily(Categorical(logits=self.logits, validate_args=False), parts, validate_args=False)
