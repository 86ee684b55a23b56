"""AutoencoderKL and VQModel: their keys under diffusers' and LDM's names, and the `kl_resnet` model they belong to."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from vaekit.decoders.kl_resnet import KLResNetDecoder
from vaekit.encoders.kl_resnet import KLResNetEncoder
from vaekit.layers.kl_blocks import RMSNorm
from vaekit.spec import Spec, term, use
from vaekit.vae import VAE

State: TypeAlias = dict[str, Tensor]
Names: TypeAlias = Literal["diffusers", "ldm"]

# Modules by our name, diffusers' and LDM's. {i} and {j} are numbers; {r} counts levels from the other end.
_MODULES = (
    ("encoder.levels.{i}.blocks.{j}.", "encoder.down_blocks.{i}.resnets.{j}.", "encoder.down.{i}.block.{j}."),
    ("encoder.levels.{i}.attentions.{j}.", "encoder.down_blocks.{i}.attentions.{j}.", "encoder.down.{i}.attn.{j}."),
    ("encoder.levels.{i}.resample.", "encoder.down_blocks.{i}.downsamplers.0.", "encoder.down.{i}.downsample."),
    ("decoder.levels.{i}.blocks.{j}.", "decoder.up_blocks.{i}.resnets.{j}.", "decoder.up.{r}.block.{j}."),
    ("decoder.levels.{i}.attentions.{j}.", "decoder.up_blocks.{i}.attentions.{j}.", "decoder.up.{r}.attn.{j}."),
    ("decoder.levels.{i}.resample.", "decoder.up_blocks.{i}.upsamplers.0.", "decoder.up.{r}.upsample."),
    ("encoder.middle.first.", "encoder.mid_block.resnets.0.", "encoder.mid.block_1."),
    ("encoder.middle.second.", "encoder.mid_block.resnets.1.", "encoder.mid.block_2."),
    ("encoder.middle.attention.", "encoder.mid_block.attentions.0.", "encoder.mid.attn_1."),
    ("decoder.middle.first.", "decoder.mid_block.resnets.0.", "decoder.mid.block_1."),
    ("decoder.middle.second.", "decoder.mid_block.resnets.1.", "decoder.mid.block_2."),
    ("decoder.middle.attention.", "decoder.mid_block.attentions.0.", "decoder.mid.attn_1."),
    ("encoder.norm.", "encoder.conv_norm_out.", "encoder.norm_out."),
    ("decoder.norm.", "decoder.conv_norm_out.", "decoder.norm_out."),
    ("encoder.conv_in.", "encoder.conv_in.", "encoder.conv_in."),
    ("decoder.conv_in.", "decoder.conv_in.", "decoder.conv_in."),
    ("encoder.conv_out.", "encoder.conv_out.", "encoder.conv_out."),
    ("decoder.conv_out.", "decoder.conv_out.", "decoder.conv_out."),
    ("encoder.quant_conv.", "quant_conv.", "quant_conv."),
    ("decoder.post_quant_conv.", "post_quant_conv.", "post_quant_conv."),
    ("sampler.codebook.", "quantize.embedding.", "quantize.embedding."),
)
_COLUMN: Mapping[str, int] = {"diffusers": 1, "ldm": 2}

# What stands inside a residual block or an attention. MoVQ's norm has layers of its own, which follow norm names.
_INSIDE: Mapping[str, tuple[tuple[str, str], ...]] = {
    "diffusers": (
        ("skip.", "conv_shortcut."),
        ("out.", "to_out.0."),
        ("q.", "to_q."),
        ("k.", "to_k."),
        ("v.", "to_v."),
    ),
    "ldm": (("skip.", "nin_shortcut."), ("out.", "proj_out.")),
}
_MODULATED = (("norm.", "norm_layer."), ("scale.", "conv_y."), ("shift.", "conv_b."))
_LEGACY = (("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0."))

GROUPS = 32  # of every published checkpoint; only diffusers' config can say another number


_KEY = re.compile(
    r"(en|de)coder\.((down|up)_blocks\.\d+\.resnets|mid_block\.resnets|(down|up)\.\d+\.block|mid\.block_[12])\."
)


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of an AutoencoderKL or VQModel, under diffusers' or LDM's names."""
    return any(_KEY.match(key) for key in keys)


def names_of(keys: Collection[str]) -> Names:
    """Whose names the keys are."""
    return "diffusers" if any(".mid_block." in k or "_blocks." in k for k in keys) else "ldm"


# -- theirs → ours -----------------------------------------------------------------------------------------------------


