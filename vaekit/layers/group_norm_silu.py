"""silu(group_norm(x)) that keeps one map less for the gradient, and takes channels-last maps at their own speed."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from vaekit.layers.group_statistics import errs, group_norm, in_bands, normalised


def group_norm_silu(norm: nn.GroupNorm, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """silu(norm(x)): with a gradient, of channels-last maps on the CPU, by a formula of its own; else by torch's parts.

    torch keeps x and norm(x) for the gradient, and on the CPU its gradient of a group norm is slow for channels-last
    maps. Here x alone is kept, norm(x) is computed again, and sums run along memory. Second derivatives, other devices,
    compiled and transformed functions (`torch.func`, forward mode) take torch's parts.
    """
    if torch.is_grad_enabled() and _fits(norm, x):
        return _GroupNormSiLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)  # type: ignore[no-any-return]
    # in place, since a fresh map costs more than the arithmetic
    return F.silu(normalised_groups(norm, x), inplace=not torch.is_grad_enabled())


def normalised_groups(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """norm(x); without a gradient, also where torch errs, on large channels-last maps on the CPU."""
    if x.ndim != 4:
        return norm(x)
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def _fits(norm: nn.GroupNorm, x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.ndim != 4:
        return False
    if norm.weight is None or x.dtype not in (torch.float32, torch.float64) or x.dtype != norm.weight.dtype:
        return False
    if getattr(forward_ad, "_current_level", -1) >= 0 or torch._C._are_functorch_transforms_active():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


class _GroupNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        b, c = x.shape[:2]
        if errs(x):  # as fast as torch's own, since one band at a time is in the cache
            of = in_bands(x, groups)
            y, mean, rstd = normalised(x, of, weight, bias, eps), of.mean.to(x), (of.variance + eps).rsqrt().to(x)
        else:
            y, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, x[0, 0].numel(), groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        return F.silu(y, inplace=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have one itself
            y = F.silu(F.group_norm(x, ctx.groups, weight, bias, ctx.eps))
            wanted = [t for t, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(y, wanted, gradients[0], create_graph=True))
            return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None)
        rows = _rows(x)  # (b, s, c)
        per = x.shape[1] // ctx.groups
        count = rows.shape[1] * per  # of values in a group
        mean, rstd = mean.repeat_interleave(per, 1), rstd.repeat_interleave(per, 1)  # (b, c)
        slope = rstd * weight
        y = torch.addcmul((bias - mean * slope)[:, None], rows, slope[:, None])  # norm(x)
        g = torch.ops.aten.silu_backward.grad_input(_rows(gradients[0]), y, grad_input=y)  # of norm(x), in its place
        scratch = torch.mul(g, rows)
        g_sum = g.sum(1)
        g_dot = (scratch.sum(1) - mean * g_sum) * rstd  # Σ g · x̂
        # dx = rstd (w g - mean_group(w g) - x̂ mean_group(w g x̂)), gathered as slope · g + by_x · x + rest
        of_ones, of_x = (_over_group(v * weight, per) / count for v in (g_sum, g_dot))
        by_x = -rstd.square() * of_x
        rest = -rstd * of_ones - mean * by_x
        dx = torch.addcmul(rest[:, None], rows, by_x[:, None], out=scratch).addcmul_(g, slope[:, None])
        return dx.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2), g_dot.sum(0), g_sum.sum(0), None, None


def _rows(x: Tensor) -> Float[Tensor, "b s c"]:
    """A channels-last map as it lies in memory."""
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1, 2)


def _over_group(v: Float[Tensor, "b c"], per: int) -> Float[Tensor, "b c"]:
    """Each group's sum, for each of its channels."""
    return v.unflatten(1, (-1, per)).sum(2).repeat_interleave(per, 1)
