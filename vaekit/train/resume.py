"""Saving where a run is, and going on from there."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vaekit.saving import CheckpointError, read_weights
from vaekit.train.checkpoint import MANIFEST, Checkpoints, read_state
from vaekit.train.identity import compare, identity
from vaekit.train.lock import locked
from vaekit.train.place import Place
from vaekit.train.rng import restore, states
from vaekit.train.shards import put_together
from vaekit.version import __version__


def claim(folder: Path, vae: Any, *, resume: Any, overwrite: bool) -> None:
    """A look at the output folder, and a try at saving, so that nothing is trained that can't be kept.

    Raises:
        CheckpointError: where the folder holds another run, or can't be written.
    """
    begun = bool(Checkpoints(folder, 1).found())
    taken = [name for name in ("history.json", "last", "best") if (folder / name).exists()]
    taken += ["checkpoints"] if begun else []
    goes_on = resume == "auto" and begun
    if taken and not goes_on and not overwrite:
        raise CheckpointError(
            f"{folder}: already holds a run ({', '.join(taken)}). Choose another output_dir, or set overwrite=True "
            "(--force on the command line)."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".try-") as tried:
            vae.save_pretrained(tried)
        with locked(folder):  # nobody else is there now; `fit` takes it
            pass
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be written ({error}). Choose another output_dir.") from error


def save(trainer: Any, *, best: bool = False) -> None:
    """Write where the run is; all its processes come here, and the first one writes."""
    checkpoints = trainer.checkpoints
    if checkpoints is None:
        return
    if trainer.ema is not None:
        trainer.ema.follow(trainer.trained)
    for shards in trainer.shards:
        shards.gather()
    players = [
        put_together(player.state_dict()) if trainer.shards else player.state_dict() for player in trainer.players
    ]
    # what each process has for itself: its random states, and its place in its part of the data
    own, *others = trainer.processes.each({"rng": states(trainer.device), "batch": trainer.place.batch})

    def write() -> None:
        state = {**state_of(trainer), "players": players, "rng": own["rng"], "others": others}
        path = checkpoints.write(trainer.step, trainer.model.save_pretrained, state, best=best)
        trainer.history.save(trainer.folder / "history.json")
        trainer.tell("saved", path)

    trainer.processes.same(write)


def state_of(trainer: Any) -> dict[str, Any]:
    """What all processes of a run have in common, beside the model and its players."""
    ema, scaler = trainer.ema, trainer.updates.scaler
    return {
        "vaekit": __version__,
        "identity": identity(trainer),
        "place": asdict(trainer.place),
        "meter": trainer.meter.state_dict(),
        "history": trainer.history.rows,
        "ema": None if ema is None else {**ema.state_dict(), "current": dict(trainer.vae.state_dict())},
        "scaler": None if scaler is None else scaler.state_dict(),
        "guard": trainer.guard.state_dict(),
        "fits": trainer.pieces.fits,
        "symptoms": trainer.symptoms.state_dict(),
        "callbacks": [callback.state_dict() for callback in trainer.callbacks],
    }


def go_on(trainer: Any, *, overwrite: bool) -> None:
    """Take up the run that the output folder, or `resume`, holds; nothing where there is none.

    Raises:
        CheckpointError: where it is another run, or no checkpoint is whole.
    """
    path = trainer.processes.same(lambda: _find(trainer, overwrite))
    if path is None:
        return
    state = read_state(path)
    compare(trainer, path, state)
    checkpoints = trainer.checkpoints
    if checkpoints is not None and path.parent == checkpoints.folder:
        trainer.processes.same(lambda: checkpoints.go_on_from(path, state["best"]))
    read_weights(trainer.model, path)
    load_state(trainer, state)
    trainer.processes.same(lambda: None)  # nobody writes before everybody has read


def load_state(trainer: Any, state: Mapping[str, Any]) -> None:
    """Put a run where `state` says; the model's weights, or their moving average, are there already."""
    if trainer.ema is not None:
        trainer.vae.load_state_dict(state["ema"]["current"])
        trainer.ema.load_state_dict(state["ema"])
    for shards in trainer.shards:
        shards.scatter()
    trainer.place = place = Place(**state["place"])
    if trainer.finished and not trainer.phases[-1].over(place.phase_epochs, place.phase_steps):
        place.phase -= 1  # it was done, and is to be longer now
    trainer.meter.load_state_dict(state["meter"])
    trainer.history.rows[:] = state["history"]
    for player, own in zip(trainer.players, state["players"], strict=False):
        player.load_state_dict(own)
    if trainer.updates.scaler is not None:
        trainer.updates.scaler.load_state_dict(state["scaler"])
    trainer.pieces.fits = state.get("fits")
    trainer.guard.load_state_dict(state["guard"])
    trainer.symptoms.load_state_dict(state["symptoms"])
    for callback, own in zip(trainer.callbacks, state["callbacks"], strict=False):
        callback.load_state_dict(own)
    rank = trainer.processes.rank
    mine = state["others"][rank - 1] if rank else {"rng": state["rng"], "batch": place.batch}
    place.batch = mine["batch"]
    restore(mine["rng"], trainer.device)


def _find(trainer: Any, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, after what an earlier process left in the folder is removed."""
    checkpoints, resume, found = trainer.checkpoints, trainer.resume, None
    if checkpoints is not None:
        if overwrite:
            checkpoints.remove()
        checkpoints.clear()
        found = checkpoints.newest() if resume is not False else None
    if found is None and resume not in ("auto", False):
        found = _checkpoint_at(Path(str(resume)))
    return None if found is None else found[0]


def _checkpoint_at(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint in a folder, or the newest of the run in it."""
    if (path / MANIFEST).is_file():
        return path, read_state(path)
    found = Checkpoints(path, 1).newest()
    if found is None:
        raise CheckpointError(f"{path}: holds no checkpoint. Give a run's output_dir, or one of its checkpoints.")
    return found
