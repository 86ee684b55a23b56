"""Pictures whose factors are known: white shapes on black, drawn by formula."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

FACTORS = ("shape", "scale", "orientation", "x", "y")
"""What the columns of the factors are."""

SHAPES = ("square", "ellipse", "triangle")


def sprites(
    n: int | Literal["grid"] = "grid",
    *,
    size: int = 32,
    levels: Sequence[int] = (3, 4, 8, 8, 8),
    seed: int = 0,
    block: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Images of a shape (`n`, 1, size, size) in [0, 1], and their factors `(n, 5)`, whole numbers: see `FACTORS`.

    A pixel is the part of its square that the shape covers, to first order, so that each factor moves the image
    smoothly. Shapes of one scale have one area, and all of them stay inside the picture. Orientations are from 0 up to
    a quarter turn, below the symmetry of each shape: no two factors give one image, as they do in dSprites, where a
    square looks the same four times.

    Args:
        n: how many, their factors drawn at random, each by itself; "grid": every combination once, the last factor
            fastest.
        size: pixels a side.
        levels: values of each factor: up to 3 shapes, scales, orientations, places in x (left to right) and in y (top
            to bottom), evenly spaced. (3, 6, 40, 32, 32) are dSprites' 737,280.
        seed: what the factors are drawn from.
        block: images drawn at a time.

    Raises:
        ValueError: where n, size or levels are none of these.

    References:
        dSprites: Disentanglement testing Sprites dataset (Matthey et al., 2017),
        https://github.com/google-deepmind/dsprites-dataset

    Example:
        >>> images, factors = sprites(5)
        >>> images.shape, factors.shape
        (torch.Size([5, 1, 32, 32]), torch.Size([5, 5]))
        >>> len(sprites(levels=(3, 2, 2, 2, 2))[0])
        48
    """
    if size < 8:
        raise ValueError(f"size: expected at least 8 pixels a side, got {size}.")
    if len(levels) != len(FACTORS) or min(levels) < 1 or levels[0] > len(SHAPES):
        raise ValueError(f"levels: expected a number for each of {FACTORS}, shapes up to 3; got {tuple(levels)}.")
    if n == "grid":
        factors = torch.cartesian_prod(*(torch.arange(each) for each in levels))
    elif isinstance(n, int) and n >= 1:
        generator = torch.Generator().manual_seed(seed)
        factors = torch.stack([torch.randint(each, (n,), generator=generator) for each in levels], 1)
    else:
        raise ValueError(f"n: expected a whole number of at least 1, or 'grid', got {n!r}.")
    return torch.cat([_draw(part, size, levels) for part in factors.split(block)]), factors


def _draw(factors: Tensor, size: int, levels: Sequence[int]) -> Tensor:
    """Coverage of pixels, `(b, 1, size, size)`; the picture is [-1, 1]², y down."""
    shape = factors[:, 0]
    share = factors / torch.tensor([max(each - 1, 1) for each in levels])  # 0 to 1, ends included
    side = 0.3 + 0.3 * share[:, 1]  # of the square; the others have its area
    angle = 0.5 * math.pi * factors[:, 2] / levels[2]  # without the end, which is the start again for a square
    x0, y0 = 0.9 * share[:, 3] - 0.45, 0.9 * share[:, 4] - 0.45
    side, angle, x0, y0 = (each.reshape(-1, 1, 1) for each in (side, angle, x0, y0))
    place = (2 * torch.arange(size) + 1) / size - 1
    x, y = place - x0, place[:, None] - y0
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    distances = torch.stack([_square(u, v, side), _ellipse(u, v, side), _triangle(u, v, side)])
    distance = distances.gather(0, shape.reshape(1, -1, 1, 1).expand(1, -1, size, size))[0]
    return (0.5 - distance * (size / 2)).clamp(0, 1)[:, None]


# distances from the edge, negative inside, right near the edge: that is where they count


def _square(u: Tensor, v: Tensor, side: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - side / 2


def _ellipse(u: Tensor, v: Tensor, side: Tensor) -> Tensor:
    short = side / math.sqrt(2 * math.pi)
    long = 2 * short
    level = (u / long).square() + (v / short).square()
    slope = 2 * ((u / long.square()).square() + (v / short.square()).square()).sqrt()
    return (level - 1) / slope.clamp_min(1e-6)


def _triangle(u: Tensor, v: Tensor, side: Tensor) -> Tensor:
    inner = side * 3**-0.75  # radius of the inscribed circle
    slanted = 0.5 * math.sqrt(3) * u.abs() - 0.5 * v
    return torch.maximum(v, slanted) - inner
