"""Tighter bounds on log p(x): the importance-weighted family."""

from collections.abc import Sequence
from typing import Literal

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, use


@recipe("iwae", cite="burda2016")
def iwae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    k: int = 5,
    estimator: Literal["pathwise", "stl", "dreg"] = "pathwise",
) -> Spec:
    """log 1/K Σ_k w_k in place of the ELBO: the bound tightens with K draws of z per example.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        k: draws per example.
        estimator: how the gradient reaches the encoder; see `ImportanceWeighted`.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    return plain(latent, input_shape, data_range, objective=use("importance_weighted", k=k, estimator=estimator))


@recipe("miwae", cite="rainforth2018")
def miwae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    m: int = 8,
    k: int = 8,
) -> Spec:
    """The mean of M importance-weighted bounds of K draws: less variance in the encoder's gradient.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        m: bounds that are averaged.
        k: draws in each.

    References:
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537
    """
    return plain(latent, input_shape, data_range, objective=use("importance_weighted", m=m, k=k))


@recipe("piwae", cite="rainforth2018")
def piwae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    m: int = 8,
    k: int = 8,
) -> Spec:
    """The encoder learns from MIWAE (M, K), decoder and prior from IWAE (M·K): each from the bound that suits it.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        m: bounds that are averaged for the encoder.
        k: draws in each.

    References:
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537
    """
    return plain(latent, input_shape, data_range, objective=use("importance_weighted", m=m, k=k, partial=True))


@recipe("ciwae", cite="rainforth2018")
def ciwae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    k: int = 8,
    beta: float = 0.05,
) -> Spec:
    """β ELBO + (1 - β) IWAE: some of the ELBO's gradient for the encoder.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        k: draws per example.
        beta: the ELBO's part.

    References:
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537
    """
    return plain(latent, input_shape, data_range, objective=use("importance_weighted", k=k, elbo=beta))
