"""Sizes of maps in networks that halve an image a fixed number of times, with odd sides halved upwards."""

from collections.abc import Sequence

from torch import Tensor


def strided(size: Sequence[int], stride: int) -> tuple[int, ...]:
    """The size of the smallest map.

    Example:
        >>> strided((64, 30), 8)
        (8, 4)
    """
    return tuple(-(-side // stride) for side in size)


def check_image(size: Sequence[int], stride: int) -> None:
    """Refuse an image that would be mostly padding.

    Raises:
        ValueError: saying how large an image has to be.
    """
    if min(size) < stride:
        raise ValueError(
            f"image: expected sides of at least {stride}, since the network halves them to a {stride}th; got "
            f"{'×'.join(map(str, size))}. Use larger images, or fewer widths."
        )


def check_latent(latent_shape: Sequence[int], size: Sequence[int], stride: int) -> None:
    """Refuse a map latent that the network does not end in, or start from.

    Raises:
        ValueError: saying which size fits.
    """
    fits = strided(size, stride)
    if len(latent_shape) > 1 and tuple(latent_shape[1:]) != fits:
        shown = ", ".join(map(str, fits))
        raise ValueError(
            f"latent: expected a map of {'×'.join(map(str, fits))} for an image of {'×'.join(map(str, size))} and a "
            f"network of stride {stride}, got latent={tuple(latent_shape)}. Set latent=({latent_shape[0]}, {shown}), "
            "or another number of widths."
        )


def cut(y: Tensor, z: Tensor, out_shape: Sequence[int], stride: int, size: Sequence[int] | None = None) -> Tensor:
    """The image without what odd sides were rounded up by.

    Its sides are `size`; where that is None, those of `out_shape` where z has the size that belongs to it, and whole
    multiples of the stride elsewhere.
    """
    if size is None:
        if all(side % stride == 0 for side in out_shape[1:]):
            return y  # before z's size is looked at, which would fix it in an exported program
        size = out_shape[1:] if z.ndim < y.ndim or tuple(z.shape[2:]) == strided(out_shape[1:], stride) else y.shape[2:]
    return y[(..., *map(slice, size))]
