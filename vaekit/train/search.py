"""Many runs over a space of arguments, on Optuna: grid, random and TPE, kept in a data base, stopped and taken up."""

import csv
import inspect
import io
import itertools
import json
import math
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch

from vaekit.build import build, load
from vaekit.kinds import recipe
from vaekit.optional import require
from vaekit.registry import parameters
from vaekit.saving import CheckpointError, write_atomically
from vaekit.spec import Spec
from vaekit.train.callbacks import Callback
from vaekit.train.checkpoint import _point
from vaekit.train.lock import locked
from vaekit.train.rng import mix, own_noise
from vaekit.train.trainer import Trainer
from vaekit.vae import VAE

OWN = ("vae", "train", "val", "seed", "output_dir", "resume", "overwrite", "max_time", "callbacks", "trackers")
_DEAD = timedelta(seconds=60)  # a run that nobody has signed for so long was killed before it began


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
    axes = {key: _Axis(key, value) for key, value in space.items()}
    if not axes:
        raise ValueError("search: the space is empty.")
    if method not in ("grid", "random", "tpe"):
        raise ValueError(f"search: method should be 'grid', 'random' or 'tpe', got {method!r}.")
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"search: direction should be 'minimize' or 'maximize', got {direction!r}.")
    fixed = {"progress": False, **_shape_of(model, train, {**fixed, **space}), **fixed}
    for key in {**axes, **fixed}:
        _check_name(key, model)
    if both := sorted(set(axes) & set(fixed) - {"progress"}):
        raise ValueError(f"search: {both[0]!r} is in the space and beside it.")
    if val is None and objective.startswith("val/"):
        raise ValueError(f"search: the objective {objective!r} needs val; give it, or objective='train/total'.")
    if not {"epochs", "steps"} & {*axes, *fixed}:
        raise ValueError("search: give epochs or steps, in the space or beside it.")
    points = _grid(axes, seed) if method == "grid" else None
    runs = runs if runs is not None else 50 if points is None else len(points)
    if runs < 1 or (points is not None and runs > len(points)):
        raise ValueError(f"search: runs should be 1 to {len(points) if points else 'any number'}, got {runs}.")

    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    one = _Run(axes, model, train, val, fixed, seed, objective, direction, root, resume_runs)
    prunes = prune if prune is not None else runs != len(points or ())
    with _quiet(optuna):
        study = optuna.create_study(
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
                f"{_span(seconds)} here, the rest about {_span(seconds * (runs - done))} in one process. {root}"
            )
        deadline = math.inf if max_time is None else time.monotonic() + max_time
        while not dry_run and time.monotonic() < deadline:
            if not _next(optuna, study, one, points, runs, method, deadline, say):
                break
        return _found(study, one)


