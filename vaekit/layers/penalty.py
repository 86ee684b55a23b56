"""Losses that only hand on what a sampler computed."""

from jaxtyping import Float
from torch import Tensor

from vaekit.records import Output


def penalty(out: Output, name: str) -> Float[Tensor, " b"]:
    """A sampler's penalty `(*n, b)`, averaged over draws and summed over the levels that have it."""
    found = [level.penalties[name] for level in out.levels if name in level.penalties]
    return sum((p.flatten(0, -2).mean(0) if p.ndim > 1 else p for p in found), start=found[0].new_zeros(()))


def require_penalty(out: Output, name: str, advice: str) -> None:
    """Refuse a model whose sampler does not compute the penalty.

    Raises:
        ValueError: with `advice`, which says what fits.
    """
    if not any(name in level.penalties for level in out.levels):
        raise ValueError(advice)
