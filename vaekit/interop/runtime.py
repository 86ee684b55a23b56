"""What exporting and running share: ONNX files in onnxruntime, on the CPU."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.optional import require


class ExportError(RuntimeError):
    """A model can't be exported, or the file says something else than the model."""


def session_of(path: str | Path) -> Any:
    """A file, ready to run."""
    runtime: Any = require("onnxruntime", user="vaekit.interop.onnx", extra="interop")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, given: Sequence[Tensor]) -> Tensor:
    """What a file gives for its inputs, in their order."""
    names = [each.name for each in session.get_inputs()]
    if len(names) != len(given):
        raise ValueError(f"data: the file takes {', '.join(names)}, got {len(given)} tensors.")
    feed = {name: each.detach().cpu().numpy() for name, each in zip(names, given, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


def weights_beside(path: Path) -> Path:
    """Where a model above 2 GB keeps its weights: a file beside its own, which names it."""
    return path.with_name(path.name + ".data")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path to write `path`'s file at, in a folder of its own beside it, from where it is moved when it is whole.

    Where the block raises, what was at `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        beside = Path(folder, path.name)
        yield beside
        # the weights first: the file that names them comes last
        files = [each for each in (weights_beside(beside), beside) if each.exists()]
        for each in files:
            with each.open("rb+") as file:
                os.fsync(file.fileno())
        for each in files:
            os.replace(each, path.with_name(each.name))
        if len(files) == 1:
            weights_beside(path).unlink(missing_ok=True)  # of a larger model that was here before


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and onnxruntime say of their own deprecations, to the user and to the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
