"""One run, one folder: a lock that dies with the process that holds it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaekit.saving import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
_held: set[Path] = set()  # the system's locks are per process, so two runs of one process are told apart here


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run inside the block.

    The system lets go of the lock when the process ends, however it ends; forked loader processes do not inherit it.

    Raises:
        CheckpointError: where another run holds it, naming its process and host.
    """
    path = (folder / NAME).resolve()
    if path in _held:
        raise _taken(folder, f"process {os.getpid()} on {socket.gethostname()}, which is this one")
    try:
        handle = _acquire(path, folder)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written ({error}). Choose another output_dir.") from error
    _held.add(path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, folder: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif _alive(path):
                raise BlockingIOError
        except (BlockingIOError, PermissionError):
            told = _holder(path)
            os.close(handle)
            raise _taken(folder, told) from None
        try:
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # its holder removed the file between our opening and our locking it: once more


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _alive(path: Path) -> bool:
    """Whether the process that the file names runs on this machine: all that can be told without the system's locks."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["host"] != socket.gethostname():
            return True
        os.kill(held["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _taken(folder: Path, holder: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: another run writes here: {holder} ({NAME}). Wait for it, stop it, or choose another output_dir."
    )