def to_ours(state: Mapping[str, Tensor]) -> State:
    """The weights of a `kl_resnet` model; keys that it has no place for keep their names.

    Types are kept. q, k and v are put below each other, and 1-convolutions of attentions become matrices.
    """
    names, last = names_of(state), _last_level(state)
    ours = {_our_name(key, names, last): value for key, value in state.items()}
    for key in [key for key in ours if re.search(r"\.attentions?\.(\d+\.)?q\.(weight|bias)$", key)]:
        stem, _, kind = key.rpartition("q.")
        parts = [stem + each + kind for each in ("q.", "k.", "v.")]
        if all(part in ours for part in parts):
            ours[f"{stem}to_qkv.{kind}"] = torch.cat([_matrix(ours.pop(part)) for part in parts])
    for key in [key for key in ours if re.search(r"\.attentions?\.(\d+\.)?out\.weight$", key)]:
        ours[key] = _matrix(ours[key])
    codes = ours.get("sampler.codebook.weight")
    if codes is not None:
        ours["sampler.codebook.weight"] = codes[None]  # one book
        ours["sampler.codebook.count"] = torch.ones(1, len(codes))
        ours["sampler.codebook.started"] = torch.tensor(True)
    return ours


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1) if weight.ndim > 1 else weight


def _our_name(key: str, names: Names, last: int) -> str:
    for row in _MODULES:
        ours, theirs = row[0], row[_COLUMN[names]]
        found = re.match(_pattern(theirs), key)
        if found is None:
            continue
        leaf = key[found.end() :]
        if "attention" in ours:
            for a, b in _LEGACY:
                leaf = b + leaf[len(a) :] if leaf.startswith(a) else leaf
            leaf = re.sub(r"^(group_norm|spatial_norm)\.", "norm.", leaf)
        for a, b in _INSIDE[names]:
            leaf = a + leaf[len(b) :] if leaf.startswith(b) else leaf
        for a, b in _MODULATED:
            leaf = re.sub(rf"^((norm[12]?\.)?){re.escape(b)}", rf"\g<1>{a}", leaf)
        return ours.format(**_numbers(found, last)) + leaf
    return key


def _pattern(template: str) -> str:
    return re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template))


def _numbers(found: "re.Match[str]", last: int) -> dict[str, int]:
    """A level's number from both ends."""
    numbers = {name: int(value) for name, value in found.groupdict().items()}
    if "r" in numbers:
        numbers["i"] = last - numbers["r"]
    elif "i" in numbers:
        numbers["r"] = last - numbers["i"]
    return numbers


def _last_level(keys: Collection[str]) -> int:
    found = (re.match(r"decoder\.(?:up|up_blocks|levels)\.(\d+)\.", key) for key in keys)
    return max((int(each[1]) for each in found if each), default=0)


# -- ours → theirs -----------------------------------------------------------------------------------------------------


def to_theirs(state: Mapping[str, Tensor], names: Names) -> State:
    """The weights of a `kl_resnet` model under other names: what `to_ours` makes, made undone."""
    last, theirs = _last_level(state), {}
    for key, value in state.items():
        if key in ("sampler.codebook.count", "sampler.codebook.started"):
            continue
        stem, fused, kind = key.rpartition("to_qkv.")
        pieces = zip(("q.", "k.", "v."), value.chunk(3), strict=True) if fused else [("", value)]
        for name, piece in pieces:
            theirs[_their_name(stem + name + kind, names, last)] = _shaped(key, piece, names)
    return theirs


def _shaped(key: str, value: Tensor, names: Names) -> Tensor:
    if key == "sampler.codebook.weight":
        return value[0]
    inside = re.search(r"\.attentions?\.(\d+\.)?(to_qkv|out)\.weight$", key)
    return value[..., None, None] if inside and names == "ldm" else value


def _their_name(key: str, names: Names, last: int) -> str:
    for row in _MODULES:
        ours, theirs = row[0], row[_COLUMN[names]]
        found = re.match(_pattern(ours), key)
        if found is None:
            continue
        leaf = key[found.end() :]
        if leaf.count(".") == (1 if ours.endswith(".norm.") else 2):  # a layer of MoVQ's norm
            for a, b in _MODULATED:
                leaf = re.sub(rf"^((norm[12]?\.)?){re.escape(a)}(?=weight|bias)", rf"\g<1>{b}", leaf)
        for a, b in _INSIDE[names]:
            leaf = b + leaf[len(a) :] if leaf.startswith(a) else leaf
        if "attention" in ours and names == "diffusers" and leaf.startswith("norm."):
            leaf = ("group_" if leaf in ("norm.weight", "norm.bias") else "spatial_") + leaf
        return theirs.format(**_numbers(found, last)) + leaf
    raise ValueError(f"interop: {key} has no name in {names}.")


