"""Sliced Wasserstein distance between the aggregate posterior and the prior."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import clouds
from vaekit.records import Output


@loss("sliced_wasserstein", cite="kolouri2018")
class SlicedWassersteinLoss(Loss):
    """SW_p^p = E_θ W_p^p(θ·z, θ·u), z ~ q(z) and u ~ p(z): the mean distance along directions θ.

    In one dimension the best transport pairs the points in order, W_p^p = 1/b Σ_i |sort(θ·z)_i - sort(θ·u)_i|^p. It
    needs draws alone: points without a density and any prior that can be drawn from will do. The prior feels no
    gradient. Two sets of draws are never the same: the value stays above 0 where q(z) = p(z), and falls to 0 as the
    batch grows. The same number stands for each example.

    Memory: n · b · L numbers for n draws of b examples and L directions.

    Shapes: Output → (b,). Unit: the latent's unit to the power p.

    Args:
        projections: L, random directions at each step.
        p: the power of the distance along a direction, at least 1.

    Raises:
        ValueError: where there are no projections, or p is below 1.

    References:
        Sliced-Wasserstein Autoencoder: An Embarrassingly Simple Generative Model (Kolouri et al., 2018),
        https://arxiv.org/abs/1804.01947

    Example:
        >>> import torch, vaekit
        >>> loss = {"mse": 1.0, "sliced_wasserstein": 10.0}
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="dirac", loss=loss)
        >>> list(vae.loss(torch.rand(8, 1, 4, 4)).terms)
        ['mse', 'sliced_wasserstein']
    """

    batchwise = True
    stochastic = True

    def __init__(self, *, projections: int = 50, p: float = 2.0) -> None:
        super().__init__()
        if projections < 1:
            raise ValueError(f"projections: expected at least 1, got {projections}.")
        if not 1 <= p < float("inf"):
            raise ValueError(f"p: expected a power of at least 1, got {p}.")
        self.projections, self.p = projections, p

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        z, u = clouds(out)
        directions = torch.randn(z.shape[-1], self.projections, dtype=z.dtype, device=z.device)
        directions = directions / torch.linalg.vector_norm(directions, dim=0)
        along = [(t @ directions).sort(-2).values for t in (z, u)]  # (*n, b, projections)
        return (along[0] - along[1]).abs().pow(self.p).mean().expand(len(out.x))
