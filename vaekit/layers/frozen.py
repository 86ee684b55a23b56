"""A network as a fixed function: gradients pass through it, and stop at its weights."""

from typing import Any

from torch import nn
from torch.func import functional_call


def frozen(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`network(*args, **kwargs)` with its weights detached: what comes out has a gradient in `args` only."""
    weights = {name: p.detach() for name, p in network.named_parameters()}
    return functional_call(network, weights, args, kwargs)
