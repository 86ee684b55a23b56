"""The prior over numbers and codes together."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaekit.kinds import Prior, prior
from vaekit.layers.categories import codes
from vaekit.layers.joint import Joint


@prior("joint", tags=("discrete",), cite="dupont2018")
class JointPrior(Prior):
    """p(z, k) = N(z; 0, I) Π_v 1/K: standard normal numbers and uniform codes, for the sampler `joint`.

    Shapes: event shape (d,), batch shape (). Unit of log p: nats.

    Args:
        latent_shape: (d,), wired.
        codebook_size: K, wired.
        index_shape: (v,), wired.

    References:
        Learning Disentangled Joint Continuous and Discrete Representations (Dupont, 2018),
        https://arxiv.org/abs/1804.00104

    Example:
        >>> import vaekit
        >>> vaekit.prior["joint"]((14,), 4, (1,))().sample((3,)).shape
        torch.Size([3, 14])
    """

    spaces = ("mixed",)

    loc: Tensor
    scale: Tensor
    logits: Tensor

    def __init__(self, latent_shape: Sequence[int], codebook_size: int, index_shape: Sequence[int]) -> None:
        super().__init__()
        numbers = latent_shape[0] - codebook_size * index_shape[0]
        self.register_buffer("loc", torch.zeros(numbers), persistent=False)
        self.register_buffer("scale", torch.ones(numbers), persistent=False)
        self.register_buffer("logits", torch.zeros(*index_shape, codebook_size), persistent=False)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        numbers = Independent(Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False)
        return Joint(numbers, codes(self.logits, 1))  # type: ignore[arg-type]
