"""The posterior of any normalizing flow of zuko."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32
from vaekit.layers.pushforward import Pushforward
from vaekit.layers.zuko_flow import ZukoFlow, standard_normal
from vaekit.records import Level


@sampler("flow", tags=("flow",), cite=("rezende2015", "rozet2022"))
class FlowSampler(Sampler):
    """z = μ(h) + σ(h) ⊙ f(ε; h), ε ~ N(0, I), with f a normalizing flow of the zuko package.

    f runs its fast way when z is drawn, so that an autoregressive flow ("maf", "nsf") acts as its inverse
    autoregressive kin. The other way, log q at points that were not drawn, takes d passes a layer for those; for flows
    without a formula for the inverse ("naf", "unaf", "sospf", "bpf", "gf", "cnf") it is found numerically, to about
    six digits. Noise, and not data, goes into f, so that the splines' range of ±5 is never left by much. The mean and
    the mode of q stand for f at ε = 0.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        flow: zuko's flow: "maf", "nsf", "nice", "realnvp", "naf", "unaf", "sospf", "bpf", "gf" or "cnf".
        transforms: layers of the flow.
        hidden: widths of the hidden layers of its networks.
        context: how many numbers the networks get from h.

    Raises:
        MissingPackage: where zuko is not installed.
        ValueError: where the flow is unknown, a number is not positive, or h is a map of another size than the
            latent's.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), https://arxiv.org/abs/1505.05770;
        Zuko: Normalizing flows in PyTorch (Rozet et al., 2022), https://github.com/probabilists/zuko

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["flow"]((400,), (20,), flow="maf")(torch.randn(5, 400), (3,))
        >>> level.z.shape, level.log_q.shape
        (torch.Size([3, 5, 20]), torch.Size([3, 5]))
    """

    compiles = False

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        flow: str = "nsf",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        context: int = 64,
    ) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context: expected at least 1, got {context}.")
        self.latent_shape = tuple(latent_shape)
        self.head = Head(in_shape, latent_shape, 2)
        self.context = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), context))
        d = math.prod(latent_shape)
        self.flow = ZukoFlow(flow, d, context, transforms, hidden, "sampler 'flow'")

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_variance = at_least_float32(self.head(h)).flatten(2).unbind(1)
        log_scale = 0.5 * log_variance.clamp(-30.0, 20.0)
        context = self.context(h)

        def push(noise: Tensor) -> tuple[Tensor, Tensor]:
            y, log_det = self.flow(noise.to(context.dtype), context)
            y, log_det = at_least_float32(y), at_least_float32(log_det)
            return mean + log_scale.exp() * y, log_det + log_scale.sum(-1)

        def pull(z: Tensor) -> tuple[Tensor, Tensor]:
            y = (z - mean) * (-log_scale).exp()
            noise, log_det = self.flow(y.to(context.dtype), context, inverse=True)
            return at_least_float32(noise), at_least_float32(log_det) - log_scale.sum(-1)

        q = Pushforward(standard_normal(mean), push, self.latent_shape, pull)
        z, log_q = q.draw(sample_shape)
        return Level(z, q, log_q=log_q)
