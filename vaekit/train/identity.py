"""What has to be the same for a run to go on exactly, and what is said where it is not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaekit.saving import CheckpointError, read_spec
from vaekit.train.place import Place


def identity(trainer: Any) -> dict[str, Any]:
    """What has to be the same for a Trainer's run to go on exactly."""
    phases = [
        {**phase.described(), "data": data.identity}
        | ({} if phase.schedule is None else {"steps of the schedule": phase.total(data.length)})
        for phase, data in zip(trainer.phases, trainer.data, strict=True)
    ]
    dtype = None if trainer.dtype is None else str(trainer.dtype).removeprefix("torch.")
    whole = {"seed": trainer.seed, "ema": None if trainer.ema is None else trainer.ema.decay, "precision": dtype}
    return {"processes": trainer.processes.count, **whole, "phases": phases}


def compare(trainer: Any, path: Path, state: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was another one.

    Raises:
        CheckpointError: naming what differs.
    """
    hint = "Use what it was started with, another output_dir, or overwrite=True (--force on the command line)."
    saved, mine = read_spec(path), trainer.vae._written()
    if json.dumps(saved.to_dict()) != json.dumps(mine.to_dict()):
        raise CheckpointError(f"{path}: already holds a run of another model:\n{saved}\nand not\n{mine}\n{hint}")
    before = {"processes": 1, **state["identity"]}  # earlier versions knew but one
    told = _differences(json.loads(json.dumps(before)), json.loads(json.dumps(identity(trainer))))
    if told:
        raise CheckpointError(f"{path}: already holds a run that was started otherwise: {'; '.join(told)}. {hint}")
    place = Place(**state["place"])
    phase = trainer.phases[min(place.phase, len(trainer.phases) - 1)]
    done, goal = (place.phase_steps, phase.steps) if phase.steps is not None else (place.phase_epochs, phase.epochs)
    if done > (goal or 0):
        unit = "steps" if phase.steps is not None else "epochs"
        raise CheckpointError(f"{path}: already holds a run of {done} {unit}, and {goal} are asked for. {hint}")


def _differences(saved: Any, mine: Any, where: str = "") -> list[str]:
    if isinstance(saved, dict) and isinstance(mine, dict):
        keys = [key for key in {**saved, **mine} if saved.get(key) != mine.get(key)]
        return [told for key in keys for told in _differences(saved.get(key), mine.get(key), f"{where}.{key}")]
    if isinstance(saved, list) and isinstance(mine, list) and len(saved) == len(mine):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(saved, mine, strict=True)) if a != b]
        return [told for i, a, b in pairs for told in _differences(a, b, f"{where}[{i}]")]
    name = where.strip(".").removeprefix("phases[0].")
    return [] if saved == mine else [f"{name} was {saved!r}, and is {mine!r}"]
