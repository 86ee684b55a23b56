"""The wrapped normal prior in the Poincaré ball."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit.kinds import Prior, prior
from vaekit.layers.poincare import WrappedNormal, ball_dimension, check_curvature


@prior("wrapped_normal", tags=("ball",), cite=("mathieu2019", "nagano2019"))
class WrappedNormalPrior(Prior):
    """z = exp_0(v), v ~ N(0, σ² I): a normal distribution around the center, wrapped onto the Poincaré ball.

    Single precision reaches some 12/√c from the center: keep σ √d below that.

    Shapes: event shape (d,), batch shape (). Unit of log p: nats, over the Riemannian volume.

    Args:
        latent_shape: the latent's shape (d,), wired.
        curvature: c, where the ball has curvature -c; wired.
        scale: σ, in units of the ball's distance.

    Raises:
        ValueError: where σ or c is not positive, or the latent is a map.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019),
        https://arxiv.org/abs/1901.06033; A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning
        (Nagano et al., 2019), https://arxiv.org/abs/1902.02992

    Example:
        >>> import vaekit
        >>> vaekit.prior["wrapped_normal"]((20,), 1.0)().sample((5,)).shape
        torch.Size([5, 20])
    """

    spaces = ("ball",)

    center: Tensor
    scale: Tensor

    def __init__(self, latent_shape: Sequence[int], curvature: float = 1.0, *, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale: expected a positive number, got {scale}.")
        self.curvature, d = check_curvature(curvature), ball_dimension(latent_shape)
        # buffers, so that the density follows the model's device and dtype; not saved, since they never change
        self.register_buffer("center", torch.zeros(d), persistent=False)
        self.register_buffer("scale", torch.full((d,), float(scale)), persistent=False)

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        return WrappedNormal(self.center, self.scale, self.curvature, validate_args=False)
