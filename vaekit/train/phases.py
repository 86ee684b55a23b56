"""A run as phases: what is trained, on what, how, and how long."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from vaekit.spec import Spec
from vaekit.train.optimizers import Choice
from vaekit.train.players import frozen_modules, frozen_parts
from vaekit.vae import VAE


@dataclass(frozen=True)
class Phase:
    """What may change in the course of a run; the Trainer's arguments of the same names.

    `weights` changes the objective's constant weights, by label.
    """

    epochs: int | None
    steps: int | None
    train: Any
    batch_size: int
    lr: float | Mapping[str, float]
    critic_lr: float | None
    optimizer: Choice
    schedule: Choice | None
    players: Mapping[str, Mapping[str, Any]] | None
    freeze: Sequence[str]
    grad_clip: float | Mapping[str, float] | None
    accumulate: int
    augment: Callable[[Tensor], Tensor] | None
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "accumulate"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < 1):
                raise ValueError(f"Trainer: {name} should be a whole number, at least 1, got {value!r}.")
        for name in ("lr", "critic_lr"):
            rate = getattr(self, name)
            if rate is not None and not isinstance(rate, Mapping) and not rate > 0:
                raise ValueError(f"Trainer: {name} should be positive, got {rate}.")
        if isinstance(self.freeze, str):
            raise ValueError(f"Trainer: freeze should be a list of parts, such as [{self.freeze!r}].")

    def total(self, batches: int | None) -> int | None:
        """Steps of the phase, where an epoch has so many batches; None where that is not known."""
        if self.steps is not None:
            return self.steps
        return None if batches is None or self.epochs is None else self.epochs * -(-batches // self.accumulate)

    def over(self, epochs: int, steps: int) -> bool:
        """Whether so many epochs and steps are all of the phase."""
        return steps >= self.steps if self.steps is not None else epochs >= (self.epochs or 0)

    def described(self) -> dict[str, Any]:
        """What has to be the same for a run to go on exactly, in words and numbers."""
        left_out = ("epochs", "steps", "train")
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in left_out}


def make_phases(base: Phase, changes: Sequence[Mapping[str, Any]] | None) -> list[Phase]:
    """The phases of a run: the Trainer's own arguments, with each phase's changes.

    Raises:
        ValueError: where lengths contradict each other, or a phase changes what can't be changed.
    """
    if not changes:
        if (base.epochs is None) == (base.steps is None):
            raise ValueError(f"Trainer: give either epochs or steps; got epochs={base.epochs}, steps={base.steps}.")
        return [base]
    known = [f.name for f in fields(Phase)]
    made: list[Phase] = []
    for i, change in enumerate(changes):
        for key in change:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"Trainer: phases[{i}] can't change {key!r}.{hint} It can: {', '.join(known)}.")
        length = {"epochs": change.get("epochs"), "steps": change.get("steps")}
        if length["epochs"] is None and length["steps"] is None and i == len(changes) - 1:
            for unit, whole in (("epochs", base.epochs), ("steps", base.steps)):
                used = [getattr(phase, unit) for phase in made]
                if whole is not None and None not in used:
                    length[unit] = whole - sum(used)
        if (length["epochs"] is None) == (length["steps"] is None):
            raise ValueError(
                f"Trainer: phases[{i}] needs epochs or steps, one of them; the last may leave it out, and takes what "
                "is left of the Trainer's."
            )
        made.append(replace(base, **{**change, **length}))
    for unit in ("epochs", "steps"):
        whole, used = getattr(base, unit), [getattr(phase, unit) for phase in made]
        if whole is not None and (None in used or sum(used) != whole):
            raise ValueError(f"Trainer: {unit}={whole}, and the phases have {used}. Leave one of them out.")
    return made


@contextmanager
def applied(phase: Phase, vae: VAE) -> Iterator[list[nn.Module]]:
    """A phase's frozen parts and weights inside the block; gives the modules that stay in evaluation mode.

    Raises:
        ValueError: where a part or a label does not exist, or its weight is a schedule.
    """
    numbers: dict[str, float] = getattr(vae.objective, "numbers", {})
    for label in phase.weights or {}:
        if label not in numbers:
            known = ", ".join(numbers) or "none"
            raise ValueError(f"Trainer: weights: the objective has no constant weight {label!r}. Known: {known}.")
    before = dict(numbers)
    with frozen_parts(vae, phase.freeze):
        numbers.update({label: float(weight) for label, weight in (phase.weights or {}).items()})
        try:
            yield frozen_modules(vae, phase.freeze)
        finally:
            numbers.clear()
            numbers.update(before)


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return {"name": value.name, **_plain(value.args)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return value
