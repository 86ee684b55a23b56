"""The Bernoulli posterior, relaxed."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.categories import Temperature, codes
from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("relaxed_bernoulli", tags=("discrete",), cite="maddison2017")
class RelaxedBernoulliSampler(Sampler):
    """q(z|x) = Bernoulli(σ(h)), drawn by z = σ((h + log u - log(1 - u)) / τ), u uniform in (0, 1).

    Each latent value is a bit. In training z is relaxed, or 0 and 1 with the relaxed gradient where `hard`; in
    evaluation it is 0 or 1. The KL is that of the bits, in closed form.

    Shapes: h `(b, k, *t)` → z and codes `(*n, b, *latent)`. Unit of log q: nats per example.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        hard: whether draws are 0 or 1 in training too.
        temperature: τ at the first step.
        smallest: τ never falls below this.
        anneal: τ falls as exp(-anneal · step).

    Raises:
        ValueError: where τ is not positive.

    References:
        The Concrete Distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch, vaekit
        >>> sampler = vaekit.sampler["relaxed_bernoulli"]((400,), (20,)).eval()
        >>> sampler(torch.randn(5, 400)).z.unique()
        tensor([0., 1.], grad_fn=...)
    """

    space = "codes"
    codebook_size = 2

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        hard: bool = False,
        temperature: float = 0.7,
        smallest: float = 0.3,
        anneal: float = 0.0,
    ) -> None:
        super().__init__()
        self.head = Head(in_shape, latent_shape, 1)
        self.index_shape, self.hard = tuple(latent_shape), hard
        self.temperature = Temperature(temperature, smallest, anneal)

    def lookup(self, index: Tensor) -> Tensor:
        """Bits as numbers."""
        return index.to(next(self.parameters()).dtype)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        logit = at_least_float32(self.head(h))[:, 0].clamp(-50, 50)
        u = torch.rand_like(logit.expand(*sample_shape, *logit.shape)).clamp(1e-7, 1 - 1e-7)
        perturbed = logit + u.logit()
        index = (perturbed > 0).long()
        z = (perturbed / self.temperature().to(logit.dtype)).sigmoid()
        if self.hard or not self.training:
            z = index.to(z.dtype) + (z - z.detach())
        q = codes(torch.stack([torch.zeros_like(logit), logit], -1), logit.ndim - 1)
        return Level(z, q, index=index, center=lambda: (logit > 0).to(logit.dtype))
