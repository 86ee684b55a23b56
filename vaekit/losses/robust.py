"""Errors of the reconstruction p(x|z).mean that are squared where small and absolute where large."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import sum_values
from vaekit.records import Output


@loss("log_cosh", cite="chen2019")
class LogCoshLoss(Loss):
    """Σ_i log cosh(α (x_i - x̂_i)) / α, x̂ the mean of p(x|z).

    Near 0 it is α/2 times the squared error, far out the absolute error less log(2)/α. Summed over the data's
    dimensions.

    Shapes: Output → (b,). Unit: the data's unit.

    Args:
        alpha: α, how soon the error turns from squared to absolute: around 1/α.

    Raises:
        ValueError: where α is not positive.

    References:
        Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder (Chen et al., 2019),
        https://openreview.net/forum?id=rkglvsC9Ym

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"log_cosh": 1.0, "kl": 1e-2})
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['log_cosh', 'kl']
    """

    def __init__(self, *, alpha: float = 10.0) -> None:
        super().__init__()
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha: expected a positive number, got {alpha}.")
        self.alpha = alpha

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        size = self.alpha * (out.x - out.p_x.mean).abs()
        # |a| + log(1 + e^(-2|a|)) - log 2, since cosh overflows
        error = (size + F.softplus(-2 * size) - math.log(2)) / self.alpha
        return sum_values(error, out.x.ndim - 1)


@loss("charbonnier", cite="charbonnier1994")
class CharbonnierLoss(Loss):
    """Σ_i √((x_i - x̂_i)² + ε²), x̂ the mean of p(x|z): the absolute error, rounded off at 0.

    Each value adds at least ε. Summed over the data's dimensions.

    Shapes: Output → (b,). Unit: the data's unit.

    Args:
        epsilon: ε, the error below which it is squared rather than absolute.

    Raises:
        ValueError: where ε is not positive.

    References:
        Two Deterministic Half-Quadratic Regularization Algorithms for Computed Imaging (Charbonnier et al., 1994),
        https://doi.org/10.1109/ICIP.1994.413553

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"charbonnier": 1.0, "kl": 1e-2})
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['charbonnier', 'kl']
    """

    def __init__(self, *, epsilon: float = 1e-3) -> None:
        super().__init__()
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon: expected a positive number, got {epsilon}. For 0 there is the loss 'l1'.")
        self.epsilon = epsilon

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        error = ((out.x - out.p_x.mean).square() + self.epsilon**2).sqrt()
        return sum_values(error, out.x.ndim - 1)
