"""Bounds on log p(x) over a data set, and the two parts that the ELBO falls into."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.checking import positive
from vaekit.evaluate.examples import Examples, Unavailable
from vaekit.layers.divergence import check_densities, divergence, sum_of
from vaekit.modes import evaluating, seeded
from vaekit.vae import VAE


@dataclass(frozen=True)
class Bounds:
    """ELBO = -(distortion + rate) ≤ E[IWAE-k] ≤ log p(x), of each example, nats.

    Args:
        distortion: -E_q[log p(x|z)], (n,).
        rate: KL(q(z|x) ‖ p(z)), (n,): closed form where there is one, the mean over the draws otherwise.
        iwae: log 1/k Σ_i p(x, z_i)/q(z_i|x), (n,).
        variance: of `iwae` over the draws of z, (n,), by the delta method; NaN for one draw.
        draws: k.
        values: numbers in each example, (n,).
    """

    distortion: Tensor
    rate: Tensor
    iwae: Tensor
    variance: Tensor
    draws: int
    values: Tensor

    @property
    def elbo(self) -> Tensor:
        """-(distortion + rate), (n,) nats."""
        return -(self.distortion + self.rate)

    @property
    def effective_draws(self) -> Tensor:
        """(Σ_i w_i)² / Σ_i w_i², (n,): how many of the k draws count. Near 1, neither bound nor error say much."""
        return self.draws / (1 + (self.draws - 1) * self.variance) if self.draws > 1 else torch.ones_like(self.iwae)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the mean of `iwae` for these examples: what other draws of z would change, nats."""
        return float(self.variance.sum().sqrt()) / len(self.iwae)

    def bits_per_dim(self, log_prob: Tensor | None = None, *, bin_width: float | None = None) -> Tensor:
        """-log₂ p(x) per value of an example, (n,) bits.

        Args:
            log_prob: (n,) nats; None takes `iwae`.
            bin_width: distance of neighbouring grey levels in the scale of the data, such as 1/255 for bytes brought to
                [0, 1]. It turns a density into the probability of a bin, and so makes models with other scales
                comparable. None for likelihoods that give probabilities already, as the discretized ones do.
        """
        if bin_width is not None and not 0 < bin_width < math.inf:
            raise ValueError(f"bin_width: expected a positive number, got {bin_width}.")
        log_prob = self.iwae if log_prob is None else log_prob
        return -(log_prob / self.values + (0.0 if bin_width is None else math.log(bin_width))) / math.log(2)


@torch.no_grad()  # not inference_mode, in which Hamiltonian samplers have no gradient
def bounds(vae: VAE, data: Examples, *, draws: int = 64, chunk: int | None = None, seed: int = 0) -> Bounds:
    """ELBO, rate, distortion and IWAE-k of every example, in one pass over the data.

    Draws of z are those of the global generator after `seed`, batch after batch: with another batch size other draws
    are made, and the numbers move inside their errors.

    Args:
        vae: the model; evaluated in evaluation mode.
        data: the examples.
        draws: k, draws of z per example.
        chunk: draws decoded at a time; None: as many as make 4,096 examples with the batch.
        seed: what z is drawn from.

    Raises:
        Unavailable: where log q(z|x) or log p(z) does not exist, a ValueError that says why.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519; Fixing a Broken ELBO
        (Alemi et al., 2018; rate and distortion), https://arxiv.org/abs/1711.00464

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> found = bounds(vae, Examples(vae, torch.rand(5, 1, 4, 4)), draws=8)
        >>> found.elbo.shape, bool((found.elbo.mean() < found.iwae.mean()))
        (torch.Size([5]), True)
    """
    positive(draws=draws)
    positive(chunk=1 if chunk is None else chunk)
    parts, sizes = [], []
    with evaluating(vae), seeded(seed, vae.device):
        for x, cond in data.conditioned():
            sizes.append(torch.full((len(x),), x[0].numel()))
            parts.append(_of_batch(vae, x, cond, draws, chunk or max(1, 4096 // len(x))))
    distortion, rate, iwae, variance = (torch.cat(each) for each in zip(*parts, strict=True))
    return Bounds(distortion, rate, iwae, variance, draws, torch.cat(sizes))


def _of_batch(vae: VAE, x: Tensor, cond: object, draws: int, chunk: int) -> tuple[Tensor, ...]:
    """Distortion, rate, IWAE-k and its variance, (b,) each, in double precision on the CPU."""
    distortion = rate = torch.zeros(len(x), dtype=torch.float64)
    first = second = torch.full((len(x),), -math.inf, dtype=torch.float64)  # log Σ w, log Σ w²
    for start in range(0, draws, chunk):
        n = min(chunk, draws - start)
        out = vae(x, cond, (n,))
        try:
            for level in out.levels:
                check_densities(level, "log p(x)")
        except ValueError as error:
            raise Unavailable(str(error)) from error
        distortion = distortion - n / draws * out.p_x.log_prob(out.x).double().mean(0).cpu()
        kl = sum_of([divergence(level) for level in out.levels])
        rate = rate + n / draws * kl.double().cpu()
        log_w = out.log_weight().double().cpu()
        first = torch.logaddexp(first, log_w.logsumexp(0))
        second = torch.logaddexp(second, (2 * log_w).logsumexp(0))
    # Var(w̄)/w̄² = (k Σw²/(Σw)² - 1)/(k - 1), and d log w̄ = dw̄/w̄
    spread = (draws * (second - 2 * first).exp() - 1).clamp_min(0)
    variance = spread / (draws - 1) if draws > 1 else torch.full_like(spread, math.nan)
    return distortion, rate, first - math.log(draws), variance
