"""A trained model as a file for other runtimes: ONNX, its int8 form, and torch's own exported program.

What is written down is deterministic: the mode of q(z|x) stands for z, which is its mean where q is normal, and the
mean of p(x|z) for the data.

    encode        x ─► encoder ─► sampler ─► mode of q(z|x)
    decode                                   z ─► decoder ─► likelihood ─► mean of p(x|z)
    reconstruct   x ─► …                     ─► …                       ─► mean of p(x|z)
"""

import json
import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.export import Dim, ExportedProgram

from vaekit.layers.precision import at_least_float32
from vaekit.optional import require
from vaekit.vae import VAE, evaluating, first_parameter

What: TypeAlias = Literal["reconstruct", "encode", "decode"]

_OUTPUT = {"encode": "z", "decode": "reconstruction", "reconstruct": "reconstruction"}
_BATCH = 3  # of the traced pass; 0 and 1 are special to torch.export
_PARTS = ("encoder", "sampler", "decoder", "likelihood", "condition", "transforms")


UNTRACEABLE = {
    "HamiltonianSampler": "follows gradients of the model's density, which torch.export can't trace",
    "RiemannianHamiltonianSampler": "follows gradients of the model's density, which torch.export can't trace",
}
"""Parts that can't be exported, by their class's name, and why."""


class ExportError(RuntimeError):
    """A model can't be exported, or the file says something else than the model."""


class _Pass(nn.Module):
    """One pass of a model as the module that is traced."""

    def __init__(self, vae: VAE, what: What) -> None:
        super().__init__()
        self.vae, self.what = vae, what

    def forward(self, given: Tensor, cond: Tensor | None = None) -> Tensor:
        vae = self.vae
        # without the model's checks: they would fix the batch, or keep the program from the model's own size
        tokens = None if vae.condition is None or cond is None else vae.condition(cond, given.shape[0])
        z = given if self.what == "decode" else vae._posterior(given, tokens, ()).mode
        if self.what == "encode":
            return z
        for transform in vae.transforms:
            if getattr(transform, "always", False):
                z, _ = transform(z, None)
        return vae.likelihood(at_least_float32(vae._call("decoder", z, tokens))).mean


def refuses(vae: VAE, what: What = "reconstruct") -> list[str]:
    """The parts that can't be exported, which say so of themselves (`exports = False`), as "slot: class".

    Args:
        vae: the model.
        what: the pass; parts that it does not go through do not count.
    """
    unused = {"encode": ("decoder", "likelihood", "transforms"), "decode": ("encoder", "sampler")}.get(what, ())
    found = []
    for slot in _PARTS:
        module = getattr(vae, slot)
        for part in module if isinstance(module, nn.ModuleList) else (module,):
            name = type(part).__name__
            if slot not in unused and (name in UNTRACEABLE or not getattr(part, "exports", True)):
                found.append(f"{slot}: {name}")
    return found


