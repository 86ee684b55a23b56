"""The autoencoders of latent diffusion models in their published sizes; `vaekit.interop.diffusers` loads their weights.

Data are in [-1, 1]. The terms are those that need no pretrained network and no critic, in LDM's weights. LDM adds to
them LPIPS and a patch critic, which a user gives with all terms, here for images of 3·256·256 values:

    loss=[term("l1"), term("kl", weight=1e-6), term("lpips", weight=3 * 256 * 256),
          term("adversarial", critic=use("patchgan"), kind="hinge", start=50_001, weight=use("gradient_balanced"))]

since LDM adds LPIPS, one number an image, to the error of every value before it sums them.
"""

import math
from collections.abc import Sequence
from typing import Any

from vaekit.kinds import recipe
from vaekit.layers.resample import pyramid
from vaekit.recipes.plain import Latent
from vaekit.spec import Spec, term, use

# LDM's sums are vaekit's: |x - x̂| is summed over an image's values and KL over its latent's, and both are divided by
# the batch's size, so that its weights 1 and 1e-6 are taken as they are. (A mean over values and one over latent
# dimensions would want 1e-6 · 4096 / 196608 = 2.1e-8 for images of 3·256·256 and latents of 4·32·32.)
KL_WEIGHT = 1e-6

F4, F8 = (128, 256, 512), (128, 256, 512, 512)
F16, F32 = (128, 128, 256, 256, 512), (128, 128, 256, 256, 512, 512)


