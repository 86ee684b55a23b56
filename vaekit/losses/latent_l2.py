"""The size of the latent."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import sum_values
from vaekit.records import Output


@loss("latent_l2", cite="ghosh2020")
class LatentL2Loss(Loss):
    """½ ‖z‖² of the drawn z, summed over levels: what holds the points of an autoencoder together.

    For q(z|x) = N(μ, σ² I) with σ given, it is the KL to N(0, I) up to a constant, estimated by the drawn z.

    Shapes: Output → (b,). Unit: the latent's unit, squared.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436

    Example:
        >>> import torch, vaekit
        >>> loss = {"mse": 1.0, "latent_l2": 1e-2}
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="dirac", loss=loss)
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['mse', 'latent_l2']
    """

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        lead = out.y.ndim - out.x.ndim + 1
        return torch.stack([sum_values(0.5 * level.z.square(), level.z.ndim - lead) for level in out.levels]).sum(0)
