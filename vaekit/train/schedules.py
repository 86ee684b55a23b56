"""Learning-rate schedules by name, over the steps of a run: torch's, then timm's."""

import inspect
from difflib import get_close_matches
from typing import Any

import torch
from torch.optim import lr_scheduler

from vaekit.optional import require
from vaekit.train.optimizers import Choice, _check, named

_SHORT = {
    "constant": "ConstantLR",
    "cosine": "CosineAnnealingLR",
    "exponential": "ExponentialLR",
    "linear": "LinearLR",
    "multistep": "MultiStepLR",
    "onecycle": "OneCycleLR",
    "plateau": "ReduceLROnPlateau",
    "polynomial": "PolynomialLR",
    "step": "StepLR",
    "warmrestarts": "CosineAnnealingWarmRestarts",
}
_TOTAL = ("T_max", "total_steps", "total_iters", "T_0")  # what torch's schedules call the length of a run


class Schedule:
    """The learning rates of one optimizer, moved on after every step; those that look at a score, after every epoch.

    Args:
        choice: "cosine", "linear", "step", "multistep", "exponential", "polynomial", "onecycle", "warmrestarts",
            "plateau", "constant", a class of `torch.optim.lr_scheduler`, or "timm.cosine", "timm.poly", …; with
            arguments as `use("cosine", warmup=500, eta_min=1e-6)`; or a function from the optimizer to a scheduler.
            Lengths are in steps; the run's length is filled in where it is left out. "constant" and "linear" without
            arguments stay, and go to 0. `warmup` raises the rate linearly from near 0 over so many steps first.
        optimizer: whose rates.
        steps: steps of the run, or phase; None where it is not known.

    Raises:
        ValueError: where there is no such name, an argument does not fit, or the length is needed and not known.
    """

    def __init__(self, choice: Choice | None, optimizer: torch.optim.Optimizer, steps: int | None) -> None:
        self.optimizer, self.choice = optimizer, choice
        self._timm, self.count = False, 0
        self.scheduler: Any = None if choice is None else self._make(choice, steps)
        self.scored = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)

    def step(self) -> None:
        """A training step is over."""
        if self.scheduler is None or self.scored:
            return
        self.count += 1
        if self._timm:
            self.scheduler.step_update(self.count)
        else:
            self.scheduler.step()

    def scored_epoch(self, score: float) -> None:
        """An epoch is over."""
        if self.scored:
            self.scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        if self.scheduler is None:
            return {}
        return {"count": self.count, "scheduler": dict(self.scheduler.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        if self.scheduler is not None:
            self.count = state["count"]
            self.scheduler.load_state_dict(dict(state["scheduler"]))

    def _make(self, choice: Choice, steps: int | None) -> Any:
        if callable(choice):
            return choice(self.optimizer)
        name, args = named(choice, "schedule")
        if name.lower().startswith("timm."):
            return self._from_timm(name, args, steps)
        warmup = args.pop("warmup", 0)
        cls = _find(name)
        _check(cls, args, f"schedule {name!r}")
        args = _lengths(cls, name, args, None if steps is None else steps - warmup, self.optimizer)
        main = cls(self.optimizer, **args)
        if not warmup:
            return main
        if isinstance(main, lr_scheduler.ReduceLROnPlateau):
            raise ValueError("Trainer: the schedule 'plateau' takes no warmup.")
        # built again by SequentialLR's rules: it resets the rates to where the first of its schedules starts
        rising = lr_scheduler.LinearLR(self.optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        return lr_scheduler.SequentialLR(self.optimizer, [rising, main], milestones=[warmup])

    def _from_timm(self, name: str, args: dict[str, Any], steps: int | None) -> Any:
        timm: Any = require("timm.scheduler", user=f"the schedule {name!r}")
        if steps is None:
            raise ValueError(f"Trainer: the schedule {name!r} needs the number of steps. Give steps=.")
        self._timm = True
        warmup = args.pop("warmup", 0)
        try:
            scheduler, _ = timm.create_scheduler_v2(
                self.optimizer,
                sched=name[5:].lower(),
                **{
                    "num_epochs": steps,  # one update an epoch: timm then counts in steps
                    "step_on_epochs": False,
                    "updates_per_epoch": 1,
                    "warmup_epochs": warmup,
                    "cooldown_epochs": 0,
                    "min_lr": 0.0,
                    **args,
                },
            )
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"Trainer: the schedule {name!r} can't be made with {args} ({error}). Timm has cosine, multistep, "
                "poly, step, tanh and wsd."
            ) from error
        scheduler.step_update(0)
        return scheduler


def _find(name: str) -> Any:
    known = {
        key.lower(): cls
        for key, cls in vars(lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, lr_scheduler.LRScheduler) and not key.startswith("_")
    }
    cls = getattr(lr_scheduler, _SHORT.get(name.lower(), ""), None) or known.get(name.lower())
    if cls is None:
        near = get_close_matches(name.lower(), [*_SHORT, *known], n=3)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"Trainer: there is no schedule {name!r}. {hint}Known: {', '.join(_SHORT)}, the classes of "
            "torch.optim.lr_scheduler, and timm's as 'timm.cosine'."
        )
    return cls


def _lengths(
    cls: Any, name: str, args: dict[str, Any], steps: int | None, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Arguments with the run's length filled in where it is left out."""
    parameters = inspect.signature(cls).parameters
    wanted = [key for key in _TOTAL if key in parameters and key not in args]
    if cls is lr_scheduler.OneCycleLR and {"epochs", "steps_per_epoch"} & set(args):
        wanted = []
    if wanted and steps is None:
        raise ValueError(f"Trainer: the schedule {name!r} needs the number of steps. Give steps=.")
    args = {**args, **{key: max(1, steps or 1) for key in wanted}}
    if cls is lr_scheduler.OneCycleLR:
        args["total_steps"] = args.get("total_steps", 0) + 1 if wanted else args.get("total_steps")
        args.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])
    elif cls is lr_scheduler.LinearLR and not {"start_factor", "end_factor"} & set(args):
        args |= {"start_factor": 1.0, "end_factor": 0.0}
    elif cls is lr_scheduler.ConstantLR and "factor" not in args:
        args["factor"] = 1.0
    return args
