"""Gradient checkpointing that changes no number: less memory in training, for a second forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(part: nn.Module, *given: Tensor | None) -> Tensor:
    """`part(*given)`, whose inner maps are computed again for the gradient in place of being kept.

    The second pass sees the very weights of the first, also where those were put in place for one call (a frozen
    network), and batch norms count each batch once.
    """
    if not torch.is_grad_enabled():
        return part(*given)
    # compiled, the second pass leaves buffers alone by itself
    norms = [m for m in part.modules() if isinstance(m, _BatchNorm) and not torch.compiler.is_compiling()]
    weights = dict(part.named_parameters())
    contexts = {"context_fn": partial(_contexts, norms)} if norms else {}
    return checkpoint(_call, part, weights, *given, use_reentrant=False, **contexts)  # type: ignore[return-value]


def _call(part: nn.Module, weights: dict[str, Tensor], *given: Tensor | None) -> Tensor:
    return functional_call(part, weights, given)


def _contexts(norms: Sequence[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _not_counting(norms)


@contextmanager
def _not_counting(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch norms that leave their running statistics as they are."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
