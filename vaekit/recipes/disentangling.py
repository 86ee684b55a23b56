"""Terms that ask latent dimensions to separate."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, term, use


@recipe("disentangled_beta_vae", cite="burgess2018")
def disentangled_beta_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    beta: float = 30.0,
    capacity: float = 25.0,
    steps: int = 10_000,
) -> Spec:
    """nll + β |KL - C|, with a capacity C that grows over training.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        beta: how hard the KL is held at the capacity.
        capacity: the last capacity, nats per example.
        steps: training steps over which it grows from 0.

    References:
        Understanding disentangling in β-VAE (Burgess et al., 2018), https://arxiv.org/abs/1804.03599
    """
    return plain(
        latent, input_shape, data_range, loss=(term("nll"), term("capacity", weight=beta, end=capacity, steps=steps))
    )


@recipe("factor_vae", cite="kim2018")
def factor_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    gamma: float = 6.4,
) -> Spec:
    """nll + KL + γ TC, the total correlation estimated by a critic on z.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        gamma: weight of the total correlation.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018), https://arxiv.org/abs/1802.05983
    """
    return plain(latent, input_shape, data_range, loss=(term("nll"), term("kl"), term("factor_tc", weight=gamma)))


@recipe("beta_tc_vae", cite="chen2018")
def beta_tc_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    beta: float = 6.0,
    dataset_size: int | None = None,
) -> Spec:
    """nll + KL + (β - 1) TC, the total correlation estimated over the batch.

    KL = mutual information + total correlation + KL of each dimension, so that β weighs the total correlation
    alone.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        beta: weight of the total correlation in all; 1 is the plain VAE.
        dataset_size: number of training examples; None counts the batch as all data.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942
    """
    size: dict[str, Any] = {} if dataset_size is None else {"dataset_size": dataset_size}
    terms = (term("nll"), term("kl"), term("tc", weight=beta - 1, **size))
    return plain(latent, input_shape, data_range, loss=terms)


@recipe("dip_vae", cite="kumar2018")
def dip_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    kind: Literal["i", "ii"] = "ii",
    off_diagonal: float = 10.0,
    diagonal: float = 5.0,
) -> Spec:
    """nll + KL + a penalty on the covariance of the aggregate posterior, which should be the identity.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        kind: the covariance of the means (i), or of z itself (ii).
        off_diagonal: weight of the covariances.
        diagonal: weight of the variances' distance from 1.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar et al., 2018),
        https://arxiv.org/abs/1711.00848
    """
    dip = term("dip", kind=kind, off_diagonal=off_diagonal, diagonal=diagonal)
    return plain(latent, input_shape, data_range, loss=(term("nll"), term("kl"), dip))


@recipe("joint_vae", cite="dupont2018")
def joint_vae(
    *,
    latent: int = 10,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    categories: int = 10,
    variables: int = 1,
    gamma: float = 30.0,
    capacity: float = 5.0,
    steps: int = 25_000,
) -> Spec:
    """Numbers and codes side by side, each held at a capacity that grows: γ |KL_z - C_z| + γ |KL_c - C_c|.

    Args:
        latent: how many numbers; the one-hot values come on top.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        categories: length of each one-hot vector.
        variables: number of one-hot vectors.
        gamma: how hard both are held at their capacities.
        capacity: the last capacity of the numbers, and of the codes up to their most, nats per example.
        steps: training steps over which the capacities grow from 0.

    References:
        Learning Disentangled Joint Continuous and Discrete Representations (Dupont, 2018),
        https://arxiv.org/abs/1804.00104
    """
    most = variables * math.log(categories)
    terms = (
        term("nll"),
        term("capacity", weight=gamma, label="capacity_numbers", part="numbers", end=capacity, steps=steps),
        term("capacity", weight=gamma, label="capacity_codes", part="codes", end=min(capacity, most), steps=steps),
    )
    sampler = use("joint", categories=categories, variables=variables)
    return plain(latent + variables * categories, input_shape, data_range, sampler=sampler, loss=terms)
