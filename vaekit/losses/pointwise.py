"""Errors of the reconstruction p(x|z).mean, value by value: squared, absolute, cross-entropy."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, constraints

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import sum_values
from vaekit.records import Output


@loss("mse")
class MSELoss(Loss):
    """Σ_i (x_i - x̂_i)², x̂ the mean of p(x|z).

    Summed over the data's dimensions, not averaged: the weight for a paper's mean-reduced error is that weight divided
    by the number of values. Half of it is the `gaussian` likelihood's nll at scale 1, up to a constant.

    Shapes: Output → (b,). Unit: the data's unit, squared.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"mse": 1.0, "kl": 1e-3})
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['mse', 'kl']
    """

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return sum_values((out.x - out.p_x.mean).square(), out.x.ndim - 1)


@loss("l1")
class L1Loss(Loss):
    """Σ_i |x_i - x̂_i|, x̂ the mean of p(x|z).

    Summed over the data's dimensions. It is the `laplace` likelihood's nll at scale 1, up to a constant.

    Shapes: Output → (b,). Unit: the data's unit.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"l1": 1.0})
        >>> vae.loss(torch.rand(3, 1, 4, 4)).terms["l1"].shape
        torch.Size([])
    """

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return sum_values((out.x - out.p_x.mean).abs(), out.x.ndim - 1)


@loss("bce")
class BCELoss(Loss):
    """-Σ_i x_i log x̂_i + (1 - x_i) log(1 - x̂_i), x̂ the mean of p(x|z), for data and means between 0 and 1.

    Computed from logits where the likelihood has them, so that saturated pixels stay finite. With the `bernoulli`
    likelihood it equals nll.

    Shapes: Output → (b,). Unit: nats per example.

    Raises:
        ValueError: at build, where the likelihood's mean is not confined to (0, 1).

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"bce": 1.0, "kl": 1.0})
        >>> vae.loss(torch.rand(3, 1, 4, 4)).terms["bce"].shape
        torch.Size([])
    """

    def check(self, out: Output) -> None:
        """The likelihood has to live on [0, 1]."""
        support = out.p_x.support
        if isinstance(support, constraints.independent):
            support = support.base_constraint
        if not (support is constraints.boolean or support is constraints.unit_interval):
            raise ValueError(
                "bce needs a likelihood whose mean lies between 0 and 1, such as 'bernoulli'; this one's values are "
                f"{support}. Use the loss 'nll', 'mse' or 'l1'."
            )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        p = out.p_x.base_dist if isinstance(out.p_x, Independent) else out.p_x
        if isinstance(p, torch.distributions.Bernoulli):
            x, logits = torch.broadcast_tensors(out.x, p.logits)
            return sum_values(F.binary_cross_entropy_with_logits(logits, x, reduction="none"), out.x.ndim - 1)
        x, mean = torch.broadcast_tensors(out.x, out.p_x.mean)
        return sum_values(F.binary_cross_entropy(mean, x, reduction="none"), out.x.ndim - 1)