class _Axis:
    """One argument: its values, or its range."""

    def __init__(self, name: str, given: Any) -> None:
        self.name, self.values, self.range = name, None, None
        if isinstance(given, list):
            if not given:
                raise ValueError(f"search: {name!r} has no values.")
            # Optuna keeps numbers and words: the rest goes by its text
            self.values = {each if _is_plain(each) else json.dumps(each, default=repr): each for each in given}
        elif isinstance(given, Mapping) and {"low", "high"} <= set(given) <= {"low", "high", "log", "step"}:
            self.range = dict(given)
            if not given["low"] < given["high"]:
                raise ValueError(f"search: {name!r} should have low < high, got {dict(given)}.")
            if given.get("log") and given["low"] <= 0:
                raise ValueError(f"search: {name!r} is on a logarithmic scale, so low should be positive.")
        else:
            raise ValueError(
                f"search: {name!r} should be a list of values, or {{'low': …, 'high': …}} with 'log' and 'step' where "
                f"wanted, got {given!r}."
            )

    @property
    def whole(self) -> bool:
        return self.range is not None and all(isinstance(self.range[end], int) for end in ("low", "high"))

    def choices(self) -> list[Any]:
        """All values, as Optuna keeps them.

        Raises:
            ValueError: where a range has no steps.
        """
        if self.values is not None:
            return list(self.values)
        given: Any = self.range
        step = given.get("step")
        if step is None or given.get("log"):
            raise ValueError(f"search: a grid needs a list of values, or a 'step', for {self.name!r}.")
        count = math.floor((given["high"] - given["low"]) / step + 1e-9) + 1
        return [given["low"] + i * step for i in range(count)]

    def middle(self) -> Any:
        """A usual value."""
        if self.values is not None:
            held = list(self.values.values())
            return held[len(held) // 2]
        given: Any = self.range
        low, high = given["low"], given["high"]
        middle = math.sqrt(low * high) if given.get("log") else (low + high) / 2
        return round(middle) if self.whole else middle

    def mean(self) -> float:
        """Of a number's values."""
        if self.values is not None:
            return sum(self.values.values()) / len(self.values)
        given: Any = self.range
        return (given["low"] + given["high"]) / 2

    def draw(self, trial: Any) -> Any:
        """The trial's value, drawn if it has none."""
        if self.values is not None:
            return self.values[trial.suggest_categorical(self.name, list(self.values))]
        given: Any = self.range
        options = {key: given[key] for key in ("log", "step") if key in given}
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(self.name, given["low"], given["high"], **options)


class _Run:
    """What all runs of a search have in common."""

    def __init__(
        self,
        axes: Mapping[str, _Axis],
        model: Any,
        train: Any,
        val: Any,
        fixed: Mapping[str, Any],
        seed: int,
        objective: str,
        direction: str,
        root: Path,
        resume_runs: bool,
    ) -> None:
        self.axes, self.model, self.train, self.val, self.fixed, self.seed = axes, model, train, val, fixed, seed
        self.objective, self.sign, self.root = objective, 1.0 if direction == "minimize" else -1.0, root
        self.resume_runs = resume_runs

    def identity(self, method: str) -> dict[str, Any]:
        """What has to be the same for a search to go on."""
        axes = {key: axis.range or list(axis.values or ()) for key, axis in self.axes.items()}
        fixed = {key: repr(value) for key, value in sorted(self.fixed.items()) if key not in ("device", "progress")}
        model = self.model if isinstance(self.model, str) else getattr(self.model, "__qualname__", repr(self.model))
        found = {"method": method, "model": model, "objective": self.objective, "seed": self.seed}
        return json.loads(json.dumps({**found, "space": axes, "fixed": fixed}))

    def folder(self, number: int) -> Path:
        return self.root / "trials" / f"{number:05d}"

    def trainer(self, point: Mapping[str, Any], **changed: Any) -> Trainer:
        """The run of one point."""
        given = {**self.fixed, **point}
        taken = {key: given.pop(key) for key in list(given) if key in parameters(Trainer)}
        with own_noise(self.seed, torch.device("cpu")):
            vae = self._build(given)
        return Trainer(vae, self.train, self.val, seed=self.seed, **{**taken, **changed})

    def _build(self, given: Mapping[str, Any]) -> VAE:
        nested: dict[str, Any] = {key: value for key, value in given.items() if "." not in key}
        for key, value in given.items():
            part, _, argument = key.partition(".")
            if argument:
                nested[part] = {**nested.get(part, {}), argument: value}
        return build(self.model, **nested) if _is_named(self.model) else self.model(**nested)

    def measure(self, points: Sequence[Mapping[str, Any]] | None, runs: int) -> float:
        """Seconds of a usual run: some steps of it with each batch size, times its steps, and one validation."""
        # a learning rate changes no time, and may be one that ends a run at once
        usual = {key: axis.middle() for key, axis in self.axes.items() if key not in ("lr", "critic_lr")}
        axis = self.axes.get("batch_size")
        sizes = list(axis.values.values()) if axis is not None and axis.values else [usual.get("batch_size")]
        spent, lasted, count = [], 0.0, 1
        for size in sizes[:5]:
            point = usual | ({} if size is None else {"batch_size": size})
            for steps in (3, 20):  # the first few warm up
                trainer = self.trainer(point, steps=steps, epochs=None, output_dir=None)
                began = time.perf_counter()
                trainer.fit()
                lasted = (time.perf_counter() - began) / steps
            count = trainer.train.length or 1
            if self.val is not None:
                began = time.perf_counter()
                trainer.evaluate()
                lasted += (time.perf_counter() - began) / count
            spent.append(lasted * count)  # of an epoch
        an_epoch = sum(spent) / len(spent)
        given = {**self.fixed, **usual}
        if given.get("epochs") is None and given.get("steps") is not None:
            return an_epoch * given["steps"] / count
        return an_epoch * (self.axes["epochs"].mean() if "epochs" in self.axes else given["epochs"])


class _Reports(Callback):
    """Tells Optuna of each epoch, keeps the model of the best, and ends a run that falls behind."""

    def __init__(self, trial: Any, study: Any, run: _Run) -> None:
        self.trial, self.run, self.pruned = trial, run, False
        stored = study.get_trials(deepcopy=False)[trial.number]
        self.told = dict(stored.intermediate_values)

    @property
    def best(self) -> float:
        return self.run.sign * min((self.run.sign * value for value in self.told.values()), default=math.inf)

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        number, objective = int(row["epoch"]), self.run.objective
        if objective not in row:
            near = get_close_matches(objective, row, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"search: no epoch has {objective!r}.{hint} Known: {', '.join(sorted(row))}.")
        best, value = self.best, row[objective]
        if self.run.sign * value < self.run.sign * best or not self.told:
            trainer.model.save_pretrained(self.run.folder(self.trial.number) / "model")
        if number not in self.told:  # a run that goes on may do an epoch again
            self.told[number] = value
            self.trial.report(value, number)
        if self.trial.should_prune():
            self.pruned = True
            trainer.stop()


def _next(
    optuna: Any,
    study: Any,
    run: _Run,
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
        study.sampler = _sampler(optuna, method, points, mix(run.seed, trial.number), trial.number)
        point = {key: axis.draw(trial) for key, axis in run.axes.items()}
        reports, folder = _Reports(trial, study, run), run.folder(trial.number)
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
    best = _best(study)
    told = f"failed ({failed})" if failed else "pruned" if reports.pruned else f"{run.objective} {reports.best:.5g}"
    say(
        f"run {trial.number + 1}/{runs}: {told}, {_span(time.perf_counter() - began)}, {_shown(point)}"
        + ("" if best is None else f"; best {best.value:.5g}, run {best.number + 1}")
    )
    return True


def _taken_up(optuna: Any, study: Any, run: _Run) -> tuple[Any, Any]:
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


def _keep(study: Any, run: _Run, number: int) -> None:
    """Leave of a run that is over its history, and of the best its model, to which `best` points."""
    folder = run.folder(number)
    history = folder / "run" / "history.json"
    if history.is_file():
        shutil.move(history, folder / "history.json")
    shutil.rmtree(folder / "run", ignore_errors=True)
    with _waiting(run.root):
        best = _best(study)
        chosen = None if best is None else run.folder(best.number)
        link = run.root / "best"
        before = link.resolve()
        if chosen is not None and (chosen / "model").is_dir():
            _point(link, chosen / "model")
        for path in {folder / "model", before if before.parent.parent == folder.parent.resolve() else folder / "model"}:
            if path.resolve() != link.resolve():
                shutil.rmtree(path, ignore_errors=True)


def _best(study: Any) -> Any:
    try:
        return study.best_trial
    except ValueError:  # none is done
        return None


def _found(study: Any, run: _Run) -> Found:
    best, rows = _best(study), []
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
    values = {} if best is None else {key: _revived(run.axes[key], value) for key, value in best.params.items()}
    return Found(
        values, math.nan if best is None else best.value, folder if best and folder.is_dir() else None, rows, study
    )


def _revived(axis: _Axis, value: Any) -> Any:
    return value if axis.values is None else axis.values[value]


def _sampler(optuna: Any, method: str, points: Sequence[Mapping[str, Any]] | None, seed: int, number: int) -> Any:
    """Draws one run's point: a function of seed and number, and for TPE of what is done."""
    seed %= 2**32
    if points is None:
        return {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[method](seed=seed)
    point = points[number]

    class Given(optuna.samplers.BaseSampler):
        """The grid's own: Optuna's may give two processes the same point."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return point[param_name]

    return Given()


def _grid(axes: Mapping[str, _Axis], seed: int) -> list[dict[str, Any]]:
    """All points, in an order that shows the whole space early."""
    points = [dict(zip(axes, each, strict=True)) for each in itertools.product(*(a.choices() for a in axes.values()))]
    random.Random(seed).shuffle(points)
    return points


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


def _check_name(key: str, model: Any) -> None:
    """Whether anything takes an argument.

    Raises:
        ValueError: giving a near name.
    """
    trains = [name for name in parameters(Trainer) if name not in OWN]
    builds = [p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    part, dot, _ = key.partition(".")
    known = [*trains, *builds]
    if isinstance(model, str):
        known += list(parameters(recipe[model]))
    elif not _is_named(model):
        takes = parameters(model)
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            return
        known = [*trains, *takes]
    if key in OWN or (part if dot else key) not in known:
        near = get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"search: neither the Trainer nor the model takes {key!r}.{hint}")


def _is_named(model: Any) -> bool:
    return isinstance(model, (str, Spec, Mapping))


def _shape_of(model: Any, train: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The data's shape, where it is at hand and not given."""
    if not isinstance(model, str) or "input_shape" in given:
        return {}
    x = train[0] if isinstance(train, tuple) and len(train) == 2 else train
    shape = getattr(x, "shape", None)
    return {} if shape is None or len(shape) < 2 else {"input_shape": tuple(map(int, shape[1:]))}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


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


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in point.items()
    )


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"
