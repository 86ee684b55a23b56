"""Which layer gave the first infinity or NaN: for models in half precision, whose numbers end at 65,504."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.modes import evaluating
from vaekit.records import Level


class LayerOverflow(FloatingPointError):
    """A layer gave infinite numbers or NaN for finite ones.

    Args:
        layer: its name in the model, as `model.get_submodule` takes it.
        message: the layer, its precision, the size of its input, and what to do.
    """

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(message)
        self.layer = layer


@contextmanager
def naming_overflow(model: nn.Module) -> Iterator[None]:
    """Inside the block, the first layer that gives infinite numbers or NaN for finite ones raises and is named.

    For looking, not for training: every layer's output is read, and each read waits for the device. Outside the block
    it costs nothing. Compiled models are looked at as a whole; look at the one that was compiled.

    Raises:
        LayerOverflow: naming the innermost such layer.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> vae.decoder.out.bias.data.fill_(1e38).mul_(10)[:1]
        tensor([inf])
        >>> with naming_overflow(vae):
        ...     vae.sample(1)
        Traceback (most recent call last):
        ...
        vaekit.overflow.LayerOverflow: decoder.out (Linear): its own weights hold infinite numbers or NaN. Load ...
    """
    # without the model itself: a layer that it holds is always nearer
    hooks = [m.register_forward_hook(partial(_look, n), with_kwargs=True) for n, m in model.named_modules() if n]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def find_overflow(model: nn.Module, x: Tensor, cond: Any = None) -> LayerOverflow | None:
    """The first layer that overflows in `model(x, cond)`, in evaluation mode and without a gradient; None where none.

    Args:
        model: a `vaekit.VAE`.
        x: data, `(b, *input_shape)`.
        cond: what the condition takes.

    Example:
        >>> import torch, vaekit
        >>> find_overflow(vaekit.build("mlp", latent=2, input_shape=(1, 4, 4)), torch.rand(3, 1, 4, 4)) is None
        True
    """
    try:
        with evaluating(model), torch.no_grad(), naming_overflow(model):
            model(x, cond)
    except LayerOverflow as found:
        return found
    return None


def _look(name: str, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
    if all(map(_finite, _tensors(result))):
        return
    inputs = _tensors([*given, *named.values()])
    if not all(map(_finite, inputs)):
        return  # it was there before
    layer = f"{name} ({type(module).__name__})"
    if not all(map(_finite, module.parameters())):
        told = "its own weights hold infinite numbers or NaN. Load good ones, or train with a lower lr or grad_clip."
        raise LayerOverflow(name, f"{layer}: {told}")
    dtype = next(t.dtype for t in _tensors(result) if not _finite(t))
    largest = max((float(t.detach().abs().max()) for t in inputs if t.numel()), default=0.0)
    bounds = torch.finfo(dtype)
    remedy = "Look at the scale of the data and of the weights."
    if dtype == torch.float16:
        remedy = "Use torch.bfloat16, which has the range of float32, or keep this layer in float32."
    raise LayerOverflow(
        name,
        f"{layer}: gives infinite numbers or NaN in {dtype}, whose largest number is {bounds.max:.5g}, for inputs up "
        f"to {largest:.4g}. {remedy}",
    )


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors in what a layer takes or gives."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Level):
        return [value.z]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for each in value for t in _tensors(each)] if isinstance(value, (list, tuple)) else []
