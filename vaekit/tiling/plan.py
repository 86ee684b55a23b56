"""Which maps to hold and which to compute again, so that a chain of stages runs in tiles within some memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaekit.tiling.meter import Meter, measured, nbytes, on_meta
from vaekit.tiling.stages import Chain, chain
from vaekit.tiling.windows import Span, spans

DEFAULT_SHARE = 0.35  # of what the untiled pass holds
_PER_BYTE = 25  # products that take as long as what is done to a byte of a map beside them: norm, activation, copies


@dataclass(frozen=True)
class Step:
    """Stages that run from one held map to the next.

    Args:
        first: number of the first stage.
        stop: number of the stage after the last one.
        tiled: in tiles, once for each norm and once for the result; else one stage on the whole map.
        held: bytes of the maps at both ends.
        work: bytes that a tile needs beside them.
        cost: products, over all passes.
    """

    first: int
    stop: int
    tiled: bool
    held: int
    work: int
    cost: float

    @property
    def peak(self) -> int:
        """Bytes held with one tile at a time."""
        return self.held + self.work


@dataclass(frozen=True)
class Sizes:
    """A chain's stages on whole maps of one shape: bytes of maps and of stages, products, and norms.

    Args:
        chain: the stages.
        maps: height and width of each map, one more than stages.
        held: bytes of each map.
        meters: what each stage held and multiplied.
    """

    chain: Chain
    maps: Sequence[tuple[int, int]]
    held: Sequence[int]
    meters: Sequence[Meter]

    @property
    def smallest(self) -> tuple[int, int]:
        """Height and width of the smallest map, the latent's."""
        return min(self.maps)

    @property
    def factors(self) -> list[int]:
        """Pixels along a side of each map for one of the smallest."""
        found = [1]
        for stage in self.chain.stages:
            found.append(found[-1] * stage.up if stage.up > 1 else found[-1])
            if stage.down > 1:
                found = [f * stage.down for f in found[:-1]] + [found[-1]]
        return found

    @property
    def untiled(self) -> int:
        """Bytes that the stages hold when they run on whole maps."""
        return max(held + meter.peak for held, meter in zip(self.held, self.meters, strict=False))

    @property
    def cost(self) -> float:
        """Products, and what else takes time, as products, of the untiled pass."""
        return sum(self._cost(stage) for stage in range(len(self.meters)))

    def halo(self, first: int, stop: int) -> int:
        """Pixels around a tile of map `first` that the tile of map `stop` reads."""
        halo = 0
        for stage in reversed(self.chain.stages[first:stop]):
            halo = -(-halo // stage.up) * stage.down + stage.halo
        return halo

    def align(self, first: int, stop: int) -> int:
        """Windows of map `first` begin at multiples of this, so that halvings meet the pixels they meet untiled."""
        if self.chain.reads:
            return self.factors[first]
        align = 1
        for stage in self.chain.stages[first:stop]:
            align *= stage.down
        return align

    def spans(self, first: int, stop: int, tile: int) -> tuple[list[Span], list[Span]]:
        """Tiles along the height and the width of map `first`, for a step to map `stop`."""
        factor, halo, align = self.factors[first], self.halo(first, stop), self.align(first, stop)
        rows, columns = (
            spans(small, tile, factor=factor, size=size, halo=halo, align=align)
            for small, size in zip(self.smallest, self.maps[first], strict=True)
        )
        return rows, columns

    def steps_from(self, first: int, tile: int) -> Iterator[Step]:
        """What can run next from the held map `first`."""
        held = self.held[first]
        meter = self.meters[first]
        yield Step(first, first + 1, False, held, meter.peak, self._cost(first))
        before = passes = 0.0  # cost of the stages so far; cost of all passes that end at a norm
        work = 0
        for last in range(first, len(self.meters)):
            stage, meter = self.chain.stages[last], self.meters[last]
            halo = self.halo(first, last + 1)
            if stage.whole or halo > tile * self.factors[first]:
                return
            for norm in range(meter.norms):
                passes += before + self._cost(last) * norm / meter.norms
            before += self._cost(last)
            work = max(work, self.held[last] + meter.peak)
            sides = self.spans(first, last + 1, tile)
            window, covered = 1.0, 1.0  # the largest window, and all windows, as shares of the map
            for side, size in zip(sides, self.maps[first], strict=True):
                window *= max(s.stop - s.start for s in side) / size
                covered *= sum(s.stop - s.start for s in side) / size
            yield Step(
                first,
                last + 1,
                True,
                held + self.held[last + 1],
                round(work * window),
                (before + passes) * covered,
            )

    def _cost(self, stage: int) -> float:
        return self.meters[stage].products + _PER_BYTE * max(self.held[stage], self.held[stage + 1])


def sizes(network: nn.Module, x: Tensor) -> Sizes:
    """The stages of a network on an input of x's shape and type, from shapes alone."""
    stages = chain(on_meta(network))
    with torch.inference_mode(False):
        seen = torch.empty_like(x, device="meta")
    maps, held, meters, h = [(x.shape[2], x.shape[3])], [nbytes(x)], [], seen
    for stage in stages.stages:
        h, meter = measured(stage.run, h, seen if stages.reads else None)
        maps.append((h.shape[2], h.shape[3]))
        held.append(nbytes(h))
        meters.append(meter)
    return Sizes(stages, maps, held, meters)


def least_tile(of: Sizes) -> int:
    """The smallest tile, in pixels of the smallest map, that is no smaller than the halo of any one stage."""
    halos = [-(-s.halo // f) for s, f in zip(of.chain.stages, of.factors, strict=False) if not s.whole]
    return max(1, *halos)


@dataclass(frozen=True)
class Plan:
    """The steps of a run in tiles.

    Args:
        steps: from the first map to the last.
        memory: bytes up to which tiles are put into one batch.
        least: bytes that other steps could do with.
    """

    steps: Sequence[Step]
    memory: int
    least: int

    @property
    def peak(self) -> int:
        """Bytes held with one tile at a time."""
        return max(step.peak for step in self.steps)

    @property
    def cost(self) -> float:
        """Products, and what else takes time, as products."""
        return sum(step.cost for step in self.steps)

    def batch(self, step: Step) -> int:
        """How many tiles a step may compute at once."""
        return max(1, (self.memory - step.held) // max(1, step.work))


def make_plan(of: Sizes, tile: int, memory: int | None = None) -> Plan:
    """The steps that cost least within `memory` bytes; None for a share of the untiled pass, or the least there is.

    Raises:
        ValueError: where no steps stay within the memory.
    """
    steps = [list(of.steps_from(first, tile)) for first in range(len(of.meters))]
    least = max(step.peak for step in _best(steps, lambda peak, step: max(peak, step.peak)))
    if memory is not None and memory < least:
        raise ValueError(
            f"memory: {memory:,} bytes are not enough for tiles of this size, which hold {least:,} at least. Give that "
            "much, or a smaller tile."
        )
    most = max(least, int(DEFAULT_SHARE * of.untiled)) if memory is None else memory
    within = [[step for step in each if step.peak <= most] for each in steps]
    chosen = _best(within, lambda cost, step: cost + step.cost)
    return Plan(chosen, max(step.peak for step in chosen) if memory is None else memory, least)


def _best(steps: Sequence[Sequence[Step]], price: Callable[[float, Step], float]) -> list[Step]:
    """The way from the first map to the last that has the lowest price."""
    found: list[tuple[float, list[Step]] | None] = [(0.0, []), *[None] * len(steps)]
    for first, ways in enumerate(steps):
        for step in ways:
            before, there = found[first], found[step.stop]
            if before is not None and (there is None or price(before[0], step) < there[0]):
                found[step.stop] = (price(before[0], step), [*before[1], step])
    assert found[-1] is not None  # single stages on whole maps are always a way
    return found[-1][1]
