"""The learned prior over codes, each code by itself."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.categories import codes


@prior("categorical", tags=("discrete", "learned"))
class CategoricalPrior(FittedPrior):
    """p(k) = Π_i Categorical(k_i; π_i) with learned π, uniform at first: how often each code comes at each place.

    It may be trained with the model, or be fitted: then π_i are the counts, each with `smoothing` added.

    Shapes: event shape `(*index_shape)`, batch shape (). Unit of log p: nats.

    Args:
        codebook_size: K, wired.
        index_shape: the codes' shape, wired.
        shared: whether all places have the same π.
        smoothing: added to each count by `fit`, so that a code that was not seen stays possible.

    Raises:
        ValueError: where the smoothing is not positive; at `fit`, where there are no codes.

    Example:
        >>> import vaekit
        >>> vaekit.prior["categorical"](512, (4, 4))().event_shape
        torch.Size([4, 4])
    """

    spaces = ("codes",)

    def __init__(
        self, codebook_size: int, index_shape: Sequence[int], *, shared: bool = False, smoothing: float = 1.0
    ) -> None:
        super().__init__()
        if not smoothing > 0:
            raise ValueError(f"smoothing: expected a positive number, got {smoothing}.")
        self.index_shape, self.smoothing = tuple(index_shape), smoothing
        places = (1,) * len(self.index_shape) if shared else self.index_shape
        self.logits = nn.Parameter(torch.zeros(*places, codebook_size))

    def fit(self, z: Tensor) -> None:
        """Count the codes, (n, *index_shape) integers."""
        if not len(z):
            raise ValueError("categorical: there are no codes to fit to.")
        places, size = self.logits.shape[:-1], self.logits.shape[-1]
        flat = z.reshape(len(z), -1) if places == self.index_shape else z.reshape(-1, 1)
        offset = torch.arange(flat.shape[1], device=z.device) * size
        counts = torch.bincount((flat + offset).flatten(), minlength=flat.shape[1] * size).to(self.logits.dtype)
        with torch.no_grad():
            self.logits.copy_((counts + self.smoothing).log().reshape(self.logits.shape))

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        return codes(self.logits.expand(*self.index_shape, -1), len(self.index_shape))
