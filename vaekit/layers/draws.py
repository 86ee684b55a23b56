"""Draws of z: as clouds of points, and from values of each draw to one number per example."""

from torch import Tensor

from vaekit.layers.precision import at_least_float32
from vaekit.records import Output


def average_draws(values: Tensor) -> Tensor:
    """`(*n, b)` values to their mean over the draws, (b,)."""
    return values.flatten(0, -2).mean(0) if values.ndim > 1 else values


def sum_values(values: Tensor, event_dims: int) -> Tensor:
    """`(*n, b, *event)` values to their sum over the event, averaged over the draws: (b,)."""
    return average_draws(values.flatten(-event_dims).sum(-1))


def clouds(out: Output) -> tuple[Tensor, Tensor]:
    """Draws z of q(z|x), and as many u of p(z) without a gradient, as vectors: two `(*n, b, d)`."""
    lead = out.y.ndim - out.x.ndim + 1
    z, u = at_least_float32(out.z), at_least_float32(out.prior_draws())
    return z.flatten(lead), u.to(z.dtype).flatten(lead)
