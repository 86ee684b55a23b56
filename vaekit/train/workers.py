"""The runs of a search, one after another, shared with other processes, and what is kept of each."""

import math
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from vaekit.saving import CheckpointError
from vaekit.train.checkpoint import point_to
from vaekit.train.lock import locked
from vaekit.train.rng import mix
from vaekit.train.space import sampler, shown
from vaekit.train.trials import Reports, Run, span

_DEAD = timedelta(seconds=60)  # a run that nobody has signed for so long was killed before it began


def next_run(
    optuna: Any,
    study: Any,
    run: Run,
    points: Sequence[Mapping[str, Any]] | None,
    runs: int,
    method: str,
    deadline: float,
    say: Callable[[str], Any],
) -> bool:
    """Do one run; False where there is none left."""
    state = optuna.trial.TrialState
    trial, held = _taken_up(optuna, study, run)
    if trial is None:
        if len(study.get_trials(deepcopy=False)) >= runs:
            return False
        trial = study.ask()
        if trial.number >= runs:  # another process was faster
            study.tell(trial, state=state.FAIL)
            return False
        held = locked(_made(run.folder(trial.number) / "worker"))
    with held:
        trial.set_user_attr("host", socket.gethostname())
        study.sampler = sampler(optuna, method, points, mix(run.seed, trial.number), trial.number)
        point = {key: axis.draw(trial) for key, axis in run.axes.items()}
        reports, folder = Reports(trial, study, run), run.folder(trial.number)
        began, failed, finished = time.perf_counter(), "", True
        try:
            kept = {"output_dir": folder / "run"} if run.resume_runs else {}
            left = None if math.isinf(deadline) else max(deadline - time.monotonic(), 0.0)
            trainer = run.trainer(point, callbacks=[reports], max_time=left, **kept)
            trainer.fit()
            finished = trainer.finished or reports.pruned
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            failed = str(error).split("\n")[0]
        if not finished:
            return False  # out of time: it stays "running", and is taken up
        trial.set_user_attr("seconds", round(time.perf_counter() - began, 3))
        if failed:
            trial.set_user_attr("error", failed)
            study.tell(trial, state=state.FAIL)
        elif reports.pruned:
            study.tell(trial, state=state.PRUNED)
        else:
            study.tell(trial, reports.best)
        _keep(study, run, trial.number)
    shutil.rmtree(folder / "worker", ignore_errors=True)
    best = best_of(study)
    told = f"failed ({failed})" if failed else "pruned" if reports.pruned else f"{run.objective} {reports.best:.5g}"
    say(
        f"run {trial.number + 1}/{runs}: {told}, {span(time.perf_counter() - began)}, {shown(point)}"
        + ("" if best is None else f"; best {best.value:.5g}, run {best.number + 1}")
    )
    return True


def _taken_up(optuna: Any, study: Any, run: Run) -> tuple[Any, Any]:
    """A run of this machine that is not done and that no process holds any more, with its lock; or nothing."""
    for frozen in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        host = frozen.user_attrs.get("host")
        if host is None and datetime.now() - frozen.datetime_start < _DEAD:
            continue  # its process is about to sign
        if host not in (None, socket.gethostname()):
            continue
        held = locked(_made(run.folder(frozen.number) / "worker"))
        try:
            held.__enter__()
        except CheckpointError:
            continue
        now = study.get_trials(deepcopy=False)[frozen.number]
        if now.state.is_finished():
            held.__exit__(None, None, None)
            continue
        return optuna.trial.Trial(study, frozen._trial_id), _Entered(held)
    return None, None


class _Entered:
    """A lock that is held already, for `with`."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: Any) -> None:
        self.held.__exit__(None, None, None)


def _keep(study: Any, run: Run, number: int) -> None:
    """Leave of a run that is over its history, and of the best its model, to which `best` points."""
    folder = run.folder(number)
    history = folder / "run" / "history.json"
    if history.is_file():
        shutil.move(history, folder / "history.json")
    shutil.rmtree(folder / "run", ignore_errors=True)
    with _waiting(run.root):
        best = best_of(study)
        chosen = None if best is None else run.folder(best.number)
        link = run.root / "best"
        before = link.resolve()
        if chosen is not None and (chosen / "model").is_dir():
            point_to(link, chosen / "model")
        for path in {folder / "model", before if before.parent.parent == folder.parent.resolve() else folder / "model"}:
            if path.resolve() != link.resolve():
                shutil.rmtree(path, ignore_errors=True)


def best_of(study: Any) -> Any:
    """Optuna's best run; None where none is done."""
    try:
        return study.best_trial
    except ValueError:  # none is done
        return None


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _waiting(folder: Path) -> Iterator[None]:
    """Hold a folder once nobody else does."""
    for _ in range(1200):
        held = locked(folder)
        try:
            held.__enter__()
            break
        except CheckpointError:
            time.sleep(0.05)
    else:
        raise CheckpointError(f"{folder}: another process has held it for a minute.")
    try:
        yield
    finally:
        held.__exit__(None, None, None)
