"""Who is trained, and how: the model and each critic, every one with an optimizer, a schedule and a clip of its own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.train.guards import Gradients
from vaekit.train.optimizers import Choice, make_optimizer
from vaekit.train.schedules import Schedule
from vaekit.train.shards import dealt, is_part, local
from vaekit.vae import VAE

_SETTINGS = ("lr", "optimizer", "schedule", "grad_clip", "every", "offset")
REST = "rest"


class Player:
    """One side of the game: its parameters, and what moves them.

    All sides get their gradients by the one backward pass of the objective, which isolates them; a player with
    `every=k` takes the gradients of every k-th step, and lets the others go.

    Args:
        name: "vae", or the label of the loss whose critic it is.
        parameters: names and parameters that are trained.
        optimizer: see `make_optimizer`.
        schedule: see `Schedule`.
        lr: the learning rate, or rates by the beginnings of parameters' names, "rest" for those left over.
        grad_clip: the largest norm of all its gradients together; None for no limit.
        every: steps between its updates.
        offset: the first step that it is updated at is `offset + 1`.
        steps: steps of the run, for the schedule; None where it is not known.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, nn.Parameter],
        *,
        optimizer: Choice,
        schedule: Choice | None,
        lr: float | Mapping[str, float],
        grad_clip: float | None,
        every: int,
        offset: int,
        steps: int | None,
    ) -> None:
        self.name, self.names, self.parameters = name, list(parameters), list(parameters.values())
        self.grad_clip, self.every, self.offset = grad_clip, every, offset
        groups = [
            {"params": alike, "lr": rate}
            for rate, own in _by_rate(parameters, lr)
            # no kernel takes weights that are shared out together with whole ones
            for alike in ([p for p in own if is_part(p)], [p for p in own if not is_part(p)])
            if alike
        ]
        self.optimizer = make_optimizer(optimizer, groups, groups[0]["lr"])
        self.schedule = Schedule(schedule, self.optimizer, None if steps is None else -(-steps // every))

    def plays(self, step: int) -> bool:
        """Whether it is updated at a step, counted from 1."""
        return (step - 1 - self.offset) % self.every == 0

    def gradients(self) -> Gradients | None:
        """Norms of its gradients; None where it has none."""
        held = [(name, p.grad) for name, p in zip(self.names, self.parameters, strict=True) if p.grad is not None]
        if not held:
            return None
        each = torch.stack(torch._foreach_norm([local(grad) for _, grad in held]))  # type: ignore[attr-defined]
        parts = [is_part(grad) for _, grad in held]
        if any(parts):  # each process has a part of a gradient; a few that can't be cut it has whole
            count = torch.distributed.get_world_size()
            square = each.square() * torch.tensor([1.0 if part else 1 / count for part in parts]).to(each)
            torch.distributed.all_reduce(square)
            each = square.sqrt()
        return Gradients([name for name, _ in held], each, torch.linalg.vector_norm(each))

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients so that their common norm, given, is at most `grad_clip`."""
        if self.grad_clip is None:
            return
        if any(map(is_part, self.parameters)):  # torch would look for the norm in all processes again
            scale = (self.grad_clip / (norm + 1e-6)).clamp(max=1.0)
            for p in self.parameters:
                if p.grad is not None:
                    local(p.grad).mul_(scale)
        else:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm)

    @property
    def lr(self) -> float:
        """The learning rate of its first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, whose tensors are whole."""
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, own in self.optimizer.state.items():
            own.update({key: dealt(v, parameter) for key, v in own.items() if isinstance(v, Tensor)})
        self.schedule.load_state_dict(state["schedule"])


def make_players(
    vae: VAE,
    *,
    lr: float | Mapping[str, float],
    critic_lr: float | None,
    optimizer: Choice,
    schedule: Choice | None,
    grad_clip: float | Mapping[str, float] | None,
    settings: Mapping[str, Mapping[str, Any]] | None,
    steps: int | None,
) -> list[Player]:
    """The players of a model, those with nothing to train left out.

    Args:
        vae: the model.
        lr: of all, or by part or player.
        critic_lr: of critics; None takes `lr`.
        optimizer: of all players that name none of their own.
        schedule: the same.
        grad_clip: of each player, or by player.
        settings: player → arguments of its own: lr, optimizer, schedule, grad_clip, every, offset.
        steps: steps of the run; None where it is not known.

    Raises:
        ValueError: where a name or an argument is not known, or everything is frozen.
    """
    held = vae.players()
    _known(settings or {}, list(held), "players", "player")
    names = {id(p): name for name, p in vae.named_parameters()}
    if isinstance(lr, Mapping):
        _check_rates(lr, [*names.values()], list(held))
    if isinstance(grad_clip, Mapping):
        _known(grad_clip, list(held), "grad_clip", "player")
    made = []
    for player, parameters in held.items():
        own = dict((settings or {}).get(player, {}))
        _known(own, _SETTINGS, f"players[{player!r}]", "argument")
        trained = {names[id(p)]: p for p in parameters if p.requires_grad}
        if not trained:
            continue
        rate = own.get("lr", _rate(lr, player, critic_lr))
        if isinstance(own.get("lr"), Mapping):
            _check_rates(own["lr"], list(trained), [])
        clip = own.get("grad_clip", grad_clip.get(player) if isinstance(grad_clip, Mapping) else grad_clip)
        every, offset = own.get("every", 1), own.get("offset", 0)
        if not (isinstance(every, int) and every >= 1 and isinstance(offset, int) and 0 <= offset < every):
            raise ValueError(
                f"Trainer: players[{player!r}]: expected whole numbers every ≥ 1 and 0 ≤ offset < every; got "
                f"every={every!r}, offset={offset!r}."
            )
        if clip is not None and not clip > 0:
            raise ValueError(f"Trainer: grad_clip should be positive, got {clip}.")
        made.append(
            Player(
                player,
                trained,
                optimizer=own.get("optimizer", optimizer),
                schedule=own.get("schedule", schedule),
                lr=rate,
                grad_clip=clip,
                every=every,
                offset=offset,
                steps=steps,
            )
        )
    if not made:
        raise ValueError("Trainer: the model has no weight to train: every one is frozen (requires_grad=False).")
    return made


def _rate(lr: float | Mapping[str, float], player: str, critic_lr: float | None) -> float | Mapping[str, float]:
    if player != "vae" and critic_lr is not None:
        return critic_lr
    if isinstance(lr, Mapping) and player in lr:
        return lr[player]
    return lr


def _by_rate(
    parameters: Mapping[str, nn.Parameter], lr: float | Mapping[str, float]
) -> Iterator[tuple[float, list[nn.Parameter]]]:
    """Parameters in groups of one learning rate; the longest beginning of a name decides."""
    if not isinstance(lr, Mapping):
        yield lr, list(parameters.values())
        return
    groups: dict[str, list[nn.Parameter]] = {}
    for name, p in parameters.items():
        fitting = [key for key in lr if key != REST and _begins(name, key)]
        groups.setdefault(max(fitting, key=len, default=REST), []).append(p)
    for key, own in groups.items():
        yield lr.get(key, 1e-3), own


def _check_rates(lr: Mapping[str, float], names: Sequence[str], players: Sequence[str]) -> None:
    for key, rate in lr.items():
        if not rate > 0:
            raise ValueError(f"Trainer: lr should be positive, got {rate} for {key!r}.")
        if key not in players and key != REST and not any(_begins(name, key) for name in names):
            raise ValueError(f"Trainer: lr: {_no_part(key, names, [*players, REST])}")


def check_parts(vae: nn.Module, parts: Iterable[str], what: str) -> None:
    """Refuse names that no parameter begins with."""
    names = [name for name, _ in vae.named_parameters()]
    for part in parts:
        if not any(_begins(name, part) for name in names):
            raise ValueError(f"Trainer: {what}: {_no_part(part, names, [])}")


def _no_part(key: str, names: Sequence[str], more: Sequence[str]) -> str:
    stages = [*dict.fromkeys(name.split(".")[0] for name in names), *more]
    near = get_close_matches(key, [*stages, *names], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no weight's name begins with {key!r}.{hint} Parts: {', '.join(stages)}."


def _begins(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _known(given: Iterable[str], known: Sequence[str], where: str, what: str) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Trainer: {where}: there is no {what} {key!r}.{hint} Known: {', '.join(known)}.")


@contextmanager
def frozen_parts(vae: nn.Module, parts: Sequence[str]) -> Iterator[None]:
    """Weights of some parts are not trained inside the block."""
    check_parts(vae, parts, "freeze")
    held = [p for name, p in vae.named_parameters() if p.requires_grad and any(_begins(name, part) for part in parts)]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def frozen_modules(vae: nn.Module, parts: Sequence[str]) -> list[nn.Module]:
    """Modules of frozen parts, which stay in evaluation mode: statistics of batches are frozen with the weights."""
    return [module for name, module in vae.named_modules() if any(_begins(name, part) for part in parts)]
