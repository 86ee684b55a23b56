"""Where tokens stand: tables of position features, for the size that a network is made for and for others."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PositionKind: TypeAlias = Literal["sincos", "learned"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def sincos(
    size: Sequence[int], width: int, device: torch.device | str | None = None
) -> Float[Tensor, "places {width}"]:
    """(sin ω_k i, cos ω_k i) for each coordinate i of a place, ω_k = 10⁴^(-k/n): one row per place, last axis fastest.

    Each of the r axes takes n = ⌊width / 2r⌋ frequencies; what that leaves of the width is 0. The inner product of two
    rows depends on how far their places are apart, and on nothing else.

    Raises:
        ValueError: where the width has no room for one frequency per axis.

    Example:
        >>> sincos((2, 3), 8).shape
        torch.Size([6, 8])
    """
    count = width // (2 * len(size))
    if count < 1:
        raise ValueError(
            f"width: expected at least {2 * len(size)} for sines and cosines of {len(size)} coordinates, got {width}. "
            "Take a larger width, or positions='learned'."
        )
    frequencies = 10_000.0 ** (-torch.arange(count, device=device) / count)
    places = [torch.arange(side, device=device, dtype=torch.float32) for side in size]
    table = torch.cat(
        [wave for i in _coordinates(places) for wave in ((i * frequencies).sin(), (i * frequencies).cos())], dim=1
    )
    return F.pad(table, (0, width - table.shape[1]))


def fourier(
    size: Sequence[int], highest: Sequence[float], bands: int, device: torch.device | str | None = None
) -> Float[Tensor, "places features"]:
    """(sin π f_k u, cos π f_k u, u) for each coordinate u of a place, u in (-1, 1): one row per place.

    u is the middle of a cell when the extent is cut into `size` cells, so that other sizes are finer or coarser looks
    at the same extent. The f_k go in equal steps from 1 to an axis' `highest`, half its cells for all that a grid can
    show (Nyquist).

    Example:
        >>> fourier((4, 5), (2.0, 2.5), bands=6).shape
        torch.Size([20, 26])
    """
    places = [(2 * torch.arange(side, device=device, dtype=torch.float32) + 1) / side - 1 for side in size]
    rows = []
    for u, most in zip(_coordinates(places), highest, strict=True):
        phase = math.pi * u * torch.linspace(1, most, bands, device=device)
        rows += [phase.sin(), phase.cos(), u]
    return torch.cat(rows, dim=1)


def _coordinates(places: Sequence[Tensor]) -> list[Tensor]:
    """Every place's coordinate on each axis, (places, 1) each."""
    return [grid.reshape(-1, 1) for grid in torch.meshgrid(*places, indexing="ij")]


class Positions(nn.Module):
    """A vector for each place of a grid: sines and cosines, or learned ones that are interpolated to other sizes.

    Shapes: a size `(*t)` → (∏ t, width).

    Raises:
        ValueError: for another kind, or a width too small for sines and cosines.
    """

    table: Tensor

    def __init__(self, size: Sequence[int], width: int, kind: PositionKind) -> None:
        super().__init__()
        self.size, self.width, self.kind = tuple(size), width, kind
        if kind == "learned":
            self.table = nn.Parameter(torch.randn(math.prod(size), width) * 0.02)
        elif kind == "sincos":
            self.register_buffer("table", sincos(size, width), persistent=False)
        else:
            raise ValueError(f"positions: expected 'sincos' or 'learned', got {kind!r}.")

    def forward(self, size: tuple[int, ...]) -> Float[Tensor, "places width"]:
        if size == self.size:
            return self.table
        if self.kind == "sincos":
            return sincos(size, self.width, self.table.device).to(self.table.dtype)
        grid = self.table.mT.reshape(1, self.width, *self.size)
        return F.interpolate(grid, size, mode=_LINEAR[len(size)]).flatten(2)[0].mT


class FourierPositions(nn.Module):
    """`fourier` features of each place of a grid, with the frequencies of the size that it is made for.

    Shapes: a size `(*s)` → (∏ s, features).

    Raises:
        ValueError: for fewer than one band.
    """

    table: Tensor

    def __init__(self, size: Sequence[int], bands: int) -> None:
        super().__init__()
        if bands < 1:
            raise ValueError(f"bands: expected at least 1 frequency per axis, got {bands}.")
        self.size, self.bands = tuple(size), bands
        self.highest = tuple(max(side / 2, 1.0) for side in size)
        self.features = len(size) * (2 * bands + 1)
        self.register_buffer("table", fourier(size, self.highest, bands), persistent=False)

    def forward(self, size: tuple[int, ...]) -> Float[Tensor, "places features"]:
        if size == self.size:
            return self.table
        return fourier(size, self.highest, self.bands, self.table.device).to(self.table.dtype)
