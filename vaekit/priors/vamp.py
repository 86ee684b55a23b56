"""The VampPrior: a mixture of the model's own posteriors."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from vaekit.kinds import Prior, prior


@prior("vamp", tags=("learned",), cite="tomczak2018")
class VampPrior(Prior):
    """Mixture of posteriors at learned pseudo-inputs: p(z) = 1/K Σ_k q(z | u_k).

    Pseudo-inputs stay inside the data range, since a sigmoid maps free parameters there. The encoder runs on all of
    them at every step. The KL has no closed form: the `kl` loss estimates it by the drawn z. In a model with a
    condition each pseudo-input has a learned token in the condition's place, so that p(z) is the same for all of them.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        input_shape: the data's shape, wired.
        data_range: where pseudo-inputs may lie, None for anywhere; wired.
        cond_dim: width of the condition's tokens, 0 without one; wired.
        components: K, the number of pseudo-inputs u_k, each of the data's shape.

    Raises:
        ValueError: where there are no components; at a call, where the sampler has no posterior to mix.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120

    Example:
        >>> import vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), prior=vaekit.use("vamp", components=10))
        >>> vae.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    weights: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        cond_dim: int = 0,
        *,
        components: int = 100,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}.")
        self.data_range = data_range
        self.free = nn.Parameter(torch.randn(components, *input_shape))
        self.tokens = nn.Parameter(torch.randn(components, 1, cond_dim)) if cond_dim else None
        self.register_buffer("weights", torch.zeros(components), persistent=False)  # follows the model's device

    def pseudo_inputs(self) -> Float[Tensor, "k *data"]:
        """u_k, `(components, *data)`."""
        if self.data_range is None:
            return self.free
        low, high = self.data_range
        return low + (high - low) * self.free.sigmoid()

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        q = posterior(self.pseudo_inputs(), self.tokens) if posterior is not None else None
        if q is None:
            raise ValueError("vamp mixes posteriors, and this sampler gives none. Use a sampler such as 'gaussian'.")
        return MixtureSameFamily(Categorical(logits=self.weights, validate_args=False), q, validate_args=False)
