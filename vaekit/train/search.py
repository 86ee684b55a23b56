"""Many runs over a space of arguments, on Optuna: grid, random and TPE, kept in a data base, stopped and taken up."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vaekit.build import load
from vaekit.optional import require
from vaekit.saving import CheckpointError, write_atomically
from vaekit.spec import Spec
from vaekit.train.space import Axis, check_name, grid
from vaekit.train.trials import Run, span
from vaekit.train.workers import best_of, next_run
from vaekit.vae import VAE


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        params: the arguments of the best run; empty where none is done.
        value: its score.
        folder: its saved model, for `vaekit.load`; None where this machine does not have it.
        rows: one mapping a run: "run", "state", "value", "seconds", and the arguments.
        study: Optuna's, for its plots and tables.
    """

    params: Mapping[str, Any]
    value: float
    folder: Path | None
    rows: Sequence[Mapping[str, Any]]
    study: Any

    def load(self) -> VAE:
        """The best model.

        Raises:
            CheckpointError: where no run is done, or another machine has the model.
        """
        if self.folder is None:
            raise CheckpointError("search: there is no best model here: no run is done, or another machine has it.")
        return load(self.folder)


def search(
    space: Mapping[str, Any],
    model: str | Spec | Mapping[str, Any] | Callable[..., VAE],
    train: Any,
    val: Any = None,
    *,
    objective: str = "val/total",
    direction: Literal["minimize", "maximize"] = "minimize",
    method: Literal["grid", "random", "tpe"] = "grid",
    runs: int | None = None,
    prune: bool | None = None,
    output_dir: str | Path = "runs/search",
    storage: str | None = None,
    name: str = "search",
    seed: int = 0,
    max_time: float | None = None,
    resume_runs: bool = True,
    dry_run: bool = False,
    progress: bool = True,
    **fixed: Any,
) -> Found:
    """Train a model for points of a space, and keep the best.

    Before it starts, it measures a few steps and says how many runs there are and about how long they take. Called
    again with the same arguments, it goes on where it was, in the middle of a run too. Called in several processes at
    once, with one `output_dir` and one `storage`, they share the runs.

    Args:
        space: name → a list of values, or a range `{"low": 1e-4, "high": 1e-2, "log": True}`, of whole numbers where
            both ends are, in steps of `step` where that is given. Names are arguments of the Trainer, of
            `vaekit.build`, of the recipe, or of a part: "decoder.hidden".
        model: a recipe's name, the `Spec` of a model (or its saved form), or a function of the model's arguments.
        train: as the Trainer takes it.
        val: the same.
        objective: a number of the history that scores an epoch. A run's score, and its model, are those of its best.
        direction: whether a small or a large score is good.
        method: all points of a grid in a random order, points drawn evenly, or by the tree-structured Parzen estimator.
        runs: how many in all; None: the whole grid, or 50.
        prune: whether a run is ended whose score falls behind the median of others at the same epoch; None: yes
            unless all points of a grid are wanted.
        output_dir: where `search.db`, `trials.csv`, `best/` (a saved model) and each run's history go.
        storage: an address that Optuna knows, such as `postgresql://…`, for many machines; None: `search.db`.
        name: of the study in the storage.
        seed: of the points, and of weights, order and noise, which are the same in all runs.
        max_time: seconds after which the search saves and returns.
        resume_runs: whether runs write checkpoints to go on from. Runs of a few seconds are faster without.
        dry_run: only say what it would do.
        progress: whether it prints.
        fixed: arguments as in `space`, with one value.

    Raises:
        MissingPackage: where optuna is missing; the message names the extra.
        ValueError: where the space names what nothing takes, or can't be searched so.
        CheckpointError: where the storage holds another search of the name.

    References:
        Optuna: A Next-generation Hyperparameter Optimization Framework (Akiba et al., 2019),
        https://arxiv.org/abs/1907.10902

    Example:
        >>> import tempfile, torch, vaekit
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = search(
        ...         {"lr": [1e-3, 1e-2], "latent": [1, 2]}, "mlp", torch.rand(32, 4), torch.rand(8, 4),
        ...         epochs=1, hidden=(8,), device="cpu", output_dir=folder, progress=False,
        ...     )
        ...     vae = found.load()
        >>> len(found.rows), sorted(found.params)
        (4, ['latent', 'lr'])
    """
    optuna: Any = require("optuna", user="vaekit.search", extra="sweep")
    axes = {key: Axis(key, value) for key, value in space.items()}
    if not axes:
        raise ValueError("search: the space is empty.")
    if method not in ("grid", "random", "tpe"):
        raise ValueError(f"search: method should be 'grid', 'random' or 'tpe', got {method!r}.")
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"search: direction should be 'minimize' or 'maximize', got {direction!r}.")
    fixed = {"progress": False, **shape_of(model, train, {**fixed, **space}), **fixed}
    for key in {**axes, **fixed}:
        check_name(key, model)
    if both := sorted(set(axes) & set(fixed) - {"progress"}):
        raise ValueError(f"search: {both[0]!r} is in the space and beside it.")
    if val is None and objective.startswith("val/"):
        raise ValueError(f"search: the objective {objective!r} needs val; give it, or objective='train/total'.")
    if not {"epochs", "steps"} & {*axes, *fixed}:
        raise ValueError("search: give epochs or steps, in the space or beside it.")
    points = grid(axes, seed) if method == "grid" else None
    runs = runs if runs is not None else 50 if points is None else len(points)
    if runs < 1 or (points is not None and runs > len(points)):
        raise ValueError(f"search: runs should be 1 to {len(points) if points else 'any number'}, got {runs}.")

    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    one = Run(axes, model, train, val, fixed, seed, objective, direction, root, resume_runs)
    prunes = prune if prune is not None else runs != len(points or ())
    with _quiet(optuna):
        study = _shared(
            optuna.create_study,
            storage=storage or f"sqlite:///{root.resolve() / 'search.db'}",
            study_name=name,
            direction=direction,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner() if prunes else optuna.pruners.NopPruner(),
        )
        _compare(study, one.identity(method), name)
        say = print if progress else _silent
        done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        if done < runs:
            seconds = one.measure(points, runs)
            say(
                f"search: {runs} runs ({method} over {', '.join(axes)}), {done} done. One of them takes about "
                f"{span(seconds)} here, the rest about {span(seconds * (runs - done))} in one process. {root}"
            )
        deadline = math.inf if max_time is None else time.monotonic() + max_time
        while not dry_run and time.monotonic() < deadline:
            if not next_run(optuna, study, one, points, runs, method, deadline, say):
                break
        return _found(study, one)


