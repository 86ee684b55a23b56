"""The adversarial term on the latent."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import CriticLoss, loss
from vaekit.layers.critic import judge, make_critic, told_apart
from vaekit.layers.draws import average_draws
from vaekit.records import Output
from vaekit.spec import Spec


@loss("adversarial_latent", tags=("adversarial",), cite="makhzani2016")
class AdversarialLatentLoss(CriticLoss):
    """-log D(z), z ~ q(z|x), where D tells draws of p(z) from draws of q(z): at its optimum q(z) = p(z).

    It takes the KL's place for priors that can be drawn from, also where q(z|x) is a point. The encoder feels this
    term, the critic -log D(z') - log(1 - D(z)) with z' ~ p(z).

    Shapes: Output → (b,). Unit: nats of the critic's cross-entropy.

    Args:
        latent_shape: the latent's shape, wired.
        critic: a discriminator by name, `use(...)` or a module, for the latent.

    References:
        Adversarial Autoencoders (Makhzani et al., 2016), https://arxiv.org/abs/1511.05644

    Example:
        >>> import torch, vaekit
        >>> loss = {"nll": 1.0, "adversarial_latent": 10.0}
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="dirac", loss=loss)
        >>> list(vae.loss(torch.rand(8, 1, 4, 4)).terms)
        ['nll', 'adversarial_latent', 'adversarial_latent_critic']
    """

    def __init__(self, latent_shape: Sequence[int], *, critic: "str | Spec | nn.Module" = "mlp") -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.critic = make_critic(critic, latent_shape)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        z = out.z.reshape(-1, *self.latent_shape)
        return average_draws(F.softplus(-judge(self.critic, z, freeze=True)).reshape(-1, len(out.x)))

    def critic_loss(self, out: Output) -> Float[Tensor, " b"]:
        """-log D(z') - log(1 - D(z)), z' ~ p(z)."""
        z = out.z.detach().reshape(-1, *self.latent_shape)
        real = judge(self.critic, out.prior_draws().reshape(z.shape))
        return average_draws(told_apart(real, judge(self.critic, z)).reshape(-1, len(out.x)))
