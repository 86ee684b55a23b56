"""Modes that a model, or the random state, is in for a block of code."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, and each submodule's own mode again after it."""
    modes = [(m, m.training) for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextmanager
def seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Draw from a seed of `generator`, and leave the global random state as it was; without one, draw from that.

    torch.distributions take no generator, so its state is put under the global one for a moment.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
