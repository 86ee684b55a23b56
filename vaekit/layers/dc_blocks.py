"""The blocks of the deep compression autoencoder (`dc`): residual, linear attention, ↓2 and ↑2 with free shortcuts."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.perceptron import activation
from vaekit.layers.precision import at_least_float32

BlockType: TypeAlias = Literal["resnet", "efficientvit"]
NormType: TypeAlias = Literal["rms", "batch"]
DownType: TypeAlias = Literal["pixel_unshuffle", "conv"]
UpType: TypeAlias = Literal["pixel_shuffle", "interpolate"]

_EPS = 1e-5  # of every norm, as published weights want it


class RMSNorm(nn.Module):
    """x / √(mean of x² over channels) · weight + bias, at each place of a map. `(b, c, h, w)` → the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        wide = at_least_float32(x)
        size = wide.square().mean(1, keepdim=True).add(_EPS).rsqrt()
        weight, bias = (p.to(wide.dtype)[:, None, None] for p in (self.weight, self.bias))
        return torch.addcmul(bias, wide * size, weight).to(x.dtype)


def norm_layer(kind: NormType, channels: int) -> nn.Module:
    """The normalisation of a kind."""
    return RMSNorm(channels) if kind == "rms" else nn.BatchNorm2d(channels, eps=_EPS)


