"""Maximum mean discrepancy between the aggregate posterior and the prior."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import clouds
from vaekit.records import Output


@loss("mmd", cite=("gretton2012", "tolstikhin2018", "zhao2019"))
class MMDLoss(Loss):
    """MMD²(q(z), p(z)) = E k(z, z') + E k(u, u') - 2 E k(z, u), z, z' ~ q(z) and u, u' ~ p(z).

    The U-statistic over the batch is unbiased: its mean is 0 where q(z) = p(z), so that single values may be negative.
    It needs draws alone, so that points without a density and any prior that can be drawn from will do. The prior feels
    no gradient. The same number stands for each example.

        "imq"   k(z, u) = Σ_s C_s / (C_s + ‖z - u‖²)
        "rbf"   k(z, u) = Σ_s exp(-‖z - u‖² / C_s),     C_s = 2 d σ² s

    For d latent dimensions, 2 d σ² is the mean squared distance of two draws from N(0, σ² I).

    Memory: n · 4 b² numbers per scale for n draws of b examples.

    Shapes: Output → (b,). No unit: a kernel of each scale is 1 at distance 0.

    Args:
        kernel: "imq", whose tails reach far points, or "rbf".
        scales: s, factors of the bandwidth.
        sigma: σ, the prior's standard deviation.

    Raises:
        ValueError: where the kernel is unknown, there are no scales, or a scale or σ is not positive; at a call, for a
            batch of one example.

    References:
        A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html;
        Wasserstein Auto-Encoders (Tolstikhin et al., 2018; kernel and scales), https://arxiv.org/abs/1711.01558;
        InfoVAE (Zhao et al., 2019), https://arxiv.org/abs/1706.02262

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="dirac", loss={"mse": 1.0, "mmd": 10.0})
        >>> list(vae.loss(torch.rand(8, 1, 4, 4)).terms)
        ['mse', 'mmd']
    """

    batchwise = True
    stochastic = True
    smallest_batch = 2

    def __init__(
        self,
        *,
        kernel: Literal["imq", "rbf"] = "imq",
        scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        sigma: float = 1.0,
    ) -> None:
        super().__init__()
        if kernel not in ("imq", "rbf"):
            raise ValueError(f"kernel: expected 'imq' or 'rbf', got {kernel!r}.")
        if not scales or not all(0 < s < math.inf for s in scales):
            raise ValueError(f"scales: expected positive numbers, at least one, got {tuple(scales)}.")
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma: expected the prior's standard deviation, a positive number; got {sigma}.")
        self.kernel, self.scales, self.sigma = kernel, tuple(scales), sigma

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        z, u = clouds(out)
        size, b = z.shape[-1], len(out.x)
        if b < 2:
            raise ValueError("mmd: needs a batch of at least 2 examples, got 1. Drop the last batch.")
        widths = [2 * size * self.sigma**2 * scale for scale in self.scales]
        within = [self._kernel(t, t, widths) for t in (z, u)]
        across = self._kernel(z, u, widths).mean((-2, -1))
        pairs = [(k.sum((-2, -1)) - k.diagonal(dim1=-2, dim2=-1).sum(-1)) / (b * (b - 1)) for k in within]
        return (pairs[0] + pairs[1] - 2 * across).mean().expand(b)

    def _kernel(self, z: Tensor, u: Tensor, widths: list[float]) -> Tensor:
        """Σ_s k_s(z_i, u_j), `(*n, i, j)`."""
        # not by matrix products, which lose near points to rounding
        distance = torch.cdist(z, u, compute_mode="donot_use_mm_for_euclid_dist").square()
        if self.kernel == "imq":
            return torch.stack([width / (width + distance) for width in widths]).sum(0)
        return torch.stack([(-distance / width).exp() for width in widths]).sum(0)
