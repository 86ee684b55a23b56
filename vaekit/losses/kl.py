"""The Kullback-Leibler term."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from vaekit.kinds import Loss, loss
from vaekit.layers.divergence import check_densities, divergence, sum_of
from vaekit.records import Level, Output


@loss("kl", cite=("kingma2014", "kingma2016"))
class KLLoss(Loss):
    """KL(q(z|x) ‖ p(z)), summed over levels: in closed form where torch knows the pair, by the drawn z otherwise.

    With `free_bits` λ, each latent dimension's batch mean counts only above λ: Σ_d max(λ, E_b KL_d). With `capacity`
    C, the term is |KL - C|.

    Shapes: Output → (b,). Unit: nats per example; nats per dimension with reduction="mean".

    Args:
        free_bits: λ, nats per latent dimension that cost nothing.
        capacity: C, nats per example that the code is asked to hold.
        reduction: "sum" over latent dimensions, as in the ELBO; "mean", so that one weight fits any latent size.

    Raises:
        ValueError: where λ or C is negative, or the reduction unknown; at build, where q(z|x) or p(z) has no density,
            or where free bits are asked of a pair that has no KL per dimension.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114;
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016; free bits),
        https://arxiv.org/abs/1606.04934; Understanding disentangling in β-VAE (Burgess et al., 2018; capacity),
        https://arxiv.org/abs/1804.03599

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> bool((vaekit.loss["kl"]()(vae(torch.rand(3, 1, 4, 4))) >= 0).all())
        True
    """

    def __init__(
        self,
        *,
        free_bits: float = 0.0,
        capacity: float | None = None,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        if free_bits < 0:
            raise ValueError(f"free_bits: expected nats per dimension, at least 0; got {free_bits}.")
        if capacity is not None and capacity < 0:
            raise ValueError(f"capacity: expected nats per example, at least 0; got {capacity}.")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction: expected 'sum' or 'mean', got {reduction!r}.")
        self.free_bits, self.capacity, self.reduction = free_bits, capacity, reduction

    def check(self, out: Output) -> None:
        """q(z|x) needs a density, and free bits a KL for each dimension."""
        for level in out.levels:
            check_densities(level, "kl")
            divergence(level)  # torch remembers the rule for the pair, which torch.compile could not look up
            if self.free_bits and _per_dimension(level) is None:
                raise ValueError("kl: free_bits needs a KL per dimension, which this pair of q(z|x) and p(z) has not.")

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        kl = sum_of([self._level(level) for level in out.levels])
        return kl if self.capacity is None else (kl - self.capacity).abs()

    def _level(self, level: Level) -> Tensor:
        if self.free_bits:
            each = _per_dimension(level)
            assert each is not None
            each = each.flatten(1)
            # the maximum is taken of batch means, so that one example may use what another leaves
            kept = torch.where(each.mean(0) > self.free_bits, each, each.new_tensor(self.free_bits))
            kl = kept.sum(1)
        else:
            kl = divergence(level)
        return kl / _size(level) if self.reduction == "mean" else kl


def _size(level: Level) -> int:
    """Number of latent dimensions."""
    density = level.p if level.p is not None else level.q
    assert density is not None
    return density.event_shape.numel()


def _per_dimension(level: Level) -> Tensor | None:
    """KL of each latent dimension, `(b, *latent)`, where q and p are products over dimensions; None elsewhere."""
    q, p = level.q, level.p
    if level.log_q is not None or not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if q.base_dist.event_shape or p.base_dist.event_shape:
        return None
    try:
        return kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None
