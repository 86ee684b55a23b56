"""The data a model is evaluated on, batch by batch, in the order in which they come."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vaekit.checking import positive
from vaekit.modes import seeded
from vaekit.vae import VAE, first_parameter


class Unavailable(ValueError):
    """A number that these data or this model do not have; the message says why."""


class Examples:
    """Data as batches `(x, label)` on the model's device; they can be gone through again and again.

    Bytes are scaled to the model's data range.

    Args:
        vae: the model that is evaluated.
        data: a tensor or array `(n, *input_shape)`; a pair of them, (data, labels); a dataset with a length, of x or
            (x, label); a loader, or a list, of batches of x or (x, label), in the same order each time.
        labels: (n, …), where they are not part of `data`.
        batch_size: examples in a batch; a loader, and a list of batches, have their own.

    Raises:
        TypeError: where the data are none of the above, such as an iterator that can be used once.
        ValueError: where they are empty, or labels differ in number.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> [len(x) for x, _ in Examples(vae, torch.rand(5, 1, 4, 4), batch_size=2)]
        [2, 2, 1]
    """

    def __init__(self, vae: VAE, data: Any, labels: Any = None, *, batch_size: int = 256) -> None:
        positive(batch_size=batch_size)
        if isinstance(data, (tuple, list)) and len(data) == 2 and _is_array(data[0]) and _is_array(data[1]):
            x, second = (torch.as_tensor(each) for each in data)
            if tuple(second.shape[1:]) != vae.input_shape:  # else two batches of data
                if labels is not None:
                    raise ValueError("labels: were given twice, in the pair (data, labels) and as labels.")
                data, labels = x, second
        if _is_array(data):
            data = torch.as_tensor(data)
            if data.ndim == 0 or len(data) == 0:
                raise ValueError("data: is empty.")
        elif (
            hasattr(data, "__getitem__")
            and hasattr(data, "__len__")
            and not isinstance(data, (list, tuple, dict, str, bytes))
        ):
            data = DataLoader(data, batch_size)
        if isinstance(data, (str, bytes, dict, Iterator)) or not hasattr(data, "__iter__"):
            raise TypeError(
                "data: expected a tensor, an array, (data, labels), a dataset, a loader or a list of batches, since "
                f"they are gone through more than once; got {type(data).__name__}."
            )
        self.vae, self.data, self.batch_size = vae, data, batch_size
        self.labels = None if labels is None else torch.as_tensor(labels)
        if isinstance(data, Tensor) and self.labels is not None and len(self.labels) != len(data):
            raise ValueError(f"labels: expected one for each of {len(data)} examples, got {len(self.labels)}.")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        weight, start = first_parameter(self.vae), 0
        for batch in self._parts():
            x, *rest = batch if isinstance(batch, (tuple, list)) else (batch,)
            label = rest[0] if rest else None
            if self.labels is not None:
                label = self.labels[start : start + len(x)]
                if len(label) < len(x):
                    raise ValueError(f"labels: there are {len(self.labels)}, and more examples than that.")
            if len(x) == 0:
                continue
            start += len(x)
            x = torch.as_tensor(x).to(None if weight is None else weight.device)
            if x.dtype == torch.uint8:
                low, high = (0.0, 255.0) if self.vae.data_range is None else self.vae.data_range
                x = x.float().mul_((high - low) / 255).add_(low)
            yield x, None if label is None else torch.as_tensor(label).to(x.device)
        if start == 0:
            raise ValueError("data: is empty.")
        if self.labels is not None and start != len(self.labels):
            raise ValueError(f"labels: expected one for each of {start} examples, got {len(self.labels)}.")

    def _parts(self) -> Iterator[Any]:
        if isinstance(self.data, Tensor):
            yield from self.data.split(self.batch_size)
        else:
            yield from self.data

    def conditioned(self) -> Iterator[tuple[Tensor, Any]]:
        """(x, cond): labels only where the model has a condition to give them to.

        Raises:
            ValueError: where the model has a condition and the data have no labels.
        """
        for x, label in self:
            if self.vae.condition is not None and label is None:
                raise ValueError("labels: the model has a condition. Give labels, or data as (data, labels).")
            yield x, label if self.vae.condition is not None else None

    def all_labels(self) -> Tensor | None:
        """Every example's label, (n, …) on the CPU, or None."""
        if self.labels is not None:
            return self.labels.cpu()
        found = [label.cpu() for _, label in self if label is not None]
        return torch.cat(found) if found else None


def reconstructed(vae: VAE, x: Tensor, cond: Any) -> Tensor:
    """The mean of p(x|z) at the mode of q(z|x), the same each time also where a sampler has no mode but draws."""
    with seeded(0, vae.device):
        return vae.reconstruct(x, cond)


def _is_array(data: Any) -> bool:
    return isinstance(data, (Tensor, np.ndarray))
