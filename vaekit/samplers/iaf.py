"""The posterior of inverse autoregressive flows."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.made import MADE
from vaekit.layers.precision import at_least_float32
from vaekit.layers.pushforward import NormalStart, Pushforward, chain
from vaekit.records import Level


@sampler("iaf", tags=("flow",), cite=("kingma2016", "germain2015"))
class IAFSampler(Sampler):
    """z ← g ⊙ z + (1 - g) ⊙ m, K times, with (m, g)_i of z_{<i} and h, from z ~ N(μ(h), diag σ²(h)).

    Each step is one pass of a masked network, and its log-determinant Σ log g. The gates g are sigmoids near 0.9 at
    first, so that the flow starts close to the identity. Every other step reads z backwards, so that after two of them
    each number depends on all. log q comes with each draw; at other points it takes d passes a step. The mean and the
    mode of q stand for the steps at μ.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        flows: K, the number of steps.
        hidden: widths of the hidden layers of each step's network.
        context: how many numbers the networks get from h.

    Raises:
        ValueError: where a number is not positive, or h is a map of another size than the latent's.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934; MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
        https://arxiv.org/abs/1502.03509

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["iaf"]((400,), (20,), flows=2)(torch.randn(5, 400), (3,))
        >>> level.z.shape, level.log_q.shape
        (torch.Size([3, 5, 20]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        flows: int = 4,
        hidden: Sequence[int] = (64, 64),
        context: int = 64,
    ) -> None:
        super().__init__()
        for name, value in (("flows", flows), ("context", context)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}.")
        self.latent_shape = tuple(latent_shape)
        d = math.prod(latent_shape)
        self.start = NormalStart(in_shape, latent_shape)
        self.context = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), context))
        self.blocks = nn.ModuleList(MADE(d, context, 2, hidden, reverse=k % 2 == 1) for k in range(flows))

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        context = self.context(h)
        push = chain([partial(gated, block=block, context=context) for block in self.blocks])
        pull = chain([partial(gated_inverse, block=block, context=context) for block in reversed(self.blocks)])
        q = Pushforward(self.start(h), push, self.latent_shape, pull)
        z, log_q = q.draw(sample_shape)
        return Level(z, q, log_q=log_q)


def moments(z: Tensor, block: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
    """m and log g of one step; a gate is at sigmoid(2) where the network gives 0."""
    mean, gate = at_least_float32(block(z.to(context.dtype), context)).unbind(-2)
    return mean, F.logsigmoid(gate + 2)


def gated(z: Tensor, block: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
    """One step and log |det ∂/∂z|."""
    mean, log_gate = moments(z, block, context)
    return log_gate.exp() * z - torch.expm1(log_gate) * mean, log_gate.sum(-1)


def gated_inverse(z: Tensor, block: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
    """The point that one step maps to z, number by number in the step's order, and log |det| of the inverse."""
    start = torch.zeros_like(z)
    order: Tensor = block.order  # pyright: ignore[reportAssignmentType]
    for place in range(z.shape[-1]):
        mean, log_gate = moments(start, block, context)
        # numbers whose turn is yet to come stay at 0: what they would get now may overflow
        start = torch.where(order == place, (z + torch.expm1(log_gate) * mean) * (-log_gate).exp(), start)
    return start, -moments(start, block, context)[1].sum(-1)
