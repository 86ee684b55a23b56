"""Total correlation, estimated by a critic."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import CriticLoss, loss
from vaekit.layers.critic import make_critic
from vaekit.layers.draws import average_draws
from vaekit.layers.frozen import frozen
from vaekit.records import Output
from vaekit.spec import Spec


@loss("factor_tc", tags=("disentangling",), cite="kim2018")
class FactorTCLoss(CriticLoss):
    """log D(z) - log(1 - D(z)), whose mean estimates TC = KL(q(z) ‖ Π_d q(z_d)); D tells z from permuted z.

    The critic has two logits: a draw of q(z), or one whose dimensions were permuted over the batch by themselves, which
    stands for Π_d q(z_d). The model feels the estimate, the critic its own cross-entropy.

    Shapes: Output → (b,). Unit: nats.

    Args:
        latent_shape: the latent's shape, wired.
        critic: a discriminator by name, `use(...)` or a module with two logits, for flattened latents.

    Raises:
        ValueError: at a call, where the batch has one example: there is nothing to permute.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018), https://arxiv.org/abs/1802.05983

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"nll": 1.0, "kl": 1.0, "factor_tc": 6.0})
        >>> list(vae.loss(torch.rand(8, 1, 4, 4)).terms)
        ['nll', 'kl', 'factor_tc', 'factor_tc_critic']
    """

    smallest_batch = 2

    def __init__(self, latent_shape: Sequence[int], *, critic: "str | Spec | nn.Module" = "mlp") -> None:
        super().__init__()
        self.size = math.prod(latent_shape)
        self.critic = make_critic(critic, (self.size,), outputs=2)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        logits = frozen(self.critic, out.z.reshape(-1, self.size))[0]
        return average_draws((logits[:, 0] - logits[:, 1]).reshape(-1, len(out.x)))

    def critic_loss(self, out: Output) -> Float[Tensor, " b"]:
        """½ (-log D(z) - log(1 - D(permuted z)))."""
        z = out.z.reshape(-1, self.size).detach()
        if len(z) < 2:
            raise ValueError("factor_tc: needs a batch of at least 2 examples to permute, got 1. Drop the last batch.")
        order = torch.rand_like(z).argsort(0)  # a permutation for each dimension
        logits = self.critic(torch.cat([z, z.gather(0, order)]))[0]
        drawn, permuted = F.log_softmax(logits, 1).chunk(2)
        return average_draws(-0.5 * (drawn[:, 0] + permuted[:, 1]).reshape(-1, len(out.x)))