@recipe("sd1", tags=("image", "attention"), cite="rombach2022")
def sd1(
    *,
    latent: Latent = 4,
    input_shape: Sequence[int] = (3, 512, 512),
    widths: Sequence[int] = F8,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """The autoencoder of Stable Diffusion 1 and 2: an 8th of the size, 4 channels.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752
    """
    return _autoencoder(latent, input_shape, widths, groups, kl, scale=0.18215)


@recipe("sdxl", tags=("image", "attention"), cite="podell2024")
def sdxl(
    *,
    latent: Latent = 4,
    input_shape: Sequence[int] = (3, 1024, 1024),
    widths: Sequence[int] = F8,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """The autoencoder of Stable Diffusion XL: as in `sd1`, trained anew, with another scale.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis (Podell et al., 2024),
        https://arxiv.org/abs/2307.01952
    """
    return _autoencoder(latent, input_shape, widths, groups, kl, scale=0.13025)


@recipe("sd3", tags=("image", "attention"), cite="esser2024")
def sd3(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 1024, 1024),
    widths: Sequence[int] = F8,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """The autoencoder of Stable Diffusion 3: an 8th of the size, 16 channels, no quant convs.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Esser et al., 2024),
        https://arxiv.org/abs/2403.03206
    """
    return _autoencoder(latent, input_shape, widths, groups, kl, quant=False, scale=1.5305, shift=0.0609)


@recipe("flux1", tags=("image", "attention"), cite="flux2024")
def flux1(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 1024, 1024),
    widths: Sequence[int] = F8,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """The autoencoder of FLUX.1: as in `sd3`, trained anew, with another scale and shift.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        FLUX (Black Forest Labs, 2024), https://github.com/black-forest-labs/flux
    """
    return _autoencoder(latent, input_shape, widths, groups, kl, quant=False, scale=0.3611, shift=0.1159)


@recipe("ldm_kl_f4", tags=("image", "attention"), cite="rombach2022")
def ldm_kl_f4(
    *,
    latent: Latent = 3,
    input_shape: Sequence[int] = (3, 256, 256),
    widths: Sequence[int] = F4,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """LDM's KL-regularised autoencoder of a 4th of the size, 3 channels.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752
    """
    return _autoencoder(latent, input_shape, widths, groups, kl)


@recipe("ldm_kl_f8", tags=("image", "attention"), cite="rombach2022")
def ldm_kl_f8(
    *,
    latent: Latent = 4,
    input_shape: Sequence[int] = (3, 256, 256),
    widths: Sequence[int] = F8,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """LDM's KL-regularised autoencoder of an 8th of the size, 4 channels: `sd1` without its scale.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752
    """
    return _autoencoder(latent, input_shape, widths, groups, kl)


@recipe("ldm_kl_f16", tags=("image", "attention"), cite="rombach2022")
def ldm_kl_f16(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 256, 256),
    widths: Sequence[int] = F16,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """LDM's KL-regularised autoencoder of a 16th of the size, 16 channels, with attention in the last level.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752
    """
    return _autoencoder(latent, input_shape, widths, groups, kl, attending=1)


@recipe("ldm_kl_f32", tags=("image", "attention"), cite="rombach2022")
def ldm_kl_f32(
    *,
    latent: Latent = 64,
    input_shape: Sequence[int] = (3, 256, 256),
    widths: Sequence[int] = F32,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """LDM's KL-regularised autoencoder of a 32nd of the size, 64 channels, with attention in the last two levels.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752
    """
    return _autoencoder(latent, input_shape, widths, groups, kl, attending=2)


@recipe("vavae_f16d32", tags=("image", "attention"), cite="yao2025")
def vavae_f16d32(
    *,
    latent: Latent = 32,
    input_shape: Sequence[int] = (3, 256, 256),
    widths: Sequence[int] = F16,
    groups: int = 32,
    kl: float = KL_WEIGHT,
) -> Spec:
    """The network of VA-VAE: a 16th of the size, 32 channels. Its alignment with a vision model is the user's `loss=`.

    Its scale is measured: `normalizer="channel_stats"`, then `vae.fit_normalizer(data)`.

    Args:
        latent: channels, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        kl: weight of the KL, against an absolute error summed over the image.

    References:
        Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models (Yao et al., 2025),
        https://arxiv.org/abs/2501.01423
    """
    return _autoencoder(latent, input_shape, widths, groups, kl, attending=1)


@recipe("vqgan_f16", tags=("image", "attention", "codes"), cite="esser2021")
def vqgan_f16(
    *,
    latent: Latent = 256,
    input_shape: Sequence[int] = (3, 256, 256),
    widths: Sequence[int] = F16,
    groups: int = 32,
    codebook_size: int = 1024,
) -> Spec:
    """VQGAN's network: a map of codes of 256 channels, a 16th of the image's size. The GAN is the user's `loss=`.

    To generate, fit a prior over the codes after training: `vae.fit_prior("autoregressive", data)`.

    Args:
        latent: channels of a code, or the whole map `(c, h, w)`.
        input_shape: the data's shape, in [-1, 1].
        widths: channels of each level.
        groups: of the group norms.
        codebook_size: number of codes; the paper has 1024 and 16384.

    References:
        Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021), https://arxiv.org/abs/2012.09841
    """
    spec = _autoencoder(latent, input_shape, widths, groups, 0.0, attending=1)
    # VQGAN takes means over the values of an image, and over those of its codes; vaekit's terms are sums. Its β of 0.25
    # weighs what moves the codes, and not what moves the encoder to them: so its code has it, contrary to the paper.
    values, codes = math.prod(input_shape), math.prod(spec.args["latent"])
    encoder: Spec = spec.args["encoder"]
    return spec.replace(
        encoder=encoder.replace(out_channels=spec.args["latent"][0]),
        sampler=use("vq", codebook_size=codebook_size, learn="gradient", restart=0.0, head="none"),
        prior=use("uniform"),
        loss=(
            term("l1", weight=1 / values),
            term("commitment", weight=1 / codes),
            term("codebook", weight=0.25 / codes),
        ),
    )


def _autoencoder(
    latent: Latent,
    input_shape: Sequence[int],
    widths: Sequence[int],
    groups: int,
    kl: float,
    *,
    attending: int = 0,
    quant: bool = True,
    scale: float | None = None,
    shift: float = 0.0,
) -> Spec:
    """`kl_resnet` on both sides of a Gaussian latent; `attending` levels, the smallest ones, have attention."""
    if isinstance(latent, int):
        latent = (latent, *pyramid(input_shape[1:], len(widths) - 1)[-1])
    common: dict[str, Any] = {
        "widths": widths,
        "attention": tuple(range(len(widths)))[len(widths) - attending :],
        "groups": groups,
    }
    args: dict[str, Any] = {
        "input_shape": input_shape,
        "latent": latent,
        "data_range": (-1.0, 1.0),
        "encoder": use("kl_resnet", **common, out_channels=2 * latent[0], quant_conv=quant),
        "sampler": use("gaussian", head="none"),
        "decoder": use("kl_resnet", **common, post_quant_conv=quant),
        "likelihood": use("laplace", scale=1.0),
        "loss": (term("l1"), term("kl", weight=kl)),
    }
    if scale is not None:
        args["normalizer"] = use("scale_shift", scale=scale, **({"shift": shift} if shift else {}))
    return Spec("vae", "flat", args)
