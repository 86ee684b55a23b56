"""Batches out of datasets, loaders and streams.

What a dataset draws at random (augmentation, say) is drawn from a seed of its own, a function of run, epoch and batch.
So it is the same with any number of worker processes, the model's noise does not depend on it, and a run that goes on
in the middle of an epoch need not load what it has had.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from vaekit.train.data import Batch, Batches, order_generator, part
from vaekit.train.folder import Unreadable, to_bytes
from vaekit.train.rng import Stream, mix, own_noise

_X = ("x", "image", "img", "images", "pixel_values", "data")
_LABEL = ("label", "labels", "y", "cond", "class", "target", "fine_label")
_CPU = torch.device("cpu")


class LoadingError(ValueError):
    """An example that a dataset can't give; the message says which, and why."""


class DatasetBatches(Batches):
    """Batches out of a dataset: anything with a length and indices.

    Args:
        dataset: gives x, (x, label), or mappings.
        batch_size: examples in a batch.
        shuffle: whether each epoch has another order.
        seed: what orders and augmentation are drawn from.
        num_workers: processes that load.
        name: what the data are called in messages.
        shape: of an example: what images are brought to; None: as they are.
        pin: whether batches are put where an accelerator can fetch them while it computes.
        share: the number of this process, and how many there are.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        num_workers: int,
        name: str,
        shape: Sequence[int] | None,
        pin: bool,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.share, self._whole = share, batch_size * share[1]  # examples of a batch over all processes
        self.size, self.batch_size, self.shuffle, self.seed, self.name = len(dataset), batch_size, shuffle, seed, name
        self.examples = _Examples(dataset, shape, name)
        self.num_workers, self.pin = num_workers, pin

    @property
    def length(self) -> int:
        """Batches in an epoch."""
        return -(-self.size // self._whole)

    @property
    def identity(self) -> dict[str, Any]:
        """Kind and number of the examples."""
        return {"kind": "dataset", "examples": self.size, "batches": self.length}

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches in the epoch's own order; those before `start` are not loaded."""
        generator = order_generator(self.seed, number)
        order = torch.randperm(self.size, generator=generator).tolist() if self.shuffle else range(self.size)
        rank, count = self.share
        together = [order[i * self._whole : (i + 1) * self._whole] for i in range(start, self.length)]
        keys = [
            (mix(self.seed, number, i * count + rank), list(each[part(len(each), self.share)]))
            for i, each in enumerate(together, start)
        ]
        loader = DataLoader(
            self.examples,
            batch_sampler=keys,  # type: ignore[arg-type] — a batch's seed travels with its indices
            num_workers=self.num_workers,
            collate_fn=_Collate(self.name),
            pin_memory=self.pin,
            generator=generator,  # whose draw of a base seed is not the model's
        )
        for x, label, bad in _loaded(loader, self.name):
            self.unreadable.update(bad)
            yield (torch.empty(0), None) if x is None else (x, label)  # a batch that was, so that places stay


class LoaderBatches(Batches):
    """Batches out of a `DataLoader` that the user made.

    Its generators are seeded for each epoch, and what else it draws comes from a stream of its own, so that its order
    is a function of seed and epoch. To go on in the middle of an epoch, it is gone through from the start.

    Args:
        loader: gives x, (x, label), or mappings.
        seed: what the orders are drawn from.
        name: what the data are called in messages.
        shape: of an example.
        share: the number of this process, and how many there are.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        seed: int,
        name: str,
        shape: Sequence[int] | None,
        *,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.share = share
        self.loader, self.seed, self.name, self.shape = loader, seed, name, shape

    @property
    def length(self) -> int | None:
        """What the loader says; None for a stream."""
        try:
            return -(-len(self.loader) // self.share[1])
        except TypeError:
            return None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches as the loader gives them."""
        seed = mix(self.seed, number)
        samplers = (self.loader, self.loader.sampler, getattr(self.loader.batch_sampler, "sampler", None))
        for generator in {id(g): g for s in samplers if (g := getattr(s, "generator", None)) is not None}.values():
            generator.manual_seed(seed)
        stream = Stream(seed)
        for batch in _dealt(_loaded(self.loader, self.name, stream), self.share, start):
            yield split(batch, self.name)


