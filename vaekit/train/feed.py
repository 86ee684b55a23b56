"""Batches as the model takes them: on its device, with labels where it has a condition, each process with its part."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from vaekit.train.data import Batches, TensorBatches, ahead, on_device
from vaekit.train.processes import Agreement, Processes
from vaekit.vae import VAE

T = TypeVar("T")
Piece: TypeAlias = tuple[int, Tensor, Any]
"""How many batches of the epoch are over after it, x, and label."""
Counted: TypeAlias = tuple[int, Tensor, Any, int]
"""The same, and how many of its examples count."""


class Feed:
    """Brings data to the model.

    Args:
        vae: whose condition and data range count.
        processes: which share the data.
        device: where batches go.
        least: a rest of fewer examples is left out.
    """

    def __init__(self, vae: VAE, processes: Processes, device: torch.device, least: int) -> None:
        self.processes, self.device, self.least = processes, device, least
        self.conditional, self.data_range = vae.condition is not None, vae.data_range
        self._told: set[str] = set()

    def pieces(
        self, data: Batches, epoch: int, start: int = 0, augment: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Piece]:
        """The batches of an epoch from number `start` on; images that can't be read are told."""

        def sent() -> Iterator[Piece]:
            for i, (x, label) in enumerate(data.epoch(epoch, start), start + 1):
                if len(x) >= self.least:
                    yield i, *on_device((x, label if self.conditional else None), self.device, self.data_range)

        for i, x, label in sent() if self.device.type == "cpu" else ahead(sent()):
            yield i, x if augment is None else augment(x), label
        for path, reason in data.unreadable.items() if self.processes.first else ():
            if path not in self._told:
                self._told.add(path)
                warnings.warn(f"Trainer: left out an image that can't be read: {path} ({reason})", stacklevel=2)

    def shared(
        self, groups: Iterator[Sequence[Piece]], data: Batches, epoch: int, agreement: Agreement
    ) -> Iterator[tuple[list[Counted], int]]:
        """Each group with the examples of it that count, and how many all processes have in it.

        A process whose part is over goes on with an example that does not count, until all are done.
        """
        if self.processes.count == 1:
            yield from alone(groups)
            return
        seen: Sequence[Piece] = []
        while True:
            group = next(groups, [])
            size = sum(len(x) for _, x, _ in group)
            rows = self.processes.numbers(size, len(group), agreement.stop.asked)
            most = int(max(row[1] for row in rows))
            agreement.hear(any(row[2] for row in rows))
            if not most:
                return
            seen = group or seen or list(itertools.islice(self.pieces(data, epoch), 1))
            if not seen:
                raise ValueError(
                    f"Trainer: process {self.processes.rank + 1} of {self.processes.count} has no batch of the data. "
                    "Start fewer processes, or lower batch_size."
                )
            i, x, label = seen[-1]
            rest = (i, x[: self.least], None if label is None else label[: self.least], 0)
            counted = [(number, x, label, len(x)) for number, x, label in group]
            yield counted + [rest] * (most - len(group)), int(sum(row[0] for row in rows))

    def some(self, data: Batches, few: int) -> list[tuple[Tensor, Any]]:
        """(x, label) of a few examples, where they cost nothing."""
        if not isinstance(data, TensorBatches):
            return []
        found: list[tuple[Tensor, Any]] = []
        for _, x, label in self.pieces(data, 0):
            found.append((x, label))
            if sum(len(each) for each, _ in found) >= few:
                break
        return found


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`size` items at a time; the last ones may be fewer."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


def alone(groups: Iterable[Sequence[Piece]]) -> Iterator[tuple[list[Counted], int]]:
    """Groups with what counts in them, in a process alone."""
    for group in groups:
        counted = [(i, x, label, len(x)) for i, x, label in group]
        yield counted, sum(n for *_, n in counted)
