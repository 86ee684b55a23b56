"""The negative log-likelihood."""

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import average_draws
from vaekit.records import Output


@loss("nll", cite="kingma2014")
class NLLLoss(Loss):
    """-log p(x|z), averaged over draws of z: the reconstruction term of the ELBO, whatever the likelihood.

    Shapes: Output → (b,). Unit: nats per example, summed over the data's dimensions.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> vaekit.loss["nll"]()(vae(torch.rand(3, 1, 4, 4))).shape
        torch.Size([3])
    """

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return average_draws(-out.p_x.log_prob(out.x))
