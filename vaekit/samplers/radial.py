"""The posterior of radial flows."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.pushforward import NormalStart, Numbers, Pushforward, chain
from vaekit.records import Level


@sampler("radial", tags=("flow",), cite="rezende2015")
class RadialSampler(Sampler):
    """z ← z + β (z - z₀) / (α + ‖z - z₀‖), K times, from z ~ N(μ(h), diag σ²(h)): a normal drawn to or from points.

    α > 0 and β > -α, where each step can be inverted (appendix A.2 of the paper). log q comes with each draw; at other
    points the inverse is the root of a quadratic. The mean and the mode of q stand for the steps at μ.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        flows: K, the number of steps.
        amortised: read z₀, α and β from h, for each example; where not, all examples share them.

    Raises:
        ValueError: where there are no steps, or h is a map of another size than the latent's.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["radial"]((400,), (20,), flows=4)(torch.randn(5, 400), (3,))
        >>> level.z.shape, level.log_q.shape
        (torch.Size([3, 5, 20]), torch.Size([3, 5]))
    """

    def __init__(
        self, in_shape: Sequence[int], latent_shape: Sequence[int], *, flows: int = 8, amortised: bool = True
    ) -> None:
        super().__init__()
        if flows < 1:
            raise ValueError(f"flows: expected at least 1 step, got {flows}.")
        self.latent_shape, self.flows = tuple(latent_shape), flows
        self.start = NormalStart(in_shape, latent_shape)
        self.numbers = Numbers(in_shape, flows * (math.prod(latent_shape) + 2), amortised)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        d = math.prod(self.latent_shape)
        steps = [step.split([d, 1, 1], -1) for step in self.numbers(h).unflatten(-1, (self.flows, -1)).unbind(-2)]
        steps = [(center, positive(a), positive(s)) for center, a, s in steps]
        push = chain([partial(radial, center=c, alpha=a, total=s) for c, a, s in steps])
        pull = chain([partial(radial_inverse, center=c, alpha=a, total=s) for c, a, s in reversed(steps)])
        q = Pushforward(self.start(h), push, self.latent_shape, pull)
        z, log_q = q.draw(sample_shape)
        return Level(z, q, log_q=log_q)


def positive(x: Tensor) -> Tensor:
    """α or α + β from a free number: at least 10⁻³, so that no step is flat."""
    return 1e-3 + F.softplus(x)


def radial(z: Tensor, center: Tensor, alpha: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """One step with β = total - α, and log |det ∂/∂z|."""
    r = torch.linalg.vector_norm(z - center, dim=-1, keepdim=True)
    # r grows by d r'/dr, and the d - 1 directions around by r'/r = (r + α + β) / (r + α): quotients of positive sums
    outward = (r.square() + 2 * alpha * r + alpha * total).log() - 2 * (r + alpha).log()
    around = (r + total).log() - (r + alpha).log()
    log_det = outward + (z.shape[-1] - 1) * around
    return center + (z - center) * around.exp(), log_det.squeeze(-1)


def radial_inverse(z: Tensor, center: Tensor, alpha: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The point that one step maps to z, and log |det| of the inverse."""
    far = torch.linalg.vector_norm(z - center, dim=-1, keepdim=True)
    # r (r + α + β) = far (r + α): r² - p r - far α = 0, in the form of its root that does not cancel
    p = far - total
    root = (p.square() + 4 * far * alpha).sqrt()
    r = torch.where(p > 0, (p + root) / 2, 2 * far * alpha / (root - p).clamp_min(1e-30))
    start = center + (z - center) * (r + alpha) / (r + total)
    return start, -radial(start, center, alpha, total)[1]
