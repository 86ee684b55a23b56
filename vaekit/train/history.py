"""What a run said of itself, epoch by epoch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vaekit.records import Report
from vaekit.saving import write_atomically


@dataclass
class History:
    """Rows of numbers, one an epoch: "epoch", "step", "seconds", "train/total", "train/nll", …, "val/total", ….

    Example:
        >>> history = History()
        >>> history.add({"epoch": 1, "train/total": 2.5})
        >>> history["train/total"]
        [2.5]
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def add(self, row: Mapping[str, float]) -> None:
        """Append an epoch's numbers."""
        self.rows.append(dict(row))

    def __getitem__(self, name: str) -> list[float]:
        """One number over the epochs that have it.

        Raises:
            KeyError: where no epoch has it; the message lists those there are.
        """
        found = [row[name] for row in self.rows if name in row]
        if not found:
            known = sorted({key for row in self.rows for key in row})
            raise KeyError(f"no epoch has {name!r}. Known: {', '.join(known)}.")
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def save(self, path: str | Path) -> None:
        """Write the rows as JSON, whole or not at all."""
        text = json.dumps(self.rows, indent=1)
        write_atomically(Path(path), lambda beside: Path(beside).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """The rows that `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))


class Meter:
    """Means over batches, weighted by their sizes, kept on the device until somebody reads."""

    def __init__(self) -> None:
        self._waiting: list[tuple[dict[str, Tensor], int]] = []
        self._sums: dict[str, float] = {}
        self._size = 0

    def add(self, report: Report, size: int) -> None:
        """Remember a batch: no arithmetic, and nothing that waits for the device."""
        self._waiting.append(({"total": report.total.detach(), **report.terms}, size))

    def read(self) -> dict[str, float]:
        """The means so far; waits for the device once."""
        if self._waiting:
            names = list(self._waiting[0][0])
            table = torch.stack([torch.stack([row[name] for name in names]) for row, _ in self._waiting])
            sizes = torch.tensor([size for _, size in self._waiting], dtype=torch.float64)
            sums = (table.cpu().double() * sizes[:, None]).sum(0).tolist()
            for name, value in zip(names, sums, strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._size += int(sizes.sum())
            self._waiting.clear()
        return {name: value / self._size for name, value in self._sums.items()}
