"""The posterior that follows the model's own gradient, by Hamiltonian steps."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.leapfrog import Pace, gradient, leapfrog
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("hamiltonian", tags=("hamiltonian",), cite="caterini2018")
class HamiltonianSampler(Sampler):
    """z = z_K of K leapfrog steps on U(z) = -log p(x, z), from z_0 ~ N(μ(h), diag σ²(h)) and ρ_0 ~ N(0, I/β0).

    log q is what turns the bound into the Hamiltonian one, log p(x, z_K) + log N(ρ_K; 0, I) - log N(z_0; μ, σ²)
    - log N(ρ_0; 0, I/β0) + ½ d log β0: exp(log p(x, z) - log q) has the mean p(x), so that `vae.elbo` and
    `vae.log_prob` are bounds. It belongs to the draw, since the density of z_K alone has no closed form; the level's q
    is the normal of z_0, whose mean stands for the example.

    Step sizes are learned for each latent dimension; at 0 the sampler is "gaussian". A draw runs the decoder and its
    gradient K + 1 times more, also under `torch.no_grad`. Without `log_joint`, in a sampler that is called alone, there
    is nothing to follow: no step is made, and z = z_0.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, a vector or a map. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        steps: K, the number of leapfrog steps.
        step_size: step size at first.
        max_step: what step sizes stay below.
        beta: β0, the precision of the momentum at first, below 1 for tempering.
        learn_beta: whether β0 is trained.
        log_variance: smallest and largest log σ².

    Raises:
        ValueError: where a number is out of range, or h is a map of another size than the latent's.

    References:
        Hamiltonian Variational Auto-Encoder (Caterini, Doucet & Sejdinovic, 2018), https://arxiv.org/abs/1805.11328

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler=vaekit.use("hamiltonian", steps=2))
        >>> level = vae.encode(torch.rand(5, 1, 4, 4), n=3)
        >>> level.z.shape, level.log_q.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    compiles = False
    exports = False  # it follows gradients of the model's density, which torch.export can't trace

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        steps: int = 3,
        step_size: float = 0.01,
        max_step: float = 0.5,
        beta: float = 0.3,
        learn_beta: bool = True,
        log_variance: tuple[float, float] = (-30.0, 20.0),
    ) -> None:
        super().__init__()
        low, high = log_variance
        if not low < high:
            raise ValueError(f"log_variance: expected bounds low < high, got {log_variance}.")
        self.low, self.high = low, high
        self.head = Head(in_shape, latent_shape, 2)
        self.pace = Pace(latent_shape, steps, step_size, max_step, beta, learn_beta)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_variance = at_least_float32(self.head(h)).unbind(1)
        scale = (0.5 * log_variance.clamp(self.low, self.high)).exp()
        q = Independent(Normal(mean, scale, validate_args=False), mean.ndim - 1, validate_args=False)
        start = q.rsample(sample_shape)
        if log_joint is None:
            return Level(start, q)
        step, beta = at_least_float32(self.pace.step()), at_least_float32(self.pace.beta())
        tempering = at_least_float32(self.pace.tempering())
        noise = torch.randn_like(start)
        z, momentum = leapfrog(start, beta.rsqrt() * noise, step, partial(gradient, log_joint), tempering)
        # log N(ρ_0; 0, I/β0) is that of the noise and ½ d log β0, which |det| takes off again
        kinetic = 0.5 * (momentum.square() - noise.square()).flatten(-q.reinterpreted_batch_ndims).sum(-1)
        return Level(z, q, log_q=q.log_prob(start) + kinetic)
