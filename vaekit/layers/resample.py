"""Halving and doubling of maps at any size: odd sizes halve upwards, and doubling goes back to the exact size."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def convolution(rank: int, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution over `rank` spatial dimensions that keeps the size, or halves it upwards with stride 2."""
    return _CONVOLUTIONS[rank](c_in, c_out, kernel, stride, padding=kernel // 2)


def pyramid(size: Sequence[int], depth: int) -> list[tuple[int, ...]]:
    """Spatial sizes after 0 … depth halvings: 25 → 13 → 7 → 4.

    Example:
        >>> pyramid((25, 37), 2)
        [(25, 37), (13, 19), (7, 10)]
    """
    sizes = [tuple(size)]
    for _ in range(depth):
        sizes.append(tuple((s + 1) // 2 for s in sizes[-1]))
    return sizes


def depth_for(size: Sequence[int], latent_shape: Sequence[int], depth: int | None, *, smallest: int = 4) -> int:
    """How often a map of `size` is halved on the way to the latent.

    A map latent `(c, *t)` fixes it; for a vector latent it is `depth`, or, where that is None, what brings the longest
    side to at most `smallest`.

    Raises:
        ValueError: where no number of halvings reaches the latent's size, or `depth` says another.
    """
    if len(latent_shape) > 1:
        target = tuple(latent_shape[1:])
        reachable = pyramid(size, max(size).bit_length())
        if target not in reachable:
            shown = ", ".join("×".join(map(str, s)) for s in dict.fromkeys(reachable))
            raise ValueError(
                f"a map latent of {'×'.join(map(str, target))} can't be reached from {'×'.join(map(str, size))} by "
                f"halving. Reachable: {shown}."
            )
        if depth is not None and depth != reachable.index(target):
            raise ValueError(
                f"depth={depth} contradicts latent={tuple(latent_shape)}, which takes {reachable.index(target)} "
                "halvings. Leave depth out."
            )
        return reachable.index(target)
    if depth is not None:
        if depth < 0:
            raise ValueError(f"depth: expected at least 0, got {depth}.")
        return depth
    return next(d for d in range(64) if max(pyramid(size, d)[-1]) <= smallest)


class Downsample(nn.Module):
    """Strided 3-convolution that halves each side, odd sides upwards. `(b, c_in, *s)` → `(b, c_out, *⌈s/2⌉)`."""

    def __init__(self, rank: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = convolution(rank, c_in, c_out, stride=2)

    def forward(self, x: Float[Tensor, "b c_in *s"]) -> Float[Tensor, "b c_out *t"]:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling to exactly `size`, then a 3-convolution. `(b, c_in, *t)` → `(b, c_out, *size)`."""

    def __init__(self, rank: int, c_in: int, c_out: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.conv = convolution(rank, c_in, c_out)

    def forward(self, x: Float[Tensor, "b c_in *t"]) -> Float[Tensor, "b c_out *s"]:
        return self.conv(F.interpolate(x, size=self.size, mode="nearest"))


def widths(width: int, depth: int, most: int) -> list[int]:
    """Channels of levels 0 … depth: doubled at each halving, up to `most` times the first.

    Example:
        >>> widths(32, 4, most=4)
        [32, 64, 128, 128, 128]
    """
    return [width * min(2**level, most) for level in range(depth + 1)]
