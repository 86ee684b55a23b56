"""What a model is given: looked at before it is used, with errors that say what to do."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.wiring import first_parameter


def check(vae: Any, x: Tensor) -> Tensor:
    """`vae.check`: x in the model's precision, or an error that says what is wrong with it."""
    if not isinstance(x, Tensor):
        hint = "Use torch.as_tensor(x)." if hasattr(x, "__array__") else "Give the data alone, as torch.Tensor."
        raise ValueError(f"vae: expected a tensor, got {type(x).__name__}. {hint}")
    told = 1 if vae.any_size else None  # a comparison with the model's own size would fix it in an exported program
    if x.ndim != len(vae.input_shape) + 1 or tuple(x.shape[1:])[:told] != vae.input_shape[:told]:
        raise ValueError(_wrong_shape(vae, x))
    if len(x) == 0:
        raise ValueError("vae: the batch is empty.")
    if not x.is_floating_point():
        hint = "x.float() / 255" if x.dtype == torch.uint8 and vae.data_range == (0.0, 1.0) else "x.float()"
        raise ValueError(f"vae: expected floating-point data in {_range(vae)}, got {x.dtype}. Use {hint}.")
    weight = first_parameter(vae)
    if weight is not None:
        if weight.device != x.device:
            raise ValueError(f"vae: x is on {x.device} and the model on {weight.device}. Use x.to('{weight.device}').")
        x = x.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    vae._check_values(x)
    return x


def check_values(vae: Any, x: Tensor) -> None:
    """Refuse NaN, and values outside the model's range."""
    # every batch on the CPU, where looking is cheap; elsewhere the first one, since looking waits for the device
    if torch.compiler.is_compiling() or x.device.type == "meta" or x.numel() == 0:
        return
    if x.device.type != "cpu":
        if x.device.type in vae._checked_on:
            return
        vae._checked_on.add(x.device.type)
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise ValueError(f"vae: x holds NaN or infinite values, in example {shown} of the batch. Clean the data.")
    smallest = getattr(vae.likelihood, "least", None)
    if smallest is not None and low < smallest:
        raise ValueError(
            f"vae: x has values down to {low:.4g}, and {type(vae.likelihood).__name__} is for data of at least "
            f"{smallest:g}. Give counts, or use another likelihood."
        )
    if vae.data_range is not None:
        least, most = vae.data_range
        slack = 1e-3 * (most - least)  # rounding of a resize, or of half precision
        if low < least - slack or high > most + slack:
            raise ValueError(
                f"vae: x has values from {low:.4g} to {high:.4g}, and the model was built for data in "
                f"{_range(vae)}. Scale x, or build with the data_range that the data have, None for "
                "unbounded data."
            )


def check_latent(vae: Any, z: Tensor) -> None:
    """Refuse latents of another shape than the model's."""
    dims, told = len(vae.latent_shape), 1 if vae.any_size else None
    if z.ndim <= dims or tuple(z.shape[z.ndim - dims :])[:told] != vae.latent_shape[:told]:
        raise ValueError(f"vae.decode: expected z of shape (…, b, {_shape(vae.latent_shape)}), got {tuple(z.shape)}.")


def check_transformed(vae: Any, z: Tensor) -> None:
    """Refuse what transforms made of z where the decoder takes one size and it is another."""
    made = tuple(z.shape[z.ndim - len(vae.latent_shape) :])
    if not vae.any_size and made != vae.latent_shape:
        raise ValueError(
            f"vae.transforms: {type(vae.decoder).__name__} decodes latents of shape {vae.latent_shape}, and one of the "
            f"transforms made them {made}. Use networks that take any size, such as 'kl_resnet', or a transform that "
            "keeps it: use('equivariance', least=1)."
        )


def cut(vae: Any, y: Tensor, size: Sequence[int]) -> Tensor:
    """What the decoder gives, without what odd sides were rounded up by: y `(b, c, *s)` in the data's size."""
    made = tuple(y.shape[2:])
    if made == tuple(size):
        return y
    if any(a < b for a, b in zip(made, size, strict=True)):
        shown, got = ("×".join(map(str, each)) for each in (size, made))
        if vae._sized:  # the decoder was told the size, and gave all that the latent covers
            why = f"{type(vae.encoder).__name__} rounds down a side that its stride does not divide"
            instead = "'kl_resnet' rounds up with odd='up'"
        else:
            why = f"that is what {type(vae.decoder).__name__} makes of the latent, and its forward is not told the size"
            instead = "a decoder with any_size may have a keyword `size` in forward"
        raise ValueError(
            f"vae: data of {shown} come back as {got}: {why}. Crop or pad the data to multiples of the stride; "
            f"{instead}."
        )
    return y[(..., *map(slice, size))]


def positive(**given: int) -> int:
    """The only argument, refused by its name where it is no whole number of at least 1."""
    ((name, value),) = given.items()
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}.")
    return value


def _wrong_shape(vae: Any, x: Tensor) -> str:
    own = vae.input_shape
    expected = f"vae: expected x of shape (b, {_shape(own)}), got {tuple(x.shape)}."
    if tuple(x.shape) == own:
        return f"{expected} The batch dimension is missing: use x[None]."
    if own[0] == 1 and tuple(x.shape[1:]) == own[1:]:
        return f"{expected} The channel dimension is missing: use x[:, None]."
    if x.ndim == len(own) + 1 and x.shape[2:] == own[1:]:
        return (
            f"{expected} It has {x.shape[1]} channels in place of {own[0]}: build with "
            f"input_shape=({x.shape[1]}, …) or convert the data."
        )
    if x.ndim == len(own) + 1 and (x.shape[-1], *x.shape[1:-1]) == own:
        return f"{expected} The channels come last: use x.movedim(-1, 1)."
    return f"{expected} Resize the data, or build with input_shape={tuple(x.shape[1:])}."


def _range(vae: Any) -> str:
    return "any range" if vae.data_range is None else f"[{vae.data_range[0]:g}, {vae.data_range[1]:g}]"


def _shape(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
