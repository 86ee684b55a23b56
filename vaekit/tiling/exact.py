"""A network in tiles that give what the whole map gives: halos, and norms synchronised over the map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.tiling.plan import Plan, Sizes, Step
from vaekit.tiling.stages import Chain, chain
from vaekit.tiling.statistics import Reached, Synchronised
from vaekit.tiling.windows import Span, grid

Tile = tuple[Span, Span]


def run_exact(
    network: nn.Module, x: Tensor, of: Sizes, plan: Plan, tile: int, size: Sequence[int] | None = None
) -> Tensor:
    """network(x), by the steps of a plan.

        held map ─► tiles with halos ─► stages ─┬─► moments of the next norm's input   (once for each norm)
                                                └─► cores, written into the next held map  (once)

    Args:
        network: a network whose stages are known.
        x: its input.
        of: what its stages hold for an input of this shape.
        plan: the steps.
        tile: the largest core, in pixels of the smallest map.
        size: of a decoder's image, as its forward takes it.
    """
    stages, h = chain(network), x
    for step in plan.steps:
        seen = x if stages.reads else None
        if step.tiled:
            h = _tiled(stages, h, seen, of, step, tile, plan.batch(step))
        else:
            h = stages.stages[step.first].run(h, seen)
    return stages.finish(h, x, size)


def _tiled(stages: Chain, h: Tensor, seen: Tensor | None, of: Sizes, step: Step, tile: int, most: int) -> Tensor:
    batches = grid(*of.spans(step.first, step.stop, tile), most)
    norms, result = Synchronised(len(h)), None
    while True:
        for batch in batches:
            y = _pass(stages, h, seen, of, step, batch, norms)
            if y is not None:
                result = _room(y, len(h), of, step) if result is None else result
                _write(y, result, batch, of, step)
            del y  # before the next windows are cut
        if not norms.learn():
            assert result is not None
            return result


def _pass(
    stages: Chain, h: Tensor, seen: Tensor | None, of: Sizes, step: Step, batch: list[Tile], norms: Synchronised
) -> Tensor | None:
    """The stages on a batch of tiles; None where a norm has yet to be synchronised."""
    h = _cut(h, batch, 1)
    seen = None if seen is None else _cut(seen, batch, of.factors[step.first])
    norms.begin()
    try:
        for at in range(step.first, step.stop):
            stage = stages.stages[at]
            norms.enter(stage.name, [_core(tile, of, step, at) for tile in batch])
            with norms:
                h = stage.run(h, seen)
    except Reached:
        return None
    return h


def _cut(x: Tensor, batch: list[Tile], factor: int) -> Tensor:
    """Windows of a map with `factor` times less pixels along a side than the one they are given for."""
    cut = [x[..., r.start // factor : -(-r.stop // factor), c.start // factor : -(-c.stop // factor)] for r, c in batch]
    return torch.cat(cut)


def _core(tile: Tile, of: Sizes, step: Step, at: int) -> tuple[slice, slice]:
    """Where a tile's core lies in its window, in map `at` of a step."""
    rows, columns = (
        slice(
            *(edge - span.start * of.factors[at] // of.factors[step.first] for edge in span.core(of.factors[at], size))
        )
        for span, size in zip(tile, of.maps[at], strict=True)
    )
    return rows, columns


def _room(y: Tensor, batch: int, of: Sizes, step: Step) -> Tensor:
    """An empty map for the cores of tiles such as y, laid out as they are; what leaves the network lies plainly."""
    inner = step.stop < len(of.meters) and y.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if inner else torch.contiguous_format
    shape = (batch, y.shape[1], *of.maps[step.stop])
    return torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=layout)


def _write(y: Tensor, result: Tensor, batch: list[Tile], of: Sizes, step: Step) -> None:
    factor = of.factors[step.stop]
    for tile, window in zip(batch, y.unflatten(0, (len(batch), -1)), strict=True):
        rows, columns = (slice(*span.core(factor, size)) for span, size in zip(tile, of.maps[step.stop], strict=True))
        inside = _core(tile, of, step, step.stop)
        result[..., rows, columns] = window[..., inside[0], inside[1]]
