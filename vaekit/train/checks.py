"""What is looked at before a run begins, and before a batch is computed with."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from vaekit.modes import evaluating
from vaekit.train.data import Batches, TensorBatches, on_device
from vaekit.train.phases import Phase
from vaekit.train.pieces import Pieces
from vaekit.train.processes import Processes
from vaekit.vae import VAE


def check_counts(**counts: Any) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in counts.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"Trainer: {name} should be a whole number, at least 1, got {value!r}.")


def smallest_batch(vae: VAE, phases: Sequence[Phase]) -> int:
    """How many examples the losses need: some compare those of a batch, and a rest smaller than that is left out.

    Raises:
        ValueError: where batches are smaller than that.
    """
    losses = getattr(vae.objective, "terms", {}).items()
    needs = {label: getattr(loss, "smallest_batch", 1) for label, loss in losses}
    least, batch_size = max(needs.values(), default=1), min(phase.batch_size for phase in phases)
    if batch_size < least:
        raise ValueError(
            f"Trainer: batch_size={batch_size} is too small for the loss {max(needs, key=needs.__getitem__)!r}, which "
            f"needs at least {least} examples."
        )
    return least


def check_data(vae: VAE, name: str, data: Batches | None) -> None:
    """Look at all data in memory once, before the first step.

    Raises:
        ValueError: where they do not fit the model, naming the examples.
    """
    if data is None:
        return
    if isinstance(data, TensorBatches):
        if vae.condition is not None and data.labels is None:
            raise ValueError(f"{name}: the model has a condition, so labels are needed: give ({name}, labels).")
        where = next((p.device for p in vae.parameters()), torch.device("cpu"))
        for start in range(0, len(data.x) if data.in_memory else 1, 8192):
            part = slice(start, start + (8192 if data.in_memory else data.batch_size))
            batch = data.x[part], None if data.labels is None else data.labels[part]
            x, label = on_device(batch, where, vae.data_range)
            try:
                vae.check(x)
                if vae.condition is not None:
                    with torch.no_grad(), evaluating(vae.condition):
                        vae.condition(label, len(x))
            except ValueError as error:
                raise ValueError(f"{name}, examples from {start} on: {error}") from None
    elif data.length == 0:
        raise ValueError(f"{name}: gives no batch. It is smaller than the batch size and drop_last is set.")


def check_launch(processes: Processes, *, auto_batch: bool, dtype: torch.dtype | None) -> None:
    """Refuse what several processes can't do together.

    Raises:
        ValueError: naming the argument.
    """
    if auto_batch and processes.count > 1:
        raise ValueError(
            "Trainer: auto_batch=True is for one process: several have to cut their batches alike. Find what fits with "
            "one of them, and give batch_size and accumulate."
        )
    if processes.sharded and dtype == torch.float16:
        raise ValueError("Trainer: precision='fp16' does not go with FSDP. Use 'bf16'.")


def out_of_memory(
    number: int, batch_size: int, accumulate: int, pieces: Pieces, error: BaseException
) -> torch.OutOfMemoryError:
    """The error of a step that does not fit into memory: what would."""
    if pieces.fits is not None:
        return torch.OutOfMemoryError(
            f"Trainer: out of memory at step {number} with {pieces.fits} examples at a time, and fewer they can't be. "
            f"Use a smaller model, smaller data, or half precision. ({error})"
        )
    return torch.OutOfMemoryError(
        f"Trainer: out of memory at step {number} with batches of {batch_size}. The same steps in less: "
        f"batch_size={max(1, batch_size // 2)}, accumulate={2 * accumulate}; or auto_batch=True, which finds what "
        f"fits. ({error})"
    )


def bad_values(group: Sequence[Tensor]) -> str:
    """Which example of a group of batches holds values that are not finite; "" for none."""
    for x in group:
        if not x.isfinite().all():
            bad = (~x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            return f"x holds NaN or infinite values in example {', '.join(map(str, bad[:5]))} of the batch"
    return ""


def no_batch(data: Batches, epoch: int) -> ValueError:
    """The error of an epoch without a batch."""
    bad = data.unreadable
    why = f"{len(bad)} images can't be read, {next(iter(bad))} first." if bad else ""
    return ValueError(f"train: gives no batch in epoch {epoch}. {why or 'A stream has to be one that can restart.'}")