def torch_export(
    vae: VAE,
    what: What = "reconstruct",
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool | Literal["auto"] = "auto",
) -> ExportedProgram:
    """The model's pass as a `torch.export.ExportedProgram`: a graph of ATen operators with its weights.

    `torch.export.save` writes it; it runs as `program.module()(x)` without vaekit.

    Args:
        vae: the model, on any device.
        what: "reconstruct", "encode" or "decode".
        dynamic_batch: whether batches of any size pass through; otherwise of 3 alone.
        dynamic_size: whether data of other sizes pass through; "auto" where the model's parts allow (`vae.any_size`).

    Raises:
        ValueError: where `what` is no pass, or another size is asked of a model that takes one.
        ExportError: where a part can't be exported.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
        >>> torch_export(vae, "decode").module()(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 8, 8])
    """
    if what not in _OUTPUT:
        raise ValueError(f"what: expected 'reconstruct', 'encode' or 'decode', got {what!r}.")
    # sizes that are no multiple of the latent's are rounded up and cut again, which no other size is
    able = vae.any_size and all(a % b == 0 for a, b in zip(vae.input_shape[1:], vae.latent_shape[1:], strict=True))
    sizes = able if dynamic_size == "auto" else dynamic_size
    if sizes and not able:
        raise ValueError(
            "dynamic_size: the model takes data of one size. Use dynamic_size=False, or networks that take any size, "
            "such as 'kl_resnet', around a map latent, built for a size that is a multiple of the latent's."
        )
    if parts := refuses(vae, what):
        raise ExportError(f"export: {', '.join(parts)} can't be exported. Swap the part, or export another pass.")
    given = example(vae, what, _BATCH, _other_size(vae, what) if sizes else None)
    shapes = tuple(_dims(vae, what, i, each, dynamic_batch, sizes) for i, each in enumerate(given))
    with evaluating(vae), torch.no_grad(), _unchecked():
        try:
            program = torch.export.export(_Pass(vae, what), given, dynamic_shapes=shapes, strict=False)
        except Exception:
            try:  # through dynamo, which keeps the batch open where a part asks for len()
                program = torch.export.export(_Pass(vae, what), given, dynamic_shapes=shapes, strict=True)
            except Exception as error:
                raise ExportError(f"export: torch.export can't trace {what!r} of this model: {error}") from error
    program = program.run_decompositions({})  # without operators in place, so that what is not used can go:
    # the draw of z, p(z) and log-densities, whatever is asserted of their types
    program.graph.eliminate_dead_code(lambda node: node.op != "call_function" or "_assert_scalar" in node.name)
    program.graph_module.recompile()
    return program


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
        ExportError: where a part can't be exported, or the file gives something else than the model. Nothing is left
            behind then.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["z" if what == "decode" else "x", "cond"][: len(example(vae, what, 1))]
    with _quiet():
        try:
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=names,
                output_names=[_OUTPUT[what]],
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
    written.save(path)
    if tolerance is not None:
        try:
            for given in _trials(vae, what, program):
                compare(vae, path, what, given, tolerance)
        except ExportError:
            path.unlink()
            path.with_name(path.name + ".data").unlink(missing_ok=True)
            raise
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
    x, cond = given[0], given[1] if len(given) > 1 else None
    with evaluating(vae), torch.no_grad():
        theirs = vae.decode(x, cond) if what == "decode" else vae.encode(x, cond=cond).mode
        theirs = vae.decode(theirs, cond) if what == "reconstruct" else theirs
    ours = _run(_session(path), given).to(theirs.device)
    if ours.shape != theirs.shape:
        raise ExportError(f"{path}: gives shape {tuple(ours.shape)}, and the model {tuple(theirs.shape)}.")
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))
    if not difference <= tolerance:
        raise ExportError(
            f"{path}: onnxruntime and torch differ by {difference:.2g}, more than {tolerance:g}. Give a larger "
            "tolerance where the model rounds to codes and a value lies on an edge."
        )
    return difference


@dataclass(frozen=True)
class Quantized:
    """What int8 weights bring and cost.

    Args:
        path: the file.
        size: its bytes.
        size_before: bytes of the file that it was made from.
        speed: how many times as fast as that; below 1 it is slower.
        psnr: of its output against that of the other file, dB, over the data's range (or the output's own).
        lost: how much worse it reconstructs the data, dB of PSNR; None where the file does not reconstruct.
    """

    path: Path
    size: int
    size_before: int
    speed: float
    psnr: float
    lost: float | None

    def __str__(self) -> str:
        lost = "" if self.lost is None else f", reconstructions {self.lost:.2f} dB worse"
        return (
            f"{self.path.name}: {self.size / 1e6:.2f} MB of {self.size_before / 1e6:.2f} MB, {self.speed:.2f}× the "
            f"speed, {self.psnr:.1f} dB against float32{lost}"
        )


