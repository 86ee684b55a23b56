"""The blocks of the tiny autoencoder (`tiny`): plain convolutions and activations, and its range of values."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.perceptron import activation

DataRange: TypeAlias = tuple[float, float] | None


def conv3(c_in: int, c_out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3-convolution that keeps the size, or halves it upwards."""
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=bias)


class TinyBlock(nn.Module):
    """relu(x + conv(act(conv(act(conv(x)))))), without a norm. `(b, c, h, w)` → the same.

    With `pool`, x is first joined by what a group norm in between two 1-convolutions makes of it, which reads the
    whole map: x + conv₁(relu(norm(conv₁(x)))), four times as wide inside.
    """

    def __init__(self, channels: int, act: str, *, pool: bool = False) -> None:
        super().__init__()
        self.pool = None
        if pool:
            self.pool = nn.Sequential(
                nn.Conv2d(channels, 4 * channels, 1, bias=False),
                nn.GroupNorm(4, 4 * channels),
                nn.ReLU(),
                nn.Conv2d(4 * channels, channels, 1, bias=False),
            )
        self.conv = nn.Sequential(
            conv3(channels, channels),
            activation(act),
            conv3(channels, channels),
            activation(act),
            conv3(channels, channels),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(x + self.conv(x))


class Bound(nn.Module):
    """3 tanh(z/3): latents beyond 3 standard deviations are held there."""

    def forward(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 3 * torch.tanh(z / 3)


def to_unit(x: Tensor, data_range: DataRange) -> Tensor:
    """Data to [0, 1], in which the network works; data without a range as they are."""
    if data_range is None or tuple(data_range) == (0.0, 1.0):
        return x
    low, high = data_range
    return (x - low) / (high - low)


def from_unit(y: Tensor, data_range: DataRange) -> Tensor:
    """[0, 1] to the data's range: what `to_unit` makes, made undone."""
    if data_range is None or tuple(data_range) == (0.0, 1.0):
        return y
    low, high = data_range
    return y * (high - low) + low


def check_tiny(widths: Sequence[int], blocks: Sequence[int], *, pool: bool, inmost: str) -> None:
    """Refuse settings from which no network can be made.

    Raises:
        ValueError: naming the setting.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: expected at least one positive number of channels, got {tuple(widths)}.")
    if len(blocks) != len(widths) or min(blocks) < 0:
        raise ValueError(
            f"blocks: expected {len(widths)} numbers of blocks, one for each of the widths; got {tuple(blocks)}."
        )
    if pool and not blocks[-1]:
        raise ValueError(f"pool: belongs to the blocks of the {inmost} level, which has none. Set pool=False.")
