"""Models that train against a critic."""

from collections.abc import Sequence
from typing import Literal

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, term, use


@recipe("adversarial_ae", cite="makhzani2016")
def adversarial_ae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    weight: float = 1.0,
    sampler: Literal["dirac", "gaussian"] = "dirac",
) -> Spec:
    """nll - log D(z): a critic holds the cloud of latents at p(z), in the KL's place.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        weight: of the encoder's game with the critic.
        sampler: a point, or a Gaussian, for each x.

    References:
        Adversarial Autoencoders (Makhzani et al., 2016), https://arxiv.org/abs/1511.05644
    """
    loss = (term("nll"), term("adversarial_latent", weight=weight))
    return plain(latent, input_shape, data_range, sampler=use(sampler), loss=loss)


@recipe("vae_gan", cite="larsen2016")
def vae_gan(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    gamma: float = 1.0,
    adversarial: float = 1.0,
) -> Spec:
    """KL + the reconstruction error in a discriminator's features, and the decoder's game with it.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        gamma: weight of the feature error and of the game.
        adversarial: weight of the game beside the feature error.

    References:
        Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2016),
        https://arxiv.org/abs/1512.09300
    """
    loss = (term("kl"), term("feature_matching", weight=gamma, adversarial=adversarial))
    return plain(latent, input_shape, data_range, loss=loss)
