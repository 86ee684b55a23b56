"""A model's pass as torch's own exported program: a graph of ATen operators with its weights.

encode        x ─► encoder ─► sampler ─► mode of q(z|x)
decode                                   z ─► decoder ─► likelihood ─► mean of p(x|z)
reconstruct   x ─► …                     ─► …                       ─► mean of p(x|z)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.export import Dim, ExportedProgram

from vaekit.interop.runtime import ExportError
from vaekit.modes import evaluating
from vaekit.vae import VAE, first_parameter

What: TypeAlias = Literal["reconstruct", "encode", "decode"]

OUTPUTS = {"encode": "z", "decode": "reconstruction", "reconstruct": "reconstruction"}
"""What each pass gives, by the name that it has in a file."""

BATCH = 3
"""Examples in the traced pass; 0 and 1 are special to torch.export."""

_PARTS = ("encoder", "sampler", "decoder", "likelihood", "condition", "transforms")


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
        return z if self.what == "encode" else vae.likelihood_of(z, tokens).mean


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
            if slot not in unused and not getattr(part, "exports", True):
                found.append(f"{slot}: {type(part).__name__}")
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
    if what not in OUTPUTS:
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
    given = example(vae, what, BATCH, other_size(vae, what) if sizes else None)
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


def given_shape(vae: VAE, what: What) -> tuple[int, ...]:
    """The shape of what the pass takes, without the batch."""
    return vae.latent_shape if what == "decode" else vae.input_shape


def other_size(vae: VAE, what: What) -> list[int]:
    """Spatial sizes that the pass takes beside the model's own, each of its own number."""
    now = given_shape(vae, what)[1:]
    return [n + (axis + 1) * step for axis, (n, step) in enumerate(zip(now, _strides(vae, what), strict=True))]


def _strides(vae: VAE, what: What) -> list[int]:
    """What each spatial size of the data (or latent) has to be a multiple of."""
    places = zip(vae.input_shape[1:], vae.latent_shape[1:], strict=True)
    return [1 if what == "decode" else full // latent for full, latent in places]


def _dims(vae: VAE, what: What, i: int, given: Tensor, batch: bool, sizes: bool) -> dict[int, Any]:
    dims: dict[int, Any] = {0: Dim("b", min=1)} if batch else {}
    if sizes and i == 0:
        for axis, stride in enumerate(_strides(vae, what)):
            place = Dim("hwd"[axis], min=1)
            dims[axis + 2] = place if stride == 1 else stride * place
    return dims


@contextmanager
def _unchecked() -> Iterator[None]:
    """Without the checks of distributions' arguments, which dynamo can't trace, such as of those inside StudentT."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
