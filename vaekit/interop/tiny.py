"""Weights of the tiny autoencoder: diffusers' `AutoencoderTiny`, and the files of its author (TAESD), in and out.

Our keys are diffusers'. The author's lack `layers.`, and count the decoder's layers from the bound on the latent, which
diffusers does not count: his `decoder.1` is `decoder.layers.0`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaekit.decoders.tiny import TinyDecoder
from vaekit.encoders.tiny import TinyEncoder
from vaekit.layers.strided import strided
from vaekit.recipes.tokenizers import autoencoder
from vaekit.spec import Spec, use
from vaekit.vae import VAE

_KEY = re.compile(r"(encoder|decoder)\.(layers\.)?(\d+)\.((?:conv|pool)\.\d+\.)?(weight|bias)$")
_SIZE = 256  # of the images of a model whose size nothing says


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a tiny autoencoder, under diffusers' or its author's names."""
    found = [_KEY.match(key) for key in keys]
    return any(each is not None and (each[4] or "").startswith("conv.") for each in found)


def join(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The author's two files, `…_encoder` and `…_decoder`, as the weights of one model."""
    return {
        f"{half}.{key}": v for half, part in (("encoder", encoder), ("decoder", decoder)) for key, v in part.items()
    }


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `tiny` model; keys that it has no place for keep their names."""
    return {_our_name(key): value for key, value in state.items()}


def _our_name(key: str) -> str:
    found = _KEY.match(key)
    if found is None or found[2]:
        return key
    index = int(found[3]) - (found[1] == "decoder")
    return f"{found[1]}.layers.{index}.{found[4] or ''}{found[5]}"


@dataclass(frozen=True)
class Half:
    """What the weights of an encoder or decoder say of its settings; levels are counted from 0 at full size."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stem: tuple[int, ...]
    pool: bool
    inside: int
    outside: int

    @property
    def stride(self) -> int:
        """Pixels per side of a place in the latent."""
        return 2 ** (len(self.widths) - 1 + len(self.stem))


def half_of(ours: Mapping[str, Tensor], name: str) -> Half:
    """The settings of one half, read off our weights' names and shapes.

    Raises:
        ValueError: where the half is not there, or not all of it.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in ours.items():
        if (found := _KEY.match(key)) is not None and found[1] == name:
            layers.setdefault(int(found[3]), {})[f"{found[4] or ''}{found[5]}"] = value
    plain = [i for i in sorted(layers) if "weight" in layers[i]]
    if len(plain) < 2 or plain[0] != 0 or plain[-1] != max(layers):
        raise ValueError(f"interop: the {name} is not there, or not all of it: convolutions found at {plain}.")
    # levels begin at a convolution without a bias; a strided stem is told by the activations between its layers
    stem = [i for i in plain if name == "encoder" and i + 1 not in layers and i != plain[-1]]
    resampling = [i for i in plain[1:-1] if "bias" not in layers[i]]
    starts = [stem[-1] if stem else 0, *resampling]
    ends = [*resampling, plain[-1]]
    if len(plain) != len(starts) + 1 + max(len(stem) - 1, 0):
        raise ValueError(f"interop: the {name}'s convolutions at {plain} make no levels.")
    widths = tuple(layers[i]["weight"].shape[0] for i in starts)
    if name == "decoder":  # each convolution after an ↑2 gives the next level's width already
        widths = (layers[0]["weight"].shape[0], *(layers[i]["weight"].shape[0] for i in resampling))
    blocks = tuple(
        sum("conv.0.weight" in layers.get(i, {}) for i in range(a, b)) for a, b in zip(starts, ends, strict=True)
    )
    turn = slice(None, None, -1 if name == "decoder" else 1)
    return Half(
        widths=widths[turn],
        blocks=blocks[turn],
        stem=tuple(layers[i]["weight"].shape[0] for i in stem),
        pool=any("pool.0.weight" in layer for layer in layers.values()),
        inside=layers[0]["weight"].shape[1],
        outside=layers[plain[-1]]["weight"].shape[0],
    )


def spec_from(state: Mapping[str, Tensor], config: Mapping[str, Any] | None, input_shape: Any = None) -> Spec:
    """The model that the weights belong to, by their shapes.

    Data are in [-1, 1] under diffusers' names and in [0, 1] under the author's, as each has them. The activation is no
    weight: it is the config's, and relu without one, as in all that the author has published.

    Raises:
        ValueError: where weights are missing, or the config asks for what `tiny` has not.
    """
    ours, config = to_ours(state), config or {}
    _same(config, "upsampling_scaling_factor", 2)
    _same(config, "upsample_fn", "nearest")
    down, up = half_of(ours, "encoder"), half_of(ours, "decoder")
    if down.stride != up.stride or down.outside != up.inside:
        raise ValueError(
            f"interop: the encoder has stride {down.stride} and {down.outside} channels, the decoder {up.stride} and "
            f"{up.inside}: they are of two models."
        )
    shape = tuple(input_shape) if input_shape is not None else (down.inside, _SIZE, _SIZE)
    act: dict[str, Any] = {"act": config["act_fn"]} if config.get("act_fn", "relu") != "relu" else {}
    author = any(re.match(r"(en|de)coder\.\d", key) for key in state)
    return autoencoder(
        (down.outside, *strided(shape[1:], down.stride)),
        shape,
        (0.0, 1.0) if author else (-1.0, 1.0),
        encoder=use(
            "tiny", **_settings(down), **({"stem": down.stem} if down.stem else {}), out_channels=down.outside, **act
        ),
        decoder=use("tiny", **_settings(up), **act),
    )


def _settings(half: Half) -> dict[str, Any]:
    settings: dict[str, Any] = {"widths": half.widths, "blocks": half.blocks}
    return {**settings, "pool": True} if half.pool else settings


def _same(config: Mapping[str, Any], key: str, only: Any) -> None:
    if config.get(key, only) != only:
        raise ValueError(f"interop: tiny has {key} {only!r} alone, and the config says {config[key]!r}.")


def to_diffusers(vae: VAE) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights under diffusers' names, and the config that goes with them, without scale and shift.

    Raises:
        ValueError: where diffusers has no such model, saying in what.
    """
    encoder, decoder = vae.encoder, vae.decoder
    if not isinstance(encoder, TinyEncoder) or not isinstance(decoder, TinyDecoder):
        raise ValueError(
            f"interop: expected the encoder and decoder 'tiny', got {type(encoder).__name__} and "
            f"{type(decoder).__name__}."
        )
    state = {k: v.detach() for k, v in vae.state_dict().items() if k.startswith(("encoder.", "decoder."))}
    whole = not any(key.startswith("sampler.") for key in vae.state_dict()) and len(vae.latent_shape) == 3
    _representable(whole, "a map latent that is the encoder's output: out_channels, and a sampler with head='none'")
    down, up = half_of(state, "encoder"), half_of(state, "decoder")
    _representable(down.outside == up.inside, "as many channels from the encoder as into the decoder")
    _representable(not (down.pool or up.pool), "no pool branch")
    _representable(not down.stem, "no strided stem")
    _representable(_one({*down.widths}) and _one({*up.widths}), "one width for all levels of a half")
    _representable(encoder.act == decoder.act, "one activation for both halves")
    return state, {
        "_class_name": "AutoencoderTiny",
        "in_channels": down.inside,
        "out_channels": up.outside,
        "encoder_block_out_channels": list(down.widths),
        "decoder_block_out_channels": list(reversed(up.widths)),
        "num_encoder_blocks": list(down.blocks),
        "num_decoder_blocks": list(reversed(up.blocks)),
        "act_fn": encoder.act,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
        "latent_channels": down.outside,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "force_upcast": False,
    }


def _one(values: Iterable[int]) -> bool:
    return len(set(values)) == 1


def _representable(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"interop: diffusers has no such model; it wants {what}. Use vae.save_pretrained.")
