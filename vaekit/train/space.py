"""The space of a search: its arguments, their values, and points drawn from them."""

import inspect
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from vaekit.build import build
from vaekit.kinds import recipe
from vaekit.registry import parameters
from vaekit.spec import Spec
from vaekit.train.trainer import Trainer

OWN = ("vae", "train", "val", "seed", "output_dir", "resume", "overwrite", "max_time", "callbacks", "trackers")


class Axis:
    """One argument: its values, or its range.

    Args:
        name: of the argument.
        given: a list of values, or a range `{"low": …, "high": …}`.

    Raises:
        ValueError: where it is neither, or holds nothing.
    """

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
        """Whether it is a range of whole numbers."""
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

    def value(self, kept: Any) -> Any:
        """The value that Optuna keeps as `kept`."""
        return kept if self.values is None else self.values[kept]

    def draw(self, trial: Any) -> Any:
        """The trial's value, drawn if it has none."""
        if self.values is not None:
            return self.values[trial.suggest_categorical(self.name, list(self.values))]
        given: Any = self.range
        options = {key: given[key] for key in ("log", "step") if key in given}
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(self.name, given["low"], given["high"], **options)


def grid(axes: Mapping[str, Axis], seed: int) -> list[dict[str, Any]]:
    """All points, in an order that shows the whole space early."""
    points = [dict(zip(axes, each, strict=True)) for each in itertools.product(*(a.choices() for a in axes.values()))]
    random.Random(seed).shuffle(points)
    return points


def sampler(optuna: Any, method: str, points: Sequence[Mapping[str, Any]] | None, seed: int, number: int) -> Any:
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


def check_name(key: str, model: Any) -> None:
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
    elif not is_named(model):
        takes = parameters(model)
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            return
        known = [*trains, *takes]
    if key in OWN or (part if dot else key) not in known:
        near = get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"search: neither the Trainer nor the model takes {key!r}.{hint}")


def is_named(model: Any) -> bool:
    """Whether a model is one of names: a recipe or a spec, not a function that makes it."""
    return isinstance(model, (str, Spec, Mapping))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def shown(point: Mapping[str, Any]) -> str:
    """A point in a line."""
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in point.items()
    )
