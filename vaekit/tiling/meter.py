"""What a computation holds and multiplies, counted from the tensors it makes: the same on every machine."""

import copy
import weakref
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Network = TypeVar("Network", bound=nn.Module)


class Meter(TorchDispatchMode):
    """`peak`: the most bytes of tensors, made inside its block, that were alive at once.

    It counts `products` of convolutions and matrices, and group `norms`, as well. What was there before, weights and
    inputs, is not counted; nor what a kernel holds inside.

    Args:
        meta: count tensors of the meta device, which hold nothing, in place of those of all others.

    Example:
        >>> with Meter() as meter:
        ...     x = torch.zeros(1000)
        ...     x = x + 1
        ...     y = x[:10]
        >>> meter.peak, meter.live
        (8000, 4000)
    """

    def __init__(self, *, meta: bool = False) -> None:
        super().__init__()
        self.meta = meta
        self.live = self.peak = self.products = self.norms = 0
        self._held: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.is_meta == self.meta:
                self._hold(t.untyped_storage(), given)
        self.peak = max(self.peak, self.live)
        self._count(func, args, result)
        return result

    def _hold(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = id(storage)
        if key not in given and key not in self._held:
            self.live += storage.nbytes()
            self._held.add(key)
            weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.live -= size

    def _count(self, func: Any, args: tuple[Any, ...], result: Any) -> None:
        packet = func.overloadpacket
        if packet is torch.ops.aten.convolution:
            x, weight, transposed = args[0], args[1], args[6]
            self.products += (x if transposed else result).numel() * weight[0].numel()
        elif packet in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.products += result.numel() * args[0].shape[-1]
        elif packet is torch.ops.aten.addmm:
            self.products += result.numel() * args[1].shape[-1]
        elif packet is torch.ops.aten.native_group_norm:
            self.norms += 1


class _FusedAttention(TorchFunctionMode):
    """Attention as its fused kernels hold it: the result, without a matrix of all pairs of places."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            return q.new_empty((*q.shape[:-1], v.shape[-1])) if k is not None else None
        return func(*args, **(kwargs or {}))


def measured(run: Callable[..., Tensor], *given: Tensor | None) -> tuple[Tensor, Meter]:
    """What a run on tensors of the meta device gives, and what it would hold and multiply."""
    # inference mode hides the parts of what is made of parts
    with torch.inference_mode(False), torch.no_grad(), _FusedAttention(), Meter(meta=True) as meter:
        result = run(*given)
    return result, meter


def on_meta(network: Network) -> Network:
    """A copy that has shapes and no numbers; nothing is copied for it but Python objects."""
    with torch.inference_mode(False):
        memo: dict[int, Any] = {id(t): _meta(t) for t in chain(network.parameters(), network.buffers())}
        return copy.deepcopy(network, memo)


def _meta(t: Tensor) -> Tensor:
    bare = t.detach().to("meta")
    return nn.Parameter(bare, requires_grad=False) if isinstance(t, nn.Parameter) else bare


def nbytes(t: Tensor) -> int:
    """Bytes of a tensor's values."""
    return t.numel() * t.element_size()
