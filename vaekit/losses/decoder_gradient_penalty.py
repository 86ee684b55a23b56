"""How steep the decoder is."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import sum_values
from vaekit.records import Output


@loss("decoder_gradient_penalty", cite="ghosh2020")
class DecoderGradientPenaltyLoss(Loss):
    """‖J(z)‖²_F = Σ_ik (∂D_i/∂z_k)², D(z) the mean of p(x|z): the decoder's Jacobian at z, in squared Frobenius norm.

    It is estimated without bias by ‖vᵀJ(z)‖², where v is -1 or 1 in each of the data's values by chance, so that
    E[v vᵀ] = I. The drawn z is taken as given: the decoder feels the penalty, and the encoder does not. It costs
    another pass through the decoder, and in training a second derivative. The decoder has to treat examples alone.

    Shapes: Output → (b,). Unit: the data's unit per the latent's, squared.

    Args:
        probes: v's at each step; more of them lower the noise, at the price of a backward pass each.

    Raises:
        ValueError: where there are no probes.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436;
        A Stochastic Estimator of the Trace of the Influence Matrix (Hutchinson, 1989),
        https://doi.org/10.1080/03610918908812806

    Example:
        >>> import torch, vaekit
        >>> loss = {"mse": 1.0, "latent_l2": 1e-2, "decoder_gradient_penalty": 1e-2}
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="dirac", loss=loss)
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['mse', 'latent_l2', 'decoder_gradient_penalty']
    """

    compiles = False  # torch.compile takes no second derivatives
    stochastic = True

    def __init__(self, *, probes: int = 1) -> None:
        super().__init__()
        if probes < 1:
            raise ValueError(f"probes: expected at least 1, got {probes}.")
        self.probes = probes

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        learning = torch.is_grad_enabled()
        lead = out.y.ndim - out.x.ndim + 1
        # fused attention has no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            z = out.z.detach().clone().requires_grad_()
            mean = out.decode(z).mean
            squares = [self._along_a_probe(mean, z, learning).square() for _ in range(self.probes)]
            penalty = sum_values(torch.stack(squares).mean(0), z.ndim - lead)
        return penalty if learning else penalty.detach()

    def _along_a_probe(self, mean: Tensor, z: Tensor, learning: bool) -> Tensor:
        """vᵀJ(z), z's shape."""
        v = torch.randint_like(mean, 2) * 2 - 1
        (gradient,) = torch.autograd.grad(mean, z, v, create_graph=learning, retain_graph=True)
        return gradient
