"""Layers of spectral norm 1, for critics."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

Layer = TypeVar("Layer", bound=nn.Module)


def spectral(layer: Layer, *, warmup: int = 20) -> Layer:
    """The layer with its weight divided by the largest singular value, which one power iteration a pass follows.

    The estimate starts after `warmup` more iterations than torch makes, so that first passes agree with each other.
    """
    spectral_norm(layer)  # in place
    with torch.no_grad():
        for _ in range(warmup):
            layer.weight  # noqa: B018 — looking at it is what iterates
    return layer
