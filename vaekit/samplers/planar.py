"""The posterior of planar flows."""

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


@sampler("planar", tags=("flow",), cite="rezende2015")
class PlanarSampler(Sampler):
    """z ← z + û tanh(wᵀz + b), K times, from z ~ N(μ(h), diag σ²(h)): a normal that is squeezed along planes.

    û is u, moved along w so that wᵀû > -1, where each step can be inverted (appendix A.1 of the paper; here the move
    is nothing at wᵀu = 0, so that û stays finite for small w). log q comes with each draw; at other points, the inverse
    is found by bisection along w. The mean and the mode of q stand for the steps at μ.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        flows: K, the number of steps.
        amortised: read w, u and b from h, for each example; where not, all examples share them.

    Raises:
        ValueError: where there are no steps, or h is a map of another size than the latent's.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["planar"]((400,), (20,), flows=4)(torch.randn(5, 400), (3,))
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
        self.numbers = Numbers(in_shape, flows * (2 * math.prod(latent_shape) + 1), amortised)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        d = math.prod(self.latent_shape)
        steps = [step.split([d, d, 1], -1) for step in self.numbers(h).unflatten(-1, (self.flows, -1)).unbind(-2)]
        push = chain([partial(planar, w=w, u=u, b=b) for w, u, b in steps])
        pull = chain([partial(planar_inverse, w=w, u=u, b=b) for w, u, b in reversed(steps)])
        q = Pushforward(self.start(h), push, self.latent_shape, pull)
        z, log_q = q.draw(sample_shape)
        return Level(z, q, log_q=log_q)


def invertible(w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """û and 1 + wᵀû, which is at least 10⁻³."""
    inner = (w * u).sum(-1, keepdim=True)
    above = 1e-3 + (1 - 1e-3) * F.softplus(inner + math.log(math.e - 1))  # 1 where w and u are orthogonal
    return u + (above - 1 - inner) * w / w.square().sum(-1, keepdim=True).clamp_min(1e-12), above


def planar(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One step and log |det ∂/∂z|."""
    u_hat, above = invertible(w, u)
    a = (w * z).sum(-1, keepdim=True) + b
    slope = 4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a)  # 1 - tanh²(a), without cancellation
    # 1 + tanh'(a) wᵀû, as a sum of positive numbers
    log_det = (a.tanh().square() + slope * above).log()
    return z + u_hat * a.tanh(), log_det.squeeze(-1)


def planar_inverse(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The point that one step maps to z, and log |det| of the inverse."""
    u_hat, above = invertible(w, u)
    target = (w * z).sum(-1, keepdim=True) + b
    # a + wᵀû tanh(a) = target rises in a, from below the target to above it
    with torch.no_grad():
        low, high = target - (above - 1).abs(), target + (above - 1).abs()
        for _ in range(torch.finfo(z.dtype).bits):
            middle = (low + high) / 2
            rest = middle + (above - 1) * middle.tanh() - target
            low, high = torch.where(rest < 0, middle, low), torch.where(rest < 0, high, middle)
        a = (low + high) / 2
        slope = 4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a)
    # one step of Newton's, which moves nothing and carries the gradient of the root
    a = a - (a + (above - 1) * a.tanh() - target) / (a.tanh().square() + slope * above)
    start = z - u_hat * a.tanh()
    return start, -planar(start, w, u, b)[1]
