"""Batches that do not fit into memory, cut into pieces that do, for the same step."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vaekit.device import is_out_of_memory
from vaekit.train.rng import restore, states

T = TypeVar("T")
Cut = Sequence[tuple[Tensor, Any, int]]


class Pieces:
    """Cuts batches in half, and in half again, until a step fits into memory; the step is that of the whole batches.

    A try that ran out of memory leaves nothing behind: buffers and random states are put back before the next one.
    What compares the examples of a batch (batch normalisation, `mmd`, …) sees those of a piece.

    Args:
        vae: the model that is trained.
        device: where it is.
        allowed: whether batches may be cut.
        least: examples that a piece has at least.
    """

    def __init__(self, vae: nn.Module, device: torch.device, *, allowed: bool, least: int) -> None:
        self.vae, self.device, self.allowed, self.least = vae, device, allowed, least
        #: examples that fit at a time, as far as is known
        self.fits: int | None = None

    def fitting(self, group: Cut, make: Callable[[Cut], T]) -> T:
        """What `make` gives for the group, cut so that it fits; its error where not even the smallest piece does."""
        if not self.allowed:
            return make(group)
        largest, before = max(len(x) for x, *_ in group), self._held()
        while True:
            try:
                return make(group if self.fits is None else _cut(group, self.fits, self.least))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                size = min(largest, self.fits or largest)
                if not is_out_of_memory(error) or size <= self.least:
                    raise
            # outside of the except clause, whose traceback holds on to the step's tensors
            self.fits = max(size // 2, self.least)
            self._put_back(before)
            parts = -(-largest // self.fits)
            warnings.warn(
                f"Trainer: out of memory with {size} examples at a time; going on with {self.fits}, and {parts} times "
                f"as many backward passes for a step. To begin so: batch_size={self.fits}, accumulate={parts}.",
                stacklevel=2,
            )

    def _held(self) -> tuple[list[Tensor], Any]:
        return [buffer.clone() for buffer in self.vae.buffers()], states(self.device)

    @torch.no_grad()
    def _put_back(self, before: tuple[list[Tensor], Any]) -> None:
        buffers, noise = before
        for parameter in self.vae.parameters():
            parameter.grad = None
        for buffer, value in zip(self.vae.buffers(), buffers, strict=True):
            buffer.copy_(value)
        restore(noise, self.device)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()


def _cut(group: Cut, size: int, least: int) -> Cut:
    """The group's batches in pieces of at most `size` examples, and one piece more where a rest would be too small."""
    made: list[tuple[Tensor, Any, int]] = []
    for x, label, n in group:
        starts = list(range(0, len(x), size))
        if len(starts) > 1 and len(x) - starts[-1] < least:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(x)], strict=True):
            own = None if label is None else label[start:end]
            made.append((x[start:end], own, max(0, min(n - start, end - start))))
    return made
