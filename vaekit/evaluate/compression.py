"""What an example's latent costs to send, in bits, with the prior as the code and no bits back."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.checking import positive
from vaekit.evaluate.examples import Examples, Unavailable
from vaekit.layers.divergence import check_densities, divergence
from vaekit.modes import evaluating, seeded
from vaekit.vae import VAE


@dataclass(frozen=True)
class CodeLength:
    """Bits for the latent of each example, and what a coder adds to them.

    Args:
        bits: (n,). Codes of a discrete latent: -log₂ p(codes), what an arithmetic coder spends. A draw of a density:
            KL(q(z|x) ‖ p(z)) / ln 2, which no coder can go below on average.
        discrete: which of the two.
        values: numbers in each example, (n,).
        fixed: bits of as many codes without a prior, positions · log₂ K; NaN for a density.
    """

    bits: Tensor
    discrete: bool
    values: Tensor
    fixed: float

    @property
    def mean(self) -> float:
        """Bits of an example, on average: of codes, their cross-entropy under the prior."""
        return float(self.bits.mean())

    @property
    def bound(self) -> float:
        """Bits of an example, on average, that a coder gets by with when it sends each example by itself.

        Codes: the mean and 2 bits, where an arithmetic coder ends each example's stream. A draw, by reverse channel
        coding with shared random numbers: D + log₂(D + 1) + 4 with D the mean, for an exact draw of q(z|x). The coder's
        time grows as 2^D, so large latents are sent in blocks, each with an overhead of its own.
        """
        return self.mean + (2 if self.discrete else math.log2(self.mean + 1) + 4)

    @property
    def bits_per_dim(self) -> Tensor:
        """Bits per value of the data, such as a channel of a pixel, (n,)."""
        return self.bits / self.values


@torch.no_grad()  # not inference_mode, in which Hamiltonian samplers have no gradient
def code_length(vae: VAE, data: Examples, *, draws: int = 16, seed: int = 0) -> CodeLength:
    """The bits for each example's latent.

    This is the latent alone, and so the rate of lossy compression, whose distortion is that of the reconstruction. For
    codes, the sampler's most likely ones are sent, with the model's prior: fit one first, `vae.fit_prior`.

    Args:
        vae: the model; evaluated in evaluation mode.
        data: the examples.
        draws: of z per example, for KL without a closed form.
        seed: what z is drawn from.

    Raises:
        Unavailable: where log q(z|x) or log p(z) does not exist, a ValueError that says why.

    References:
        Minimal Random Code Learning (Havasi et al., 2019), https://arxiv.org/abs/1810.00440; Compressing Images by
        Encoding Their Latent Representations with Relative Entropy Coding (Flamich et al., 2020),
        https://arxiv.org/abs/2010.01185; Algorithms for the Communication of Samples (Theis & Yosri, 2022),
        https://arxiv.org/abs/2110.12805; Strong Functional Representation Lemma (Li & El Gamal, 2018; the bound),
        https://arxiv.org/abs/1701.02827

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> found = code_length(vae, Examples(vae, torch.rand(5, 1, 4, 4)))
        >>> found.bits.shape, found.discrete, found.mean < found.bound
        (torch.Size([5]), False, True)
    """
    positive(draws=draws)
    bits, values, fixed, discrete = [], [], math.nan, False
    with evaluating(vae), seeded(seed, vae.device):
        for x, cond in data.conditioned():
            level = vae.encode(x, n=1, cond=cond)
            if level.p is None:
                raise Unavailable("code_length: p(z) is not known for latents of this size.")
            if level.index is not None:
                codes = level.index if level.q is None else level.q.mode
                nats = -level.p.log_prob(codes)
                discrete = True
                fixed = codes[0].numel() * math.log2(int(vae.sampler.codebook_size))  # pyright: ignore[reportArgumentType]
            else:
                try:
                    check_densities(level, "code_length")
                except ValueError as error:
                    raise Unavailable(str(error)) from error
                nats = divergence(vae.encode(x, n=draws, cond=cond))
            bits.append(nats.double().cpu() / math.log(2))
            values.append(torch.full((len(x),), x[0].numel()))
    return CodeLength(torch.cat(bits), discrete, torch.cat(values), fixed)
