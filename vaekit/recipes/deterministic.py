"""Autoencoders without a posterior density: a point for each x, and something that shapes their cloud."""

from collections.abc import Sequence
from typing import Literal

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, term, use


@recipe("ae", cite="hinton2006")
def ae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
) -> Spec:
    """A plain autoencoder: a point in place of q(z|x), and the squared error alone.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.

    References:
        Reducing the Dimensionality of Data with Neural Networks (Hinton & Salakhutdinov, 2006),
        https://doi.org/10.1126/science.1127647
    """
    return plain(latent, input_shape, data_range, sampler=use("dirac"), loss=(term("mse"),))


@recipe("wae_mmd", cite="tolstikhin2018")
def wae_mmd(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    weight: float = 10.0,
    kernel: Literal["imq", "rbf"] = "imq",
) -> Spec:
    """A point for each x, and the maximum mean discrepancy between their cloud and p(z).

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        weight: of the discrepancy, beside the squared error summed over values.
        kernel: the discrepancy's kernel.

    References:
        Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558
    """
    loss = (term("mse"), term("mmd", weight=weight, kernel=kernel))
    return plain(latent, input_shape, data_range, sampler=use("dirac"), loss=loss)


@recipe("swae", cite="kolouri2018")
def swae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    weight: float = 10.0,
    projections: int = 50,
) -> Spec:
    """A point for each x, and the sliced Wasserstein distance between their cloud and p(z).

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        weight: of the distance, beside the squared error summed over values.
        projections: directions along which it is measured.

    References:
        Sliced-Wasserstein Autoencoder (Kolouri et al., 2018), https://arxiv.org/abs/1804.01947
    """
    loss = (term("mse"), term("sliced_wasserstein", weight=weight, projections=projections))
    return plain(latent, input_shape, data_range, sampler=use("dirac"), loss=loss)


@recipe("rae_l2", cite="ghosh2020")
def rae_l2(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    latent_weight: float = 1e-2,
    decoder_weight: float = 1e-4,
) -> Spec:
    """A point for each x, held small, and a decoder held smooth by small weights.

    To generate, fit a density to the latents after training: `vae.fit_prior("gmm", data)`.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        latent_weight: of ½ ‖z‖².
        decoder_weight: of ½ ‖w‖², w the decoder's weights.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436
    """
    loss = (term("mse"), term("latent_l2", weight=latent_weight), term("weight_l2", weight=decoder_weight))
    return plain(latent, input_shape, data_range, sampler=use("dirac"), loss=loss)


@recipe("rae_gp", cite="ghosh2020")
def rae_gp(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    latent_weight: float = 1e-2,
    decoder_weight: float = 1e-2,
) -> Spec:
    """A point for each x, held small, and a decoder held smooth by a penalty on its gradient in z.

    To generate, fit a density to the latents after training: `vae.fit_prior("gmm", data)`.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        latent_weight: of ½ ‖z‖².
        decoder_weight: of the squared gradient.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436
    """
    penalty = term("decoder_gradient_penalty", weight=decoder_weight)
    loss = (term("mse"), term("latent_l2", weight=latent_weight), penalty)
    return plain(latent, input_shape, data_range, sampler=use("dirac"), loss=loss)
