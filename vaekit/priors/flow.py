"""A normalizing flow as prior, trained with the model or fitted to its latents."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.func import functional_call

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.fitting import check_training, flat_points, location_and_scale, minimise
from vaekit.layers.pushforward import Pushforward
from vaekit.layers.zuko_flow import ZukoFlow, standard_normal


@prior("flow", tags=("learned", "fitted"), cite=("dinh2017", "rozet2022"))
class FlowPrior(FittedPrior):
    """log p(z) = log N(f(y); 0, I) + log |det ∂f/∂z|, y = (z - m) / s, with f a normalizing flow of the zuko package.

    In a model's slot it learns with the rest, at m = 0 and s = 1. `fit` takes m and s from the latents, and then
    trains f alone on their mean negative log-likelihood, from where it stands. f runs its fast way for densities: an
    autoregressive flow ("maf", "nsf") takes d passes a layer to draw a sample.

    Shapes: event shape `(*latent)`, batch shape (). Unit of log p: nats.

    Args:
        latent_shape: the latent's shape, wired.
        flow: zuko's flow: "maf", "nsf", "nice", "realnvp", "naf", "unaf", "sospf", "bpf", "gf" or "cnf".
        transforms: layers of the flow.
        hidden: widths of the hidden layers of its networks.
        epochs: passes over the latents in a fit.
        lr: Adam's learning rate in a fit.
        batch_size: latents per step of a fit.
        seed: of the order of the latents in a fit.

    Raises:
        MissingPackage: where zuko is not installed.
        ValueError: where the flow is unknown, or a number is not positive; at a fit, where there are fewer than two
            points or one holds NaN.

    References:
        Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803; Zuko: Normalizing
        flows in PyTorch (Rozet et al., 2022), https://github.com/probabilists/zuko

    Example:
        >>> import torch, vaekit
        >>> prior = vaekit.prior["flow"]((2,), flow="maf", epochs=1)
        >>> prior.fit(torch.randn(100, 2))
        >>> prior().sample((3,)).shape
        torch.Size([3, 2])
    """

    compiles = False

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        flow: str = "nsf",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
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
        self.flow = ZukoFlow(flow, d, 0, transforms, hidden, "prior 'flow'")
        self.register_buffer("loc", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))

    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        points = flat_points(z, 2, "flow").to(self.loc)
        loc, scale = location_and_scale(points)
        with torch.no_grad():
            self.loc.copy_(loc)
            self.scale.copy_(scale)
        minimise(self._negative_log_prob, self.flow.parameters(), points, **self.training_of)

    def _negative_log_prob(self, points: Tensor) -> Tensor:
        return -self().log_prob(points.unflatten(-1, self.latent_shape))

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        # the weights as they are now: where the caller has frozen them for this call, the density stays frozen
        weights = {**dict(self.flow.named_parameters()), **dict(self.flow.named_buffers())}
        flow = partial(functional_call, self.flow, weights)
        loc, scale = self.loc, self.scale
        log_volume = scale.log().sum()

        def push(noise: Tensor) -> tuple[Tensor, Tensor]:
            y, log_det = flow((noise, None, True))
            return loc + scale * y, log_det + log_volume

        def pull(z: Tensor) -> tuple[Tensor, Tensor]:
            noise, log_det = flow(((z - loc) / scale,))
            return noise, log_det - log_volume

        return Pushforward(standard_normal(loc), push, self.latent_shape, pull)
