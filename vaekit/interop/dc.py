"""Weights of the deep compression autoencoder: diffusers' `AutoencoderDC`, and its authors' files, in and out.

The authors' q, k and v are one convolution, as ours are; diffusers cuts it in three.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaekit.decoders.dc import DCDecoder
from vaekit.encoders.dc import DCEncoder
from vaekit.layers.dc_blocks import LinearAttention
from vaekit.layers.strided import strided
from vaekit.recipes.tokenizers import autoencoder
from vaekit.spec import Spec, use
from vaekit.vae import VAE

_SIZE = 256  # of the images of a model whose size nothing says
_HEAD_DIM = 32  # of all that was published; no weight tells where no level is multi-scale
# what no weight tells, by diffusers' names
_UNSEEN = ("encoder_out_shortcut", "decoder_in_shortcut", "decoder_act_fns", "decoder_conv_act_fn")

_LEVEL = {"diffusers": r"(encoder\.down|decoder\.up)_blocks", "author": r"(encoder|decoder)\.stages"}
# inside of a block: ours, diffusers', the authors'
_INSIDE = (
    ("conv1.", "conv1.", "main.conv1.conv."),
    ("conv2.", "conv2.", "main.conv2.conv."),
    ("norm.", "norm.", "main.conv2.norm."),
    ("attention.out.", "attn.to_out.", "context_module.main.proj.conv."),
    ("attention.norm.", "attn.norm_out.", "context_module.main.proj.norm."),
    ("attention.q.", "attn.to_q.", None),
    ("attention.k.", "attn.to_k.", None),
    ("attention.v.", "attn.to_v.", None),
    ("attention.qkv.", None, "context_module.main.qkv.conv."),
    ("attention.scales.{}.0.", "attn.to_qkv_multiscale.{}.proj_in.", "context_module.main.aggreg.{}.0."),
    ("attention.scales.{}.1.", "attn.to_qkv_multiscale.{}.proj_out.", "context_module.main.aggreg.{}.1."),
    ("gated.expand.", "conv_out.conv_inverted.", "local_module.main.inverted_conv.conv."),
    ("gated.depth.", "conv_out.conv_depth.", "local_module.main.depth_conv.conv."),
    ("gated.project.", "conv_out.conv_point.", "local_module.main.point_conv.conv."),
    ("gated.norm.", "conv_out.norm.", "local_module.main.point_conv.norm."),
    ("conv.", "conv.", "main.conv.conv."),
    ("conv.", None, "main.conv."),
)
# ends of the network: ours, the authors'
_ENDS = (
    ("encoder.conv_in.conv.", "encoder.project_in.conv.conv."),
    ("encoder.conv_in.", "encoder.project_in.conv."),
    ("encoder.conv_out.", "encoder.project_out.main.op_list.0.conv."),
    ("encoder.conv_out.", "encoder.project_out.op_list.0.conv."),
    ("decoder.conv_in.", "decoder.project_in.main.conv."),
    ("decoder.conv_in.", "decoder.project_in.conv."),
    ("decoder.norm.", "decoder.project_out.op_list.0."),
    ("decoder.conv_out.conv.", "decoder.project_out.op_list.2.conv.conv."),
    ("decoder.conv_out.", "decoder.project_out.op_list.2.conv."),
)


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a deep compression autoencoder, under diffusers' or its authors' names."""
    inside = r"(en|de)coder\.((down|up)_blocks\.\d+\.\d+\.(conv|attn)|stages\.\d+\.op_list\.\d+\.)"
    return any(re.match(inside, key) for key in keys)


def _is_author(keys: Collection[str]) -> bool:
    return any(".stages." in key for key in keys)


