"""Anything that holds data, as batches on the device: tensors, arrays, datasets, loaders, folders, streams."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from vaekit.train.rng import mix

Batch = tuple[Tensor, Tensor | None]
"""x (b, *data) and what the condition takes, or None."""


class Batches(ABC):
    """Data that can be gone through again and again, in an order that the seed and the epoch fix."""

    def __init__(self) -> None:
        #: files that could not be read, and why
        self.unreadable: dict[str, str] = {}

    @abstractmethod
    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Batches in an epoch; None where only going through them would tell."""

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a run to go on exactly."""
        return {"kind": type(self).__name__, "batches": self.length}


def batches(
    data: Any,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    num_workers: int,
    name: str,
    shape: Sequence[int] | None = None,
    pin: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Batches:
    """What the user gave as data, as `Batches`.

    Args:
        data: a tensor or array `(n, *data)`, mapped from disk or not; a pair of them (data, labels); a dataset of x,
            (x, label) or mappings with "x" or "image" and "label", such as torchvision's and Hugging Face's; a
            `DataLoader` of the same; a folder of images; an iterable of such examples, or of batches of them.
        batch_size: examples in a batch; a `DataLoader`, and an iterable of batches, has its own.
        shuffle: whether each epoch has another order; a `DataLoader` has its own, and a stream that in which it comes.
        seed: what the orders are drawn from.
        num_workers: processes that load a dataset.
        name: what the data are called in messages.
        shape: of an example, `(c, *s)`: what images from files are brought to.
        pin: whether batches are put where an accelerator can fetch them while it computes.
        share: the number of this process and how many there are: each gets its part of every batch of
            `batch_size` times as many examples. Loaders and streams are gone through by all, and their batches dealt.

    Raises:
        ValueError: where there are no examples, data and labels differ in number, or a loader deals by itself.
        TypeError: where the data are none of the above.
    """
    from vaekit.train import loaders  # which needs the classes above
    from vaekit.train.folder import ImageFolder

    options: dict[str, Any] = {"num_workers": num_workers, "shape": shape, "pin": pin, "share": share}
    if isinstance(data, DataLoader):
        if isinstance(data.sampler, DistributedSampler):
            raise ValueError(
                f"{name}: the loader has a DistributedSampler, and the Trainer deals its batches to the processes. "
                "Leave the sampler out, or give the dataset."
            )
        return loaders.LoaderBatches(data, seed, name, shape, share=share)
    if isinstance(data, Path) or (isinstance(data, str) and Path(data).is_dir()):
        data = ImageFolder(data, shape, name)
    if isinstance(data, IterableDataset):
        return loaders.StreamBatches(data, batch_size, seed, name, **options)
    pair = data if _is_pair(data) else (data, None)
    x, labels = (_tensor(each) for each in pair)
    if x is not None and x.ndim > 0:
        if len(x) == 0:
            raise ValueError(f"{name}: is empty.")
        if labels is not None and len(labels) != len(x):
            raise ValueError(f"{name}: has {len(x)} examples and {len(labels)} labels.")
        mapped = isinstance(pair[0], np.memmap)
        return TensorBatches(x, labels, batch_size, shuffle=shuffle, seed=seed, in_memory=not mapped, share=share)
    if not isinstance(data, (str, bytes, Mapping, Tensor)):
        if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
            if len(data) == 0:
                raise ValueError(f"{name}: is empty.")
            return loaders.DatasetBatches(data, batch_size, shuffle=shuffle, seed=seed, name=name, **options)
        if isinstance(data, Iterable):
            return loaders.StreamBatches(data, batch_size, seed, name, **options)
    raise TypeError(
        f"{name}: expected a tensor, an array, (data, labels), a Dataset, a DataLoader, a folder of images or an "
        f"iterable; got {type(data).__name__}."
    )


class TensorBatches(Batches):
    """Batches out of tensors in memory, by index: no loader, no Python for each example.

    Args:
        x: data `(n, *data)`, on any device, or mapped from disk.
        labels: (n, …), or None.
        batch_size: examples in a batch; the last one has what is left.
        shuffle: whether each epoch has another order.
        seed: what the orders are drawn from.
        in_memory: whether it costs little to look at all of it once.
        share: the number of this process, and how many there are.
    """

    def __init__(
        self,
        x: Tensor,
        labels: Tensor | None,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        in_memory: bool = True,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.share, self._whole = share, batch_size * share[1]  # examples of a batch over all processes
        self.x, self.labels, self.batch_size, self.shuffle, self.seed = x, labels, batch_size, shuffle, seed
        self.in_memory = in_memory

    @property
    def length(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.x) // self._whole)

    @property
    def identity(self) -> dict[str, Any]:
        """Kind and number of the examples."""
        return {"kind": "tensor", "examples": len(self.x), "batches": self.length}

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches in the epoch's own order."""
        if not self.shuffle:
            for first in range(start * self._whole, len(self.x), self._whole):
                own = part(min(self._whole, len(self.x) - first), self.share)
                index = slice(first + own.start, first + own.stop)
                yield self.x[index], None if self.labels is None else self.labels[index]
            return
        order = torch.randperm(len(self.x), generator=order_generator(self.seed, number)).to(self.x.device)
        for together in order[start * self._whole :].split(self._whole):
            if len(together):
                index = together[part(len(together), self.share)]
                # quicker than x[index], which takes index tensors in general
                yield self.x.index_select(0, index), None if self.labels is None else self.labels.index_select(0, index)


def part(n: int, share: tuple[int, int]) -> slice:
    """A process's part of n examples: as many as the others', or one more.

    Example:
        >>> part(5, (0, 2)), part(5, (1, 2))
        (slice(0, 3, None), slice(3, 5, None))
    """
    rank, count = share
    even, more = divmod(n, count)
    start = rank * even + min(rank, more)
    return slice(start, start + even + (rank < more))


def order_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator that an epoch's order is drawn from."""
    return torch.Generator().manual_seed(mix(seed, epoch))


def on_device(batch: Batch, device: torch.device, data_range: tuple[float, float] | None) -> Batch:
    """A batch where the model is; bytes are scaled to the data range there, so that less travels."""
    x, label = batch
    x = x.detach().to(device, non_blocking=True)  # nothing is learned of the data
    if x.dtype == torch.uint8:
        low, high = (0.0, 255.0) if data_range is None else data_range
        x = x.float().mul_((high - low) / 255).add_(low)
    return x, None if label is None else label.to(device, non_blocking=True)


def ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """One batch ahead: the next one travels to the device while the current one is computed with."""
    held: list[Any] = []
    for batch in batches:
        if held:
            yield held.pop()
        held.append(batch)
    yield from held


def _is_pair(data: Any) -> bool:
    """Whether these are data with labels, and not two numbers or two examples."""
    if not isinstance(data, (tuple, list)) or len(data) != 2 or _is_number(data[0]):
        return False
    return not isinstance(data[0], (Mapping, tuple)) and (data[1] is None or _tensor(data[1]) is not None)


def _tensor(value: Any) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    if hasattr(value, "__array__") and not hasattr(value, "convert"):  # an image of PIL's has both
        array = np.asanyarray(value)
        if isinstance(array, np.memmap) and all(stride >= 0 for stride in array.strides):
            with warnings.catch_warnings():  # nothing is written to it: batches are copies
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                return torch.from_numpy(array)
        # torch takes neither reversed views nor, without a warning, arrays that must not be written to
        shareable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
        return torch.as_tensor(array if shareable else array.copy())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) and _is_number(value[0]):
        return torch.as_tensor(value)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
