"""One run of a search: the Trainer of a point, how long it takes, and what Optuna is told of it."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from vaekit.build import build
from vaekit.registry import parameters
from vaekit.train.callbacks import Callback
from vaekit.train.rng import own_noise
from vaekit.train.space import Axis, is_named
from vaekit.train.trainer import Trainer
from vaekit.vae import VAE


class Run:
    """What all runs of a search have in common."""

    def __init__(
        self,
        axes: Mapping[str, Axis],
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
        """Where a run's files go."""
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
        return build(self.model, **nested) if is_named(self.model) else self.model(**nested)

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


class Reports(Callback):
    """Tells Optuna of each epoch, keeps the model of the best, and ends a run that falls behind."""

    def __init__(self, trial: Any, study: Any, run: Run) -> None:
        self.trial, self.run, self.pruned = trial, run, False
        stored = study.get_trials(deepcopy=False)[trial.number]
        self.told = dict(stored.intermediate_values)

    @property
    def best(self) -> float:
        """The best score so far."""
        return self.run.sign * min((self.run.sign * value for value in self.told.values()), default=math.inf)

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """Report, keep, and stop where the run falls behind."""
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


def span(seconds: float) -> str:
    """A time in the unit that one would say it in.

    Example:
        >>> span(3.14159), span(600), span(1e5)
        ('3.1 s', '10 min', '27 h 47 min')
    """
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"