def _shared(create: Callable[..., Any], **given: Any) -> Any:
    """The study. Of two processes that make the storage's tables at once, the later one fails and looks again."""
    database: Any = require("sqlalchemy.exc", user="vaekit.search", extra="sweep")
    for wait in (0.1, 0.5, 2.0):
        try:
            return create(**given)
        except database.DBAPIError:
            time.sleep(wait)
    return create(**given)


def shape_of(model: Any, train: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The data's shape, where it is at hand and not given."""
    if not isinstance(model, str) or "input_shape" in given:
        return {}
    x = train[0] if isinstance(train, tuple) and len(train) == 2 else train
    shape = getattr(x, "shape", None)
    return {} if shape is None or len(shape) < 2 else {"input_shape": tuple(map(int, shape[1:]))}


def _found(study: Any, run: Run) -> Found:
    best, rows = best_of(study), []
    for trial in study.get_trials(deepcopy=False):
        row = {"run": trial.number + 1, "state": trial.state.name.lower(), "value": trial.value}
        rows.append({**row, "seconds": trial.user_attrs.get("seconds"), **trial.params})
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list({key: None for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(run.root / "trials.csv", lambda path: Path(path).write_text(text.getvalue(), encoding="utf-8"))
    folder = run.root / "best"
    values = {} if best is None else {key: run.axes[key].value(value) for key, value in best.params.items()}
    return Found(
        values, math.nan if best is None else best.value, folder if best and folder.is_dir() else None, rows, study
    )


def _compare(study: Any, mine: Mapping[str, Any], name: str) -> None:
    """Refuse to go on with a search that was another one.

    Raises:
        CheckpointError: naming what differs.
    """
    theirs = study.user_attrs.get("vaekit")
    if theirs is None:
        study.set_user_attr("vaekit", mine)
        return
    for key in mine:
        if theirs.get(key) != mine[key]:
            raise CheckpointError(
                f"search {name!r}: the storage holds another one: {key} was {theirs.get(key)!r}, and is {mine[key]!r}. "
                "Choose another output_dir or name."
            )


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's own line for each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _silent(_: str) -> None:
    return None