def quantize(
    path: str | Path, out: str | Path, data: Tensor | Sequence[Tensor] | None = None, *, repeats: int = 10
) -> Quantized:
    """Write an ONNX file with int8 weights, and measure what that brings and costs.

    Weights of matrix products and convolutions become 8-bit integers, one scale each; activations are rounded as they
    come, with a scale found at run time. Nothing is fitted, so no calibration data are needed.

    Args:
        path: what `export` wrote.
        out: the file to write.
        data: what to measure on: a batch of x or z, with the condition after it where the file takes one. None takes
            uniform noise, which says little of reconstructions.
        repeats: passes that are timed, of which the fastest counts.

    Raises:
        MissingPackage: without onnx and onnxruntime.
        ExportError: where the file is none of `export`.

    Example:
        >>> import tempfile, vaekit
        >>> folder = tempfile.mkdtemp()
        >>> path = export(vaekit.build("mlp", latent=2, input_shape=(1, 28, 28)), folder + "/vae.onnx")
        >>> report = quantize(path, folder + "/vae_int8.onnx")
        >>> report.size < 0.3 * report.size_before and report.psnr > 30
        True
    """
    user = "vaekit.interop.onnx.quantize"
    onnx: Any = require("onnx", user=user, extra="interop")
    quantization: Any = require("onnxruntime.quantization", user=user, extra="interop")
    path, out = Path(path), Path(out)
    session = _session(path)
    told = _told(session, path)
    given = _noise(session, told) if data is None else (data,) if isinstance(data, Tensor) else tuple(data)
    before, seconds_before = _timed(session, given, repeats)
    out.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(str(path))
    del model.graph.value_info[:]  # shapes inside, some of which do not hold after onnxruntime's rewrites
    with _quiet():
        # unsigned weights: onnxruntime's integer convolution on a CPU takes no others
        quantization.quantize_dynamic(model, str(out), weight_type=quantization.QuantType.QUInt8)
    after, seconds = _timed(_session(out), given, repeats)
    if told["what"] == "encode" or told["data_range"] is None:
        peak = float(before.max() - before.min())
    else:
        peak = told["data_range"][1] - told["data_range"][0]
    lost = None
    if told["what"] == "reconstruct":
        x = given[0].detach().cpu()
        lost = _psnr(before, x, peak) - _psnr(after, x, peak)
    return Quantized(out, _size(out), _size(path), seconds_before / seconds, _psnr(after, before, peak), lost)


