"""Equalised learning rates: weights of unit variance, scaled when they are used."""

import math
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)


class _Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def equalized(layer: Layer) -> Layer:
    """The layer with weights w / √fan_in, w ~ N(0, 1), and a bias of zero: Adam moves all layers at the same pace.

    References:
        Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras et al., 2018),
        https://arxiv.org/abs/1710.10196
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    nn.init.normal_(weight)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)
    parametrize.register_parametrization(layer, "weight", _Scaled(1 / math.sqrt(weight[0].numel())))
    return layer
