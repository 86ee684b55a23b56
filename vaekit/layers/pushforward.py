"""Densities of transformed noise, and the two heads that normalizing-flow posteriors share."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32

Map: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x `(*n, b, d)` → y of the same shape, and log |det ∂y/∂x| `(*n, b)`."""


class Pushforward(Distribution):
    """z = f(ε), ε ~ base: log q(z) = log base(ε) - log |det ∂f/∂ε|.

    `mean` and `mode` are f at the base's mean, one point near the middle: the true ones have no closed form.

    Args:
        base: where ε is drawn from, event shape `(d,)`.
        push: f, with its log-determinant.
        event_shape: z's shape, of d numbers.
        pull: f's inverse, with its own log-determinant; None where there is none.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = True

    def __init__(self, base: Distribution, push: Map, event_shape: Sequence[int], pull: Map | None = None) -> None:
        self.base, self.push, self.pull = base, push, pull
        super().__init__(base.batch_shape, torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """All of the reals."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """f at the base's mean."""
        return self.push(self.base.mean)[0].unflatten(-1, self.event_shape)

    @property
    def mode(self) -> Tensor:
        """f at the base's mean."""
        return self.mean

    def draw(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """z `(*n, b, *event)` and log q(z) `(*n, b)`, without inverting f."""
        noise = self.base.rsample(torch.Size(sample_shape))
        z, log_det = self.push(noise)
        return z.unflatten(-1, self.event_shape), self.base.log_prob(noise) - log_det

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw that gradients pass through."""
        return self.draw(tuple(sample_shape))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """log q at any point, nats.

        Raises:
            NotImplementedError: where f has no inverse.
        """
        if self.pull is None:
            raise NotImplementedError("this flow has no inverse: log q is known at its own draws only, from `draw`.")
        noise, log_det = self.pull(value.flatten(-len(self.event_shape)))
        return self.base.log_prob(noise) + log_det


def chain(maps: Sequence[Map]) -> Map:
    """Maps one after the other, the first one first; log-determinants add up."""

    def chained(x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(())
        for each in maps:
            x, log_det = each(x)
            total = total + log_det
        return x, total

    return chained


class NormalStart(nn.Module):
    """h → N(ε; μ(h), diag σ²(h)) over the flattened latent: where a flow posterior starts."""

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.head = Head(in_shape, latent_shape, 2)

    def forward(self, h: Float[Tensor, "b k *t"]) -> Distribution:
        mean, log_variance = at_least_float32(self.head(h)).flatten(2).unbind(1)
        scale = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


class Numbers(nn.Module):
    """The numbers that describe a flow: `(b, count)` read from h, or `(count,)` that all examples share."""

    def __init__(self, in_shape: Sequence[int], count: int, amortised: bool) -> None:
        super().__init__()
        if amortised:
            self.read = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), count))
        else:
            self.free = nn.Parameter(0.1 * torch.randn(count))  # at zero, factors would keep each other there
        self.amortised = amortised

    def forward(self, h: Float[Tensor, "b k *t"]) -> Float[Tensor, "*b n"]:
        return at_least_float32(self.read(h) if self.amortised else self.free)
