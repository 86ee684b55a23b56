"""The entropy term of quantizers: sure of each code, and all codes in use."""

import math

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.penalty import penalty, require_penalty
from vaekit.records import Output


@loss("code_entropy", cite="yu2024")
class CodeEntropyLoss(Loss):
    """Σ E[H(p(k|x))] - γ Σ H(E[p(k|x)]) over an example's codes k, the expectation being the batch's mean.

    p(k|x) is the soft assignment to codes, softmax(-‖z_e - e_k‖² / temperature), where the temperature is the
    sampler's. The first sum makes each assignment sure, the second the use of codes even. At γ = 1 the batch mean is
    minus the information that the codes have on x, and never above 0. The second sum is the same for each example.

    Shapes: Output → (b,). Unit: nats per example.

    Args:
        diversity: γ, the weight of the second sum.

    Raises:
        ValueError: for a negative or infinite weight; at build, where the sampler has no soft assignment.

    References:
        Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (Yu et al., 2024; MAGVIT-2),
        https://arxiv.org/abs/2310.05737

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build(
        ...     "mlp", latent=4, input_shape=(1, 4, 4), sampler="lfq", loss={"nll": 1.0, "code_entropy": 0.1}
        ... )
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['nll', 'code_entropy']
    """

    batchwise = True

    def __init__(self, *, diversity: float = 1.0) -> None:
        super().__init__()
        if not 0 <= diversity < math.inf:
            raise ValueError(f"diversity: expected a weight of at least 0, got {diversity}.")
        self.diversity = diversity

    def check(self, out: Output) -> None:
        """The sampler has to compute the penalties "entropy" and "diversity"."""
        require_penalty(
            out,
            "entropy",
            "code_entropy needs a soft assignment to codes, which this sampler does not give. Use the sampler 'lfq' or "
            "'bsq', or 'vq', 'residual_vq' or 'grouped_vq' with entropy=True.",
        )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return penalty(out, "entropy") + self.diversity * penalty(out, "diversity")
