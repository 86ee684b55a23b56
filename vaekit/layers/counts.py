"""Negative binomials by their mean, and what all counts share."""

import torch
from torch import Tensor
from torch.distributions import NegativeBinomial

from vaekit.layers.positive import soft_clip

LARGEST = 15.0
"""Of the logarithm of a rate, by size: rates lie between 10⁻⁶ and 10⁶."""


def log_rate(y: Tensor) -> Tensor:
    """y, softly clipped to ±15."""
    return soft_clip(y, -LARGEST, LARGEST)


def possible(x: Tensor, log_p: Tensor) -> Tensor:
    """log p, and -∞ for numbers below 0, which are no counts."""
    return log_p.masked_fill(x < 0, -torch.inf)


class MeanNegativeBinomial(NegativeBinomial):
    """NB(x; μ, θ) = Γ(x+θ) / (Γ(θ) x!) (θ/(θ+μ))^θ (μ/(θ+μ))^x: mean μ and variance μ + μ²/θ.

    Args:
        log_mean: log μ.
        dispersion: θ, broadcasts to it.
    """

    def __init__(self, log_mean: Tensor, dispersion: Tensor) -> None:
        super().__init__(dispersion, logits=log_mean - dispersion.log(), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats; -∞ below 0."""
        return possible(value, super().log_prob(value.clamp_min(0)))
