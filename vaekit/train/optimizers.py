"""Optimizers by name: torch's, then timm's."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch

from vaekit.optional import require
from vaekit.spec import Spec

Choice: TypeAlias = str | Spec | Mapping[str, Any] | Callable[..., Any]
"""A name, `use(name, …)`, {"name": …, …}, or a function."""


def named(choice: Choice, what: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a choice that is no function."""
    if isinstance(choice, str):
        return choice, {}
    if isinstance(choice, Spec):
        return choice.name, dict(choice.args)
    if isinstance(choice, Mapping) and isinstance(choice.get("name"), str):
        return choice["name"], {key: value for key, value in choice.items() if key != "name"}
    raise ValueError(
        f"Trainer: {what} should be a name, use(name, …) or a mapping with 'name'; got {type(choice).__name__}."
    )


def make_optimizer(choice: Choice, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """The optimizer of that name over parameter groups, with torch's fused kernel where there is one.

    Args:
        choice: a class of `torch.optim` in lower case, or a name of timm's ("lamb", "lion", …; "timm.adamw" where torch
            has the name too), with arguments as `use("adamw", weight_decay=0.05)`; or a function from parameters to an
            optimizer, which sees to learning rates by itself.
        groups: parameter groups with their learning rates.
        lr: learning rate of groups that have none.

    Raises:
        ValueError: where there is no such name, or it does not take the arguments.
    """
    if callable(choice):
        return choice([p for group in groups for p in group["params"]])
    name, args = named(choice, "optimizer")
    short = name.lower()
    if short in torch_optimizers():
        cls: Any = torch_optimizers()[short]
        _check(cls, args, f"optimizer {name!r}")
        try:  # one kernel for all parameters; on 2 CPU threads it takes a third of the time of Adam's plain step
            return cls(groups, **{"lr": lr, "fused": True, **args})
        except (TypeError, RuntimeError):
            return cls(groups, **{"lr": lr, **args})
    return _timm(short.removeprefix("timm."), name, groups, lr, args)


def torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Classes of `torch.optim` by lower-case name, without those that need a closure or sparse gradients."""
    base = torch.optim.Optimizer
    return {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base
        if cls not in (torch.optim.LBFGS, torch.optim.SparseAdam)
    }


def _timm(
    short: str, name: str, groups: list[dict[str, Any]], lr: float, args: Mapping[str, Any]
) -> torch.optim.Optimizer:
    timm: Any = require("timm.optim", user=f"the optimizer {name!r}")
    known = timm.list_optimizers(exclude_filters=["bnb*", "fused*"])  # those need packages of their own
    if short not in known:
        mine = sorted(torch_optimizers())
        near = get_close_matches(short, {*mine, *known}, n=3)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"Trainer: there is no optimizer {name!r}. {hint}Known: {', '.join(mine)}; and timm's: "
            f"{', '.join(n for n in known if n not in mine)}."
        )
    try:
        return timm.create_optimizer_v2(groups, opt=short, lr=lr, **args)
    except TypeError as error:
        raise ValueError(f"Trainer: optimizer {name!r} does not take {dict(args)} ({error}).") from error


def _check(cls: type, args: Mapping[str, Any], what: str) -> None:
    """Refuse arguments that a class does not take, with the nearest name."""
    known = [name for name in inspect.signature(cls).parameters if name not in ("params", "optimizer", "last_epoch")]
    for key in args:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Trainer: {what} has no argument {key!r}.{hint} It takes {', '.join(known)}.")
