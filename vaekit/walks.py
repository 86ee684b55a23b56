"""Ways through the latent: from one example to another, along its dimensions, and around an example."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vaekit.checking import positive
from vaekit.layers.poincare import from_normal, to_normal
from vaekit.modes import drawing, evaluating
from vaekit.records import Level

Path = Literal["linear", "slerp"]


def interpolate(vae: Any, a: Tensor, b: Tensor, steps: int, cond: Any, path: Path | None) -> Tensor:
    """`vae.interpolate`: from a to b, `(steps, b, *input_shape)`."""
    path = path if path is not None else "slerp" if vae.space == "sphere" else "linear"
    if path not in ("linear", "slerp"):
        raise ValueError(f"path: expected 'linear' or 'slerp', got {path!r}.")
    if a.shape != b.shape:
        raise ValueError(f"interpolate: expected a and b of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    with evaluating(vae):
        start, end = vae.encode(a, cond=cond).mode, vae.encode(b, cond=cond).mode
        t = torch.linspace(0, 1, positive(steps=steps), device=start.device, dtype=start.dtype)
        t = t.reshape(-1, *[1] * start.ndim)
        z = torch.lerp(start, end, t) if path == "linear" else slerp(start, end, t)
        return vae.decode(z, cond, size=a.shape[2:])


def traverse(vae: Any, x: Tensor, dims: Sequence[int] | None, steps: int, span: float, cond: Any) -> Tensor:
    """`vae.traverse`: x with one latent dimension changed at a time, (len(dims), steps, b, *input_shape)."""
    size = math.prod(vae.latent_shape)
    dims = range(min(10, size)) if dims is None else dims
    if isinstance(dims, int):
        raise ValueError(f"traverse: dims should be a sequence, such as [{dims}], got {dims!r}.")
    if any(not 0 <= d < size for d in dims):
        raise ValueError(f"traverse: dims {list(dims)} are not all in [0, {size}).")
    with evaluating(vae):
        z = vae.encode(x, cond=cond).mode
        values = torch.linspace(-span, span, positive(steps=steps), device=z.device, dtype=z.dtype)
        moved = z.flatten(1).expand(len(dims), steps, len(z), -1).clone()
        for i, dim in enumerate(dims):
            moved[i, :, :, dim] = values[:, None]
        return vae.decode(moved.reshape(len(dims), steps, *z.shape), cond, size=x.shape[2:])


def augment(vae: Any, x: Tensor, n: int, strength: float, cond: Any, generator: torch.Generator | None) -> Tensor:
    """`vae.augment`: new variants of x, `(n, b, *input_shape)`, or `(b, *input_shape)` for one."""
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength: expected a number of at least 0, got {strength}.")
    with evaluating(vae), drawing(generator, vae.device):
        level = vae.encode(x, positive(n=n), cond=cond)
        if level.q is None:
            raise ValueError(
                f"augment: {type(vae.sampler).__name__} gives a point for each example, and nothing to draw around it. "
                "Use a model with a sampler such as 'gaussian', or vae.interpolate between examples."
            )
        lead = () if n == 1 else (n,)
        return vae.decode(varied(vae.space, vae.sampler, level, lead, strength), cond, size=x.shape[2:])


def varied(space: str, sampler: Any, level: Level, lead: tuple[int, ...], strength: float) -> Tensor:
    """The point at `strength` of the way from the mode of q(z|x) to a draw, along the shortest way of z's space.

    real        mode + s (draw - mode)
    positive    mode (draw / mode)^s
    sphere      along the great circle
    ball        along the geodesic
    codes       the draw's code in place of the mode's with probability s, each by itself
    mixed       numbers as "real", codes as "codes"
    """
    mode, draw, q = level.mode, level.z, level.q
    if space in ("codes", "mixed") and strength > 1:
        raise ValueError(
            f"strength: codes are the mode's or the draw's, nothing lies beyond; got {strength}. Use 0 to 1."
        )
    if space == "codes":
        assert q is not None
        index = q.sample(torch.Size(lead))
        return sampler.lookup(torch.where(torch.rand(index.shape, device=index.device) < strength, index, q.mode))
    if space == "mixed":
        joint: Any = q
        taken = torch.rand(*draw.shape[:-1], joint.codes, 1, device=draw.device) < strength
        taken = taken.expand(*taken.shape[:-1], joint.categories).flatten(-2)
        codes = torch.where(taken, draw[..., joint.size :], mode[..., joint.size :])
        return torch.cat([torch.lerp(mode[..., : joint.size], draw[..., : joint.size], strength), codes], -1)
    if space == "positive":
        return mode * (draw / mode) ** strength
    if space == "sphere":
        return slerp(mode, draw, strength)
    if space == "ball":
        return from_normal(mode, strength * to_normal(mode, draw, sampler.curvature), sampler.curvature)
    return mode + strength * (draw - mode)


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Spherical interpolation of latents a `(b, *latent)` and b (*n, b, *latent), straight where nearly parallel."""
    dims = tuple(range(1 - a.ndim, 0))
    norm_a, norm_b = (torch.linalg.vector_norm(v, dim=dims, keepdim=True).clamp_min(1e-12) for v in (a, b))
    angle = ((a / norm_a) * (b / norm_b)).sum(dims, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    curved = ((1 - t) * angle).sin() / sine * a + (t * angle).sin() / sine * b
    return torch.where(sine < 1e-4, torch.lerp(a, b, t), curved)
