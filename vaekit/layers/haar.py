"""Patches as channels by the orthonormal Haar transform: a front end without weights that keeps all there is in x."""

import torch
from jaxtyping import Float
from torch import Tensor


def haar(x: Float[Tensor, "b c *s"], patch: int = 2, *, means: bool = False) -> Float[Tensor, "b k *t"]:
    """Patches of x as channels: (a, b) → ((a + b)/√2, (a - b)/√2) along each dimension, log₂(patch) times.

    The sum of squares is kept, and `inverse_haar` gives x back. Every band is split again, so that each position has
    all patch^rank bands. The first channels are the low band, one for each channel of x; a later dimension's bands
    follow each other before an earlier one's.

    Shapes: `(b, c, *s)` → `(b, c · patch^rank, *s/patch)`, for one to three spatial dimensions and more.

    Args:
        x: signals, images or volumes.
        patch: side of a patch, a power of 2; 1 leaves x as it is.
        means: divide by patch^(rank/2), so that the low band holds the patches' means, in the range of x, as in Cosmos.

    Raises:
        ValueError: where the patch is no power of 2, or a side no multiple of it.

    References:
        Cosmos World Foundation Model Platform for Physical AI (NVIDIA, 2025), https://arxiv.org/abs/2501.03575

    Example:
        >>> haar(torch.ones(1, 1, 2, 2)).flatten()
        tensor([2., 0., 0., 0.])
    """
    rank = x.ndim - 2
    _check(patch, rank)
    if any(s % patch for s in x.shape[2:]):
        raise ValueError(f"haar: expected sides that are multiples of {patch}, got {tuple(x.shape[2:])}. Pad or crop.")
    scale = _scale(rank, means)
    for _ in range(patch.bit_length() - 1):
        x = x[:, None]  # (b, bands, c, *s)
        for d in range(3, 3 + rank):
            first, second = x.unflatten(d, (-1, 2)).unbind(d + 1)
            x = torch.stack([first + second, first - second], 2).flatten(1, 2)
        x = x.flatten(1, 2) * scale
    return x


def inverse_haar(y: Float[Tensor, "b k *t"], patch: int = 2, *, means: bool = False) -> Float[Tensor, "b c *s"]:
    """Undo `haar`: `(b, c · patch^rank, *t)` → `(b, c, *t · patch)`.

    Args:
        y: what `haar` gives.
        patch: as there.
        means: as there.

    Raises:
        ValueError: where the patch is no power of 2, or the channels no multiple of patch^rank.

    Example:
        >>> x = torch.rand(1, 3, 8, 12)
        >>> torch.allclose(inverse_haar(haar(x, 4), 4), x, atol=1e-6)
        True
    """
    rank = y.ndim - 2
    _check(patch, rank)
    if y.shape[1] % patch**rank:
        raise ValueError(f"inverse_haar: expected a multiple of {patch**rank} channels, got {y.shape[1]}.")
    scale = 1 / (2**rank * _scale(rank, means))
    for _ in range(patch.bit_length() - 1):
        y = y.unflatten(1, (2**rank, -1))
        for d in range(2 + rank, 2, -1):  # what was split last is joined first
            low, high = y.unflatten(1, (-1, 2)).unbind(2)
            y = torch.stack([low + high, low - high], d + 1).flatten(d, d + 1)
        y = y[:, 0] * scale
    return y


def _scale(rank: int, means: bool) -> float:
    return 0.5**rank if means else 0.5 ** (rank / 2)


def _check(patch: int, rank: int) -> None:
    if patch < 1 or patch & (patch - 1):
        raise ValueError(f"patch: expected a power of 2, got {patch}.")
    if rank < 1:
        raise ValueError("haar: expected data with spatial dimensions, (b, c, *s), got none.")
