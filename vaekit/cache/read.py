"""Latents on disk, as a dataset; and the files that they are in."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from vaekit.saving import CheckpointError, write_atomically

INDEX, FORMAT = "index.json", 1


class CachedLatents(Dataset[Any]):
    """What `encode_dataset` wrote, as a dataset of z, or (z, label) where there are labels.

    Shards are mapped into memory and read where they are looked at; a loader's workers and its batches are served.

    Args:
        folder: where they are.
        draw: of "moments", whether each look draws z anew; otherwise z is the mean.

    Shapes: z (*latent_shape) float32; codes (*index_shape) int64.

    Raises:
        CheckpointError: where there are none, they are not finished, or a shard has another size than was written.
    """

    def __init__(self, folder: str | Path, *, draw: bool = True) -> None:
        self.folder, self.draw = Path(folder), draw
        self.index = read_index(self.folder)
        if not self.index["finished"]:
            done = sum(shard["examples"] for shard in self.index["shards"])
            raise CheckpointError(f"{folder}: is not finished: {done} examples are there. Run the same call again.")
        self.what: str = self.index["made"]["what"]
        for shard in self.index["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise CheckpointError(f"{path}: is missing, or has another size than was written. Encode again.")
        self._ends: list[int] = []
        for shard in self.index["shards"]:
            self._ends.append(shard["examples"] + (self._ends[-1] if self._ends else 0))
        self._open: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> Any:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several examples at once, as loaders ask for them."""
        size = len(self)
        wrong = [i for i in indices if not -size <= i < size]
        if wrong:
            raise IndexError(f"example {wrong[0]} of {size}")
        places = torch.as_tensor(indices, dtype=torch.long) % size
        z, label = self._gather(places)
        return list(z) if label is None else list(zip(z, label, strict=True))

    def verify(self) -> None:
        """Read every shard and compare it with its digest.

        Raises:
            CheckpointError: naming the first that was changed.
        """
        for shard in self.index["shards"]:
            if file_digest(self.folder / shard["file"]) != shard["sha256"]:
                raise CheckpointError(f"{self.folder / shard['file']}: is damaged (its digest differs). Encode again.")

    def _gather(self, places: Tensor) -> tuple[Tensor, Tensor | None]:
        ends = torch.tensor(self._ends)
        which = torch.searchsorted(ends, places, right=True)
        found: dict[str, Tensor] = {}
        for shard in which.unique().tolist():
            own = which == shard
            start = self._ends[shard - 1] if shard else 0
            for name, tensor in self._shard(shard).items():
                part = tensor[places[own] - start]
                if name not in found:
                    found[name] = part.new_empty(len(places), *part.shape[1:])
                found[name][own] = part
        label = found.get("label")
        if self.what == "codes":
            return found["codes"].long(), label
        if self.what == "moments":
            mean, std = found["mean"].float(), found["std"].float()
            return (mean + std * torch.randn_like(mean) if self.draw else mean), label
        return found["z"].float(), label

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._open:
            self._open[number] = _read(self.folder / self.index["shards"][number]["file"])
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps the files itself


def read_index(folder: Path) -> dict[str, Any]:
    """What the index says.

    Raises:
        CheckpointError: where it is missing, damaged, or of a later version.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = index["format"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: not found. Latents are written by `vaekit encode` or encode_dataset."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}). Encode again, with overwrite=True.") from error
    if version > FORMAT:
        raise CheckpointError(f"{path}: was written by a later vaekit (format {version}). Update vaekit.")
    return index


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write the index, whole or not at all."""
    text = json.dumps(index, indent=1)
    write_atomically(folder / INDEX, lambda beside: Path(beside).write_text(text, encoding="utf-8"))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged or no safetensors file ({error}). Encode again.") from error


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    total = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