# -- theirs → ours -----------------------------------------------------------------------------------------------------


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `dc` model; keys that it has no place for keep their names.

    Types are kept. q, k and v are put below each other, and matrices become 1-convolutions.
    """
    column = 2 if _is_author(state) else 1
    ours = {_our_name(key, column): value for key, value in state.items()}
    if column == 2 and not any(key.startswith("encoder.levels.0.") for key in ours):
        # a strided convolution in place of the first level has the name of one that keeps the size
        for key in [k for k in ours if re.match(r"encoder\.conv_in\.(weight|bias)$", k)]:
            ours[key.replace("conv_in.", "conv_in.conv.")] = ours.pop(key)
    for key in [k for k in ours if k.endswith(".attention.q.weight")]:
        parts = [key.replace(".q.", f".{each}.") for each in "qkv"]
        if all(part in ours for part in parts):
            ours[key.replace(".q.", ".qkv.")] = torch.cat([ours.pop(part) for part in parts])
    for key in [k for k in ours if re.search(r"\.attention\.(qkv|out)\.weight$", k) and ours[k].ndim == 2]:
        ours[key] = ours[key][..., None, None]
    return ours


def _our_name(key: str, column: int) -> str:
    level = re.match(rf"{_LEVEL[('diffusers', 'author')[column - 1]]}\.(\d+)\.(?:op_list\.)?(\d+)\.", key)
    if level is None:
        if column == 1:
            return re.sub(r"^decoder\.norm_out\.", "decoder.norm.", key)
        found = [(a, b) for a, b in _ENDS if key.startswith(b) and "." not in key[len(b) :]]
        return found[0][0] + key[len(found[0][1]) :] if found else key
    half = level[1].split(".")[0]
    return f"{half}.levels.{level[2]}.{level[3]}." + _renamed(key[level.end() :], column, 0)


def _renamed(leaf: str, source: int, target: int) -> str:
    """The leaf of a block's key under other names; as it is, where it has none."""
    for row in _INSIDE:
        a, b = row[source], row[target]
        if a is None or b is None:
            continue
        found = re.match(re.escape(a).replace(r"\{\}", r"(\d+)") + r"(?=[a-z_]+$)", leaf)
        if found is not None:
            return b.format(*found.groups()) + leaf[found.end() :]
    return leaf


# -- ours → theirs -----------------------------------------------------------------------------------------------------


