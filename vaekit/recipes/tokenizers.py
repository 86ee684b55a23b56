"""Published autoencoders whose latents other models work on: TAESD and DC-AE."""

from collections.abc import Sequence
from typing import Any, Literal

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, code_map, plain
from vaekit.spec import Spec, term, use


@recipe("taesd", tags=("image", "latent-diffusion"), cite="bohan2023")
def taesd(
    *,
    latent: Latent = 4,
    input_shape: Sequence[int] = (3, 256, 256),
    data_range: DataRange = (0.0, 1.0),
    widths: Sequence[int] = (64, 64, 64, 64),
    blocks: Sequence[int] = (1, 3, 3, 3),
) -> Spec:
    """A tiny autoencoder without norms and attention, fast enough to look at latents while they are made.

    The published weights imitate a large model's: their encoder gives the latents of Stable Diffusion's, and their
    decoder was trained with a critic beside it. Trained from nothing by this recipe's absolute error, the latents are
    its own, and images are softer; add the terms `lpips` and `adversarial` for sharp ones.

    Args:
        latent: channels of the latent, or the whole map `(c, h, w)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; diffusers' version has (-1, 1).
        widths: channels of each level, full size first.
        blocks: blocks of each level, full size first.

    References:
        Tiny AutoEncoder for Stable Diffusion (Bohan, 2023), https://github.com/madebyollin/taesd
    """
    shape = code_map(latent, input_shape, len(widths) - 1)
    return autoencoder(
        shape,
        input_shape,
        data_range,
        encoder=use("tiny", widths=widths, blocks=blocks, out_channels=_channels(shape)),
        decoder=use("tiny", widths=widths, blocks=blocks),
        normalizer=use("scale_shift", scale=1.0),
    )


@recipe("taesd3", tags=("image", "latent-diffusion"), cite="bohan2023")
def taesd3(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 256, 256),
    data_range: DataRange = (0.0, 1.0),
    widths: Sequence[int] = (64, 64, 64, 64),
    blocks: Sequence[int] = (1, 3, 3, 3),
) -> Spec:
    """`taesd` with 16 channels of latent, those of Stable Diffusion 3 or, with other weights, of FLUX.1 (TAEF1).

    Args:
        latent: channels of the latent, or the whole map `(c, h, w)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; diffusers' version has (-1, 1).
        widths: channels of each level, full size first.
        blocks: blocks of each level, full size first.

    References:
        Tiny AutoEncoder for Stable Diffusion (Bohan, 2023), https://github.com/madebyollin/taesd
    """
    return taesd(latent=latent, input_shape=input_shape, data_range=data_range, widths=widths, blocks=blocks)


@recipe("dc_ae_f32c32", tags=("image", "attention", "latent-diffusion"), cite="chen2025")
def dc_ae_f32c32(
    *,
    latent: Latent = 32,
    input_shape: Sequence[int] = (3, 256, 256),
    data_range: DataRange = (-1.0, 1.0),
    variant: Literal["sana", "in", "mix"] = "sana",
    widths: Sequence[int] = (128, 256, 512, 512, 1024, 1024),
) -> Spec:
    """A deep compression autoencoder: 32 times smaller per side, with linear attention and shortcuts without weights.

    The first three levels have residual blocks, the others attention. Beside the absolute error here, the paper trains
    with LPIPS; then the inner levels alone on large images; then the outer ones with a PatchGAN on small images again.
    Add the terms `lpips` and `adversarial` for that.

    Args:
        latent: channels of the latent, a divisor of the last width, or the whole map `(c, h, w)`.
        input_shape: the data's shape, with sides of at least 2^(levels - 1).
        data_range: smallest and largest value of the data.
        variant: the network and the scale of published weights: "sana", what SANA generates; "in", trained on
            ImageNet, and "mix", on more, both with batch norm where the decoder's maps are large.
        widths: channels of each level, full size first; 2048 once or twice at the end for f64 and f128.

    Raises:
        ValueError: where there is no such variant.

    References:
        Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models (Chen et al., 2025),
        https://arxiv.org/abs/2410.10733
    """
    if variant not in _DC_SCALES:
        raise ValueError(f"variant: expected 'sana', 'in' or 'mix', got {variant!r}.")
    sana, levels = variant == "sana", len(widths)

    def of_levels(outer: tuple[Any, ...], inner: Any) -> tuple[Any, ...]:
        return (*outer, *(inner,) * (levels - 3))[:levels]

    shared: dict[str, Any] = {
        "widths": widths,
        "block_types": of_levels(("resnet",) * 3, "efficientvit"),
        "qkv_multiscales": of_levels(((),) * 3, (5,) if sana else ()),
    }
    if sana:
        down: dict[str, Any] = {"blocks": of_levels((2, 2, 2), 3), "down_type": "conv"}
        up: dict[str, Any] = {"blocks": of_levels((3, 3, 3), 3), "up_type": "interpolate"}
    else:
        down = {"blocks": of_levels((0, 4, 8), 2)}
        up = {"blocks": of_levels((0, 5, 10), 2)}
        up |= {"norms": of_levels(("batch",) * 3, "rms"), "acts": of_levels(("relu",) * 3, "silu")}
    shape = code_map(latent, input_shape, levels - 1)
    return autoencoder(
        shape,
        input_shape,
        data_range,
        encoder=use("dc", **shared, **down, out_channels=_channels(shape)),
        decoder=use("dc", **shared, **up),
        normalizer=use("scale_shift", scale=_DC_SCALES[variant]),
    )


_DC_SCALES = {"sana": 0.41407, "in": 0.3189, "mix": 0.4552}  # of f32c32


def autoencoder(latent: Latent, input_shape: Sequence[int], data_range: DataRange, **slots: Any) -> Spec:
    """A model whose latent is the encoder's output as it is, with the absolute error alone."""
    return plain(
        latent,
        input_shape,
        data_range,
        sampler=use("dirac", head="none"),
        likelihood=use("laplace", scale=1.0),
        loss=(term("l1"),),
        **slots,
    )


def _channels(latent: Latent) -> int:
    return latent if isinstance(latent, int) else latent[0]
