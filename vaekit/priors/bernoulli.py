"""The prior over bits."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.kinds import Prior, prior
from vaekit.layers.categories import codes


@prior("bernoulli", tags=("discrete",), cite="maddison2017")
class BernoulliPrior(Prior):
    """p(z) = Π_i Bernoulli(z_i; π): bits that are 1 with a given or learned probability.

    Shapes: event shape `(*index_shape)`, batch shape (). Unit of log p: nats.

    Args:
        codebook_size: 2, wired.
        index_shape: the bits' shape, wired.
        probability: π, at first where it is learned.
        learned: whether each bit's π is trained with the model.

    Raises:
        ValueError: where codes have more than two values, or π is outside (0, 1).

    References:
        The Concrete Distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch, vaekit
        >>> vaekit.prior["bernoulli"](2, (4,), probability=0.5)().log_prob(torch.zeros(4))
        tensor(-2.7726)
    """

    spaces = ("codes",)

    logit: Tensor

    def __init__(
        self, codebook_size: int, index_shape: Sequence[int], *, probability: float = 0.5, learned: bool = False
    ) -> None:
        super().__init__()
        if codebook_size != 2:
            raise ValueError(
                f"bernoulli: is a prior over bits, and the codes have {codebook_size} values. Use 'uniform' or "
                "'categorical', or the sampler 'relaxed_bernoulli'."
            )
        if not 0 < probability < 1:
            raise ValueError(f"probability: expected a number in (0, 1), got {probability}.")
        start = torch.full(tuple(index_shape), math.log(probability / (1 - probability)))
        if learned:
            self.logit = nn.Parameter(start)
        else:
            self.register_buffer("logit", start, persistent=False)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        return codes(torch.stack([torch.zeros_like(self.logit), self.logit], -1), self.logit.ndim)
