"""The two terms of vector quantizers: z_e stays near its code, and codes near what is assigned to them."""

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.penalty import penalty, require_penalty
from vaekit.records import Output


@loss("commitment", cite="oord2017")
class CommitmentLoss(Loss):
    """‖z_e - sg(e)‖², summed over codes and their dimensions: draws the encoder's output to its code.

    Its weight is the β of VQ-VAE, 0.25 there, against a reconstruction summed over the data as `nll` and `mse` are. A
    paper's mean over positions and dimensions is this divided by the latent's size.

    Shapes: Output → (b,). Unit: the latent's unit, squared.

    Raises:
        ValueError: at build, where the sampler is no quantizer with that distance.

    References:
        Neural Discrete Representation Learning (van den Oord et al., 2017), https://arxiv.org/abs/1711.00937

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build(
        ...     "mlp", latent=2, input_shape=(1, 4, 4), sampler="vq", loss={"nll": 1.0, "commitment": 0.25}
        ... )
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['nll', 'commitment']
    """

    def check(self, out: Output) -> None:
        """The sampler has to compute the penalty "commitment"."""
        require_penalty(
            out,
            "commitment",
            "commitment needs the distance of the encoder's output to its code, which this sampler does not give. Use "
            "a sampler such as 'vq', 'residual_vq', 'grouped_vq', 'lfq' or 'bsq', or leave the term out.",
        )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return penalty(out, "commitment")


@loss("codebook", cite="oord2017")
class CodebookLoss(Loss):
    """‖sg(z_e) - e‖², summed over codes and their dimensions: draws codes to the outputs assigned to them.

    For codes that learn by gradient, which need it: nothing else moves them. Codes that follow moving averages do so
    without a loss.

    Shapes: Output → (b,). Unit: the latent's unit, squared.

    Raises:
        ValueError: at build, where the sampler has no codes that learn by gradient.

    References:
        Neural Discrete Representation Learning (van den Oord et al., 2017), https://arxiv.org/abs/1711.00937

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build(
        ...     "mlp", latent=2, input_shape=(1, 4, 4), sampler=vaekit.use("vq", learn="gradient"),
        ...     loss={"nll": 1.0, "codebook": 1.0, "commitment": 0.25},
        ... )
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['nll', 'codebook', 'commitment']
    """

    def check(self, out: Output) -> None:
        """The sampler has to compute the penalty "codebook"."""
        require_penalty(
            out,
            "codebook",
            "codebook needs codes that learn by gradient, which this sampler has not. Use a sampler such as "
            "use('vq', learn='gradient'), or 'residual_vq' or 'grouped_vq' with learn='gradient'; with learn='ema' "
            "leave the term out.",
        )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return penalty(out, "codebook")
