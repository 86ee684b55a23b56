"""The processes of a run: who this one is, and what they tell each other. accelerate starts them and wraps the step.

Numbers that decide what happens next (how many examples a step has, whether to stop, whether something is finite) are
the same in all processes, so that all do the same. They travel between hosts, not devices: nothing waits for a device.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vaekit.optional import require
from vaekit.train.shards import sharding_plugin
from vaekit.train.signals import Stop

T = TypeVar("T")


class Processes:
    """All processes of a run, of which this is one. One alone agrees with itself, and nothing is sent.

    Args:
        device: what the Trainer was given: "auto" or a device's name.

    Raises:
        MissingPackage: where accelerate is missing.
        ValueError: where they were started in a way of accelerate's that the Trainer does not do.
    """

    def __init__(self, device: str | torch.device) -> None:
        accelerate = require("accelerate", user="Trainer", extra="train")
        self.rank, self.count, self.sharded = 0, 1, False
        self.accelerator: Any = None
        self._hosts: Any = None
        plugin = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 or (dist.is_available() and dist.is_initialized()):
            plugin = sharding_plugin()
            self.accelerator = accelerate.Accelerator(
                device_placement=False,
                cpu=str(device).startswith("cpu"),
                mixed_precision="no",  # the Trainer has its own
                # a critic before its start, and frozen parts, have no gradient
                kwargs_handlers=[accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)],
                **({} if plugin is None else {"fsdp_plugin": plugin}),
            )
            self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        if self.count > 1:
            kind = str(self.accelerator.distributed_type.value)
            if not kind.startswith("MULTI_") and kind != "FSDP":
                raise ValueError(
                    f"Trainer: was started as {kind}, which it can't do. Start it with torchrun, or set "
                    "distributed_type to MULTI_GPU, MULTI_CPU or FSDP in accelerate's config."
                )
            self.sharded = plugin is not None
            self._hosts = dist.new_group(backend="gloo")

    @property
    def share(self) -> tuple[int, int]:
        """This process's number, and how many there are."""
        return self.rank, self.count

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def device(self, name: str | torch.device) -> str | torch.device:
        """The device for this process, where several of a kind are on one machine."""
        if self.count > 1 and str(name) in ("auto", "cuda", "xpu"):
            return self.accelerator.device
        return name

    def wrap(self, step: nn.Module) -> Any:
        """The step, whose gradients are means over the processes."""
        if self.accelerator is None:
            # accelerate's idea of a device is one for the whole process, whichever came first; ours is this run's
            accelerate = require("accelerate", user="Trainer", extra="train")
            self.accelerator = accelerate.Accelerator(device_placement=False)
        # accelerate's own optimizer and backward look for optional packages at every step: 0.3 ms that a process alone
        # can do without
        return self.accelerator.prepare_model(step)

    @contextmanager
    def apart(self, step: Any) -> Iterator[None]:
        """Gradients are summed up in each process inside the block, and not yet sent."""
        if self.count == 1:
            yield
        elif self.sharded:
            step.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                step.set_requires_gradient_sync(True)
        else:
            with step.no_sync():
                yield

    def each(self, value: T) -> list[T]:
        """What every process has, in their order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self._hosts)
        return found

    def numbers(self, *own: float) -> list[list[float]]:
        """What every process has, in their order; for numbers alone, and fast."""
        if self.count == 1:
            return [list(own)]
        mine = torch.tensor(own, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(found, mine, group=self._hosts)
        return [each.tolist() for each in found]

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return any(row[0] for row in self.numbers(flag))

    def same(self, make: Callable[[], T]) -> T:
        """What `make` gives, or raises, in the first process, which alone calls it, for all."""
        if self.count == 1:
            return make()
        held: list[Any] = [None, None]
        if self.first:
            try:
                held[0] = make()
            except Exception as error:
                held[1] = error
        own = held[1]
        dist.broadcast_object_list(held, src=0, group=self._hosts)
        if held[1] is not None:
            raise held[1] if own is None else own
        return held[0]

    def sum(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the processes, on the device."""
        if self.count == 1:
            return dict(terms)
        together = torch.stack(list(terms.values()))
        dist.all_reduce(together)
        return dict(zip(terms, together.unbind(), strict=True))

    def mean(self, tensors: Iterable[Tensor]) -> None:
        """Means over the processes, in place, on the device."""
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.count

    def copy(self, tensors: Iterable[Tensor]) -> None:
        """The first process's numbers for all, such as running statistics; by way of the hosts for what is there."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0, group=self._hosts if tensor.device.type == "cpu" else None)


class Agreement:
    """Whether the run was asked to stop: with several processes, once all of them know.

    Args:
        processes: of the run.
        stop: of this process.
    """

    def __init__(self, processes: Processes, stop: Stop) -> None:
        self.processes, self.stop, self._heard = processes, stop, False

    @property
    def asked(self) -> bool:
        """Whether to end; the same in all processes."""
        return self.stop.asked if self.processes.count == 1 else self._heard

    def hear(self, asked: bool) -> None:
        """All processes know whether one was asked."""
        self._heard = self._heard or asked

    def ask_around(self) -> None:
        """Let all processes know whether one of them was asked; all have to call this."""
        if self.processes.count > 1:
            self._heard = self.processes.any(self.stop.asked)


@contextmanager
def synchronised(model: nn.Module, processes: Processes, device: torch.device) -> Iterator[None]:
    """Batch normalisation by the statistics of all processes' batches inside the block, where the device has it."""
    if processes.count == 1 or device.type != "cuda":
        yield
        return
    before = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, nn.SyncBatchNorm)
    ]
    for parent, name, child in before:
        parent.add_module(name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # of the same weights and statistics
    try:
        yield
    finally:
        for parent, name, child in before:
            child.train(parent.get_submodule(name).training)
            parent.add_module(name, child)
