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
def forked(device: torch.device | str = "cpu") -> Iterator[None]:
    """Draws of the block leave the global random state, the CPU's and the device's, as it was."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draws of the block start from `seed`; the global random state is left as it was."""
    with forked(device):
        torch.manual_seed(seed)
        yield


@contextmanager
def drawing(generator: torch.Generator | None, device: torch.device | str) -> Iterator[None]:
    """Draw from a seed of `generator`, and leave the global random state as it was; without one, draw from that.

    torch.distributions take no generator, so its state is put under the global one for a moment.
    """
    if generator is None:
        yield
        return
    with seeded(int(torch.randint(2**62, (), generator=generator, device=generator.device)), device):
        yield
