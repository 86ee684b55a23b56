"""What a run said of itself, epoch by epoch, as lines."""

import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vaekit.plot.figures import Figure, finished, new_figure
from vaekit.train.history import History

_CLOCKS = ("epoch", "step", "seconds")


def curves(
    history: Any, names: Sequence[str] | None = None, *, over: str = "epoch", path: str | Path | None = None
) -> Figure:
    """A panel for each metric, with a line for the training data, one for validation, and any other there is.

    Args:
        history: a Trainer's `History`, its rows, a run's folder, or its `history.json`.
        names: metrics to draw, such as "total" or "kl", shell-style; None: all but speeds.
        over: what is across: "epoch", "step" or "seconds".
        path: a file to write, its format by its ending; None writes none.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where no metric is there to draw; the message lists those there are.
        MissingPackage: where matplotlib is missing.

    Example:
        >>> rows = [{"epoch": e, "train/total": 9 / e, "val/total": 10 / e, "lr/vae": 1e-3} for e in (1, 2, 3)]
        >>> [axes.get_title(loc="left") for axes in curves(rows).axes]
        ['total', 'lr']
    """
    rows = _rows(history)
    if over not in _CLOCKS:
        raise ValueError(f"over: expected one of {', '.join(_CLOCKS)}, got {over!r}.")
    panels: dict[str, dict[str, str]] = {}  # metric → what the line is called → the row's key
    for key in dict.fromkeys(key for row in rows for key in row):
        metric, line = _metric(key)
        if key not in _CLOCKS and (metric != "examples_per_second" if names is None else _wanted(metric, names)):
            panels.setdefault(metric, {})[line] = key
    if not panels:
        known = sorted({_metric(key)[0] for row in rows for key in row} - set(_CLOCKS))
        raise ValueError(f"plot.curves: nothing to draw. There are: {', '.join(known) or 'no epochs'}.")
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    figure = new_figure(4.0 * wide, 2.6 * high)
    places = figure.subplots(high, wide, squeeze=False)
    for axes, (metric, lines) in zip(places.flat, panels.items(), strict=False):
        for line, key in lines.items():
            found = [(row.get(over, i + 1), row[key]) for i, row in enumerate(rows) if key in row]
            axes.plot(*zip(*found, strict=True), label=line, marker="." if len(found) < 30 else "")
        axes.set_title(metric, loc="left", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.set_xlabel(over)
        values = [row[key] for key in lines.values() for row in rows if key in row]
        if metric == "lr" and all(value > 0 and math.isfinite(value) for value in values):
            axes.set_yscale("log")
        if set(lines) != {""}:
            axes.legend(frameon=False, fontsize="small")
    for axes in places.flat[len(panels) :]:
        axes.remove()
    return finished(figure, path)


def _rows(history: Any) -> list[Mapping[str, float]]:
    if isinstance(history, History):
        return list(history.rows)
    if isinstance(history, (str, Path)):
        file = Path(history) / "history.json" if Path(history).is_dir() else Path(history)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not found. plot.curves takes a run's folder, or its history.json.")
        history = json.loads(file.read_text(encoding="utf-8"))
    return list(history)


def _metric(key: str) -> tuple[str, str]:
    """("total", "train") of "train/total"; ("lr", "vae") of "lr/vae"; ("active_units", "") of "active_units"."""
    first, slash, rest = key.partition("/")
    if not slash:
        return key, ""
    return (rest, first) if first in ("train", "val") else (first, rest)


def _wanted(metric: str, names: Sequence[str]) -> bool:
    return any(fnmatch(metric, name) for name in names)
