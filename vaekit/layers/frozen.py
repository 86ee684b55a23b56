"""A network as a fixed function: gradients pass through it, and stop at its weights."""

from typing import Any

from torch import nn
from torch.func import functional_call


def frozen(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`network(*args, **kwargs)` with its weights detached: what comes out has a gradient in `args` only.

    Its buffers stay as they are, running statistics among them: what a pass updates is a copy.
    """
    state = {name: p.detach() for name, p in network.named_parameters()}
    state |= {name: b.clone() for name, b in network.named_buffers()}
    return functional_call(network, state, args, kwargs)