# -- shapes → a model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half:
    """What the weights of an encoder or decoder say of its settings; levels are counted from 0 at full size."""

    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    mid_attention: bool


def half_of(ours: Mapping[str, Tensor], name: str) -> Half:
    """The settings of one half, read off our weights' names and shapes.

    Raises:
        ValueError: where the half is not there, or its levels have not as many blocks each.
    """
    blocks: dict[int, int] = {}
    for key in ours:
        if found := re.match(rf"{name}\.levels\.(\d+)\.blocks\.(\d+)\.conv1\.weight$", key):
            level, block = int(found[1]), int(found[2])
            blocks[level] = max(blocks.get(level, 0), block + 1)
    if not blocks or sorted(blocks) != list(range(len(blocks))):
        raise ValueError(f"interop: the {name} is not there, or not all of it: levels found: {sorted(blocks)}.")
    if len(set(blocks.values())) > 1:
        raise ValueError(f"interop: the {name}'s levels have different numbers of residual blocks: {blocks}.")
    first = [f"{name}.levels.{i}.blocks.0.conv1.weight" for i in range(len(blocks))]
    if lost := [key for key in first if key not in ours]:
        raise ValueError(f"interop: the {name} is not whole; missing: {', '.join(lost)}.")
    attending = {int(found[1]) for k in ours if (found := re.match(rf"{name}\.levels\.(\d+)\.attentions\.", k))}
    order = range(len(blocks)) if name == "encoder" else range(len(blocks) - 1, -1, -1)
    return Half(
        widths=tuple(len(ours[first[i]]) for i in order),
        blocks=blocks[0],
        attention=tuple(level for level, i in enumerate(order) if i in attending),
        mid_attention=f"{name}.middle.attention.to_qkv.weight" in ours,
    )


