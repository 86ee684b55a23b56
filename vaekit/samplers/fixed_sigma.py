"""The Gaussian posterior with a scale that is given."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head, HeadKind
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("fixed_sigma", tags=("gaussian",), cite="ghosh2020")
class FixedSigmaSampler(Sampler):
    """q(z|x) = N(z; μ(h), σ² I) with σ given: an autoencoder with noise on its latent.

    The noise smooths the decoder, as the regularised autoencoders and latent-diffusion tokenizers want it. The KL to a
    standard normal is ½ ‖μ‖² and a constant; without a KL term only the size of σ beside μ matters, which the encoder
    may grow, so that a penalty on μ belongs to it. For σ = 0 there is 'dirac'.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        sigma: σ, in the latent's unit.
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: where σ is not a positive number, or h is a map of another size than the latent's.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["fixed_sigma"]((400,), (20,), sigma=0.5)(torch.randn(5, 400))
        >>> level.q.stddev.unique()
        tensor([0.5000])
    """

    def __init__(
        self, in_shape: Sequence[int], latent_shape: Sequence[int], *, sigma: float = 0.1, head: HeadKind = "linear"
    ) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma: expected a positive number, got {sigma}. Use 'dirac' for no noise.")
        self.sigma = sigma
        self.head = Head(in_shape, latent_shape, 1, head)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean = at_least_float32(self.head(h)).squeeze(1)
        base = Normal(mean, torch.full_like(mean, self.sigma), validate_args=False)
        q = Independent(base, mean.ndim - 1, validate_args=False)
        return Level(q.rsample(sample_shape), q)
