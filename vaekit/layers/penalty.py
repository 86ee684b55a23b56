"""Losses that only hand on what a sampler computed."""

from jaxtyping import Float
from torch import Tensor

from vaekit.layers.draws import average_draws
from vaekit.records import Output


def penalty(out: Output, name: str) -> Float[Tensor, " b"]:
    """A sampler's penalty `(*n, b)`, averaged over draws and summed over the levels that have it."""
    found = [level.penalties[name] for level in out.levels if name in level.penalties]
    return sum(map(average_draws, found), start=found[0].new_zeros(()))


def require_penalty(out: Output, name: str, advice: str) -> None:
    """Refuse a model whose sampler does not compute the penalty.

    Raises:
        ValueError: with `advice`, which says what fits.
    """
    if not any(name in level.penalties for level in out.levels):
        raise ValueError(advice)
