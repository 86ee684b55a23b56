"""Other posteriors than the diagonal Gaussian, and other spaces for z."""

from collections.abc import Sequence
from typing import Literal

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, plain
from vaekit.spec import Spec, use


@recipe("vae_lin_nf", cite="rezende2015")
def vae_lin_nf(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    flow: Literal["planar", "radial"] = "planar",
    flows: int = 8,
) -> Spec:
    """q(z|x) is a Gaussian pushed through planar or radial flows.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        flow: the kind of step.
        flows: number of steps.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), https://arxiv.org/abs/1505.05770
    """
    return plain(latent, input_shape, data_range, sampler=use(flow, flows=flows))


@recipe("vae_iaf", cite="kingma2016")
def vae_iaf(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    flows: int = 4,
    hidden: Sequence[int] = (128,),
) -> Spec:
    """q(z|x) is a Gaussian pushed through inverse autoregressive flows that read the features of x.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        flows: number of steps, each in the reverse order of the one before.
        hidden: widths of each step's network.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934
    """
    return plain(latent, input_shape, data_range, sampler=use("iaf", flows=flows, hidden=hidden))


@recipe("svae", cite="davidson2018")
def svae(
    *,
    latent: int = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    posterior: Literal["von_mises_fisher", "power_spherical"] = "von_mises_fisher",
) -> Spec:
    """z lives on the unit sphere: q(z|x) is von Mises-Fisher or power spherical, p(z) uniform.

    Args:
        latent: the dimension of the space around the sphere, at least 2.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        posterior: the family of q(z|x); power spherical is quicker to draw from.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), https://arxiv.org/abs/1804.00891
    """
    return plain(latent, input_shape, data_range, sampler=use(posterior), prior=use("uniform_sphere"))


@recipe("poincare_vae", cite="mathieu2019")
def poincare_vae(
    *,
    latent: int = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    posterior: Literal["wrapped_normal", "riemannian_normal"] = "wrapped_normal",
    curvature: float = 1.0,
    scale: float | None = None,
) -> Spec:
    """z lives in the Poincaré ball, whose room grows exponentially with the radius: for data with hierarchies.

    Args:
        latent: the latent's size.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        posterior: the family of q(z|x) and of p(z).
        curvature: how curved the ball is.
        scale: σ of p(z), in units of the ball's distance; None takes 1, or less where draws would lie beyond the reach
            of single precision.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019),
        https://arxiv.org/abs/1901.06033
    """
    if scale is None:  # single precision reaches 12 / √c from the center; in d dimensions a draw lies at (d - 1) √c σ²
        scale = min(1.0, (6 / (max(latent - 1, 1) * curvature)) ** 0.5)
    sampler, prior = use(posterior, curvature=curvature), use(posterior, scale=scale)
    return plain(latent, input_shape, data_range, sampler=sampler, prior=prior)


@recipe("gamma_vae", cite="figurnov2018")
def gamma_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    concentration: float = 2.0,
    rate: float = 1.0,
) -> Spec:
    """q(z|x) and p(z) are Gamma distributions: latents are positive.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        concentration: shape of p(z).
        rate: rate of p(z).

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018), https://arxiv.org/abs/1805.08498
    """
    return plain(
        latent,
        input_shape,
        data_range,
        sampler=use("gamma"),
        prior=use("gamma", concentration=concentration, rate=rate),
    )


@recipe("student_vae", cite="takahashi2018")
def student_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    df: float | Literal["learned"] = "learned",
) -> Spec:
    """p(x|z) is Student's t: values far off do not pull the model towards them.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        df: degrees of freedom.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation (Takahashi et al., 2018),
        https://doi.org/10.24963/ijcai.2018/374
    """
    return plain(latent, input_shape, data_range, likelihood=use("student_t", df=df))


@recipe("hvae", cite="caterini2018")
def hvae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    steps: int = 3,
) -> Spec:
    """q(z|x) follows the gradient of log p(x, z) by Hamiltonian steps: an unbiased, tighter bound.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        steps: leapfrog steps.

    References:
        Hamiltonian Variational Auto-Encoder (Caterini et al., 2018), https://arxiv.org/abs/1805.11328
    """
    return plain(latent, input_shape, data_range, sampler=use("hamiltonian", steps=steps))


@recipe("rhvae", cite="chadebec2022")
def rhvae(
    *,
    latent: int = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    steps: int = 3,
) -> Spec:
    """Hamiltonian steps in a metric that is learned with the model: the latent as a Riemannian manifold.

    Args:
        latent: the latent's size.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        steps: leapfrog steps.

    References:
        Data Augmentation in High Dimensional Low Sample Size Setting Using a Geometry-Based Variational
        Autoencoder (Chadebec et al., 2022), https://arxiv.org/abs/2105.00026
    """
    return plain(latent, input_shape, data_range, sampler=use("riemannian_hamiltonian", steps=steps))
