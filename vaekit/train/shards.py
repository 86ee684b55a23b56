"""Weights shared out over the processes (FSDP): each trains its part of a copy, and the whole is put together to look.

    vae (whole, at rest on the host) ── scatter ─► copy, a part in each process ─► steps
                 ▲                                          │
                 └── to validate, draw and save ◄── gather ─┘

So what looks at a model, and what is saved, is a whole model as in a run of one process.
"""

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.objective import TrainStep
from vaekit.optional import require


def sharding_plugin() -> Any:
    """accelerate's settings where the run was started to share weights out; None elsewhere.

    `accelerate launch` with FSDP says so in the environment, and so may one for torchrun: ACCELERATE_USE_FSDP=true.
    Whichever version its config names, it is torch's `fully_shard` (version 2) that is used.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("true", "1"):
        return None
    os.environ["FSDP_VERSION"] = "2"
    accelerate = require("accelerate", user="Trainer", extra="train")
    whole_at_start = {"cpu_ram_efficient_loading": False}  # each process cuts its part out of weights that it has
    strategy = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    reshard = strategy not in ("false", "0", "shard_grad_op", "no_shard")  # a word of version 1, or a switch
    return accelerate.FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=reshard, **whole_at_start)


class Shards:
    """A model, and a copy of it whose weights are shared out.

    Args:
        whole: stays whole, where it is.
        accelerator: accelerate's, which shares out as its settings say.
        device: where the parts go.
        synchronise: whether batch normalisation is to be that of all processes' batches.
    """

    def __init__(self, whole: nn.Module, accelerator: Any, device: torch.device, *, synchronise: bool) -> None:
        self.whole = whole
        step = TrainStep(copy.deepcopy(whole)).to(device)
        if synchronise:
            step = nn.SyncBatchNorm.convert_sync_batchnorm(step)
        state = accelerator.state
        if getattr(state, "fsdp_plugin", None) is None:  # accelerate has it for accelerators alone
            state.fsdp_plugin = sharding_plugin()
        # a number can't be cut: each process keeps it, and `Updates` takes the mean of its gradient
        state.fsdp_plugin.ignored_modules = [nn.ParameterList([p for p in step.parameters() if p.ndim == 0])]
        prepare = require("accelerate.utils.fsdp_utils", user="Trainer", extra="train").fsdp2_prepare_model
        #: x, label → Report
        self.step: Any = prepare(accelerator, step)
        #: the copy, whose parameters are parts
        self.part: Any = self.step.model

    @torch.no_grad()
    def gather(self) -> None:
        """Put the weights together, in all processes; all have to call this."""
        self.whole.load_state_dict(put_together(self.part.state_dict()))

    @torch.no_grad()
    def scatter(self) -> None:
        """Share the whole model's weights out; they have to be the same in all processes."""
        whole = self.whole.state_dict()
        self.part.load_state_dict({name: dealt(whole[name], like) for name, like in self.part.state_dict().items()})

    @contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """The whole model, with the weights of now, is on a device inside the block."""
        home = next(self.whole.parameters()).device
        self.gather()
        self.whole.to(device)
        try:
            yield
        finally:
            self.whole.to(home)


def is_part(value: Any) -> bool:
    """Whether a tensor is shared out: one of torch's DTensor, whose import takes a second that others need not wait."""
    return hasattr(value, "full_tensor")


def local(value: Any) -> Tensor:
    """What this process has of a tensor."""
    return value.to_local() if is_part(value) else value


def put_together(value: Any) -> Any:
    """Nested state with whole tensors, on the host, where it had parts; all processes have to call this."""
    if is_part(value):
        return value.full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: put_together(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(put_together(each) for each in value)
    return value


def dealt(whole: Tensor, like: Any) -> Tensor:
    """This process's part of a tensor that all have whole, cut as `like` is; the tensor itself where that is whole."""
    if not is_part(like) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    whole = whole.to(like.device, like.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
