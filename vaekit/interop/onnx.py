"""A trained model as a file for other runtimes: ONNX, its int8 form, and torch's own exported program.

What is written down is deterministic: the mode of q(z|x) stands for z, which is its mean where q is normal, and the
mean of p(x|z) for the data.

    encode        x ─► encoder ─► sampler ─► mode of q(z|x)
    decode                                   z ─► decoder ─► likelihood ─► mean of p(x|z)
    reconstruct   x ─► …                     ─► …                       ─► mean of p(x|z)
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vaekit.interop.exported import BATCH, OUTPUTS, What, example, other_size, refuses, torch_export
from vaekit.interop.int8 import Quantized, quantize
from vaekit.interop.runtime import ExportError, quiet, run, session_of, written_beside
from vaekit.modes import evaluating
from vaekit.optional import require
from vaekit.vae import VAE

__all__ = ["ExportError", "Quantized", "compare", "example", "export", "quantize", "refuses", "torch_export"]


def export(
    vae: VAE,
    path: str | Path,
    what: What = "reconstruct",
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool | Literal["auto"] = "auto",
    opset: int | None = None,
    tolerance: float | None = 1e-4,
) -> Path:
    """Write one pass of the model as an ONNX file, and check it in onnxruntime.

    The inputs are `x` (or `z`), and `cond` for a model with a condition; the output is `z` or `reconstruction`. The
    file's metadata say what it holds: `what`, `input_shape`, `latent_shape`, `data_range`, under the key "vaekit".

    Args:
        vae: the model.
        path: the file to write; folders are made.
        what: "reconstruct": x → mean of p(x|z); "encode": x → mode of q(z|x); "decode": z → mean of p(x|z).
        dynamic_batch: whether the file takes batches of any size; otherwise of 3 alone.
        dynamic_size: whether it takes data of other sizes; "auto" where the model's parts allow (`vae.any_size`).
        opset: version of ONNX's operators; None takes torch's choice.
        tolerance: largest difference between onnxruntime and torch, as a part of the largest value where that is
            above 1; None writes without looking.

    Raises:
        ValueError: where `what` is no pass, or another size is asked of a model that takes one.
        ExportError: where a part can't be exported, or the file gives something else than the model. What was at
            `path` before is as it was then; a new file takes its place only when it is whole and has been checked.
        MissingPackage: without onnx, onnxscript and onnxruntime; `pip install "vaekit[interop]"`.

    Returns:
        The path.

    Example:
        >>> import tempfile, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
        >>> export(vae, tempfile.mkdtemp() + "/decoder.onnx", "decode").name
        'decoder.onnx'
    """
    for package in ("onnx", "onnxscript", *(("onnxruntime",) if tolerance is not None else ())):
        require(package, user="vaekit.interop.onnx.export", extra="interop")
    program = torch_export(vae, what, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size)
    path = Path(path)
    names = ["z" if what == "decode" else "x", "cond"][: len(example(vae, what, 1))]
    with quiet():
        try:
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=names,
                output_names=[OUTPUTS[what]],
                custom_translation_table=_translations(),
            )
        except Exception as error:
            raise ExportError(f"export: torch.onnx has no form for {what!r} of this model: {error}") from error
    assert written is not None
    told = {
        "what": what,
        "input_shape": vae.input_shape,
        "latent_shape": vae.latent_shape,
        "data_range": vae.data_range,
    }
    written.model.metadata_props["vaekit"] = json.dumps(told)
    with written_beside(path) as beside:
        written.save(beside)
        if tolerance is not None:
            session = session_of(beside)
            for given in _trials(vae, what, program):
                _compare(vae, session, path, what, given, tolerance)
            del session  # which holds the file open
    return path


def compare(vae: VAE, path: str | Path, what: What, given: Sequence[Tensor], tolerance: float = 1e-4) -> float:
    """The largest difference between the file in onnxruntime and the model, over the largest value above 1.

    Args:
        vae: the model.
        path: what `export` wrote.
        what: the pass that the file holds.
        given: x or z, and the condition where there is one.
        tolerance: how large the difference may be.

    Raises:
        ExportError: where it is larger.
    """
    return _compare(vae, session_of(path), path, what, given, tolerance)


def _compare(vae: VAE, session: Any, path: str | Path, what: What, given: Sequence[Tensor], tolerance: float) -> float:
    x, cond = given[0], given[1] if len(given) > 1 else None
    with evaluating(vae), torch.no_grad():
        theirs = vae.decode(x, cond) if what == "decode" else vae.encode(x, cond=cond).mode
        theirs = vae.decode(theirs, cond) if what == "reconstruct" else theirs
    ours = run(session, given).to(theirs.device)
    if ours.shape != theirs.shape:
        raise ExportError(f"{path}: gives shape {tuple(ours.shape)}, and the model {tuple(theirs.shape)}.")
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))
    if not difference <= tolerance:
        raise ExportError(
            f"{path}: onnxruntime and torch differ by {difference:.2g}, more than {tolerance:g}. Give a larger "
            "tolerance where the model rounds to codes and a value lies on an edge."
        )
    return difference


def _trials(vae: VAE, what: What, program: ExportedProgram) -> Iterator[tuple[Tensor, ...]]:
    """Inputs to compare on: the traced shape, another batch, and another size, where the program takes them."""
    yield example(vae, what, BATCH)
    first = next(iter(program.graph_signature.user_inputs))
    shape: Any = next(node for node in program.graph.nodes if node.name == first).meta["val"].shape
    if not isinstance(shape[0], int):
        yield example(vae, what, 2)
    if len(shape) > 2 and not isinstance(shape[2], int):
        yield example(vae, what, 2, other_size(vae, what))


def _translations() -> dict[Any, Any]:
    """Operators that torch.onnx has no form for."""
    onnxscript: Any = require("onnxscript", user="vaekit.interop.onnx.export", extra="interop")
    op = onnxscript.opset18

    def right_shift(number: Any, places: Any) -> Any:
        """The bits of a code (never negative): ONNX shifts unsigned integers alone."""
        return op.Div(number, op.Pow(op.CastLike(op.Constant(value_int=2), number), places))

    return {torch.ops.aten.__rshift__.Tensor: right_shift}
