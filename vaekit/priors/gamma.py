"""The gamma prior over positive latents."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent

from vaekit.kinds import Prior, prior


@prior("gamma", tags=("positive",), cite="figurnov2018")
class GammaPrior(Prior):
    """p(z) = Π_i Gamma(z_i; α, β), z > 0: shape α and rate β, with mean α/β; an exponential at α = 1.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        concentration: α, which other texts call the shape.
        rate: β.

    Raises:
        ValueError: where α or β is not positive.

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018), https://arxiv.org/abs/1805.08498

    Example:
        >>> import vaekit
        >>> vaekit.prior["gamma"]((2,), concentration=3.0)().mean
        tensor([3., 3.])
    """

    spaces = ("positive",)

    concentration: Tensor
    rate: Tensor

    def __init__(self, latent_shape: Sequence[int], *, concentration: float = 1.0, rate: float = 1.0) -> None:
        super().__init__()
        for name, value in (("concentration", concentration), ("rate", rate)):
            if not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}.")
            # buffers, so that the density follows the model's device and dtype; not saved, since they never change
            self.register_buffer(name, torch.full(tuple(latent_shape), float(value)), persistent=False)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        base = Gamma(self.concentration, self.rate, validate_args=False)
        return Independent(base, self.rate.ndim, validate_args=False)
