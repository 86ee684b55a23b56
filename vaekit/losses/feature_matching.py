"""Reconstruction error in a discriminator's features, and the game against it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import CriticLoss, loss
from vaekit.layers.critic import Features, judge, make_critic
from vaekit.layers.draws import average_draws
from vaekit.layers.frozen import frozen
from vaekit.records import Output
from vaekit.spec import Spec


@loss("feature_matching", tags=("adversarial",), cite="larsen2016")
class FeatureMatchingLoss(CriticLoss):
    """½ ‖f_l(x) - f_l(x̂)‖² in the features f_l of a discriminator, and the decoder's game with that discriminator.

    Three players: the encoder feels the feature error; the decoder feels it too, and -log D of its reconstructions and
    of what it makes from draws of p(z), times `adversarial`; the critic tells both from the data.

    Shapes: Output → (b,). Unit: squared features; nats of the critic's cross-entropy.

    Args:
        input_shape: the data's shape, wired.
        critic: a discriminator by name, `use(...)` or a module; None takes "conv" for maps and "mlp" for vectors.
        layer: which features, counted as `features` gives them.
        adversarial: weight of the game in the decoder's loss.

    Raises:
        ValueError: where the weight is negative.

    References:
        Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2016),
        https://arxiv.org/abs/1512.09300

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss={"kl": 1.0, "feature_matching": 1.0})
        >>> list(vae.loss(torch.rand(8, 1, 8, 8)).terms)
        ['kl', 'feature_matching', 'feature_matching_critic']
    """

    stochastic = True  # the game is played with draws of p(z)

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        critic: "str | Spec | nn.Module | None" = None,
        layer: int = -1,
        adversarial: float = 1.0,
    ) -> None:
        super().__init__()
        if adversarial < 0:
            raise ValueError(f"adversarial: expected a weight of at least 0, got {adversarial}.")
        self.layer, self.adversarial = layer, adversarial
        self.critic = make_critic(critic or ("conv" if len(input_shape) > 1 else "mlp"), input_shape)
        self._features = (Features(self.critic),)  # in a tuple, so that its weights are not counted twice

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        made = out.p_x.mean.reshape(-1, *out.x.shape[1:])
        (features,) = self._features
        error = frozen(features, made)[self.layer].flatten(1)
        target = frozen(features, out.x)[self.layer].flatten(1)
        matched = 0.5 * (error.reshape(-1, *target.shape) - target).square().sum(-1).mean(0)
        if not self.adversarial:
            return matched
        # z without its graph: the game is the decoder's alone
        played = out.decode(torch.stack([out.z.detach(), out.prior_draws()])).mean
        fooled = F.softplus(-judge(self.critic, played.reshape(-1, *out.x.shape[1:]), freeze=True))
        return matched + self.adversarial * average_draws(fooled.reshape(-1, len(out.x)))

    def critic_loss(self, out: Output) -> Float[Tensor, " b"]:
        """-log D(x) - ½ log(1 - D(x̂)) - ½ log(1 - D(x')), x' decoded from z ~ p(z)."""
        with torch.no_grad():
            made = torch.stack([out.p_x.mean, out.decode(out.prior_draws()).mean])
        fake = judge(self.critic, made.reshape(-1, *out.x.shape[1:]))
        return F.softplus(-judge(self.critic, out.x)) + average_draws(F.softplus(fake).reshape(-1, len(out.x)))