class StreamBatches(Batches):
    """Batches out of an iterable, in its own order: of examples, which are put together, or of batches.

    Args:
        data: gives x, (x, label), or mappings; of batches where x has one dimension more than an example.
        batch_size: examples in a batch.
        seed: of what the stream draws at random.
        name: what the data are called in messages.
        num_workers: processes that load; for an `IterableDataset` alone.
        shape: of an example; None: of whatever shape an example has.
        pin: whether batches are put where an accelerator can fetch them while it computes.
        share: the number of this process, and how many there are.
    """

    def __init__(
        self,
        data: Iterable[Any],
        batch_size: int,
        seed: int,
        name: str,
        *,
        num_workers: int,
        shape: Sequence[int] | None,
        pin: bool,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.share = share
        self.data, self.batch_size, self.seed, self.name, self.shape = data, batch_size, seed, name, shape
        self.num_workers, self.pin = num_workers, pin

    @property
    def length(self) -> None:
        """Nobody knows."""
        return None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches as they come; those before `start` are let go."""
        if isinstance(self.data, IterableDataset):
            if callable(set_epoch := getattr(self.data, "set_epoch", None)):
                set_epoch(number)
            generator = order_generator(self.seed, number)
            collate = _Collate(self.name, self.shape)
            size, workers = self.batch_size, self.num_workers
            loader = DataLoader(
                self.data, size, num_workers=workers, collate_fn=collate, pin_memory=self.pin, generator=generator
            )
            found: Iterable[Any] = loader
        else:
            found = self._together()
        batches = _loaded(found, self.name, Stream(mix(self.seed, number)))
        for x, label, _ in _dealt(batches, self.share, start):
            yield (torch.empty(0), None) if x is None else (x, label)

    def _together(self) -> Iterator[tuple[Tensor | None, Any, dict[str, str]]]:
        collate, held = _Collate(self.name, self.shape), []
        for item in self.data:
            x = _parts(item, self.name)[0]
            if self.shape is not None and getattr(x, "ndim", 0) == len(self.shape) + 1:
                yield (*split(item, self.name), {})
                continue
            held.append(item)
            if len(held) == self.batch_size:
                yield collate(held)
                held = []
        if held:
            yield collate(held)


class _Examples(torch.utils.data.Dataset[Any]):
    """A dataset, asked for a batch at a time with the batch's own seed."""

    def __init__(self, dataset: Any, shape: Sequence[int] | None, name: str) -> None:
        self.dataset, self.shape, self.name = dataset, shape, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, key: tuple[int, list[int]]) -> list[Any]:
        seed, indices = key
        if not indices:
            return []
        with own_noise(seed, _CPU):
            several = getattr(self.dataset, "__getitems__", None)
            if several is not None:
                try:
                    return [_ready(item, self.shape, self.name) for item in several(indices)]
                except Exception as error:  # one by one, so that the message says which it was
                    if isinstance(error, TypeError):
                        raise
            return [self._one(i) for i in indices]

    def _one(self, i: int) -> Any:
        try:
            return _ready(self.dataset[i], self.shape, self.name)
        except TypeError:
            raise
        except Exception as error:
            raise LoadingError(f"{self.name}: item {i} {_why(error)}") from error


def _why(error: Exception) -> str:
    return f"can't be loaded ({type(error).__name__}: {error})."


class _Collate:
    """Examples → (x, label, files that could not be read)."""

    def __init__(self, name: str, shape: Sequence[int] | None = None) -> None:
        self.name, self.shape = name, shape

    def __call__(self, items: list[Any]) -> tuple[Tensor | None, Any, dict[str, str]]:
        bad = {item.path: item.reason for item in items if isinstance(item, Unreadable)}
        parts = [_parts(_ready(each, self.shape, self.name), self.name) for each in items if not _is_bad(each)]
        if not parts:
            return None, None, bad
        shapes = {tuple(x.shape) for x, _ in parts}
        if len(shapes) > 1:
            raise LoadingError(
                f"{self.name}: examples of one batch have the shapes {sorted(shapes)[:4]}. Bring them to one size."
            )
        labels = [label for _, label in parts]
        label = None if labels[0] is None else default_collate(labels)
        return torch.stack([x for x, _ in parts]), label if isinstance(label, Tensor) else None, bad


def _is_bad(item: Any) -> bool:
    return isinstance(item, Unreadable)


def _ready(item: Any, shape: Sequence[int] | None, name: str) -> Any:
    """(x as a tensor, label) of one example."""
    if isinstance(item, Unreadable):
        return item
    x, label = _parts(item, name)
    if hasattr(x, "convert"):  # an image of PIL's
        x = to_bytes(x, shape)
    return (x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))), label


def _parts(item: Any, name: str) -> tuple[Any, Any]:
    """x and label of an example, or of a collated batch."""
    if isinstance(item, Mapping):
        x = next((item[key] for key in _X if key in item), None)
        if x is None:
            raise TypeError(f"{name}: items have the keys {list(item)}; expected 'x' or 'image', and 'label'.")
        return x, next((item[key] for key in _LABEL if key in item), None)
    if isinstance(item, (tuple, list)) and item:
        return item[0], item[1] if len(item) > 1 else None
    if hasattr(item, "__array__") or hasattr(item, "convert"):
        return item, None
    raise TypeError(f"{name}: items are {type(item).__name__}; expected a tensor, (x, label) or a mapping.")


def split(batch: Any, name: str) -> Batch:
    """x and label of a collated batch, as tensors."""
    x, label = _parts(batch, name)
    x = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if label is None or isinstance(label, Tensor):
        return x, label
    try:
        return x, torch.as_tensor(np.asarray(label))
    except (TypeError, ValueError):  # names of files, say
        return x, None


def _dealt(batches: Iterable[Any], share: tuple[int, int], start: int) -> Iterator[Any]:
    """A process's own batches, dealt in turn, from its number `start` on."""
    rank, count = share
    return itertools.islice(batches, start * count + rank, None, count)


def _loaded(loader: Iterable[Any], name: str, stream: Stream | None = None) -> Iterator[Any]:
    """The batches of a loader, what it draws taken from a stream of its own, and its workers' deaths explained."""

    def drawing() -> AbstractContextManager[None]:
        return nullcontext() if stream is None else stream.drawing()

    with drawing():
        iterator = iter(loader)
    while True:
        with drawing():
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if "worker" in str(error) and ("exited unexpectedly" in str(error) or "killed" in str(error)):
                    raise RuntimeError(
                        f"{name}: a process that loads data has died ({str(error).strip()}). Often memory or /dev/shm "
                        "is full: lower num_workers or batch_size, and start again to go on from the last checkpoint."
                    ) from error
                raise
        yield batch