def spec_from(state: Mapping[str, Tensor], config: Mapping[str, Any] | None, input_shape: Any = None) -> Spec:
    """The model that the weights belong to, by their shapes; diffusers' config says the groups and the image's size.

    Raises:
        ValueError: where weights are missing, or the config asks for what `kl_resnet` has not.
    """
    ours, config = to_ours(state), config or {}
    if config.get("act_fn", "silu") not in ("silu", "swish"):
        raise ValueError(f"interop: kl_resnet has the activation silu, and the config says {config['act_fn']!r}.")
    down, up = half_of(ours, "encoder"), half_of(ours, "decoder")
    sizes = {name: _channels(ours, name) for name in ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in")}
    quant, post = _optional(ours, "encoder.quant_conv"), _optional(ours, "decoder.post_quant_conv")
    codes = ours.get("sampler.codebook.weight")
    out = quant[1] if quant else sizes["encoder.conv_out"][1]
    channels = codes.shape[2] if codes is not None else out // 2
    shape = tuple(input_shape) if input_shape is not None else (sizes["encoder.conv_in"][0], *_size(config))
    stride, groups = 2 ** (len(down.widths) - 1), config.get("norm_num_groups", GROUPS)
    common: dict[str, Any] = {"groups": groups}
    spatial = "decoder.norm.scale.weight" in ours
    encoder = use(
        "kl_resnet",
        widths=down.widths,
        layers=down.blocks,
        attention=down.attention,
        mid_attention=down.mid_attention,
        out_channels=out,
        quant_conv=_extra(quant, sizes["encoder.conv_out"][1], out),
        odd="down",
        **common,
    )
    decoder = use(
        "kl_resnet",
        widths=up.widths,
        layers=up.blocks - 1,
        attention=up.attention,
        mid_attention=up.mid_attention,
        post_quant_conv=_extra(post, sizes["decoder.conv_in"][0], channels),
        norm="spatial" if spatial else "group",
        **common,
    )
    slots: dict[str, Any] = {"sampler": use("gaussian", head="none"), "loss": (term("l1"), term("kl", weight=1e-6))}
    if codes is not None:
        slots = {
            "sampler": use(
                "vq", codebook_size=codes.shape[1], learn="gradient", restart=0.0, init="normal", head="none"
            ),
            "prior": use("uniform"),
            "loss": (term("l1"), term("commitment", weight=0.25), term("codebook")),
        }
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": shape,
            "latent": (channels, *(s // stride for s in shape[1:])),
            "data_range": (-1.0, 1.0),
            "encoder": encoder,
            "decoder": decoder,
            "likelihood": use("laplace", scale=1.0),
            **slots,
        },
    )


def _channels(ours: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Channels in and out of a convolution."""
    found = _optional(ours, name)
    if found is None:
        raise ValueError(f"interop: the weights have no {name}: they are not of a whole autoencoder.")
    return found


def _optional(ours: Mapping[str, Tensor], name: str) -> tuple[int, int] | None:
    """Channels in and out of a convolution that may not be there."""
    weight = ours.get(f"{name}.weight")
    return None if weight is None else (weight.shape[1], weight.shape[0])


def _extra(convolution: tuple[int, int] | None, inner: int, outer: int) -> bool | int:
    """How `kl_resnet` is told of a quant conv."""
    return convolution is not None if inner == outer else inner


def _size(config: Mapping[str, Any]) -> tuple[int, int]:
    size = config.get("sample_size", 256)
    return (size, size) if isinstance(size, int) else tuple(size)


# -- a model → their files ---------------------------------------------------------------------------------------------


def weights_of(vae: VAE) -> State:
    """The weights of a `kl_resnet` model that other libraries know, by our names.

    Raises:
        ValueError: where the model is no AutoencoderKL and no VQModel, saying in what.
    """
    encoder, decoder = vae.encoder, vae.decoder
    if not isinstance(encoder, KLResNetEncoder) or not isinstance(decoder, KLResNetDecoder):
        raise ValueError(
            f"interop: expected the encoder and decoder 'kl_resnet', got {type(encoder).__name__} and "
            f"{type(decoder).__name__}."
        )
    if encoder.patch > 1 or decoder.patch > 1:
        raise ValueError("interop: other libraries have no Haar patches. Build with patch=1.")
    ours = {k: v.detach() for k, v in vae.state_dict().items() if k.startswith(("encoder.", "decoder.", "sampler."))}
    if "encoder.conv_out.weight" not in ours or any(k.startswith("sampler.head") for k in ours):
        raise ValueError(
            "interop: other libraries have no head after the encoder. Build it with out_channels=…, and the sampler "
            "with head='none'."
        )
    if any(isinstance(module, (RMSNorm, nn.BatchNorm2d)) for module in vae.modules()):
        raise ValueError(
            "interop: other libraries know norm='group', and 'spatial' in a decoder; not 'rms' or 'batch'."
        )
    return ours


def to_ldm(vae: VAE) -> State:
    """The weights under LDM's names."""
    return to_theirs(weights_of(vae), "ldm")


def to_diffusers(vae: VAE) -> tuple[State, dict[str, Any]]:
    """The weights under diffusers' names, and the config that goes with them, without scale and shift.

    Raises:
        ValueError: where diffusers has no such model, saying in what.
    """
    ours = weights_of(vae)
    down, up = half_of(ours, "encoder"), half_of(ours, "decoder")
    quant, post = _optional(ours, "encoder.quant_conv"), _optional(ours, "decoder.post_quant_conv")
    z = _channels(ours, "decoder.conv_in")[0]
    codes = ours.get("sampler.codebook.weight")
    spatial = "decoder.norm.scale.weight" in ours
    groups: Any = vae.encoder.norm.num_groups  # type: ignore[union-attr]
    same = (down.widths, down.blocks, down.mid_attention) == (up.widths, up.blocks - 1, up.mid_attention)
    _representable(same, "the same widths, layers and mid_attention in encoder and decoder")
    if codes is None:
        _representable(not spatial, "norm='spatial' with codes alone")
        keep = quant in (None, (2 * z, 2 * z)) and post in (None, (z, z))
        _representable(keep, "quant convs that keep the number of channels")
    else:
        _representable(quant is not None and post is not None, "both quant convs with codes")
        _representable(
            not spatial or (groups == GROUPS and codes.shape[2] == z), "norm='spatial' of 32 groups and codes of z"
        )
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKL" if codes is None else "VQModel",
        "in_channels": vae.input_shape[0],
        "out_channels": _channels(ours, "decoder.conv_out")[1],
        "down_block_types": [
            "AttnDownEncoderBlock2D" if i in down.attention else "DownEncoderBlock2D" for i in range(len(down.widths))
        ],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if i in up.attention else "UpDecoderBlock2D" for i in reversed(range(len(up.widths)))
        ],
        "block_out_channels": list(down.widths),
        "layers_per_block": down.blocks,
        "act_fn": "silu",
        "latent_channels": z,
        "norm_num_groups": groups,
        "sample_size": vae.input_shape[1] if len(set(vae.input_shape[1:])) == 1 else list(vae.input_shape[1:]),
        "mid_block_add_attention": down.mid_attention,
    }
    if codes is None:
        config |= {"use_quant_conv": quant is not None, "use_post_quant_conv": post is not None}
    else:
        config |= {
            "num_vq_embeddings": codes.shape[1],
            "vq_embed_dim": codes.shape[2],
            "norm_type": "spatial" if spatial else "group",
        }
    return to_theirs(ours, "diffusers"), config


def _representable(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"interop: diffusers has no such model; it wants {what}. Use vae.save_pretrained.")
