"""Other priors than the standard normal."""

from collections.abc import Sequence

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, term, use


@recipe("flow_vae", cite="chen2017")
def flow_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    flow: str = "maf",
    transforms: int = 3,
    hidden: Sequence[int] = (128, 128),
) -> Spec:
    """p(z) is a normalizing flow that is trained with the model.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        flow: the kind of flow: see the prior `flow`.
        transforms: number of steps.
        hidden: widths of each step's network.

    References:
        Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731
    """
    return plain(latent, input_shape, data_range, prior=use("flow", flow=flow, transforms=transforms, hidden=hidden))


@recipe("two_stage_vae", cite="dai2019")
def two_stage_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
) -> Spec:
    """A likelihood with a learned scale, and a second VAE over the latents that is fitted after training.

    Until `vae.fit_prior("two_stage", data)` p(z) is the standard normal that the model is trained with.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.

    References:
        Diagnosing and Enhancing VAE Models (Dai & Wipf, 2019), https://arxiv.org/abs/1903.05789
    """
    return plain(latent, input_shape, data_range, likelihood=use("gaussian", scale="learned"), prior=use("two_stage"))


@recipe("semi_supervised_vae", cite="kingma2014b")
def semi_supervised_vae(
    *,
    latent: int = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    classes: int = 10,
    weight: float = 50.0,
) -> Spec:
    """A class k beside z, inferred by a classifier q(k|x) that learns from the labels there are; -1 is none.

    The class is drawn by Gumbel-softmax for all examples, where the paper sums over classes for those without a
    label and takes the label for the others.

    Args:
        latent: how many numbers; the class comes on top.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        classes: number of classes.
        weight: of the cross-entropy with the labels.

    References:
        Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298
    """
    return plain(
        latent + classes,
        input_shape,
        data_range,
        sampler=use("joint", categories=classes),
        condition=use("target", classes=classes),
        loss=(term("nll"), term("kl"), term("cross_entropy", weight=weight)),
    )
