"""Networks as chains of stages, which is what tiling has to know of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.decoders.dc import DCDecoder
from vaekit.decoders.kl_resnet import KLResNetDecoder
from vaekit.decoders.tiny import TinyDecoder
from vaekit.encoders.dc import DCEncoder
from vaekit.encoders.kl_resnet import KLResNetEncoder
from vaekit.encoders.tiny import TinyEncoder
from vaekit.layers import dc_blocks, kl_blocks
from vaekit.layers.haar import inverse_haar
from vaekit.layers.kl_blocks import activated, laid_out, patched
from vaekit.layers.strided import cut
from vaekit.layers.tiny_blocks import from_unit, to_unit


@dataclass(frozen=True)
class Stage:
    """One step of a network, a map to a map, that may be run on a part of the map with pixels around it.

    Norms that read the whole map have to be group norms of the stage's input size: they are synchronised. All else in
    the stage has to be local, unless it says `whole`.

    Args:
        name: to tell it by.
        run: (x, seen) → y; `seen` is the network's own input at the same place, for chains that say `reads`.
        halo: pixels of x, on each side, that a pixel of y reads beyond its own place.
        up: how many times larger y is than x.
        down: how many times smaller.
        whole: reads the whole map (attention), so that it runs on nothing less.
    """

    name: str
    run: Callable[[Tensor, Tensor | None], Tensor]
    halo: int = 0
    up: int = 1
    down: int = 1
    whole: bool = False


@dataclass(frozen=True)
class Chain:
    """A network as stages, one after the other.

    Args:
        stages: in the order in which they run.
        reads: the stages read the network's input as well.
        finish: (y, the network's input, the size that is asked for or None) → what the network gives.
    """

    stages: Sequence[Stage]
    reads: bool = False
    finish: Callable[[Tensor, Tensor, Sequence[int] | None], Tensor] = lambda y, _, size: y


@singledispatch
def chain(network: nn.Module) -> Chain:
    """The stages of a network. `@chain.register` teaches it a class of your own.

    Raises:
        ValueError: where it is not known how to take the network apart.
    """
    raise ValueError(
        f"tile: {type(network).__name__} can't be run in tiles, since it is not known which of its layers read the "
        "whole map. Use 'kl_resnet', 'tiny' or 'dc', leave out tile, or register the network's stages with "
        "vaekit.tiling.chain."
    )


def reach(module: nn.Module) -> int:
    """Pixels that a block without a change of size reads beyond a pixel's place: at most what its convolutions sum to.

    Example:
        >>> reach(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Conv2d(1, 1, 5, padding=2)))
        3
    """
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    return sum(
        max(int(d) * (int(k) // 2) for d, k in zip(m.dilation, m.kernel_size, strict=True)) for m in convolutions
    )


def _local(name: str, module: Callable[[Tensor], Tensor], **place: Any) -> Stage:
    """A stage that reads x alone."""
    if isinstance(module, nn.Module):
        place = {"halo": reach(module), **place}
    return Stage(name, lambda x, _: module(x), **place)


def _reading(name: str, module: nn.Module, *, whole: bool = False) -> Stage:
    return Stage(name, lambda x, seen: module(x, seen), halo=reach(module), whole=whole)


def _level(name: str, level: kl_blocks.Level) -> list[Stage]:
    found: list[Stage] = []
    for i, block in enumerate(level.blocks):
        found.append(_reading(f"{name}.blocks.{i}", block))
        if level.attentions:
            found.append(_reading(f"{name}.attentions.{i}", level.attentions[i], whole=True))
    if isinstance(level.resample, kl_blocks.Up):
        found.append(_local(f"{name}.resample", level.resample, up=2))
    elif level.resample is not None:
        found.append(_local(f"{name}.resample", level.resample, down=2))
    return found


def _middle(middle: kl_blocks.Middle) -> list[Stage]:
    attention = [] if middle.attention is None else [_reading("middle.attention", middle.attention, whole=True)]
    return [_reading("middle.first", middle.first), *attention, _reading("middle.second", middle.second)]


def _cut(
    network: KLResNetDecoder | TinyDecoder | DCDecoder, y: Tensor, z: Tensor, size: Sequence[int] | None
) -> Tensor:
    return cut(y, z, network.out_shape, network.stride, size)


@chain.register
def _(network: KLResNetDecoder) -> Chain:
    conv_in, last = _map_convolution(network, network.conv_in), network.conv_out
    stages = [] if network.post_quant_conv is None else [_local("post_quant_conv", network.post_quant_conv)]
    stages += [_local("conv_in", lambda x: laid_out(conv_in(x)), halo=1), *_middle(network.middle)]
    for i, level in enumerate(network.levels):
        stages += _level(f"levels.{i}", cast(kl_blocks.Level, level))
    stages.append(Stage("conv_out", lambda x, seen: last(activated(network.norm, x, seen)), halo=1))
    if network.patch > 1:
        stages.append(_local("pixels", lambda x: inverse_haar(x, network.patch, means=True), up=network.patch))
    return Chain(stages, network.spatial, lambda y, z, size: _cut(network, y, z, size).contiguous())


@chain.register
def _(network: KLResNetEncoder) -> Chain:
    stages: list[Stage] = []
    if network.patch > 1:
        patch, odd = network.patch, network.odd
        stages.append(_local("patches", lambda x: patched(x, patch, odd), down=patch))
    stages.append(_local("conv_in", lambda x: network.conv_in(laid_out(x)), halo=1))
    for i, level in enumerate(network.levels):
        stages += _level(f"levels.{i}", cast(kl_blocks.Level, level))
    stages += [*_middle(network.middle), _local("norm", lambda x: activated(network.norm, x))]
    for name in ("conv_out", "quant_conv"):
        if (last := getattr(network, name)) is not None:
            stages.append(_local(name, last))
    return Chain(stages, finish=lambda h, x, size: h.contiguous())


@chain.register
def _(network: TinyDecoder) -> Chain:
    _map_convolution(network, network.layers[0])
    stages = [_local("bound", network.bound), *_tiny(network.layers)]
    stages.append(_local("range", lambda x: from_unit(x, network.data_range)))
    return Chain(stages, finish=lambda y, z, size: _cut(network, y, z, size))


@chain.register
def _(network: TinyEncoder) -> Chain:
    return Chain([_local("range", lambda x: to_unit(x, network.data_range)), *_tiny(network.layers)])


def _tiny(layers: nn.Sequential) -> list[Stage]:
    found = []
    for i, layer in enumerate(layers):
        down = int(layer.stride[0]) if isinstance(layer, nn.Conv2d) else 1
        found.append(_local(f"layers.{i}", layer, up=2 if isinstance(layer, nn.Upsample) else 1, down=down))
    return found


@chain.register
def _(network: DCDecoder) -> Chain:
    conv_in, last = _map_convolution(network, network.conv_in), network.conv_out

    def first(z: Tensor) -> Tensor:
        y = conv_in(z)
        return y + dc_blocks.repeated(z, y.shape[1]) if network.in_shortcut else y

    stages = [_local("conv_in", first, halo=1)]
    for i in reversed(range(len(network.levels))):
        stages += _dc_level(f"levels.{i}", cast(nn.ModuleList, network.levels[i]))
    up = 2 if isinstance(last, dc_blocks.Up) else 1
    stages.append(_local("conv_out", lambda x: last(network.act(network.norm(x))), halo=1, up=up))
    return Chain(stages, finish=lambda y, z, size: _cut(network, y, z, size))


@chain.register
def _(network: DCEncoder) -> Chain:
    last, stride = network.conv_out, network.stride

    def padded(x: Tensor) -> Tensor:
        bottom, right = (-side % stride for side in x.shape[2:])
        return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x

    def end(h: Tensor) -> Tensor:
        y = cast(nn.Module, last)(h)
        return y + dc_blocks.averaged(h, y.shape[1]) if network.out_shortcut else y

    down = 2 if isinstance(network.conv_in, dc_blocks.Down) else 1
    # the padding repeats the image's last pixels, wherever they are
    stages = [_local("padding", padded, whole=True), _local("conv_in", network.conv_in, down=down)]
    for i, level in enumerate(network.levels):
        stages += _dc_level(f"levels.{i}", cast(nn.ModuleList, level))
    return Chain(stages if last is None else [*stages, _local("conv_out", end, halo=1)])


def _dc_level(name: str, level: nn.ModuleList) -> list[Stage]:
    found = []
    for i, block in enumerate(level):
        if isinstance(block, dc_blocks.EfficientViTBlock):
            found.append(_local(f"{name}.{i}.attention", block.attention, whole=True))
            found.append(_local(f"{name}.{i}.gated", block.gated))
        else:
            up, down = (2 if isinstance(block, kind) else 1 for kind in (dc_blocks.Up, dc_blocks.Down))
            found.append(_local(f"{name}.{i}", block, up=up, down=down))
    return found


def _map_convolution(network: nn.Module, first: nn.Module) -> nn.Module:
    if not isinstance(first, nn.Conv2d):
        raise ValueError(
            f"tile: this {type(network).__name__} begins with a linear layer of a vector latent, which has one size. "
            "Leave out tile, or build with a map latent (c, h, w)."
        )
    return first


def check_modes(network: nn.Module) -> None:
    """Refuse gradients, and modules that do something else in training: a pass over tiles is many calls.

    Raises:
        ValueError: saying what to switch off.
    """
    if torch.is_grad_enabled():
        raise ValueError(
            "tile: tiles are computed without gradients, which would keep every map. Call it inside "
            "torch.inference_mode() or torch.no_grad(), or leave out tile."
        )
    for name, module in network.named_modules():
        dropping = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        if module.training and (dropping or isinstance(module, nn.modules.batchnorm._BatchNorm)):
            raise ValueError(
                f"tile: {name} ({type(module).__name__}) is in training mode, where tiles are not the whole. Call "
                "vae.eval() first."
            )
