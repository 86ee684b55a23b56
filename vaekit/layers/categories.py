"""Codes as categoricals over integers, and as one-hot vectors in a latent's channels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32


def codes(logits: Tensor, dims: int) -> Distribution:
    """Integers, each with its own logits over the last dimension, as one event of `dims` dimensions."""
    return Independent(Categorical(logits=logits, validate_args=False), dims, validate_args=False)


class CodeHead(nn.Module):
    """h → logits of the codes, `(b, v, *u, categories)`, for a latent whose channels are v one-hot vectors.

    Raises:
        ValueError: where there are fewer than two categories, or they do not divide the latent's channels.
    """

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int], categories: int) -> None:
        super().__init__()
        if categories < 2:
            raise ValueError(f"categories: expected at least 2, got {categories}.")
        channels, *size = latent_shape
        if channels % categories:
            near = max(1, round(channels / categories)) * categories
            raise ValueError(
                f"categories: {channels} latent channels can't be one-hot vectors of {categories}. Set latent to a "
                f"multiple of {categories}, such as {near}."
            )
        self.categories, self.index_shape = categories, (channels // categories, *size)
        self.head = Head(in_shape, latent_shape, 1)

    def forward(self, h: Float[Tensor, "b k *t"]) -> Float[Tensor, "b v *u categories"]:
        logits = at_least_float32(self.head(h))[:, 0]
        logits = logits.unflatten(1, (self.index_shape[0], self.categories)).movedim(2, -1)
        return logits.clamp(-50, 50)  # beyond it a probability is 0 in float32, and its logarithm has no gradient

    def spread(self, y: Tensor) -> Tensor:
        """Vectors over the categories `(*n, v, *t, categories)` → the latent's channels `(*n, v·categories, *t)`."""
        place = -len(self.index_shape) - 1
        return y.movedim(-1, place + 1).flatten(place, place + 1)

    def lookup(self, index: Tensor) -> Tensor:
        """Codes `(*n, b, *index_shape)` → one-hot channels `(*n, b, *latent)`."""
        return self.spread(F.one_hot(index, self.categories).to(next(self.parameters()).dtype))


class Temperature(nn.Module):
    """τ that falls with the training steps: max(smallest, τ₀ exp(-rate · step)).

    Raises:
        ValueError: where τ₀ or the smallest is not positive, or the rate negative.
    """

    step: Tensor

    def __init__(self, start: float, smallest: float, rate: float) -> None:
        super().__init__()
        if not (start > 0 and smallest > 0 and rate >= 0) or not math.isfinite(start):
            raise ValueError(
                f"temperature: expected positive temperatures and a rate of at least 0, got temperature={start}, "
                f"smallest={smallest}, anneal={rate}."
            )
        self.start, self.smallest, self.rate = float(start), min(float(smallest), float(start)), float(rate)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self) -> Tensor:
        """τ at this step; in training the step counts on."""
        now = (self.start * torch.exp(-self.rate * self.step)).clamp_min(self.smallest)
        if self.training:
            self.step += 1
        return now


def relaxed(logits: Tensor, sample_shape: tuple[int, ...], temperature: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
    """Gumbel-softmax draws and the codes that they stand for: `(*n, …, categories)` and `(*n, …)`.

    The codes are exact draws of the categorical. Hard draws are one-hot, with the relaxed ones' gradient.
    """
    noise = -torch.empty_like(logits.expand(*sample_shape, *logits.shape)).exponential_().clamp_min(1e-38).log()
    perturbed = logits + noise
    index = perturbed.argmax(-1)
    soft = (perturbed / temperature.to(logits.dtype)).softmax(-1)
    if not hard:
        return soft, index
    return F.one_hot(index, logits.shape[-1]).to(soft.dtype) + (soft - soft.detach()), index
