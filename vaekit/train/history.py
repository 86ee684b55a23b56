"""What a run said of itself, epoch by epoch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

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
    """Means over batches, weighted by their sizes, kept on the device until somebody reads.

    The sums are folded batch by batch, so that they do not depend on when one reads, to the last bit.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Mapping[str, Tensor], int]] = []
        self._sums: dict[str, float] = {}
        self._sizes: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], size: int) -> None:
        """Remember a batch: no arithmetic, and nothing that waits for the device."""
        self._waiting.append((values, size))

    def read(self, *, finite: bool = True) -> dict[str, float]:
        """The means so far, without batches that are not finite unless those count too; waits for the device once."""
        if self._waiting:
            held = [value for values, _ in self._waiting for value in values.values()]
            if len({value.dtype for value in held}) > 1:
                held = [value.double() for value in held]
            numbers = iter(torch.stack(held).tolist())
            for values, size in self._waiting:
                row = {name: next(numbers) for name in values}
                if finite and not all(map(math.isfinite, row.values())):
                    continue
                for name, value in row.items():
                    self._sums[name] = self._sums.get(name, 0.0) + value * size
                    self._sizes[name] = self._sizes.get(name, 0) + size
            self._waiting.clear()
        return {name: value / self._sizes[name] for name, value in self._sums.items()}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Sums and sizes."""
        self.read()
        return {"sums": dict(self._sums), "sizes": dict(self._sizes)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from `state`."""
        self._sums, self._sizes = dict(state["sums"]), {name: int(n) for name, n in state["sizes"].items()}
