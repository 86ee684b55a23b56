"""Networks for images with losses that look at more than single pixels."""

import math
from collections.abc import Sequence

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, code_map
from vaekit.spec import Spec, term, use
from vaekit.weights import gradient_balanced


@recipe("unet_attn_gan", tags=("image", "attention", "adversarial"), cite=("rombach2022", "johnson2016", "isola2017"))
def unet_attn_gan(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 64, 64),
    data_range: DataRange = (0.0, 1.0),
    width: int = 32,
    perceptual: float = 1.0,
    adversarial: float = 0.1,
    start: int = 1000,
    kl: float = 1e-3,
    weights: str = "pretrained",
) -> Spec:
    """`unet_attn` with squared error, features of VGG16, and a patch critic that joins after `start` steps.

    Args:
        latent: a size, or a map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data.
        width: channels of the networks' first level.
        perceptual: weight of the distance in VGG16's features.
        adversarial: of the game with the critic, as part of the pull of the other terms on the decoder.
        start: the training step at which critic and game begin.
        kl: weight of the KL, in nats, against errors averaged over the image.
        weights: of VGG16: "pretrained", a file, or "random".

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752; Perceptual Losses for Real-Time Style Transfer and Super-Resolution
        (Johnson et al., 2016), https://arxiv.org/abs/1603.08155; Image-to-Image Translation with Conditional
        Adversarial Networks (Isola et al., 2017), https://arxiv.org/abs/1611.07004
    """
    balanced = gradient_balanced(adversarial)
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": input_shape,
            "latent": latent,
            "data_range": data_range,
            "encoder": use("unet_attn", width=width),
            "decoder": use("unet_attn", width=width),
            "likelihood": use("gaussian", scale=1.0),
            "loss": (
                # errors averaged over the image's values, which vaekit's terms sum
                term("mse", weight=1 / math.prod(input_shape)),
                term("perceptual", weight=perceptual, weights=weights),
                term("kl", weight=kl),
                # instance normalisation: batch statistics would tell data and reconstructions apart by themselves
                term("adversarial", weight=balanced, critic=use("patchgan", norm="instance"), start=start),
            ),
        },
    )


@recipe("photo_vae", tags=("image", "attention"), cite=("rombach2022", "zhang2018"))
def photo_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 128, 128),
    data_range: DataRange = (0.0, 1.0),
    widths: Sequence[int] = (64, 128, 160, 256),
    kl: float = 0.02,
    net: str = "vgg",
    weights: str = "pretrained",
) -> Spec:
    """|x - x̂| + LPIPS + 0.02 KL, each a mean, on a convolutional network of about 12 million parameters.

    Args:
        latent: channels of a map of an 8th of the size, or the whole map `(c, h, w)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data.
        widths: channels of each level; each but the last halves the size.
        kl: weight of the KL, averaged over the latent's dimensions, against an error averaged over the image's values.
        net: of LPIPS: "vgg", or "alex" and "squeeze", which are smaller.
        weights: of LPIPS's network: "pretrained", a file, or "random".

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022; the network),
        https://arxiv.org/abs/2112.10752; The Unreasonable Effectiveness of Deep Features as a Perceptual Metric
        (Zhang et al., 2018), https://arxiv.org/abs/1801.03924
    """
    shape = code_map(latent, input_shape, len(widths) - 1)
    dimensions = shape if isinstance(shape, int) else math.prod(shape)
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": input_shape,
            "latent": shape,
            "data_range": data_range,
            "encoder": use("kl_resnet", widths=widths, layers=1),
            "decoder": use("kl_resnet", widths=widths, layers=1),
            "likelihood": use("laplace", scale=1.0),
            "loss": (
                # vaekit's terms are sums over the image's values and the latent's dimensions: divided, they are means
                term("l1", weight=1 / math.prod(input_shape)),
                term("lpips", weight=1.0, net=net, weights=weights),
                term("kl", weight=kl / dimensions),
            ),
        },
    )


@recipe("vq_gan", tags=("image", "discrete", "adversarial"), cite=("esser2021", "oord2017"))
def vq_gan(
    *,
    latent: Latent = 64,
    input_shape: Sequence[int] = (3, 64, 64),
    data_range: DataRange = (0.0, 1.0),
    widths: Sequence[int] = (64, 128, 128),
    codebook_size: int = 1024,
    commitment: float = 0.25,
    adversarial: float = 0.8,
    start: int = 10_000,
    weights: str = "pretrained",
) -> Spec:
    """Codes trained by |x - x̂| + LPIPS, their commitment, and a patch critic of balanced weight from `start` on.

    To generate, fit a prior over the codes after training: `vae.fit_prior("autoregressive", data)`.

    Args:
        latent: channels of a code, or the whole map `(c, h, w)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data.
        widths: channels of each level; each but the last halves the size.
        codebook_size: number of codes.
        commitment: weight of the encoder's distance from its code, a mean over places and channels.
        adversarial: of the game with the critic, as part of the pull of the other terms on the decoder.
        start: the training step at which critic and game begin.
        weights: of LPIPS's network, VGG16: "pretrained", a file, or "random".

    References:
        Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021), https://arxiv.org/abs/2012.09841
    """
    shape = code_map(latent, input_shape, len(widths) - 1)
    dimensions = shape if isinstance(shape, int) else math.prod(shape)
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": input_shape,
            "latent": shape,
            "data_range": data_range,
            "encoder": use("kl_resnet", widths=widths),
            "decoder": use("kl_resnet", widths=widths),
            "sampler": use("vq", codebook_size=codebook_size),
            "prior": use("uniform"),
            "likelihood": use("laplace", scale=1.0),
            "loss": (
                # means over values and latent dimensions, as in the paper's code; vaekit's terms are sums
                term("l1", weight=1 / math.prod(input_shape)),
                term("lpips", weight=1.0, weights=weights),
                term("commitment", weight=commitment / dimensions),
                term("adversarial", weight=gradient_balanced(adversarial), critic=use("patchgan"), start=start),
            ),
        },
    )
