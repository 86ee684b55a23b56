"""A second, small VAE over the latents."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.fitting import check_training, flat_points, location_and_scale, mark_fitted, minimise, start_unfitted
from vaekit.layers.implicit import Implicit
from vaekit.layers.perceptron import Perceptron


@prior("two_stage", tags=("fitted",), cite="dai2019")
class TwoStagePrior(FittedPrior):
    """u ~ N(0, I), z ~ N(g(u), γ² s²): the decoder of a second VAE, trained on the latents of the first.

    The second latent u is as large as z, γ is learned with the networks, and its noise is in every sample; s is the
    latents' spread, by which the second VAE sees them scaled. It has no density that could be computed. Before the fit
    it is N(0, I).

    Shapes: event shape `(*latent)`, batch shape ().

    Args:
        latent_shape: the latent's shape, wired.
        hidden: widths of the hidden layers of encoder and decoder.
        epochs: passes over the latents in a fit.
        lr: Adam's learning rate in a fit.
        batch_size: latents per step of a fit.
        seed: of the draws of u and of the order of the latents in a fit.

    Raises:
        ValueError: where a number is not positive; at a fit, where there are fewer than two points or one holds NaN.

    References:
        Diagnosing and Enhancing VAE Models (Dai & Wipf, 2019), https://arxiv.org/abs/1903.05789

    Example:
        >>> import torch, vaekit
        >>> prior = vaekit.prior["two_stage"]((2,), epochs=1)
        >>> prior.fit(torch.randn(100, 2))
        >>> prior().sample((3,)).shape
        torch.Size([3, 2])
    """

    has_density = False

    loc: Tensor
    scale: Tensor
    fitted: Tensor
    is_fitted: bool

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (128, 128),
        epochs: int = 100,
        lr: float = 1e-3,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_training(epochs, lr, batch_size)
        self.training_of: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed}
        self.latent_shape = tuple(latent_shape)
        d = math.prod(latent_shape)
        features = [Perceptron(d, hidden, 0, "silu") for _ in range(2)]
        self.encoder = nn.Sequential(features[0], nn.Linear(features[0].out_features, 2 * d))
        self.decoder = nn.Sequential(features[1], nn.Linear(features[1].out_features, d))
        # at 1, noise would explain all of latents with a spread of 1, and u would never come into use
        self.log_gamma = nn.Parameter(torch.tensor(math.log(0.1)))
        self.register_buffer("loc", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))
        start_unfitted(self)
        self.requires_grad_(False)  # the model's training has nothing to teach it

    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        points = flat_points(z, 2, "two_stage").to(self.loc)
        loc, scale = location_and_scale(points)
        generator = torch.Generator(points.device).manual_seed(self.training_of["seed"])

        def loss(y: Tensor) -> Tensor:
            noise = torch.empty_like(y).normal_(generator=generator)
            return self._negative_elbo(y, noise)

        self.requires_grad_(True)
        try:
            minimise(loss, self.parameters(), (points - loc) / scale, **self.training_of)
        finally:
            self.requires_grad_(False)
        with torch.no_grad():
            self.loc.copy_(loc)
            self.scale.copy_(scale)
            mark_fitted(self)

    def _negative_elbo(self, y: Tensor, noise: Tensor) -> Tensor:
        """KL(q(u|y) ‖ N(0, I)) - log N(y; g(u), γ²), (b,) nats, at u = mean + scale · noise."""
        mean, log_scale = self.encoder(y).chunk(2, -1)
        u = mean + log_scale.exp() * noise
        kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
        gamma = self._log_gamma()
        nll = 0.5 * ((y - self.decoder(u)) / gamma.exp()).square() + gamma + 0.5 * math.log(2 * math.pi)
        return (kl + nll).sum(-1)

    def _log_gamma(self) -> Tensor:
        return self.log_gamma.clamp_min(math.log(1e-3))  # of latents with a spread of 1

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        if self.is_fitted:
            return Implicit(self._draw, self.latent_shape, "two_stage")
        shape = self.latent_shape
        zeros, ones = torch.zeros_like(self.loc).reshape(shape), torch.ones_like(self.loc).reshape(shape)
        return Independent(Normal(zeros, ones, validate_args=False), len(shape), validate_args=False)

    def _draw(self, n: int) -> Tensor:
        u, noise = torch.randn(2, n, len(self.loc), device=self.loc.device, dtype=self.loc.dtype).unbind(0)
        z = self.loc + self.scale * (self.decoder(u) + self._log_gamma().exp() * noise)
        return z.unflatten(-1, self.latent_shape)
