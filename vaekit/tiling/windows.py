"""Where tiles lie: cores that part a map, and windows around them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A tile along one side.

    Args:
        start: where the window begins, in pixels of the map that is cut.
        stop: where it ends.
        first: where the core begins, in pixels of the smallest map (the latent's).
        end: where the core ends; the next tile's core begins there.
        last: the core reaches the map's end, wherever that is after odd sides were halved.
    """

    start: int
    stop: int
    first: int
    end: int
    last: bool

    def core(self, factor: int, size: int) -> tuple[int, int]:
        """The core in a map with `factor` pixels for one of the smallest, and `size` in all."""
        return self.first * factor, size if self.last else self.end * factor


def spans(
    smallest: int, tile: int, *, factor: int = 1, size: int | None = None, halo: int = 0, align: int = 1
) -> list[Span]:
    """Tiles along one side: cores of about one size, at most `tile`, and windows with a halo, moved inside the map.

    All windows are equally long, but the last one, where the size is no multiple of `align`.

    Args:
        smallest: pixels of the smallest map.
        tile: the most pixels of it in a core.
        factor: pixels of the map that is cut for one of the smallest map.
        size: pixels of the map that is cut.
        halo: pixels of it that a core wants on both sides.
        align: windows begin at multiples of this.

    Example:
        >>> [(s.start, s.stop, s.first, s.end) for s in spans(10, 4, halo=1)]
        [(0, 6, 0, 3), (2, 8, 3, 6), (4, 10, 6, 10)]
    """
    size = smallest * factor if size is None else size
    halo, count = -(-halo // align) * align, -(-smallest // tile)
    edges = [i * smallest // count for i in range(count + 1)]
    length = max(b - a for a, b in zip(edges, edges[1:], strict=False)) * factor + 2 * halo
    found = []
    for a, b in zip(edges, edges[1:], strict=False):
        last = b == smallest
        start = max(0, min(a * factor - halo, (size - length) // align * align))
        found.append(Span(start, size if last else min(start + length, size), a, b, last))
    return found


def grid(rows: Sequence[Span], columns: Sequence[Span], most: int) -> list[list[tuple[Span, Span]]]:
    """All tiles of a map, in batches of at most `most` whose windows are equally large."""
    groups: dict[tuple[int, int], list[tuple[Span, Span]]] = {}
    for row in rows:
        for column in columns:
            groups.setdefault((row.stop - row.start, column.stop - column.start), []).append((row, column))
    return [group[i : i + most] for group in groups.values() for i in range(0, len(group), most)]
