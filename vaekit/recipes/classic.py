"""The classic variants on the network that fits the data: convolutions for maps, linear layers for vectors.

Each differs from `vae` in one slot. With data in (0, 1) the likelihood is Bernoulli, elsewhere a Gaussian of scale 1,
so that the weights of the papers mean what they say.
"""

from collections.abc import Sequence

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, term, use


@recipe("vae", cite="kingma2014")
def vae(*, latent: Latent = 16, input_shape: Sequence[int] = (1, 28, 28), data_range: DataRange = (0.0, 1.0)) -> Spec:
    """The plain VAE: -ELBO = nll + KL.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """
    return plain(latent, input_shape, data_range)


@recipe("beta_vae", cite="higgins2017")
def beta_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    beta: float = 4.0,
) -> Spec:
    """nll + β KL: with β > 1 latent dimensions tend to separate, at the price of reconstruction.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        beta: the KL's weight, for an nll summed over the data's values; β = 1 is the ELBO.

    References:
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017),
        https://openreview.net/forum?id=Sy2fzU9gl
    """
    return plain(latent, input_shape, data_range, loss=(term("nll"), term("kl", weight=beta)))


@recipe("sigma_vae", cite="rybkin2021")
def sigma_vae(
    *, latent: Latent = 16, input_shape: Sequence[int] = (1, 28, 28), data_range: DataRange = (0.0, 1.0)
) -> Spec:
    """A Gaussian likelihood whose variance is the batch's own mean squared error: no weight to tune.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021),
        https://arxiv.org/abs/2006.13202
    """
    return plain(latent, input_shape, data_range, likelihood=use("gaussian", scale="optimal"))


@recipe("conditional_vae", cite="sohn2015")
def conditional_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    classes: int = 10,
    dropout: float = 0.0,
) -> Spec:
    """q(z|x, c) and p(x|z, c) given a class c: z keeps what the class does not say.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        classes: number of classes; labels are integers in [0, classes).
        dropout: part of the labels hidden in training, so that the model also works without them.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn et al., 2015),
        https://papers.nips.cc/paper/5775
    """
    return plain(latent, input_shape, data_range, condition=use("class", classes=classes, dropout=dropout))


@recipe("vamp_vae", cite="tomczak2018")
def vamp_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    components: int = 100,
) -> Spec:
    """p(z) is a mixture of the model's own posteriors at learned pseudo-inputs.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        components: number of pseudo-inputs.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120
    """
    return plain(latent, input_shape, data_range, prior=use("vamp", components=components))


@recipe("mixture_vae", cite="dilokthanakul2016")
def mixture_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    components: int = 10,
) -> Spec:
    """p(z) is a learned mixture of normals: latents may fall into clusters.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        components: number of normals.

    References:
        Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders (Dilokthanakul et al., 2016),
        https://arxiv.org/abs/1611.02648, whose prior this is, without its discrete posterior
    """
    return plain(latent, input_shape, data_range, prior=use("mixture", components=components))
