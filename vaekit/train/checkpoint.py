"""The state of a run on disk: written whole or not at all, verified when read, never unpickled.

    output_dir/
      last -> checkpoints/step-0000000400          a saved model: vaekit.load(output_dir / "last")
      best -> checkpoints/step-0000000300
      history.json
      checkpoints/step-0000000400/
        model.safetensors, spec.json               the model (its moving average, where there is one)
        state.safetensors, state.json              optimizers, schedules, random states, place in the data, …
        manifest.json                              size and SHA-256 of the four, and of itself

A checkpoint is made in a hidden folder beside its place, put on the disk file by file, and moved there in one step.
What is found under its name is therefore complete; the manifest tells what the disk did to it since.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vaekit.saving import CheckpointError
from vaekit.train.tree import flatten, unflatten

FOLDER, STATE, TENSORS, MANIFEST = "checkpoints", "state.json", "state.safetensors", "manifest.json"
FORMAT = 1


class Checkpoints:
    """The checkpoints of one run.

    Args:
        root: the run's folder.
        keep: how many of the newest stay, beside the best.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self.root, self.keep, self.folder = root, keep, root / FOLDER
        self.best: str | None = None  # the name of the best

    def write(self, step: int, model: Callable[[Path], None], state: Mapping[str, Any], *, best: bool) -> Path:
        """Write a checkpoint, point `last` (and `best`) to it, and remove what is too old.

        Args:
            step: names the checkpoint.
            model: writes the model into a folder.
            state: the rest of the run; see `vaekit.train.tree`.
            best: whether it is the best so far.

        Raises:
            CheckpointError: where it can't be written; the checkpoints before it stay.
        """
        final, part = self._free(self.folder / f"step-{step:010d}"), None
        named = final.name if best else self.best
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=self.folder, prefix=".part-"))
            model(part)
            write_state(part, {**state, "best": named})
            _seal(part)
            os.chmod(part, 0o777 & ~_umask())
            os.rename(part, final)
            _sync_folder(self.folder)
            point_to(self.root / "last", final)
            if best:
                point_to(self.root / "best", final)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{final}: can't be written ({error}). The checkpoints before it are untouched: make room, and start "
                "again to go on from the last of them."
            ) from error
        finally:
            if part is not None:
                shutil.rmtree(part, ignore_errors=True)
        self.best = named
        self._prune()
        return final

    def found(self) -> list[Path]:
        """All checkpoints, the newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True) if self.folder.is_dir() else []

    def newest(self, *, strict: bool = False) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole, with its state; None where there is none at all.

        Args:
            strict: raise for a damaged one, in place of a warning and the one before it.

        Raises:
            CheckpointError: where all are damaged.
        """
        damaged: list[str] = []
        for path in self.found():
            try:
                state = read_state(path)
            except CheckpointError as error:
                if strict:
                    raise
                damaged.append(str(error))
                continue
            for told in damaged:
                warnings.warn(f"{told} Going on from {path.name}, the one before it.", stacklevel=2)
            return path, state
        if damaged:
            raise CheckpointError(
                f"{self.folder}: no checkpoint is whole. {' '.join(damaged)} Start again with overwrite=True."
            )
        return None

    def clear(self) -> None:
        """Remove what an earlier process left half done."""
        for path in [*self.folder.glob(".*-*"), *self.root.glob(".try-*"), *self.root.glob(".*.part")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def go_on_from(self, path: Path, best: str | None) -> None:
        """Make `path` the newest, and `best` the best: what a process was killed before it could, or the disk undid."""
        for other in self.found():
            if other.name > path.name:
                self._discard(other)
        self.best = best
        point_to(self.root / "last", path)
        if best is not None and (self.folder / best).exists():
            point_to(self.root / "best", self.folder / best)
        else:
            (self.root / "best").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the run: its checkpoints, what points to them, and its history."""
        for name in ("last", "best", "history.json"):
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _free(self, path: Path) -> Path:
        """A name that nothing has yet: the step may have been saved before, in the middle of an epoch, or damaged."""
        again = (path.with_name(f"{path.name}.{i}") for i in range(1, 10))
        return path if not path.exists() else next(other for other in again if not other.exists())

    def _prune(self) -> None:
        best = (self.root / "best").resolve()
        for path in self.found()[self.keep :]:
            if path.resolve() != best:
                self._discard(path)

    def _discard(self, path: Path) -> None:
        """Take a checkpoint out of sight in one step, and then apart."""
        aside = Path(tempfile.mkdtemp(dir=self.folder, prefix=".gone-"))
        os.rename(path, aside / path.name)
        shutil.rmtree(aside, ignore_errors=True)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write nested state into a folder: its tensors, and the rest as JSON."""
    tensors: dict[str, Tensor] = {}
    tree = flatten(state, tensors)
    own = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}  # none may share memory
    save_file(own, folder / TENSORS)
    (folder / STATE).write_text(json.dumps(tree, allow_nan=False), encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """The state that `write_state` wrote, every file of the checkpoint verified.

    Raises:
        CheckpointError: where a file is missing, damaged, or of a later version.
    """
    verify(folder)
    try:
        with safe_open(folder / TENSORS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — safe_open is no mapping
        return unflatten(json.loads((folder / STATE).read_text(encoding="utf-8")), tensors)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: can't be read ({error}).") from error


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises:
        CheckpointError: naming the first file that is not what was written.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        told, files = manifest["digest"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is missing or damaged ({error}).") from error
    if manifest.get("format", 0) > FORMAT:
        raise CheckpointError(f"{path}: was written by a later vaekit (format {manifest['format']}). Update vaekit.")
    if told != _digest_of(manifest):
        raise CheckpointError(f"{path}: is damaged (its digest differs).")
    for name, wanted in files.items():
        try:
            got = _digest(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: is missing ({error}).") from error
        if got != wanted:
            raise CheckpointError(f"{folder / name}: is damaged (its digest differs from the manifest's).")


def _seal(folder: Path) -> None:
    """Put every file on the disk, then a manifest of them, then the folder itself."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        _sync(path)
    manifest: dict[str, Any] = {"format": FORMAT, "files": {path.name: _digest(path) for path in files}}
    manifest["digest"] = _digest_of(manifest)
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(path)
    _sync_folder(folder)


def _digest_of(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    total = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Put a folder's entries on the disk, where the system knows how."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (OSError, AttributeError):  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def point_to(link: Path, target: Path) -> None:
    """Make `link` mean `target`, in one step; a copy where the file system has no links."""
    beside = link.with_name(f".{link.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        beside.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    except OSError:
        shutil.rmtree(link, ignore_errors=True)
        shutil.copytree(target, link)
        return
    if link.is_dir() and not link.is_symlink():  # a saved model of an earlier version
        shutil.rmtree(link)
    os.replace(beside, link)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
