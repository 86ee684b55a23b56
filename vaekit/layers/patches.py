"""Data of one to three spatial dimensions ↔ patches: a row of tokens, in the order of reading."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.resample import convolution

MOST = 16
"""Patches along the longest side, where neither patch nor latent says how many."""


def patch_sides(
    size: Sequence[int], patch: int | Sequence[int] | None, grid: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The sides of a patch: as given, or those that cut `size` into `grid`, or else into at most 16 along each side.

    A side that no number of patches fills is padded up to one that they do.

    Args:
        size: the data's spatial size.
        patch: one number for all sides, one for each, or None.
        grid: how many patches a map latent asks for along each side; None: any.

    Raises:
        ValueError: where patches have no size, are larger than the data, or do not make the grid.

    Example:
        >>> patch_sides((256, 256), None), patch_sides((28, 28), 4), patch_sides((9, 14), None, grid=(5, 7))
        ((16, 16), (4, 4), (2, 2))
    """
    if patch is None and grid is not None:
        sides = tuple(-(-s // t) for s, t in zip(size, grid, strict=True))
    elif patch is None:
        sides = tuple(min(1 << max(-(-max(size) // MOST) - 1, 0).bit_length(), s) for s in size)
    else:
        sides = (patch,) * len(size) if isinstance(patch, int) else tuple(patch)
    if len(sides) != len(size) or min(sides) < 1:
        raise ValueError(f"patch: expected a positive side, or {len(size)} of them, got {patch}.")
    check_size(size, sides)
    cut = grid_of(size, sides)
    if grid is not None and cut != tuple(grid):
        raise ValueError(
            f"latent: expected a map of as many positions as there are patches, got {_shown(grid)}; patches of "
            f"{_shown(sides)} cut data of {_shown(size)} into {_shown(cut)}. Set latent=(c, "
            f"{', '.join(map(str, cut))}), or another patch."
        )
    return sides


def check_size(size: Sequence[int], patch: Sequence[int]) -> None:
    """Refuse data that would be mostly padding.

    Raises:
        ValueError: saying how large they have to be.
    """
    if any(s < p for s, p in zip(size, patch, strict=True)):
        raise ValueError(
            f"data: expected sides of at least {_shown(patch)}, those of a patch; got {_shown(size)}. Use larger "
            "data, or smaller patches."
        )


def grid_of(size: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """How many patches there are along each side, the last one padded where the side is odd.

    Example:
        >>> grid_of((9, 14), (4, 4))
        (3, 4)
    """
    return tuple(-(-s // p) for s, p in zip(size, patch, strict=True))


def patchify(x: Float[Tensor, "b c *s"], patch: Sequence[int]) -> Float[Tensor, "b t k"]:
    """Patches as rows, channel by channel: k = c·∏ patch. Odd sides are padded with their last values.

    Example:
        >>> import torch
        >>> patchify(torch.rand(2, 3, 9, 14), (4, 4)).shape
        torch.Size([2, 12, 48])
    """
    size, rank = x.shape[2:], len(patch)
    grid = grid_of(size, patch)
    missing = [t * p - s for s, t, p in zip(size, grid, patch, strict=True)]
    if any(missing):
        x = F.pad(x, [n for side in reversed(missing) for n in (0, side)], mode="replicate")
    x = x.reshape(*x.shape[:2], *(n for pair in zip(grid, patch, strict=True) for n in pair))
    order = (0, *range(2, 2 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2))  # b, the grid, c, inside a patch
    return x.permute(order).reshape(len(x), math.prod(grid), -1)


def unpatchify(tokens: Float[Tensor, "b t k"], grid: Sequence[int], patch: Sequence[int]) -> Float[Tensor, "b c *s"]:
    """Undo `patchify`, padding included: `(b, t, c·∏ patch)` → `(b, c, *grid·patch)`."""
    rank = len(patch)
    x = tokens.reshape(len(tokens), *grid, -1, *patch)
    order = (0, rank + 1, *(n for i in range(rank) for n in (1 + i, rank + 2 + i)))
    return x.permute(order).reshape(len(x), -1, *(t * p for t, p in zip(grid, patch, strict=True)))


class ToTokens(nn.Module):
    """W patch + bias for each patch: `(b, c, *s)` → (b, t, width); a convolution whose stride is its kernel."""

    def __init__(self, channels: int, patch: Sequence[int], width: int) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.project = nn.Linear(channels * math.prod(patch), width)

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b t w"]:
        check_size(x.shape[2:], self.patch)
        return self.project(patchify(x, self.patch))


class FromTokens(nn.Module):
    """W token + bias for each patch, laid out as data: (b, t, width) → `(b, c, *s)`, then perhaps a 3-convolution.

    What odd sides were padded by is cut off: to `size` where that is given, else to `out_shape` where the grid is its
    own; another grid gives whole patches.
    """

    def __init__(self, width: int, out_shape: Sequence[int], patch: Sequence[int], *, smooth: bool) -> None:
        super().__init__()
        self.size, self.patch = tuple(out_shape[1:]), tuple(patch)
        self.project = nn.Linear(width, out_shape[0] * math.prod(patch))
        self.smooth = convolution(len(patch), out_shape[0], out_shape[0]) if smooth else None

    def forward(
        self, tokens: Float[Tensor, "b t w"], grid: tuple[int, ...], size: Sequence[int] | None = None
    ) -> Float[Tensor, "b c *s"]:
        y = unpatchify(self.project(tokens), grid, self.patch)
        y = y if self.smooth is None else self.smooth(y)
        if size is None and grid == grid_of(self.size, self.patch):
            size = self.size
        return (y if size is None else y[(..., *map(slice, size))]).contiguous()


def _shown(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
