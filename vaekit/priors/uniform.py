"""The uniform prior: over codes, or over a box."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Uniform

from vaekit.kinds import Prior, prior
from vaekit.layers.categories import codes


@prior("uniform", tags=("discrete",))
class UniformPrior(Prior):
    """p(z) = 1/K for each code, or 1/(high - low) in each dimension of a box.

    Over codes the KL of a deterministic quantizer is the constant n log K, n codes of K. Over a box a Gaussian
    posterior has an infinite KL: it serves losses that only draw from the prior, such as `adversarial_latent`.

    Shapes: event shape `(*index_shape)` for codes, `(*latent)` elsewhere; batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        codebook_size: K, 0 where the latent is continuous; wired.
        index_shape: the codes' shape, wired.
        low: smallest value of a continuous latent.
        high: largest value of a continuous latent.

    Raises:
        ValueError: where low is not below high.

    Example:
        >>> import vaekit
        >>> vaekit.prior["uniform"]((8,), 512, (4, 4))().event_shape
        torch.Size([4, 4])
    """

    spaces = ("codes", "real")

    logits: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        codebook_size: int = 0,
        index_shape: Sequence[int] = (),
        *,
        low: float = -1.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"uniform: expected low < high, got low={low}, high={high}.")
        self.index_shape, self.discrete = tuple(index_shape), codebook_size > 0
        self.register_buffer("logits", torch.zeros(max(codebook_size, 1)), persistent=False)
        self.register_buffer("low", torch.full(tuple(latent_shape), float(low)), persistent=False)
        self.register_buffer("high", torch.full(tuple(latent_shape), float(high)), persistent=False)

    def at(self, shape: tuple[int, ...]) -> Distribution | None:
        """The same density over maps of another size."""
        if self.discrete:
            index = (*self.index_shape[: len(self.index_shape) - len(shape) + 1], *shape[1:])
            return codes(self.logits.expand(*index, -1), len(index))
        low, high = (limit.flatten()[0].expand(shape) for limit in (self.low, self.high))
        return Independent(Uniform(low, high, validate_args=False), len(shape), validate_args=False)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        if self.discrete:
            return codes(self.logits.expand(*self.index_shape, -1), len(self.index_shape))
        return Independent(Uniform(self.low, self.high, validate_args=False), self.low.ndim, validate_args=False)
