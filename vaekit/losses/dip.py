"""The covariance of the aggregate posterior, held at the identity."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.aggregate import factorises, require_density
from vaekit.records import Output


@loss("dip", tags=("disentangling",), cite="kumar2018")
class DIPLoss(Loss):
    """λ_od Σ_{i≠j} C_ij² + λ_d Σ_i (C_ii - 1)², C the covariance of the aggregate posterior.

        "i"    C = Cov[μ(x)]: of the means of q(z|x)
        "ii"   C = Cov[μ(x)] + E[Σ(x)]: of z itself

    Covariances are the batch's unbiased ones. The same number stands for each example.

    Shapes: Output → (b,). Unit: the latent's unit, to the fourth.

    Args:
        kind: "i" or "ii".
        off_diagonal: λ_od, weight of the covariances.
        diagonal: λ_d, weight of the variances' distance from 1; None is the paper's ratio, 10 λ_od for "i" and λ_od
            for "ii".

    Raises:
        ValueError: where the kind is unknown or a weight negative; at build, where q(z|x) has no density or, for "ii",
            is no product over latent dimensions; at a call, for a batch of one example.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar et al., 2018),
        https://arxiv.org/abs/1711.00848

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"nll": 1.0, "kl": 1.0, "dip": 1.0})
        >>> list(vae.loss(torch.rand(8, 1, 4, 4)).terms)
        ['nll', 'kl', 'dip']
    """

    batchwise = True
    smallest_batch = 2

    def __init__(
        self, *, kind: Literal["i", "ii"] = "ii", off_diagonal: float = 10.0, diagonal: float | None = None
    ) -> None:
        super().__init__()
        if kind not in ("i", "ii"):
            raise ValueError(f"kind: expected 'i' or 'ii', got {kind!r}.")
        if diagonal is None:
            diagonal = 10 * off_diagonal if kind == "i" else off_diagonal
        for name, value in (("off_diagonal", off_diagonal), ("diagonal", diagonal)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a weight of at least 0, got {value}.")
        self.kind, self.off_diagonal, self.diagonal = kind, off_diagonal, diagonal

    def check(self, out: Output) -> None:
        """q(z|x) needs a mean, and for "ii" variances that say all of its covariance."""
        for level in out.levels:
            require_density("dip", level)
            if self.kind == "ii" and not factorises(level):
                raise ValueError(
                    "dip: kind='ii' needs a q(z|x) that is a product over latent dimensions, and this sampler's is "
                    "not. Use a sampler such as 'gaussian', or kind='i'."
                )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        (level,) = out.levels
        assert level.q is not None
        mean = level.q.mean.flatten(1)
        if len(mean) < 2:
            raise ValueError("dip: needs a batch of at least 2 examples for a covariance, got 1. Drop the last batch.")
        centered = mean - mean.mean(0)
        covariance = torch.einsum("bi,bj->ij", centered, centered) / (len(mean) - 1)
        variance = covariance.diagonal()
        off = covariance.square().sum() - variance.square().sum()
        if self.kind == "ii":
            variance = variance + level.q.variance.flatten(1).mean(0)
        penalty = self.off_diagonal * off + self.diagonal * (variance - 1).square().sum()
        return penalty.expand(len(out.x))
