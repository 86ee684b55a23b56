"""ONNX files with 8-bit weights, and what that brings and costs."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.interop.runtime import ExportError, quiet, run, session_of, weights_beside, written_beside
from vaekit.optional import require


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
        >>> from vaekit.interop.onnx import export
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
    session = session_of(path)
    told = _told(session, path)
    given = _noise(session, told) if data is None else (data,) if isinstance(data, Tensor) else tuple(data)
    before, seconds_before = _timed(session, given, repeats)
    model = onnx.load(str(path))
    del model.graph.value_info[:]  # shapes inside, some of which do not hold after onnxruntime's rewrites
    size_before = _size(path)  # now: `out` may be the same file
    with written_beside(out) as beside, quiet():
        # unsigned weights: onnxruntime's integer convolution on a CPU takes no others
        quantization.quantize_dynamic(model, str(beside), weight_type=quantization.QuantType.QUInt8)
    after, seconds = _timed(session_of(out), given, repeats)
    if told["what"] == "encode" or told["data_range"] is None:
        peak = float(before.max() - before.min())
    else:
        peak = told["data_range"][1] - told["data_range"][0]
    lost = None
    if told["what"] == "reconstruct":
        x = given[0].detach().cpu()
        lost = _psnr(before, x, peak) - _psnr(after, x, peak)
    return Quantized(out, _size(out), size_before, seconds_before / seconds, _psnr(after, before, peak), lost)


def _timed(session: Any, given: Sequence[Tensor], repeats: int) -> tuple[Tensor, float]:
    """What the file gives, and the seconds of the fastest pass."""
    result, fastest = run(session, given), math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        run(session, given)
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
    beside = weights_beside(path)
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
