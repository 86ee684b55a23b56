"""The blocks of the autoencoder of latent diffusion (`kl_resnet`): residual, attention, ↓2, ↑2 and what norms them."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.group_norm_silu import group_norm_silu, normalised_groups
from vaekit.layers.haar import haar
from vaekit.layers.precision import at_least_float32
from vaekit.layers.recompute import recomputed

NormKind: TypeAlias = Literal["group", "rms", "batch", "spatial"]
Odd: TypeAlias = Literal["up", "down"]

_EPS = 1e-6  # of every norm, as published weights want it


class RMSNorm(nn.Module):
    """x / √(mean of x² over channels) · scale, at each place of a map. `(b, c, h, w)` → the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        size = at_least_float32(x).square().mean(1, keepdim=True).add(_EPS).rsqrt()
        return x * (size * self.weight).to(x.dtype)


class SpatialNorm(nn.Module):
    """norm(x) · scale(z) + shift(z), with the latent brought to x's size: MoVQ's way to show z to every layer.

    Shapes: x (b, c, h, w), z (b, k, i, j) → (b, c, h, w).
    """

    def __init__(self, channels: int, groups: int, z_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=_EPS)
        self.scale = nn.Conv2d(z_channels, channels, 1)
        self.shift = nn.Conv2d(z_channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"], z: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        # a 1-convolution of enlarged pixels is the enlarged 1-convolution, which is cheaper
        scale, shift = (F.interpolate(conv(z), size=x.shape[-2:], mode="nearest") for conv in (self.scale, self.shift))
        return torch.addcmul(shift, normalised_groups(self.norm, x), scale)


def norm_layer(kind: NormKind, channels: int, groups: int, z_channels: int = 0) -> nn.Module:
    """The normalisation of a kind; "spatial" reads a latent of `z_channels` as well."""
    if kind == "spatial":
        return SpatialNorm(channels, groups, z_channels)
    if kind == "rms":
        return RMSNorm(channels)
    return nn.GroupNorm(groups, channels, eps=_EPS) if kind == "group" else nn.BatchNorm2d(channels, eps=_EPS)


def normed(module: nn.Module, x: Tensor, z: Tensor | None) -> Tensor:
    """norm(x), of the latent too where the norm reads it."""
    if isinstance(module, nn.GroupNorm):
        return normalised_groups(module, x)
    return module(x, z) if isinstance(module, SpatialNorm) else module(x)


def activated(module: nn.Module, x: Tensor, z: Tensor | None = None) -> Tensor:
    """silu(norm(x)), in place where no gradient is wanted, since a fresh map costs more than the arithmetic."""
    if isinstance(module, nn.GroupNorm):
        return group_norm_silu(module, x)
    return F.silu(normed(module, x, z), inplace=not torch.is_grad_enabled())


class Residual(nn.Module):
    """skip(x) + conv(silu(norm(conv(silu(norm(x)))))), skip a 1-convolution where the width changes."""

    def __init__(self, c_in: int, c_out: int, kind: NormKind, groups: int, z_channels: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm_layer(kind, c_in, groups, z_channels), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = norm_layer(kind, c_out, groups, z_channels), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = None if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b c h w"], z: Tensor | None = None) -> Float[Tensor, "b d h w"]:
        h = self.conv1(activated(self.norm1, x, z))
        h = self.conv2(activated(self.norm2, h, z))
        skip = x if self.skip is None else self.skip(x)
        return h.add_(skip) if h.dtype == skip.dtype else h + skip  # no gradient asks what a convolution gave


class Attention(nn.Module):
    """x + out(softmax(q kᵀ / √c) v) of norm(x): one head as wide as the map, over all its places.

    q, k and v come of one matrix product: their weights, one below the other.
    """

    def __init__(self, channels: int, kind: NormKind, groups: int, z_channels: int = 0) -> None:
        super().__init__()
        self.norm = norm_layer(kind, channels, groups, z_channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"], z: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        tokens = normed(self.norm, x, z).flatten(2).transpose(1, 2)[:, None]  # one head
        q, k, v = self.to_qkv(tokens).chunk(3, dim=-1)
        seen = self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + seen.transpose(1, 2).unflatten(2, x.shape[2:])


class Down(nn.Module):
    """conv ↓2, padded at the right and below alone. Odd sides: "up" pads once more, "down" as published weights do."""

    def __init__(self, channels: int, odd: Odd) -> None:
        super().__init__()
        self.conv, self.odd = nn.Conv2d(channels, channels, 3, stride=2), odd

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        bottom, right = (1 + s % 2 if self.odd == "up" else 1 for s in x.shape[-2:])
        return self.conv(F.pad(x, (0, right, 0, bottom)))


class Up(nn.Module):
    """Nearest ↑2, then a 3-convolution: `(b, c, h, w)` → `(b, c, 2h, 2w)`.

    Done as one transposed 4-convolution of the small map, whose kernel is the 3-convolution's summed over the pixels
    that nearest-neighbour doubling makes equal. The same numbers for 4/9 of the products, without the enlarged map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        kernel = F.pad(self.conv.weight.flip(2, 3), (1, 1, 1, 1))
        kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
        kernel = kernel[..., 1:] + kernel[..., :-1]
        return F.conv_transpose2d(x, kernel.transpose(0, 1), self.conv.bias, stride=2, padding=1)


class Level(nn.Module):
    """[residual ─ (attention)] × count at one size, then ↓2, ↑2 or nothing."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        count: int,
        kind: NormKind,
        groups: int,
        *,
        attention: bool,
        resample: nn.Module | None,
        z_channels: int = 0,
    ) -> None:
        super().__init__()
        widths = (c_in, *[c_out] * (count - 1))
        self.blocks = nn.ModuleList(Residual(c, c_out, kind, groups, z_channels) for c in widths)
        self.attentions = nn.ModuleList(
            Attention(c_out, kind, groups, z_channels) for _ in range(count if attention else 0)
        )
        self.resample = resample

    def forward(
        self, x: Float[Tensor, "b c h w"], z: Tensor | None = None, *, spare: bool = False
    ) -> Float[Tensor, "b d i j"]:
        for i, block in enumerate(self.blocks):
            x = run(block, x, z, spare=spare)
            if self.attentions:
                x = run(self.attentions[i], x, z, spare=spare)
        return x if self.resample is None else self.resample(x)


class Middle(nn.Module):
    """residual ─ (attention) ─ residual, at the smallest size."""

    def __init__(self, channels: int, kind: NormKind, groups: int, *, attention: bool, z_channels: int = 0) -> None:
        super().__init__()
        self.first = Residual(channels, channels, kind, groups, z_channels)
        self.attention = Attention(channels, kind, groups, z_channels) if attention else None
        self.second = Residual(channels, channels, kind, groups, z_channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], z: Tensor | None = None, *, spare: bool = False
    ) -> Float[Tensor, "b c h w"]:
        for part in (self.first, self.attention, self.second):
            x = x if part is None else run(part, x, z, spare=spare)
        return x


def run(part: nn.Module, x: Tensor, z: Tensor | None, *, spare: bool) -> Tensor:
    """part(x, z); with `spare`, its maps are computed again for the gradient in place of being kept."""
    return recomputed(part, x, z) if spare else part(x, z)


def laid_out(x: Tensor) -> Tensor:
    """X in the layout that the device's convolutions want: channels last on the CPU, as it is elsewhere."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def patched(x: Float[Tensor, "b c h w"], patch: int, odd: Odd) -> Float[Tensor, "b k i j"]:
    """Haar patches of an image, whose last row and column are repeated, or cut, until patches cover it."""
    if patch == 1:
        return x
    bottom, right = (side * patch - s for side, s in zip(halved(x.shape[-2:], patch, odd), x.shape[-2:], strict=True))
    return haar(F.pad(x, (0, right, 0, bottom), mode="replicate" if odd == "up" else "constant"), patch, means=True)


def halved(size: Sequence[int], stride: int, odd: Odd) -> tuple[int, ...]:
    """The size of a map after the network, `stride` a power of 2."""
    return tuple(-(-s // stride) if odd == "up" else s // stride for s in size)


def check_settings(
    widths: Sequence[int],
    layers: int,
    attention: Sequence[int],
    groups: int,
    kind: NormKind,
    kinds: Sequence[str],
    patch: int,
) -> None:
    """Refuse settings from which no network can be made.

    Raises:
        ValueError: naming the setting.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: expected at least one positive number of channels, got {tuple(widths)}.")
    if layers < 1:
        raise ValueError(f"layers: expected at least 1 residual block a level, got {layers}.")
    if any(not 0 <= level < len(widths) for level in attention):
        raise ValueError(f"attention: expected levels in [0, {len(widths)}), got {tuple(attention)}.")
    if kind not in kinds:
        raise ValueError(f"norm: expected one of {', '.join(map(repr, kinds))}; got {kind!r}.")
    if patch < 1 or patch & (patch - 1):
        raise ValueError(f"patch: expected a power of 2, got {patch}.")
    if groups < 1 or (kind in ("group", "spatial") and any(width % groups for width in widths)):
        raise ValueError(
            f"groups: {groups} groups do not divide the widths {tuple(widths)}. Set groups to a divisor of all of them."
        )
