"""Where to compute, and in which precision; the batch that fits, the same bits again, the faster way to run a model."""

import copy
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.layers.precision import at_least_float32
from vaekit.tiling import memory_plan as memory_plan


def pick(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" takes the first of CUDA, XPU, MPS and CPU that works here.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps", "xpu", or a `torch.device`.

    Raises:
        ValueError: where the device is not available; the message lists those that are.

    Example:
        >>> pick("cpu")
        device(type='cpu')
    """
    found = available()
    if name == "auto":
        return torch.device(found[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: {name!r} is no device. Available here: {', '.join(found)}.") from None
    if device.type not in {f.partition(":")[0] for f in found} or (
        device.index is not None and str(device) not in found
    ):
        raise ValueError(f"device: '{device}' is not available here. Available: {', '.join(found)}, or 'auto'.")
    return device


def available() -> list[str]:
    """Names of the devices that work here, the preferred one first and "cpu" last."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    found += [f"xpu:{i}" for i in range(torch.xpu.device_count())] if torch.xpu.is_available() else []
    found += ["mps", "mps:0"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]


def describe() -> str:
    """One line on the machine: processor, threads and accelerators."""
    cards = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {', '.join(cards) or 'no CUDA device'}"


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The type that networks compute in, None for that of their weights.

    Args:
        name: "fp32" for the weights' own, "bf16", "fp16" (which needs a loss scaler), or "auto": bf16 on an accelerator
            that has it in hardware, fp32 elsewhere.
        device: where it is computed.

    Raises:
        ValueError: where there is no such precision, or the device has it not.

    Example:
        >>> pick_precision("auto", torch.device("cpu")), pick_precision("bf16", torch.device("cpu"))
        (None, torch.bfloat16)
    """
    known = {"auto": None, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in known:
        raise ValueError(f"precision: expected {', '.join(map(repr, known))}, got {name!r}.")
    if name == "auto":
        return torch.bfloat16 if device.type != "cpu" and _has_bfloat16(device) else None
    if name == "bf16" and device.type != "cpu" and not _has_bfloat16(device):
        raise ValueError(f"precision: '{device}' has no bf16 in hardware. Use 'fp16' or 'fp32'.")
    return known[name]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
    return device.type == "xpu"


@contextmanager
def networks_in(dtype: torch.dtype | None, device: torch.device, *networks: nn.Module) -> Iterator[None]:
    """Networks compute in `dtype` inside the block, by autocast; what they give is float32 again.

    Everything between them (densities, KL, log-determinants, perceptual losses, weights that balance gradients) stays
    in the precision of the weights.

    Args:
        dtype: half precision; None changes nothing.
        device: where it is computed.
        networks: encoder, decoder, critics.
    """
    if dtype is None:
        yield
        return
    before = [vars(network).get("forward") for network in networks]
    for network in networks:
        network.forward = _cast(network.forward, dtype, device.type)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for network, own in zip(networks, before, strict=True):
            if own is None:
                del network.forward  # the class's own shows again
            else:
                network.forward = own  # type: ignore[method-assign]


def _cast(forward: Any, dtype: torch.dtype, kind: str) -> Any:
    @wraps(forward)
    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(kind, dtype):
            return _single(forward(*args, **kwargs))

    return cast


def _single(value: Any) -> Any:
    if isinstance(value, Tensor):
        return at_least_float32(value)
    if isinstance(value, Mapping):
        return {key: _single(each) for key, each in value.items()}
    return type(value)(_single(each) for each in value) if type(value) in (list, tuple) else value


def pick_memory_format(name: str, device: torch.device) -> torch.memory_format:
    """How maps lie in memory: "contiguous", "channels_last", or "auto", the latter on CUDA.

    Raises:
        ValueError: where there is no such format.
    """
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    if name not in ("auto", *formats):
        raise ValueError(f"memory_format: expected 'auto', 'contiguous' or 'channels_last', got {name!r}.")
    return formats["channels_last" if device.type == "cuda" else "contiguous"] if name == "auto" else formats[name]


@contextmanager
def deterministic(seed: int | None = None) -> Iterator[None]:
    """The same bits at every run inside the block: no algorithm that adds in any order, no choice by timing.

    What has no deterministic algorithm on this device raises torch's RuntimeError, which names it. On CUDA it has to be
    entered before the first matrix product of the process, for cuBLAS to take up its workspace.

    Args:
        seed: seeds torch's generators; they are as they were after the block. None leaves them alone.

    Example:
        >>> with deterministic(seed=0):
        ...     first = torch.rand(1)
        >>> with deterministic(seed=0):
        ...     assert torch.equal(torch.rand(1), first)
    """
    algorithms, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic
    cudnn: Any = torch.backends.cudnn
    before, workspace = (cudnn.deterministic, cudnn.benchmark), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    fill = memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # it takes time, and hides nothing that is deterministic
        cudnn.deterministic, cudnn.benchmark = True, False
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn)
        memory.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = before
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@dataclass(frozen=True)
class BatchSize:
    """What `auto_batch_size` found: the batch that fits, and how many of them make the batch that was wanted.

    Args:
        batch_size: examples that fit.
        accumulate: batches of that size in the batch that was wanted, or a little more.
    """

    batch_size: int
    accumulate: int


def auto_batch_size(run: Callable[[int], object], wanted: int = 4096, *, least: int = 1) -> BatchSize:
    """The largest batch, up to `wanted`, with which `run` does not run out of memory, by bisection.

    Args:
        run: batch size → one step with it, forward and backward, as in training. Its weights' gradients and state stay
            as it leaves them.
        wanted: the largest batch of interest.
        least: the smallest.

    Returns:
        The batch size, and the `accumulate` with which the Trainer makes steps of at least `wanted` examples of it.

    Raises:
        torch.OutOfMemoryError: where not even `least` fits.
        ValueError: where `wanted` < `least`, or `least` < 1.

    Example:
        >>> def run(batch_size):
        ...     if batch_size > 100:
        ...         raise torch.OutOfMemoryError("a card of 100 examples")
        >>> auto_batch_size(run, wanted=256)
        BatchSize(batch_size=100, accumulate=3)
    """
    if not 1 <= least <= wanted:
        raise ValueError(f"auto_batch_size: expected 1 ≤ least ≤ wanted, got least={least}, wanted={wanted}.")
    if _fits(run, wanted):
        return BatchSize(wanted, 1)
    if not _fits(run, least):
        raise torch.OutOfMemoryError(
            f"auto_batch_size: not even a batch of {least} fits. Use a smaller model, smaller data, or half precision."
        )
    low, high = least, wanted  # low fits, high does not
    while high - low > max(1, low // 64):  # what is closer tells nothing: memory in use varies by as much
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(run, middle) else (low, middle)
    return BatchSize(low, -(-wanted // low))


def _fits(run: Callable[[int], object], size: int) -> bool:
    try:
        run(size)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return True
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():  # outside of the except clause, whose traceback holds on to the step's tensors
        torch.cuda.empty_cache()
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, on a device or on the host.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    told = ("out of memory", "can't allocate memory", "not enough memory")  # the CPU's allocator, and older drivers
    return isinstance(error, RuntimeError) and any(each in str(error).lower() for each in told)


@dataclass(frozen=True)
class Optimized:
    """What `optimize` made of a model: the model to use, and what was measured.

    Args:
        vae: as it was given, with networks that were compiled where that is faster.
        seconds: of "encode" and "decode", each as (before, after); the same number twice where nothing was compiled.
        compiled: which of the two are.
        why: of those that are not, the reason.
    """

    vae: Any
    seconds: Mapping[str, tuple[float, float]]
    compiled: Sequence[str]
    why: Mapping[str, str] = field(default_factory=dict)


def optimize(vae: Any, batch_size: int = 1, *, mode: str | None = None, tolerance: float = 1e-3) -> Optimized:
    """A copy of a model for inference: encoder and decoder compiled, each where it is measured to be faster and right.

    A network that does not compile, is not faster, or gives other numbers stays as it is; `why` says so. The weights
    are shared with the model that was given, and its networks are left alone.

    Args:
        vae: the model, where and in the precision in which it is to run.
        batch_size: that it is measured and first compiled with; other sizes compile once more.
        mode: of `torch.compile`.
        tolerance: how far the numbers may be apart, as a part of the largest.

    Raises:
        ValueError: where `batch_size` < 1.
    """
    if batch_size < 1:
        raise ValueError(f"optimize: expected a batch_size of at least 1, got {batch_size}.")
    shared = {id(p): p for p in [*vae.parameters(), *vae.buffers()]}
    made = copy.deepcopy(vae, dict(shared)).eval()
    device = next(vae.parameters()).device
    low, high = vae.data_range or (0.0, 1.0)
    x = low + (high - low) * torch.rand(batch_size, *vae.input_shape, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, tuple[float, float]] = {}
    compiled: list[str] = []
    why: dict[str, str] = {}
    with torch.no_grad():
        x = x.to(device, torch.float64 if next(vae.parameters()).dtype == torch.float64 else torch.float32)
        if vae.condition is not None:
            return Optimized(made, {}, (), dict.fromkeys(("encode", "decode"), "the model has a condition"))
        z = made.encode(x).mode
        for name, given in (("encoder", x), ("decoder", z)):
            stage, network = {"encoder": "encode", "decoder": "decode"}[name], getattr(made, name)
            given = given.to(next(network.parameters()).dtype)
            before = _measured(network, given)
            seconds[stage] = (before, before)
            expected, after, apart = network(given), 0.0, 0.0
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # on what a compiler would like
                    network.compile(mode=mode)  # in place: the module keeps its name and its weights theirs
                    apart, after = _apart(expected, network(given)), _measured(network, given)
            except Exception as error:  # compilers fail in many ways
                first = next(iter(str(error).splitlines()), "")
                why[stage] = f"does not compile ({type(error).__name__}: {first})"
            if stage not in why and not apart <= tolerance:
                why[stage] = f"gives other numbers when compiled, by {apart:.1g} of the largest"
            elif stage not in why and after >= before:
                why[stage] = f"is not faster when compiled ({1e3 * after:.3g} ms, {1e3 * before:.3g} ms before)"
            if stage in why:
                network._compiled_call_impl = None
            else:
                seconds[stage] = (before, after)
                compiled.append(stage)
    return Optimized(made, seconds, tuple(compiled), why)


def _measured(network: Callable[[Tensor], Any], x: Tensor, times: int = 5) -> float:
    """Seconds of one call, the shortest of several after a warm-up."""
    wait = torch.get_device_module(x.device).synchronize if x.device.type != "cpu" else lambda: None
    network(x)
    found = []
    for _ in range(times):
        wait()
        began = time.perf_counter()
        network(x)
        wait()
        found.append(time.perf_counter() - began)
    return min(found)


def _apart(a: Any, b: Any) -> float:
    """The largest difference as a part of the largest number."""
    if isinstance(a, Tensor):
        return float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
    pairs = zip(a.values(), b.values(), strict=True) if isinstance(a, Mapping) else zip(a, b, strict=True)
    return max(_apart(x, y) for x, y in pairs)