class ResidualBlock(nn.Module):
    """x + norm(conv(act(conv(x)))). `(b, c, h, w)` → the same."""

    def __init__(self, channels: int, *, norm: NormType, act: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = activation(act)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = norm_layer(norm, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.norm(self.conv2(self.act(self.conv1(x))))


def linear_attention(
    q: Float[Tensor, "b g d n"], k: Float[Tensor, "b g d n"], v: Float[Tensor, "b g e n"], *, eps: float = 1e-15
) -> Float[Tensor, "b g e n"]:
    """Σ_j v_j (k_j · q_i) / Σ_j (k_j · q_i) for places i and j, all products non-negative.

    The sum over j is taken first, so that n places cost n and not n². Where q_i meets no key, the result is 0.
    """
    gathered, total = v @ k.transpose(-1, -2), k.sum(-1)[..., None, :]
    return (gathered @ q) / (total @ q + eps)


class LinearAttention(nn.Module):
    """x + norm(out(linear attention of relu(q), relu(k) and v)), in heads of `head_dim` channels each.

    Each kernel in `scales` adds as many heads again, whose q, k and v are gathered from its surroundings by a depthwise
    convolution. A head's q, k and v lie next to each other in the channels of `qkv`.
    """

    def __init__(self, channels: int, *, head_dim: int, scales: Sequence[int], norm: NormType) -> None:
        super().__init__()
        self.head_dim = min(head_dim, channels)
        heads = channels // self.head_dim
        inner = heads * self.head_dim
        self.qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3 * inner, 3 * inner, kernel, padding=kernel // 2, groups=3 * inner, bias=False),
                nn.Conv2d(3 * inner, 3 * inner, 1, groups=3 * heads, bias=False),
            )
            for kernel in scales
        )
        self.out = nn.Conv2d(inner * (1 + len(scales)), channels, 1, bias=False)
        self.norm = norm_layer(norm, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        qkv = at_least_float32(qkv).flatten(2).unflatten(1, (-1, 3, self.head_dim))  # (b, heads, 3, d, h·w)
        q, k, v = qkv.unbind(2)
        with _in_full(x):  # sums over all places: half precision overflows, or loses the small ones
            seen = linear_attention(q.relu(), k.relu(), v)
        seen = seen.flatten(1, 2).unflatten(2, x.shape[2:]).to(x.dtype)
        return x + self.norm(self.out(seen))


def _in_full(x: Tensor) -> AbstractContextManager[object]:
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


class GatedConv(nn.Module):
    """x + norm(project(a · silu(gate))), (a, gate) = depth(silu(expand(x))): GLUMBConv. `(b, c, h, w)` → the same."""

    def __init__(self, channels: int, *, ratio: int = 4) -> None:
        super().__init__()
        inner = 2 * ratio * channels
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depth = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(inner // 2, channels, 1, bias=False)
        self.norm = RMSNorm(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        a, gate = self.depth(F.silu(self.expand(x))).chunk(2, dim=1)
        return x + self.norm(self.project(a * F.silu(gate)))


class EfficientViTBlock(nn.Module):
    """Linear attention, then a gated convolution. `(b, c, h, w)` → the same."""

    def __init__(self, channels: int, *, head_dim: int, scales: Sequence[int], norm: NormType) -> None:
        super().__init__()
        self.attention = LinearAttention(channels, head_dim=head_dim, scales=scales, norm=norm)
        self.gated = GatedConv(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.gated(self.attention(x))


def averaged(x: Float[Tensor, "b c *s"], channels: int) -> Float[Tensor, "b k *s"]:
    """Means over groups of neighbouring channels, so that `channels` are left."""
    return x.unflatten(1, (channels, -1)).mean(2)


def repeated(x: Float[Tensor, "b c *s"], channels: int) -> Float[Tensor, "b k *s"]:
    """Each channel next to its copies, so that there are `channels`."""
    times = channels // x.shape[1]
    return x.repeat_interleave(times, dim=1, output_size=channels)


class Down(nn.Module):
    """Halves a map: a convolution, and (shortcut) 2×2 pixels put into channels and averaged over groups of these.

    Shapes: (b, c, h, w) of even sides → `(b, k, h/2, w/2)`.
    """

    def __init__(self, c_in: int, c_out: int, kind: DownType, *, shortcut: bool = True) -> None:
        super().__init__()
        self.kind, self.shortcut, self.channels = kind, shortcut, c_out
        shuffled = kind == "pixel_unshuffle"
        if shuffled and c_out % 4:
            raise ValueError(f"widths: down_type='pixel_unshuffle' wants multiples of 4, got {c_out}.")
        if shortcut and 4 * c_in % c_out:
            raise ValueError(
                f"widths: the shortcut averages 4 · {c_in} channels to {c_out}, which do not divide. Change the widths."
            )
        self.conv = nn.Conv2d(c_in, c_out // 4 if shuffled else c_out, 3, stride=1 if shuffled else 2, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        h = self.conv(x)
        if self.kind == "pixel_unshuffle":
            h = F.pixel_unshuffle(h, 2)
        return h + averaged(F.pixel_unshuffle(x, 2), self.channels) if self.shortcut else h


class Up(nn.Module):
    """Doubles a map: a convolution, and (shortcut) channels repeated and put into 2×2 pixels.

    Shapes: (b, c, h, w) → `(b, k, 2h, 2w)`.
    """

    def __init__(self, c_in: int, c_out: int, kind: UpType, *, shortcut: bool = True) -> None:
        super().__init__()
        self.kind, self.shortcut, self.channels = kind, shortcut, c_out
        if shortcut and 4 * c_out % c_in:
            raise ValueError(
                f"widths: the shortcut repeats {c_in} channels to 4 · {c_out}, which do not divide. Change the widths."
            )
        self.conv = nn.Conv2d(c_in, 4 * c_out if kind == "pixel_shuffle" else c_out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        if self.kind == "pixel_shuffle":
            y = F.pixel_shuffle(self.conv(x), 2)
        else:
            y = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return y + F.pixel_shuffle(repeated(x, 4 * self.channels), 2) if self.shortcut else y


def make_block(
    kind: BlockType, channels: int, *, head_dim: int, scales: Sequence[int], norm: NormType, act: str
) -> nn.Module:
    """A block of a kind."""
    if kind == "resnet":
        return ResidualBlock(channels, norm=norm, act=act)
    return EfficientViTBlock(channels, head_dim=head_dim, scales=scales, norm=norm)


def per_level(value: "str | Sequence[str]", levels: int, allowed: Sequence[str] | None, name: str) -> tuple[str, ...]:
    """One name for all levels, or one for each, as one for each.

    Raises:
        ValueError: where their number is another, or a name is not allowed.
    """
    names = (value,) * levels if isinstance(value, str) else tuple(value)
    if len(names) != levels:
        raise ValueError(f"{name}: expected one name, or {levels} of them, one for each of the widths; got {names}.")
    if allowed is not None and (wrong := [each for each in names if each not in allowed]):
        raise ValueError(f"{name}: expected names out of {', '.join(map(repr, allowed))}; got {wrong[0]!r}.")
    return names


def check_dc(
    widths: Sequence[int], blocks: Sequence[int], qkv_multiscales: Sequence[Sequence[int]], head_dim: int
) -> None:
    """Refuse settings from which no network can be made.

    Raises:
        ValueError: naming the setting.
    """
    levels = len(widths)
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: expected at least one positive number of channels, got {tuple(widths)}.")
    if len(blocks) != levels or min(blocks[1:], default=1) < 1 or blocks[0] < (levels == 1):
        raise ValueError(
            f"blocks: expected {levels} numbers of blocks, one for each of the widths, of which the first alone may be "
            f"0 (where another follows); got {tuple(blocks)}."
        )
    if len(qkv_multiscales) != levels or any(k < 1 or k % 2 == 0 for kernels in qkv_multiscales for k in kernels):
        raise ValueError(
            f"qkv_multiscales: expected {levels} tuples of odd kernel sizes, one for each of the widths, such as () or "
            f"(5,); got {tuple(qkv_multiscales)}."
        )
    if head_dim < 1:
        raise ValueError(f"head_dim: expected at least 1 channel, got {head_dim}.")
