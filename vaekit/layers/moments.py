"""Mean and variance of latents that come batch by batch, and normalizers that wait for them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vaekit.layers.precision import wide


def moments(batches: Iterable[Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Mean and variance of each column of all batches (m, c) together, in one pass and in double precision.

    Batches are merged by Chan's rule, whose differences of means stay exact where sums of squares would cancel, so that
    it does not matter how the data are split. The variance is over n - 1.

    Args:
        batches: at least two rows in all.
        name: the normalizer's, for messages.

    Raises:
        ValueError: where there are fewer than two rows, or a value is NaN or infinite.
    """
    count = 0
    mean: Any = 0.0
    squares: Any = 0.0  # sum of squared deviations from the mean
    for batch in batches:
        values = wide(batch.detach())
        own = values.mean(0)
        apart, total = own - mean, count + len(values)
        mean = mean + apart * (len(values) / total)
        squares = squares + (values - own).square().sum(0) + apart.square() * (count * len(values) / total)
        count = total
    if count < 2:
        raise ValueError(f"{name}: expected at least two values of each kind to fit to, got {count}. Give more data.")
    if not (torch.isfinite(mean).all() and torch.isfinite(squares).all()):
        raise ValueError(f"{name}: the latents hold NaN or infinite values. Look at what the encoder gives.")
    return mean, squares / (count - 1)


def columns(z: Tensor, latent_dims: int, channels: int, name: str) -> Tensor:
    """Latents `(*n, b, c, *t)` as rows of one position each, (m, c).

    Raises:
        ValueError: where there are other channels than `channels`.
    """
    axis = z.ndim - latent_dims
    if axis < 0 or z.shape[axis] != channels:
        raise ValueError(f"{name}: expected latents of {channels} channels, got a tensor of shape {tuple(z.shape)}.")
    return z.movedim(axis, -1).reshape(-1, channels)


def batches_of(z: Iterable[Tensor]) -> Iterable[Tensor]:
    """The batches themselves; a tensor is one of them."""
    return (z,) if isinstance(z, Tensor) else z


def require_scale(normalizer: Any, name: str) -> None:
    """Refuse a normalizer that was not fitted.

    Raises:
        ValueError: saying what to call.
    """
    if not normalizer.is_fitted:
        raise ValueError(f"{name} is not fitted yet: call vae.fit_normalizer(data); it is saved with the model.")
