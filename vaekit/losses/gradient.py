"""The error of the reconstruction's finite differences: where edges are, and how sharp."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import sum_values
from vaekit.layers.precision import at_least_float32
from vaekit.records import Output


@loss("gradient", tags=("image",), cite="mathieu2016")
class GradientLoss(Loss):
    """Σ_d Σ_i |∂_d x - ∂_d x̂|^p, ∂_d the difference of neighbours along dimension d, x̂ the mean of p(x|z).

    It does not see a constant that is added to x̂, so that it goes beside another term. For signals, images and
    volumes; a side of 1 has no differences.

    Shapes: Output → (b,). Unit: the data's unit to the power p, summed over differences.

    Args:
        input_shape: the data's shape, wired.
        p: the power.
        signed: whether an edge the wrong way round is an error; False compares |∂_d x| and |∂_d x̂|, as the paper does.

    Raises:
        ValueError: where the data have no spatial dimensions, or p is below 1.

    References:
        Deep Multi-Scale Video Prediction beyond Mean Square Error (Mathieu et al., 2016),
        https://arxiv.org/abs/1511.05440

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss={"l1": 1.0, "gradient": 0.1})
        >>> list(vae.loss(torch.rand(3, 1, 8, 8)).terms)
        ['l1', 'gradient']
    """

    def __init__(self, input_shape: Sequence[int], *, p: float = 1.0, signed: bool = True) -> None:
        super().__init__()
        if len(input_shape) < 2:
            raise ValueError(
                f"gradient: compares neighbours in signals, images or volumes, and the data {tuple(input_shape)} have "
                "no spatial dimensions. Use the loss 'nll', 'mse' or 'l1'."
            )
        if not 1 <= p < math.inf:
            raise ValueError(f"p: expected a power of at least 1, got {p}.")
        self.p, self.signed = p, signed

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        x, made = at_least_float32(out.x), at_least_float32(out.p_x.mean)
        event = x.ndim - 1
        each = [sum_values(self._errors(x, made, d), event) for d in range(1 - event, 0)]
        return torch.stack(each).sum(0)

    def _errors(self, x: Tensor, made: Tensor, d: int) -> Tensor:
        """|∂_d x - ∂_d x̂|^p, `(*n, b, *event)`."""
        if self.signed:
            error = (x - made).diff(dim=d)
        else:
            error = x.diff(dim=d).abs() - made.diff(dim=d).abs()
        return error.abs() if self.p == 1 else error.abs().pow(self.p)
