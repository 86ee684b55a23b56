"""Means and variances of a group norm's groups: of parts of a map, put together, and exact for large maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from vaekit.layers.precision import at_least_float32, wide

_BAND = 2**20  # values of which sums are taken at once: they and the scratch stay in the cache
_LARGE = 2**13  # places from which single sums are no longer good enough


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each group of a part of the map, and how many places it has."""

    count: int
    mean: Float[Tensor, "b g"]
    variance: Float[Tensor, "b g"]


def moments(x: Float[Tensor, "b c h w"], groups: int) -> Moments:
    """Of a tile: of each channel first, which runs along memory, then of the groups."""
    x = at_least_float32(x)
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square_().mean((2, 3))  # twice over the values; torch.var_mean takes three times as long
    means, variances = (wide(t).unflatten(1, (groups, -1)) for t in (mean[:, :, 0, 0], variance))
    middle = means.mean(2)
    return Moments(x[0, 0].numel(), middle, (variances + (means - middle[..., None]).square()).mean(2))


def merged(parts: Sequence[Moments]) -> Moments:
    """Of all parts together: variances within and between them, never a difference of large sums."""
    count = sum(p.count for p in parts)
    means, variances = torch.stack([p.mean for p in parts]), torch.stack([p.variance for p in parts])
    share = means.new_tensor([p.count / count for p in parts])[:, None, None]
    mean = (share * means).sum(0)
    return Moments(count, mean, (share * (variances + (means - mean).square())).sum(0))


def in_bands(x: Float[Tensor, "b c h w"], groups: int) -> Moments:
    """Of a large map, band by band.

    For channels-last maps on the CPU torch's own group norm sums all places one after the other in single precision,
    which leaves an error of 2e-4 in a map of 1024², and 1e-6 in one of 128².
    """
    rows = max(1, _BAND // x[:, :, 0].numel())
    return merged([moments(band, groups) for band in x.split(rows, dim=2)])


def errs(x: Float[Tensor, "b c h w"]) -> bool:
    """Whether torch's own statistics of a map are not good enough: those of large channels-last maps on the CPU."""
    return x.device.type == "cpu" and x[0, 0].numel() >= _LARGE and not x.is_contiguous()


def group_norm(
    x: Float[Tensor, "b c h w"], groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Float[Tensor, "b c h w"]:
    """torch's group norm, with exact statistics of large channels-last maps on the CPU; see `in_bands`."""
    if not torch.compiler.is_compiling() and has_torch_function_unary(x):  # tiles ask the whole map's statistics
        return handle_torch_function(group_norm, (x,), x, groups, weight, bias, eps)
    # with a gradient torch keeps less of its own: `group_norm_silu` has one that is exact
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not errs(x):
        return F.group_norm(x, groups, weight, bias, eps)
    return normalised(x, in_bands(x, groups), weight, bias, eps)


def normalised(
    x: Float[Tensor, "b c h w"], of: Moments, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Float[Tensor, "b c h w"]:
    """(x - mean) / √(variance + eps) · weight + bias; a batch of several tiles has each tile's examples in a row."""
    per = x.shape[1] // of.mean.shape[1]
    scale = (of.variance + eps).rsqrt().repeat_interleave(per, 1)
    shift = -of.mean.repeat_interleave(per, 1) * scale
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    if bias is not None:
        shift = shift + bias
    wider, tiles = at_least_float32(x), len(x) // len(of.mean)
    scale, shift = (t.to(wider.dtype).repeat(tiles, 1)[..., None, None] for t in (scale, shift))
    return torch.addcmul(shift, wider, scale).to(x.dtype)