def _to_theirs(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under diffusers' names: what `to_ours` makes, made undone."""
    theirs: dict[str, Tensor] = {}
    for key, value in ours.items():
        level = re.match(r"(encoder|decoder)\.levels\.(\d+)\.(\d+)\.", key)
        if level is None:
            theirs[re.sub(r"^decoder\.norm\.", "decoder.norm_out.", key)] = value
            continue
        stem = f"{level[1]}.{'down' if level[1] == 'encoder' else 'up'}_blocks.{level[2]}.{level[3]}."
        leaf = key[level.end() :]
        if leaf == "attention.qkv.weight":
            for name, piece in zip("qkv", value.flatten(1).chunk(3), strict=True):
                theirs[f"{stem}attn.to_{name}.weight"] = piece
        else:
            theirs[stem + _renamed(leaf, 0, 1)] = value.flatten(1) if leaf == "attention.out.weight" else value
    return theirs


# -- shapes → a model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half:
    """What the weights of an encoder or decoder say of its settings; levels are counted from 0 at full size.

    `shuffled` is whether pixels become channels, or channels pixels, between the levels; None where there is one level.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    block_types: tuple[str, ...]
    qkv_multiscales: tuple[tuple[int, ...], ...]
    norms: tuple[str, ...]
    head_dim: int | None
    shuffled: bool | None


def half_of(ours: Mapping[str, Tensor], name: str) -> Half:
    """The settings of one half, read off our weights' names and shapes.

    Raises:
        ValueError: where the half is not there, or not all of it.
    """
    levels: dict[int, dict[int, dict[str, Tensor]]] = {}
    for key, value in ours.items():
        if found := re.match(rf"{name}\.levels\.(\d+)\.(\d+)\.(.*)$", key):
            levels.setdefault(int(found[1]), {}).setdefault(int(found[2]), {})[found[3]] = value
    count = max(levels, default=-1) + 1
    if not count or not set(range(1, count)) <= levels.keys() or not _has_ends(ours, name):
        raise ValueError(f"interop: the {name} is not there, or not all of it: levels found: {sorted(levels)}.")
    rows = [_level(levels.get(i, {}), name) for i in range(count)]
    widths = [width for width, *_ in rows]
    if not rows[0][1]:
        widths[0] = max(widths[1] // 2, 1)  # of a level without blocks, which has no weights
    shuffled = None
    for i, level in levels.items():
        for block in level.values():
            if "conv.weight" in block:
                given = len(block["conv.weight"])
                shuffled = 4 * given == widths[i + 1] if name == "encoder" else given == 4 * widths[i]
    return Half(
        widths=tuple(widths),
        blocks=tuple(blocks for _, blocks, *_ in rows),
        block_types=tuple(kind for _, _, kind, *_ in rows),
        qkv_multiscales=tuple(kernels for *_, kernels, _, _ in rows),
        norms=tuple(norm for *_, norm, _ in rows),
        head_dim=max((dim for *_, dim in rows if dim is not None), default=None),
        shuffled=shuffled,
    )


def _has_ends(ours: Mapping[str, Tensor], name: str) -> bool:
    return all({f"{name}.{end}.weight", f"{name}.{end}.conv.weight"} & ours.keys() for end in ("conv_in", "conv_out"))


def _level(
    level: Mapping[int, Mapping[str, Tensor]], name: str
) -> tuple[int, int, str, tuple[int, ...], str, int | None]:
    """Width, blocks, their type, kernels of the scales, norm and the heads' channels of a level."""
    blocks = [block for block in level.values() if "conv1.weight" in block or "attention.out.weight" in block]
    if not blocks:
        return 1, 0, "resnet", (), "rms", None
    first = blocks[0]
    norm = "batch" if any(key.endswith("norm.running_mean") for key in first) else "rms"
    if "conv1.weight" in first:
        return len(first["conv1.weight"]), len(blocks), "resnet", (), norm, None
    scales = sum(bool(re.match(r"attention\.scales\.\d+\.0\.weight$", key)) for key in first)
    kernels = tuple(first[f"attention.scales.{i}.0.weight"].shape[-1] for i in range(scales))
    head_dim = first["attention.scales.0.1.weight"].shape[1] if scales else None
    return len(first["attention.out.weight"]), len(blocks), "efficientvit", kernels, norm, head_dim


def spec_from(state: Mapping[str, Tensor], config: Mapping[str, Any] | None, input_shape: Any = None) -> Spec:
    """The model that the weights belong to, by their shapes, and by the config where no weight tells.

    Activations and shortcuts are no weights. Under diffusers' names they need its config; under the authors' names they
    are as in all that these published: relu beside batch norm and silu elsewhere, and shortcuts where the names say so.

    Raises:
        ValueError: where weights are missing, or what the weights don't tell.
    """
    ours = to_ours(state)
    down, up = half_of(ours, "encoder"), half_of(ours, "decoder")
    if config is None:
        if not _is_author(state):
            raise ValueError(
                f"interop: the weights of an AutoencoderDC don't tell its {', '.join(_UNSEEN)}. Put its config.json "
                "beside them, and give the folder."
            )
        config = {
            "encoder_out_shortcut": any(key.startswith("encoder.project_out.main.") for key in state),
            "decoder_in_shortcut": any(key.startswith("decoder.project_in.main.") for key in state),
            "decoder_act_fns": ["relu" if norm == "batch" else "silu" for norm in up.norms],
        }
    head_dim = {down.head_dim, up.head_dim} - {None} or {config.get("attention_head_dim", _HEAD_DIM)}
    if len(head_dim) > 1 or len(down.widths) != len(up.widths):
        raise ValueError(f"interop: encoder and decoder are of two models: {down} and {up}.")
    latent = len(ours["encoder.conv_out.weight"])
    first = next(ours[key] for key in ("encoder.conv_in.weight", "encoder.conv_in.conv.weight") if key in ours)
    shape = tuple(input_shape) if input_shape is not None else (first.shape[1], _SIZE, _SIZE)
    acts = config.get("decoder_act_fns", "silu")
    shared: dict[str, Any] = {"head_dim": head_dim.pop()}
    return autoencoder(
        (latent, *strided(shape[1:], 2 ** (len(down.widths) - 1))),
        shape,
        (-1.0, 1.0),
        encoder=use(
            "dc",
            **_settings(down),
            **shared,
            down_type=_resampling(down, config.get("downsample_block_type"), "pixel_unshuffle", "conv"),
            out_channels=latent,
            out_shortcut=config.get("encoder_out_shortcut", True),
        ),
        decoder=use(
            "dc",
            **_settings(up),
            **shared,
            norms=up.norms,
            acts=acts if isinstance(acts, str) else tuple(acts),
            up_type=_resampling(up, config.get("upsample_block_type"), "pixel_shuffle", "interpolate"),
            in_shortcut=config.get("decoder_in_shortcut", True),
            out_act=config.get("decoder_conv_act_fn", "relu"),
        ),
    )


def _settings(half: Half) -> dict[str, Any]:
    return {
        "widths": half.widths,
        "blocks": half.blocks,
        "block_types": half.block_types,
        "qkv_multiscales": half.qkv_multiscales,
    }


def _resampling(half: Half, told: str | None, shuffled: str, other: str) -> str:
    if half.shuffled is None:
        return shuffled if told in (None, shuffled) else other
    return shuffled if half.shuffled else other


# -- a model → their files ---------------------------------------------------------------------------------------------


def to_diffusers(vae: VAE) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights under diffusers' names, and the config that goes with them, without scale and shift.

    Raises:
        ValueError: where diffusers has no such model, saying in what.
    """
    encoder, decoder = vae.encoder, vae.decoder
    if not isinstance(encoder, DCEncoder) or not isinstance(decoder, DCDecoder):
        raise ValueError(
            f"interop: expected the encoder and decoder 'dc', got {type(encoder).__name__} and "
            f"{type(decoder).__name__}."
        )
    ours = {k: v.detach() for k, v in vae.state_dict().items() if k.startswith(("encoder.", "decoder."))}
    whole = not any(key.startswith("sampler.") for key in vae.state_dict()) and len(vae.latent_shape) == 3
    _representable(whole, "a map latent that is the encoder's output: out_channels, and a sampler with head='none'")
    _representable(vae.data_range == (-1.0, 1.0), "data_range=(-1, 1)")
    down, up = half_of(ours, "encoder"), half_of(ours, "decoder")
    z, y = ours["decoder.conv_in.weight"].shape[1], decoder.out_shape[0]
    _representable(len(ours["encoder.conv_out.weight"]) == z, "as many channels from the encoder as into the decoder")
    _representable(y == vae.input_shape[0], "as many channels in y as in the data")
    dims = {block.head_dim for block in vae.modules() if isinstance(block, LinearAttention)}
    _representable(len(dims) <= 1, "one head_dim for all levels, and widths of at least as many channels")
    kinds = {"resnet": "ResBlock", "efficientvit": "EfficientViTBlock"}
    config: dict[str, Any] = {
        "_class_name": "AutoencoderDC",
        "in_channels": vae.input_shape[0],
        "latent_channels": z,
        "attention_head_dim": dims.pop() if dims else _HEAD_DIM,
        "downsample_block_type": "pixel_unshuffle" if encoder.down_type == "pixel_unshuffle" else "conv",
        "upsample_block_type": decoder.up_type,
        "decoder_norm_types": [f"{norm}_norm" for norm in up.norms],
        "decoder_act_fns": list(decoder.acts),
        "encoder_out_shortcut": encoder.out_shortcut,
        "decoder_in_shortcut": decoder.in_shortcut,
        "decoder_conv_act_fn": decoder.out_act,
    }
    for name, half in (("encoder", down), ("decoder", up)):
        config |= {
            f"{name}_block_types": [kinds[kind] for kind in half.block_types],
            f"{name}_block_out_channels": list(half.widths),
            f"{name}_layers_per_block": list(half.blocks),
            f"{name}_qkv_multiscales": [list(kernels) for kernels in half.qkv_multiscales],
        }
    return _to_theirs(ours), config


def _representable(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"interop: diffusers has no such model; it wants {what}. Use vae.save_pretrained.")
