"""Anything that holds data, as batches on the device: tensors, arrays, datasets, loaders."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

Batch = tuple[Tensor, Tensor | None]
"""x (b, *data) and what the condition takes, or None."""


class Batches(ABC):
    """Data that can be gone through again and again, in an order that the seed and the epoch fix."""

    @abstractmethod
    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Batches in an epoch; None where only going through them would tell."""


def batches(data: Any, batch_size: int, *, shuffle: bool, seed: int, num_workers: int, name: str) -> Batches:
    """What the user gave as data, as `Batches`.

    Args:
        data: a tensor or array `(n, *data)`; a pair of them (data, labels); a `Dataset` of x, (x, label) or mappings
            with "x" or "image" and "label"; a `DataLoader` of the same. An `IterableDataset` keeps its own order.
        batch_size: examples in a batch; a `DataLoader` has its own.
        shuffle: whether each epoch has another order; a `DataLoader` has its own.
        seed: what the orders are drawn from.
        num_workers: processes that load a `Dataset`.
        name: what the data are called in messages.

    Raises:
        ValueError: where there are no examples, or data and labels differ in number.
        TypeError: where the data are none of the above.
    """
    if isinstance(data, DataLoader):
        return LoaderBatches(data, None, seed, name)
    if isinstance(data, Dataset):
        endless = isinstance(data, IterableDataset)
        if not endless and len(data) == 0:  # type: ignore[arg-type]
            raise ValueError(f"{name}: is empty.")
        generator = torch.Generator()
        loader = DataLoader(
            data, batch_size, shuffle=shuffle and not endless, num_workers=num_workers, generator=generator
        )
        return LoaderBatches(loader, generator, seed, name)
    pair = data if isinstance(data, (tuple, list)) and len(data) == 2 and not _is_number(data[0]) else (data, None)
    x, labels = (_tensor(each) for each in pair)
    if x is None or x.ndim == 0:
        raise TypeError(
            f"{name}: expected a tensor, an array, (data, labels), a Dataset or a DataLoader; got "
            f"{type(data).__name__}."
        )
    if len(x) == 0:
        raise ValueError(f"{name}: is empty.")
    if labels is not None and len(labels) != len(x):
        raise ValueError(f"{name}: has {len(x)} examples and {len(labels)} labels.")
    return TensorBatches(x, labels, batch_size, shuffle=shuffle, seed=seed)


class TensorBatches(Batches):
    """Batches out of tensors in memory, by index: no loader, no Python for each example.

    Args:
        x: data `(n, *data)`, on any device.
        labels: (n, …), or None.
        batch_size: examples in a batch; the last one has what is left.
        shuffle: whether each epoch has another order.
        seed: what the orders are drawn from.
    """

    def __init__(self, x: Tensor, labels: Tensor | None, batch_size: int, *, shuffle: bool, seed: int) -> None:
        self.x, self.labels, self.batch_size, self.shuffle, self.seed = x, labels, batch_size, shuffle, seed

    @property
    def length(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.x) // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches in the epoch's own order."""
        if not self.shuffle:
            for start in range(0, len(self.x), self.batch_size):
                part = slice(start, start + self.batch_size)
                yield self.x[part], None if self.labels is None else self.labels[part]
            return
        generator = torch.Generator().manual_seed(_mix(self.seed, number))
        order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
        for index in order.split(self.batch_size):
            yield self.x[index], None if self.labels is None else self.labels[index]


class LoaderBatches(Batches):
    """Batches out of a `DataLoader`.

    Args:
        loader: gives x, (x, label), or mappings with "x" or "image" and "label".
        generator: the loader's generator, where it is ours to seed; None for a loader that the user made.
        seed: what the orders are drawn from.
        name: what the data are called in messages.
    """

    def __init__(self, loader: DataLoader[Any], generator: torch.Generator | None, seed: int, name: str) -> None:
        self.loader, self.generator, self.seed, self.name = loader, generator, seed, name

    @property
    def length(self) -> int | None:
        """What the loader says; None for a stream."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches as the loader gives them."""
        if self.generator is not None:
            self.generator.manual_seed(_mix(self.seed, number))
        for batch in self.loader:
            yield _split(batch, self.name)


def _split(batch: Any, name: str) -> Batch:
    """x and label of a collated batch."""
    if isinstance(batch, Mapping):
        x = next((batch[key] for key in ("x", "image", "data", "pixel_values") if key in batch), None)
        if x is None:
            raise TypeError(f"{name}: items have the keys {list(batch)}; expected 'x' or 'image', and 'label'.")
        return x, next((batch[key] for key in ("label", "labels", "y", "cond") if key in batch), None)
    if isinstance(batch, (tuple, list)):
        return (batch[0], batch[1] if len(batch) > 1 else None)
    if isinstance(batch, Tensor):
        return batch, None
    raise TypeError(f"{name}: items are {type(batch).__name__}; expected a tensor, (x, label) or a mapping.")


def on_device(batch: Batch, device: torch.device, data_range: tuple[float, float] | None) -> Batch:
    """A batch where the model is; bytes are scaled to the data range there, so that less travels."""
    x, label = batch
    x = x.to(device, non_blocking=True)
    if x.dtype == torch.uint8:
        low, high = (0.0, 255.0) if data_range is None else data_range
        x = x.float().mul_((high - low) / 255).add_(low)
    return x, None if label is None else label.to(device, non_blocking=True)


def _tensor(value: Any) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        # torch takes neither reversed views nor, without a warning, arrays that must not be written to
        shareable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
        return torch.as_tensor(array if shareable else array.copy())
    if isinstance(value, Sequence) and value and _is_number(value[0]):
        return torch.as_tensor(value)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _mix(seed: int, epoch: int) -> int:
    """One seed out of two, other for each pair that a run can meet."""
    return (seed * 1_000_003 + epoch) % 2**63
