"""What may be hooked into a run: callbacks, which trackers are too."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vaekit.train.data import Batches, on_device
from vaekit.train.rng import own_noise


class Callback:
    """Called by the Trainer as a run goes on; every method may be left out.

    `trainer.vae`, `trainer.history`, `trainer.step` and `trainer.device` may be read, and `trainer.stop()` ends the run
    after the step that it is at. Inside `epoch` and `logged` random numbers are the run's own: draw from a generator.

    Example:
        >>> import torch, vaekit
        >>> class Printer(vaekit.train.Callback):
        ...     def epoch(self, trainer, row):
        ...         print(row["epoch"], row["step"])
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(8,))
        >>> history = vaekit.Trainer(vae, torch.rand(8, 4), epochs=2, device="cpu", callbacks=[Printer()]).fit()
        1 1
        2 2
    """

    def begin(self, trainer: Any) -> None:
        """The run begins, or goes on."""

    def logged(self, trainer: Any, values: Mapping[str, float]) -> None:
        """Numbers were read, after `trainer.step` steps: means of the epoch so far."""

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """An epoch is over and validated; numbers put into `row` go to the history."""

    def saved(self, trainer: Any, path: Path) -> None:
        """A checkpoint was written."""

    def end(self, trainer: Any) -> None:
        """The run ends, whether it is done, was stopped or failed."""

    def state_dict(self) -> dict[str, Any]:
        """What has to be in a checkpoint for the callback to go on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""


class EarlyStop(Callback):
    """Ends a run that no longer gets better.

    Args:
        patience: epochs without a better value.
        metric: a number of the history.
        direction: whether a small or a large one is good.
        least: how much better it has to be.

    Raises:
        ValueError: in the first epoch, where the history has no such number.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(8,))
        >>> stop = EarlyStop(patience=2, least=1e9)
        >>> x = torch.rand(8, 4)
        >>> len(vaekit.Trainer(vae, x, x, epochs=9, device="cpu", callbacks=[stop]).fit())
        3
    """

    def __init__(
        self,
        patience: int = 10,
        *,
        metric: str = "val/total",
        direction: Literal["minimize", "maximize"] = "minimize",
        least: float = 0.0,
    ) -> None:
        if patience < 1:
            raise ValueError(f"EarlyStop: patience should be at least 1, got {patience}.")
        if direction not in ("minimize", "maximize"):
            raise ValueError(f"EarlyStop: direction should be 'minimize' or 'maximize', got {direction!r}.")
        self.patience, self.metric, self.least = patience, metric, least
        self.sign = 1.0 if direction == "minimize" else -1.0
        self.best, self.waited = math.inf, 0

    def begin(self, trainer: Any) -> None:
        """A run that was ended so stays ended when it is made again."""
        if self.waited >= self.patience:
            trainer.stop()

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """Compare."""
        if self.metric not in row:
            raise ValueError(f"EarlyStop: no epoch has {self.metric!r}. Known: {', '.join(sorted(row))}.")
        value = self.sign * row[self.metric]
        better = value < self.best - self.least
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        if self.waited >= self.patience:
            trainer.stop()

    def state_dict(self) -> dict[str, Any]:
        """The best value, and how long ago it was."""
        return {"best": None if math.isinf(self.best) else self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.best, self.waited = math.inf if state["best"] is None else state["best"], state["waited"]


class Metrics(Callback):
    """Numbers of one's own after each epoch, from validation data and their reconstructions: `val/<name>`.

    Args:
        metrics: name → a function (reconstruction, x) → number, whose mean over examples is kept, or a metric of
            torchmetrics, which is reset, updated with the same two, and computed.
        every: epochs between two looks.

    Raises:
        ValueError: when the run begins, where it has no validation data.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(8,))
        >>> mse = Metrics({"mse": torch.nn.functional.mse_loss})
        >>> x = torch.rand(8, 4)
        >>> len(vaekit.Trainer(vae, x, x, epochs=2, device="cpu", callbacks=[mse]).fit()["val/mse"])
        2
    """

    def __init__(self, metrics: Mapping[str, Callable[..., Any]], *, every: int = 1) -> None:
        self.metrics, self.every = dict(metrics), every

    def begin(self, trainer: Any) -> None:
        """Look whether there are data."""
        if trainer.val is None:
            raise ValueError("Metrics: the Trainer has no val to compute them on.")

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """Compute."""
        if int(row["epoch"]) % self.every:
            return
        kept = {name: m for name, m in self.metrics.items() if hasattr(m, "update") and hasattr(m, "compute")}
        for metric in kept.values():
            metric.reset()  # type: ignore[attr-defined]
            if hasattr(metric, "to"):
                metric.to(trainer.device)  # type: ignore[attr-defined]
        sums, count = dict.fromkeys(set(self.metrics) - set(kept), 0.0), 0
        with own_noise(2, trainer.device), torch.no_grad():
            for x, cond in moved(trainer.val, trainer):
                again = trainer.model.reconstruct(x, cond)
                count += len(x)
                for name in sums:
                    sums[name] += float(self.metrics[name](again, x)) * len(x)
                for metric in kept.values():
                    metric.update(again, x)  # type: ignore[attr-defined]
        row |= {f"val/{name}": value / count for name, value in sums.items()}
        row |= {f"val/{name}": float(metric.compute()) for name, metric in kept.items()}  # type: ignore[attr-defined]


def moved(data: Batches, trainer: Any) -> Iterator[tuple[Tensor, Any]]:
    """Batches of data where the model is, with what its condition takes."""
    for batch in data.epoch(0):
        x, label = on_device(batch, trainer.device, trainer.vae.data_range)
        yield x, label if trainer.vae.condition is not None else None


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not ready or torch.distributed.get_rank() == 0
