"""A normal prior for each condition."""

import math
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaekit.kinds import Prior, prior
from vaekit.layers.perceptron import Perceptron
from vaekit.layers.precision import at_least_float32


@prior("conditional_normal", tags=("learned", "conditional"), cite="sohn2015")
class ConditionalNormalPrior(Prior):
    """p(z|c) = N(z; m(c), diag s(c)²), with m and s from the mean of the condition's tokens; N(0, I) at first.

    The KL of a Gaussian posterior to it is in closed form.

    Shapes: event shape `(*latent)`, batch shape (b,). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        cond_dim: width of the condition's tokens, wired.
        hidden: widths of the hidden layers between tokens, and m and s.

    Raises:
        ValueError: where the model has no condition that gives tokens, or a call brings none.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn et al., 2015),
        https://papers.nips.cc/paper/5775

    Example:
        >>> import torch, vaekit
        >>> vaekit.prior["conditional_normal"]((2,), 5)(torch.randn(3, 1, 5)).batch_shape
        torch.Size([3])
    """

    def __init__(self, latent_shape: Sequence[int], cond_dim: int, *, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        if cond_dim < 1:
            raise ValueError(
                "conditional_normal: expected a condition that gives tokens, got none. Build with "
                "condition=use('class', …), or use the prior 'normal'."
            )
        self.latent_shape = tuple(latent_shape)
        self.features = Perceptron(cond_dim, hidden, 0, "silu")
        self.out = nn.Linear(self.features.out_features, 2 * math.prod(latent_shape))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        if cond is None:
            raise ValueError("conditional_normal: expected the condition's tokens, got None. Give cond= with the call.")
        numbers = at_least_float32(self.out(self.features(cond.mean(1)))).unflatten(1, (2, *self.latent_shape))
        mean, log_scale = numbers.unbind(1)
        scale = log_scale.clamp(-15.0, 10.0).exp()
        base = Normal(mean, scale, validate_args=False)
        return Independent(base, len(self.latent_shape), validate_args=False)