def example(vae: VAE, what: What, batch: int, size: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Something that the pass takes: noise in the data's range or in the latent, and a condition where there is one.

    Args:
        vae: the model.
        what: the pass.
        batch: how many examples.
        size: spatial sizes of the data or the latent; None takes the model's own.
    """
    weight = first_parameter(vae)
    device = torch.device("cpu") if weight is None else weight.device
    dtype = torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32
    shape = given_shape(vae, what)
    shape = shape if size is None else (shape[0], *size)
    first = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    if what == "decode":
        first = 2 * first - 1
    elif vae.data_range is not None:
        low, high = vae.data_range
        first = low + (high - low) * first
    if vae.condition is None or not vae.condition.dim:  # a condition without tokens is for losses
        return (first,)
    condition: Any = vae.condition
    return first, condition.example(batch).to(device)


def _dims(vae: VAE, what: What, i: int, given: Tensor, batch: bool, sizes: bool) -> dict[int, Any]:
    dims: dict[int, Any] = {0: Dim("b", min=1)} if batch else {}
    if sizes and i == 0:
        for axis, stride in enumerate(_strides(vae, what)):
            place = Dim("hwd"[axis], min=1)
            dims[axis + 2] = place if stride == 1 else stride * place
    return dims


def _trials(vae: VAE, what: What, program: ExportedProgram) -> Iterator[tuple[Tensor, ...]]:
    """Inputs to compare on: the traced shape, another batch, and another size, where the program takes them."""
    yield example(vae, what, _BATCH)
    first = next(iter(program.graph_signature.user_inputs))
    shape: Any = next(node for node in program.graph.nodes if node.name == first).meta["val"].shape
    if not isinstance(shape[0], int):
        yield example(vae, what, 2)
    if len(shape) > 2 and not isinstance(shape[2], int):
        yield example(vae, what, 2, _other_size(vae, what))


def _other_size(vae: VAE, what: What) -> list[int]:
    """Spatial sizes that the pass takes beside the model's own, each of its own number."""
    now = given_shape(vae, what)[1:]
    return [n + (axis + 1) * step for axis, (n, step) in enumerate(zip(now, _strides(vae, what), strict=True))]


def given_shape(vae: VAE, what: What) -> tuple[int, ...]:
    """The shape of what the pass takes, without the batch."""
    return vae.latent_shape if what == "decode" else vae.input_shape


def _translations() -> dict[Any, Any]:
    """Operators that torch.onnx has no form for."""
    onnxscript: Any = require("onnxscript", user="vaekit.interop.onnx.export", extra="interop")
    op = onnxscript.opset18

    def right_shift(number: Any, places: Any) -> Any:
        """The bits of a code (never negative): ONNX shifts unsigned integers alone."""
        return op.Div(number, op.Pow(op.CastLike(op.Constant(value_int=2), number), places))

    return {torch.ops.aten.__rshift__.Tensor: right_shift}


def _strides(vae: VAE, what: What) -> list[int]:
    """What each spatial size of the data (or latent) has to be a multiple of."""
    places = zip(vae.input_shape[1:], vae.latent_shape[1:], strict=True)
    return [1 if what == "decode" else full // latent for full, latent in places]


@contextmanager
def _unchecked() -> Iterator[None]:
    """Without the checks of distributions' arguments, which dynamo can't trace, such as of those inside StudentT."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxruntime say of their own deprecations, to the user and to the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _session(path: str | Path) -> Any:
    runtime: Any = require("onnxruntime", user="vaekit.interop.onnx", extra="interop")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: Any, given: Sequence[Tensor]) -> Tensor:
    names = [each.name for each in session.get_inputs()]
    if len(names) != len(given):
        raise ValueError(f"data: the file takes {', '.join(names)}, got {len(given)} tensors.")
    feed = {name: each.detach().cpu().numpy() for name, each in zip(names, given, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


def _timed(session: Any, given: Sequence[Tensor], repeats: int) -> tuple[Tensor, float]:
    """What the file gives, and the seconds of the fastest pass."""
    result, fastest = _run(session, given), math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        _run(session, given)
        fastest = min(fastest, time.perf_counter() - began)
    return result, fastest


def _told(session: Any, path: Path) -> dict[str, Any]:
    told = session.get_modelmeta().custom_metadata_map.get("vaekit")
    if told is None:
        raise ExportError(f"{path}: was not written by vaekit.interop.onnx.export.")
    return json.loads(told)


def _noise(session: Any, told: Mapping[str, Any], batch: int = 16) -> tuple[Tensor, ...]:
    shape = told["latent_shape" if told["what"] == "decode" else "input_shape"]
    if len(session.get_inputs()) > 1:
        raise ValueError("data: the file takes a condition; give (x, cond) to measure on.")
    fixed = session.get_inputs()[0].shape[0]
    low, high = (-1.0, 1.0) if told["what"] == "decode" else told["data_range"] or (-1.0, 1.0)
    noise = torch.rand(fixed if isinstance(fixed, int) else batch, *shape, generator=torch.Generator().manual_seed(0))
    return (low + (high - low) * noise,)


def _psnr(a: Tensor, b: Tensor, peak: float) -> float:
    error = float((a - b).square().mean())
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def _size(path: Path) -> int:
    """Bytes of a file, and of the weights that a large model keeps beside it."""
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
