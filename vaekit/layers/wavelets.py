"""The discrete wavelet transform of signals, images and volumes, with the filters of Haar and Daubechies."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_ROOT2, _ROOT3 = math.sqrt(2), math.sqrt(3)
# low-pass filters of 2N taps with N vanishing moments, extremal phase
FILTERS: dict[str, tuple[float, ...]] = {
    "haar": (1 / _ROOT2, 1 / _ROOT2),
    "db2": tuple(n / (4 * _ROOT2) for n in (1 + _ROOT3, 3 + _ROOT3, 3 - _ROOT3, 1 - _ROOT3)),
    "db3": (
        0.33267055295008263,
        0.8068915093110925,
        0.45987750211849154,
        -0.13501102001025458,
        -0.08544127388202666,
        0.03522629188570953,
    ),
    "db4": (
        0.2303778133088965,
        0.7148465705529157,
        0.6308807679298589,
        -0.027983769416859854,
        -0.18703481171909309,
        0.030841381835560764,
        0.0328830116668852,
        -0.010597401785069032,
    ),
}


def split(x: Float[Tensor, "m *s"], low: Sequence[float]) -> tuple[Float[Tensor, "m *t"], Float[Tensor, "m k *t"]]:
    """x → its low band and the 2^rank - 1 others, t = ⌊(s + taps - 1)/2⌋.

    Edges are mirrored, the last value repeated. With two taps and even sides no value is added, and the sum of squares
    is kept.

    Args:
        x: signals, images or volumes.
        low: the low-pass filter, as in `FILTERS`.
    """
    edge, rank = len(low) - 2, x.ndim - 1
    high = [h if j % 2 == 0 else -h for j, h in enumerate(reversed(low))]
    y = x[:, None]  # (m, bands, *s)
    for d in range(2, 2 + rank):
        pairs = mirrored(y, d, edge, edge + y.shape[d] % 2).unflatten(d, (-1, 2)).unbind(d + 1)
        count = pairs[0].shape[d] - edge // 2
        windows = [pairs[j % 2].narrow(d, j // 2, count) for j in range(len(low))]  # place j of each window
        # Python's numbers, exact in every precision and on every device
        filtered = [sum(h * w for h, w in zip(taps, windows, strict=True)) for taps in (low, high)]
        y = torch.stack(filtered, 2).flatten(1, 2)  # type: ignore[arg-type]
    return y[:, 0], y[:, 1:]


def mirrored(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """x with `before` and `after` values more along `dim`, mirrored at the edges as often as it takes: ba|abc|cb."""
    while before or after:
        n = x.shape[dim]
        a, b = min(before, n), min(after, n)
        x = torch.cat([x.narrow(dim, 0, a).flip(dim), x, x.narrow(dim, n - b, b).flip(dim)], dim)
        before, after = before - a, after - b
    return x
