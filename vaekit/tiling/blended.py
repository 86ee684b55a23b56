"""A network in tiles that do not know of each other, whose overlaps are blended: fast, and not what the whole gives."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.tiling.plan import DEFAULT_SHARE, Sizes
from vaekit.tiling.stages import chain
from vaekit.tiling.windows import Span, grid


def run_blended(
    network: nn.Module, x: Tensor, of: Sizes, tile: int, memory: int | None, out_size: Sequence[int] | None = None
) -> Tensor:
    """Σ over tiles of weight · network(tile): weights fall linearly over the overlaps, and sum to one at every pixel.

    Norms and attention see their tile alone, so that its colours and contrast are a little its own.

    Args:
        network: a network whose stages are known.
        x: its input.
        of: what its stages hold for an input of this shape.
        tile: side of a tile with its overlaps, a quarter of it each, in pixels of the smallest map.
        memory: bytes that a batch of tiles may hold; None for a share of the untiled pass.
        out_size: of a decoder's image, as its forward takes it.
    """
    stages, overlap = chain(network), tile // 4
    scale, end = of.factors[0], of.factors[-1]
    sides = [
        _overlapping(small, size, tile, overlap, scale) for small, size in zip(of.smallest, of.maps[0], strict=True)
    ]
    weights = [
        {span: w.to(x.device, x.dtype) for span, w in _weights(side, size, overlap * end, scale, end).items()}
        for side, size in zip(sides, of.maps[-1], strict=True)
    ]
    window = max((r.stop - r.start) * (c.stop - c.start) for r in sides[0] for c in sides[1])
    work = max(1, of.untiled * window // (of.maps[0][0] * of.maps[0][1]))
    most = max(1, (int(DEFAULT_SHARE * of.untiled) if memory is None else memory) // work)
    result = None
    for batch in grid(sides[0], sides[1], most):
        h = seen = torch.cat([x[..., r.start : r.stop, c.start : c.stop] for r, c in batch])
        for stage in stages.stages:
            h = stage.run(h, seen if stages.reads else None)
        if result is None:
            result = h.new_zeros((len(x), h.shape[1], *of.maps[-1]))
        for (r, c), y in zip(batch, h.unflatten(0, (len(batch), -1)), strict=True):
            down, across = weights[0][r], weights[1][c]
            top, left = r.start * end // scale, c.start * end // scale
            part = result[..., top : top + len(down), left : left + len(across)]
            part.addcmul_(y, (down[:, None] * across).to(y.dtype))
    assert result is not None
    return stages.finish(result, x, out_size)


def _overlapping(smallest: int, size: int, tile: int, overlap: int, scale: int) -> list[Span]:
    """Tiles of one length that overlap by at least `overlap`, evenly spread."""
    if smallest <= tile:
        return [Span(0, size, 0, smallest, last=True)]
    count = -(-(smallest - overlap) // (tile - overlap))
    starts = [i * (smallest - tile) // (count - 1) for i in range(count)]
    last = starts[-1]
    return [Span(s * scale, size if s == last else (s + tile) * scale, s, s + tile, s == last) for s in starts]


def _weights(side: list[Span], size: int, ramp: int, scale: int, end: int) -> dict[Span, Tensor]:
    """For each tile along a side its pixels' weights: a ramp at either end, over the sum of all tiles' ramps."""
    total, found = torch.zeros(size, dtype=torch.float64), {}
    for span in side:
        start, stop = span.start * end // scale, size if span.last else span.stop * end // scale
        place = torch.arange(stop - start, dtype=torch.float64)
        found[span] = torch.minimum(place + 0.5, stop - start - place - 0.5).clamp(max=max(ramp, 1))
        total[start:stop] += found[span]
    return {span: w / total[(begin := span.start * end // scale) : begin + len(w)] for span, w in found.items()}
