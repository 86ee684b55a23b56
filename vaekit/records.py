"""What travels between the stages: `Level`, `Output` and `Report`.

Shapes: b is the batch, n the sample dimensions (`sample_shape`), which always lead. Distributions have the data's or
the latent's shape as their event shape.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution


@dataclass(frozen=True)
class Level:
    """One latent variable of the model: its draw z, q(z|x), p(z) and what else its sampler has to say.

    Args:
        z: the draw, `(*n, b, *latent)`.
        q: q(z|x), event shape `(*latent)`; None for a point that has no density.
        p: p(z), filled in by the graph.
        log_q: log q(z|x) at z, `(*n, b)` nats, where `q` can't evaluate it; `q.log_prob(z)` stands in otherwise.
        index: codes of a discrete latent, integers `(*n, b, *index)`. Where they are given, q and p are distributions
            over them, and z is what the sampler makes of them.
        penalties: terms per example, `(*n, b)`, that only the sampler can compute, such as "commitment".
        center: gives the point that stands for q(z|x), where that is not q's mode.
    """

    z: Tensor
    q: Distribution | None = None
    p: Distribution | None = None
    log_q: Tensor | None = None
    index: Tensor | None = None
    penalties: Mapping[str, Tensor] = field(default_factory=dict)
    center: Callable[[], Tensor] | None = None

    @property
    def mode(self) -> Tensor:
        """The point that stands for q(z|x), `(b, *latent)`: its mode; the draw itself where there is no q."""
        if self.center is not None:
            return self.center()
        return self.z if self.q is None else self.q.mode

    @property
    def value(self) -> Tensor:
        """What q and p are densities of: the codes of a discrete latent, z elsewhere."""
        return self.z if self.index is None else self.index

    @property
    def has_density(self) -> bool:
        """Whether log q(z|x) exists: false for a deterministic encoder."""
        return self.q is not None or self.log_q is not None

    def log_posterior(self) -> Tensor:
        """log q(z|x) at z, `(*n, b)` nats."""
        if self.log_q is not None:
            return self.log_q
        if self.q is None:
            raise ValueError(
                "log q(z|x) does not exist: the sampler gives a point without a density. Use a sampler such as "
                "'gaussian' for bounds on log p(x)."
            )
        return self.q.log_prob(self.value)

    def log_prior(self) -> Tensor:
        """log p(z) at z, `(*n, b)` nats."""
        if self.p is None:
            raise ValueError(
                "log p(z) is not known: this level comes from a sampler alone. Call vae(x) or vae.encode(x)."
            )
        return self.p.log_prob(self.value)


@dataclass(frozen=True)
class Output:
    """All that one pass through the model gives, for the losses to read.

    Args:
        x: the data, `(b, *data)`.
        y: what the decoder gives, natural parameters of the likelihood, `(*n, b, channels, *spatial)`.
        p_x: p(x|z), event shape `(*data)`, batch shape `(*n, b)`.
        levels: one `Level` for the flat graph, several for a ladder.
        cond: the condition as it was given (labels, vectors, tokens), or None.
        tokens: what the condition made of it, `(b, t, dim)`, or None.
        model: the model that gave this, for terms that decode latents of their own or look at weights.
        encoded: the data that was encoded, where transforms changed what is to be decoded to; `source` gives either.
    """

    x: Tensor
    y: Tensor
    p_x: Distribution
    levels: tuple[Level, ...]
    cond: Any = None
    tokens: Tensor | None = None
    model: Any = None
    encoded: Tensor | None = None

    @property
    def source(self) -> Tensor:
        """The data that z was encoded from, `(b, *data)`: x, unless a transform changed it."""
        return self.x if self.encoded is None else self.encoded

    @property
    def z(self) -> Tensor:
        """The draw of the only level, `(*n, b, *latent)`."""
        (level,) = self.levels
        return level.z

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z) at other latents `(*n, b, *latent)` than those drawn, under the same condition."""
        return self.model.likelihood_of(z, self.tokens, size=self.x.shape[2:])

    def prior_draws(self) -> Tensor:
        """As many draws of p(z) as there are of q(z|x), `(*n, b, *latent)`, without a gradient.

        Raises:
            ValueError: where p(z) is not known, as in a level that comes from a sampler alone.
        """
        (level,) = self.levels
        if level.p is None:
            raise ValueError("p(z) is not known: this level comes from a sampler alone. Call vae(x).")
        lead = self.y.shape[: self.y.ndim - self.x.ndim + 1]
        drawn = level.p.sample(lead[: len(lead) - len(level.p.batch_shape)])
        return drawn if level.index is None else self.model.sampler.lookup(drawn)

    def log_weight(self) -> Tensor:
        """log p(x|z) + log p(z) - log q(z|x), `(*n, b)` nats: the importance weight of each draw."""
        levels = [level.log_prior() - level.log_posterior() for level in self.levels]
        return self.p_x.log_prob(self.x) + sum(levels)


@dataclass(frozen=True)
class Report:
    """What the objective says of a batch. Tensors only, so that nothing waits for the device.

    Args:
        total: the number to minimise, a scalar that carries the graph.
        terms: each term's mean over the batch before weighting, detached scalars.
        weights: each term's weight at this step, numbers or detached scalars.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    weights: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {float(value):.4g}" for name, value in self.terms.items())
        return f"total {float(self.total.detach()):.4g} ({shown})"


def fold(z: Tensor, event_dims: int) -> tuple[Tensor, torch.Size]:
    """Sample dimensions into the batch: `(*n, b, *event)` to `(n·b, *event)`, with the shape `(*n, b)` to undo it."""
    lead = z.shape[: z.ndim - event_dims]
    return (z if len(lead) == 1 else z.reshape(math.prod(lead), *z.shape[len(lead) :])), lead


def unfold(y: Tensor, lead: torch.Size) -> Tensor:
    """Undo `fold`: `(n·b, *event)` to `(*n, b, *event)`."""
    return y if len(lead) == 1 else y.reshape(*lead, *y.shape[1:])
