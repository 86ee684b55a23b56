"""Where a run's numbers go beside its history: TensorBoard, Weights & Biases, MLflow, or a table."""

import csv
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vaekit.optional import require
from vaekit.train.callbacks import Callback, is_main_process


class Tracker(Callback):
    """Sends numbers somewhere, from the main process alone. One that fails warns, and is silent from then on.

    Args:
        folder: where its files go; None: the run's `output_dir`, or the working folder where there is none.
    """

    name = "tracker"

    def __init__(self, *, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._silent = False

    @abstractmethod
    def open(self, trainer: Any, folder: Path) -> None:
        """Begin, or go on after `trainer.step` steps."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""

    @abstractmethod
    def close(self) -> None:
        """Send what is left."""

    def begin(self, trainer: Any) -> None:
        """Open."""
        if not is_main_process():
            self._silent = True
        folder = self.folder or trainer.folder or Path(".")
        self._try(lambda: (folder.mkdir(parents=True, exist_ok=True), self.open(trainer, folder)))

    def logged(self, trainer: Any, values: Mapping[str, float]) -> None:
        """Means of the epoch so far."""
        named = {name if "/" in name else f"train/{name}": value for name, value in values.items()}
        self._try(lambda: self.log(named, trainer.step))

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """The epoch's row."""
        self._try(lambda: self.log({name: value for name, value in row.items() if name != "step"}, trainer.step))

    def end(self, trainer: Any) -> None:
        """Close."""
        self._try(self.close)

    def _try(self, act: Callable[[], Any]) -> None:
        if self._silent:
            return
        try:
            act()
        except Exception as error:  # a library's, or its server's: a run is worth more than what is told of it
            self._silent = True
            warnings.warn(f"tracker {self.name!r}: failed, and training goes on without it: {error}", stacklevel=2)


class Csv(Tracker):
    """`metrics.csv`: step, name, value. A run that goes on cuts off what it is to do again.

    Args:
        folder: see `Tracker`.
    """

    name = "csv"
    _size: int | None = None

    def open(self, trainer: Any, folder: Path) -> None:
        """Open, at the place where the run is."""
        path = folder / "metrics.csv"
        if self._size is not None and path.is_file():
            os.truncate(path, min(self._size, path.stat().st_size))
        self._file: Any = open(path, "w" if self._size is None else "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        if self._file.tell() == 0:
            self._writer.writerow(["step", "name", "value"])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Append rows."""
        self._writer.writerows([step, name, repr(float(value))] for name, value in values.items())
        self._file.flush()
        self._size = self._file.tell()

    def close(self) -> None:
        """Close."""
        self._file.close()

    def state_dict(self) -> dict[str, Any]:
        """How long the file is."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._size = state["size"]


class TensorBoard(Tracker):
    """Event files for `tensorboard --logdir <output_dir>`, which makes a section of what has the same beginning.

    Numbers of the run as a whole, such as `seconds`, are in the section `run`.

    Args:
        folder: see `Tracker`; the files go to `tensorboard` in it.
    """

    name = "tensorboard"

    def open(self, trainer: Any, folder: Path) -> None:
        """Open; numbers of steps that are to be done again are dropped."""
        writer: Any = require("torch.utils.tensorboard", user="the tracker 'tensorboard'", extra="train").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=trainer.step + 1 if trainer.step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name if "/" in name else f"run/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Wandb(Tracker):
    """Weights & Biases; `mode="offline"`, or WANDB_MODE=offline, writes to the disk alone.

    Args:
        project: the project's name.
        mode: "online", "offline" or "disabled"; None: as the library is set up.
        folder: see `Tracker`.
    """

    name = "wandb"
    _id: str | None = None

    def __init__(self, *, project: str = "vaekit", mode: str | None = None, folder: str | Path | None = None) -> None:
        super().__init__(folder=folder)
        self.project, self.mode = project, mode

    def open(self, trainer: Any, folder: Path) -> None:
        """Begin a run, or go on with it."""
        wandb: Any = require("wandb", user="the tracker 'wandb'", extra="wandb")
        again = {} if self._id is None else {"id": self._id, "resume": "allow"}
        self._run = wandb.init(project=self.project, mode=self.mode, dir=str(folder), **again)
        self._id = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()

    def state_dict(self) -> dict[str, Any]:
        """Which run it is."""
        return {"id": self._id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._id = state["id"]


class MLflow(Tracker):
    """MLflow; where it writes is for MLFLOW_TRACKING_URI to say, or `uri`.

    Args:
        experiment: the experiment's name.
        uri: the server's address, or a data base's.
        folder: see `Tracker`.
    """

    name = "mlflow"
    _id: str | None = None

    def __init__(self, *, experiment: str = "vaekit", uri: str | None = None, folder: str | Path | None = None) -> None:
        super().__init__(folder=folder)
        self.experiment, self.uri = experiment, uri

    def open(self, trainer: Any, folder: Path) -> None:
        """Begin a run, or go on with it."""
        self._mlflow: Any = require("mlflow", user="the tracker 'mlflow'", extra="mlflow")
        if self.uri is not None:
            self._mlflow.set_tracking_uri(self.uri)
        self._mlflow.set_experiment(self.experiment)
        self._id = self._mlflow.start_run(run_id=self._id).info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._mlflow.log_metrics({name: float(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()

    def state_dict(self) -> dict[str, Any]:
        """Which run it is."""
        return {"id": self._id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._id = state["id"]


TRACKERS: dict[str, type[Tracker]] = {each.name: each for each in (Csv, TensorBoard, Wandb, MLflow)}


def tracker(given: str | Callback, **options: Any) -> Callback:
    """A tracker by name, with its options; a callback as it is.

    Raises:
        ValueError: where there is none of the name.

    Example:
        >>> tracker("csv").name
        'csv'
    """
    if not isinstance(given, str):
        return given
    if given not in TRACKERS:
        near = get_close_matches(given, TRACKERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"trackers: there is none named {given!r}.{hint} Known: {', '.join(TRACKERS)}.")
    return TRACKERS[given](**options)
