"""Examples that a model makes: again, anew, between two others, along a dimension, and all over a plane."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.checking import positive
from vaekit.modes import evaluating, seeded
from vaekit.plot.figures import Figure, check_drawable, draw_rows
from vaekit.vae import VAE


def reconstructions(
    vae: VAE, x: Tensor, cond: Any = None, *, columns: int = 8, path: str | Path | None = None
) -> Figure:
    """Examples, each above what the model makes of it.

    Args:
        vae: the model.
        x: data in the model's range, `(b, *input_shape)`: images of 1 or 3 channels, or signals.
        cond: what the condition takes.
        columns: examples in a row.
        path: a file to write, its format by its ending; None writes none.

    Raises:
        ValueError: where the data can't be drawn, with the reason.
        MissingPackage: where matplotlib is missing.
    """
    check_drawable(vae, "reconstructions")
    positive(columns=columns)
    with seeded(0, vae.device):  # encoding draws
        again = vae.reconstruct(x, cond)
    columns = min(columns, len(x))
    rows, names = [], []
    for part, made in zip(x.split(columns), again.split(columns), strict=True):
        rows += [_filled(part, columns, vae), _filled(made, columns, vae)]
        names += ["x", "again"]
    return draw_rows(rows, vae, names=names, path=path)


def samples(
    vae: VAE,
    n: int = 64,
    cond: Any = None,
    *,
    columns: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | Path | None = None,
) -> Figure:
    """Draws z ~ p(z), decoded.

    Args:
        vae: the model.
        n: how many.
        cond: n labels (or vectors, tokens) for a conditional model.
        columns: examples in a row.
        temperature: see `VAE.sample`.
        seed: what they are drawn from.
        path: see `reconstructions`.

    Raises:
        ValueError, MissingPackage: see `reconstructions`.
    """
    check_drawable(vae, "samples")
    positive(n=n)
    positive(columns=columns)
    drawn = vae.sample(n, cond, temperature, torch.Generator().manual_seed(seed))
    columns = min(columns, n)
    return draw_rows([_filled(part, columns, vae) for part in drawn.split(columns)], vae, path=path)


def interpolations(
    vae: VAE,
    a: Tensor,
    b: Tensor,
    steps: int = 10,
    cond: Any = None,
    *,
    line: Literal["linear", "slerp"] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """A row for each pair: from a to b through the latent, with the data themselves at the two ends.

    Args:
        vae: the model.
        a: data in the model's range, `(b, *input_shape)`.
        b: data of the same shape.
        steps: points on the way.
        cond: what the condition takes, the same for all steps.
        line: "linear" or "slerp", along the sphere; None takes what fits the latent's space.
        path: see `reconstructions`.

    Raises:
        ValueError, MissingPackage: see `reconstructions`.
    """
    check_drawable(vae, "interpolations")
    with seeded(0, vae.device):
        between = vae.interpolate(a, b, steps, cond, path=line)
    whole = torch.cat([a[None].to(between), between, b[None].to(between)])
    ticks = ["a", *(f"{i / max(steps - 1, 1):.2g}" for i in range(steps)), "b"]
    return draw_rows(list(whole.transpose(0, 1)), vae, columns=ticks, path=path)


def traversals(
    vae: VAE,
    x: Tensor,
    dims: Sequence[int] | None = None,
    steps: int = 9,
    span: float = 3.0,
    cond: Any = None,
    *,
    path: str | Path | None = None,
) -> Figure:
    """What each latent dimension does to one example: a row a dimension.

    Args:
        vae: the model.
        x: one example in the model's range, `(1, *input_shape)`.
        dims: latent dimensions, counted over the flattened latent; None: the first 10.
        steps: values of each dimension, evenly from -span to span.
        span: how far to go.
        cond: what the condition takes.
        path: see `reconstructions`.

    Raises:
        ValueError, MissingPackage: see `reconstructions`; where there is not one example.
    """
    check_drawable(vae, "traversals")
    if len(x) != 1:
        raise ValueError(f"plot.traversals: draws one example, got {len(x)}. Use x[:1].")
    dims = range(min(10, math.prod(vae.latent_shape))) if dims is None else dims
    with seeded(0, vae.device):
        made = vae.traverse(x, dims, steps, span, cond)[:, :, 0]
    ticks = [f"{float(value):.3g}" for value in torch.linspace(-span, span, steps)]
    return draw_rows(list(made), vae, names=[f"z{d}" for d in dims], columns=ticks, path=path)


def manifold(
    vae: VAE,
    steps: int = 20,
    cond: Any = None,
    *,
    share: float = 0.98,
    span: float | None = None,
    path: str | Path | None = None,
) -> Figure:
    """All that a model with a latent of two numbers can make, decoded over a grid; the second number grows upwards.

    The grid is even in probability: z_d = F_d⁻¹(u) with the prior's cumulative distribution F_d, and u from
    (1 - share)/2 to (1 + share)/2, so that each picture stands for as much of p(z) as any other.

    Args:
        vae: the model.
        steps: pictures on a side.
        cond: one label (or vector, tokens), the same for all.
        share: of the prior's probability in each dimension.
        span: for priors without an inverse: a grid that is even in z, from -span to span.
        path: see `reconstructions`.

    Raises:
        ValueError: where the latent has not two numbers, the data can't be drawn, or the prior has no inverse
            cumulative distribution for each dimension.
        MissingPackage: where matplotlib is missing.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014; figure 4), https://arxiv.org/abs/1312.6114
    """
    check_drawable(vae, "manifold")
    positive(steps=steps)
    if vae.latent_shape != (2,):
        raise ValueError(
            f"plot.manifold: needs a latent of 2 numbers, and this one has the shape {vae.latent_shape}. Use "
            "plot.traversals, or build with latent=2."
        )
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}.")
    with evaluating(vae), torch.no_grad():
        if span is None:
            u = 0.5 + share * torch.linspace(-0.5, 0.5, steps, dtype=torch.float64)
            places = _quantiles(vae, u, cond)
        else:
            places = torch.linspace(-span, span, steps)[:, None].expand(-1, 2)
        first, second = places[:, 0], places[:, 1].flip(0)
        z = torch.stack([first.expand(steps, -1), second[:, None].expand(-1, steps)], dim=-1)
        weight = next(vae.parameters())
        z = z.reshape(-1, 2).to(weight.device, weight.dtype)
        repeated = cond.expand(len(z), *cond.shape[1:]) if isinstance(cond, Tensor) else cond
        made = torch.cat([vae.decode(part, _part(repeated, i, len(part))) for i, part in _parts(z)])
    rows = list(made.reshape(steps, steps, *made.shape[1:]))
    every = max(1, -(-steps // 10))
    marks = [[f"{float(v):.2g}" if i % every == 0 else "" for i, v in enumerate(each)] for each in (first, second)]
    return draw_rows(rows, vae, columns=marks[0], names=marks[1], path=path)


def _quantiles(vae: VAE, u: Tensor, cond: Any) -> Tensor:
    """F_d⁻¹(u) for each latent dimension, `(len(u), 2)`."""
    tokens = vae._embed(cond, 1)
    p: Any = vae._prior(tokens)
    base: Distribution = p.base_dist if isinstance(p, Independent) else p
    try:
        value = base.icdf(u.reshape(-1, *[1] * len(base.batch_shape)).to(next(vae.parameters())))
    except NotImplementedError as error:
        raise ValueError(
            f"plot.manifold: {type(vae.prior).__name__} has no inverse cumulative distribution for each dimension. "
            "Give span=3 for a grid that is even in z."
        ) from error
    return value.reshape(len(u), 2)


def _filled(row: Tensor, size: int, vae: VAE) -> Tensor:
    """A row with white (or nothing) where examples are missing."""
    white = float(row.max()) if vae.data_range is None else vae.data_range[1]
    blank = white if row.ndim == 4 else math.nan
    return torch.cat([row, row.new_full((size - len(row), *row.shape[1:]), blank)])


def _parts(z: Tensor) -> list[tuple[int, Tensor]]:
    return [(i, z[i : i + 256]) for i in range(0, len(z), 256)]


def _part(cond: Any, start: int, size: int) -> Any:
    return cond[start : start + size] if isinstance(cond, Tensor) else cond
