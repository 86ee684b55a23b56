"""Other measures of the reconstruction than the likelihood's."""

import math
from collections.abc import Sequence
from typing import Literal

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, term
from vaekit.weights import geco


@recipe("ms_ssim_vae", cite="snell2017")
def ms_ssim_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    beta: float = 1e-2,
) -> Spec:
    """1 - MS-SSIM, which looks at structure over scales, + β KL.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        beta: the KL's weight.

    References:
        Learning to Generate Images with Perceptual Similarity Metrics (Snell et al., 2017),
        https://arxiv.org/abs/1511.06409
    """
    return plain(latent, input_shape, data_range, loss=(term("ms_ssim"), term("kl", weight=beta)))


@recipe("log_cosh_vae", cite="chen2019")
def log_cosh_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    alpha: float = 10.0,
    beta: float = 1.0,
) -> Spec:
    """Σ log cosh(α (x - x̂)) / α + β KL: squared for small errors, absolute for large ones.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        alpha: how soon the error turns from squared to absolute.
        beta: the KL's weight.

    References:
        Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder (Chen et al., 2019),
        https://openreview.net/forum?id=rkglvsC9Ym
    """
    return plain(latent, input_shape, data_range, loss=(term("log_cosh", alpha=alpha), term("kl", weight=beta)))


@recipe("dfc_vae", cite="hou2017")
def dfc_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    beta: float = 1.0,
    weight: float = 1.0,
    weights: str = "pretrained",
) -> Spec:
    """The squared error in the features of a trained VGG network, + β KL.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        beta: the KL's weight.
        weight: of the feature error.
        weights: of the network: "pretrained", a file or "random": see the loss `perceptual`.

    References:
        Deep Feature Consistent Variational Autoencoder (Hou et al., 2017), https://arxiv.org/abs/1610.00291
    """
    loss = (term("mse"), term("perceptual", weight=weight, weights=weights), term("kl", weight=beta))
    return plain(latent, input_shape, data_range, loss=loss)


@recipe("info_vae", cite="zhao2019")
def info_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    alpha: float = 0.0,
    scale: float = 10.0,
    kernel: Literal["imq", "rbf"] = "imq",
) -> Spec:
    """nll + (1 - α) KL + (α + λ - 1) MMD(q(z), p(z)): a weak KL leaves information in z, the MMD shapes its cloud.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        alpha: how much of the KL is taken away.
        scale: λ; the discrepancy's weight is α + λ - 1, which has to be positive.
        kernel: the discrepancy's kernel.

    References:
        InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao et al., 2019),
        https://arxiv.org/abs/1706.02262
    """
    weight = alpha + scale - 1
    if weight <= 0 or alpha > 1:
        raise ValueError(
            f"expected alpha of at most 1 and alpha + scale above 1, got alpha={alpha}, scale={scale}: the weight "
            f"of the discrepancy would be {weight:g}, and the model would drive its latents away from the prior."
        )
    loss = (term("nll"), term("kl", weight=1 - alpha), term("mmd", weight=weight, kernel=kernel))
    return plain(latent, input_shape, data_range, loss=loss)


@recipe("geco_vae", cite="rezende2018")
def geco_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    error: float = 0.1,
) -> Spec:
    """min KL subject to an error: the weight of the squared error is a multiplier that holds it at a target.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        error: root mean squared error per value that is asked for.

    References:
        Taming VAEs (Rezende & Viola, 2018), https://arxiv.org/abs/1810.00597
    """
    target = error**2 * math.prod(input_shape)  # the term is summed over values
    loss = (term("mse", weight=geco(target)), term("kl"))
    return plain(latent, input_shape, data_range, loss=loss)
