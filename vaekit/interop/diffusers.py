"""Autoencoders from the files of diffusers and LDM, and back into them.

A folder of diffusers (config.json and weights), a single safetensors file, or a checkpoint of LDM and its descendants:
whose keys they are and what the network looks like is read off names and shapes, without a network connection and
without diffusers. Every weight finds its place, or loading fails and says which did not.
"""

import importlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import vaekit.recipes.latent_diffusion  # noqa: F401 — presets are recipes
from vaekit.build import build
from vaekit.interop import kl
from vaekit.kinds import encoder, recipe
from vaekit.saving import CheckpointError, write_atomically
from vaekit.spec import Spec, use
from vaekit.vae import VAE

FAMILIES: Mapping[str, str] = {"kl_resnet": "kl", "tiny": "tiny", "dc": "dc"}
"""Modules of this package by the encoder whose weights they translate."""

_WEIGHTS = "diffusion_pytorch_model"
_PREFIX = re.compile(r"((?:first_stage_model\.|vae\.|model\.|module\.|_orig_mod\.)*)(?:en|de)coder\.")
_KNOWN = re.compile(  # of training, and no part of the autoencoder
    r"(loss|model_ema|discriminator|perceptual_loss|lpips|foundation_model|linear_proj)\.|(decay|num_updates)$"
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds.

    Args:
        path: where it was read.
        state: the autoencoder's weights, without prefixes.
        config: diffusers' config.json; None where there is none.
        ignored: keys that belong to training or to other models in the file.
    """

    path: Path
    state: dict[str, Tensor]
    config: dict[str, Any] | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """How the keys of a checkpoint fit the model that was read off them.

    Args:
        missing: weights that the model has and the file has not.
        unexpected: keys of the file that the model has no place for.
        misshapen: weights whose shape differs, with both shapes.
        ignored: keys that belong to training or to other models in the file, and are no error.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every weight has its place, and every place its weight."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        told = [("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.misshapen)]
        parts = [f"{what} {len(keys)}: {_some(keys)}" for what, keys in told if keys]
        return "; ".join([*parts, f"known and left out: {len(self.ignored)}"])


# -- in ----------------------------------------------------------------------------------------------------------------


def load(path: str | Path, preset: str | None = None, input_shape: Sequence[int] | None = None) -> VAE:
    """An autoencoder of diffusers or LDM as a model of ours, in evaluation mode, weights in the type of the file.

    The scale that diffusion models want their latents in is no weight, and is never guessed: it is what config.json
    says, or what `preset` says; without either the model has no normalizer, with a warning.

    Args:
        path: a folder of diffusers, a pipeline's folder with one, or a file: .safetensors, .ckpt, .pt, .bin.
        preset: the recipe whose normalizer belongs to the weights: "sd1", "sdxl", "sd3", "flux1", …
        input_shape: the data's shape; None takes the config's size, or 256×256. Other sizes pass at run time as well.

    Raises:
        CheckpointError: where the file can't be read, holds code, or has keys or shapes that fit no known model.
        ValueError: where the preset is none, or is another model's than the weights'.

    Example:
        >>> import tempfile, vaekit
        >>> from vaekit.interop import diffusers
        >>> vae = vaekit.build("sd1", input_shape=(3, 16, 16), widths=(8, 8), groups=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     diffusers.save(vae, folder)
        ...     diffusers.load(folder).latent_shape
        (4, 8, 8)
    """
    checkpoint = read(path)
    family = _family(checkpoint)
    spec = _spec(family, checkpoint, input_shape)
    normalizer = _normalizer(spec, checkpoint, preset)
    vae = build(spec if normalizer is None else spec.replace(normalizer=normalizer))
    ours = family.to_ours(checkpoint.state)
    report = _compare(vae, ours, checkpoint)
    if not report.fits:
        raise CheckpointError(
            f"{checkpoint.path}: does not fit the model that was read off it. {report}. Nothing was loaded. Remove "
            "keys that are not the autoencoder's, or load a complete file."
        )
    vae.load_state_dict(ours, strict=False, assign=True)  # what is missing is no weight: the report has looked
    if normalizer is not None and normalizer.name == "channel_stats":
        _put_statistics(vae.normalizer, checkpoint.config or {})
    return vae.eval()


def examine(path: str | Path) -> Report:
    """How a file's keys fit, without loading it into a model that is kept.

    Raises:
        CheckpointError: where the file can't be read, or has keys that fit no known model.
    """
    checkpoint = read(path)
    family = _family(checkpoint)
    vae = build(_spec(family, checkpoint, None))
    return _compare(vae, family.to_ours(checkpoint.state), checkpoint)


def read(path: str | Path) -> Checkpoint:
    """The weights of a file or folder, without prefixes and without what is known to be no autoencoder's.

    Raises:
        CheckpointError: where there is no such file, or it is damaged or holds code.
    """
    path, config = Path(path), None
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder.")
    if path.is_dir():
        if not (path / "config.json").is_file() and (path / "vae" / "config.json").is_file():
            path = path / "vae"  # of a whole pipeline
        config = _config(path / "config.json")
        found: dict[str, Any] = {}
        for file in _files(path):
            found |= _tensors(file)
    else:
        found = _tensors(path)
    prefixes = {match[1] for key in found if (match := _PREFIX.match(key))}
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{path}: holds several autoencoders, under {sorted(prefixes)}. Save the keys of the one that you want as "
            "a file of its own."
        )
    prefix = next(iter(prefixes), "")
    inside = {key[len(prefix) :]: value for key, value in found.items() if key.startswith(prefix)}
    state = {key: value for key, value in inside.items() if not _KNOWN.match(key)}
    ignored = [prefix + key for key in inside if key not in state] + [k for k in found if not k.startswith(prefix)]
    return Checkpoint(path, state, config, tuple(ignored))


def _config(file: Path) -> dict[str, Any] | None:
    """What a folder's config.json says; None where there is none."""
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: is damaged or no JSON ({error}). Copy it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: expected settings by name, got {type(config).__name__}. Copy it again.")
    return config


def _files(folder: Path) -> list[Path]:
    """The weights in a folder of diffusers: one file, or its shards."""
    for suffix in ("safetensors", "bin"):
        named = folder / f"{_WEIGHTS}.{suffix}"
        if named.is_file():
            return [named]
        files = sorted(folder.glob(f"*.{suffix}"))
        if len(files) == 1 or (files and all("-of-" in file.name for file in files)):
            return files
        if files:
            raise CheckpointError(
                f"{folder}: holds several files of weights: {_some([f.name for f in files])}. Give the path of one."
            )
    raise CheckpointError(
        f"{folder}: holds no weights. Expected {_WEIGHTS}.safetensors, or one *.safetensors or *.bin."
    )


def _tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, without running code from it."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: is damaged or no safetensors file ({error}). Copy it again.") from error
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: holds objects that only running code from the file could make, so it was not read "
            f"({str(error).splitlines()[0]}). Where you trust its source, write the weights alone once: state = "
            "torch.load(path, weights_only=False)['state_dict']; safetensors.torch.save_file(state, 'vae.safetensors')."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{file}: can't be read ({error}). Copy it again.") from error
    for key in ("state_dict", "model"):
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    if not isinstance(saved, Mapping) or not any(isinstance(value, Tensor) for value in saved.values()):
        raise CheckpointError(f"{file}: holds no weights by name. Expected a state dict, or one under 'state_dict'.")
    return {key: value for key, value in saved.items() if isinstance(value, Tensor)}


def _family(checkpoint: Checkpoint) -> ModuleType:
    """The module that knows these keys."""
    for name in dict.fromkeys(FAMILIES.values()):
        if (module := _module(name)).matches(checkpoint.state.keys()):
            return module
    raise CheckpointError(
        f"{checkpoint.path}: has the keys of no autoencoder that is known here: {_some(sorted(checkpoint.state))}. "
        "Known: AutoencoderKL, VQModel, AutoencoderTiny and AutoencoderDC, under diffusers' or their authors' names."
    )


def _spec(family: Any, checkpoint: Checkpoint, input_shape: Sequence[int] | None) -> Spec:
    try:
        return family.spec_from(checkpoint.state, checkpoint.config, input_shape)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"vaekit.interop.{name}")


def _compare(vae: VAE, ours: Mapping[str, Tensor], checkpoint: Checkpoint) -> Report:
    called = {id(value): key for key, value in checkpoint.state.items()}  # in the file
    networks = ("encoder.", "decoder.", "sampler.")
    own = {key: value for key, value in vae.state_dict().items() if key.startswith(networks)}
    return Report(
        missing=tuple(sorted(own.keys() - ours.keys())),
        unexpected=tuple(sorted(called.get(id(ours[key]), key) for key in ours.keys() - own.keys())),
        misshapen=tuple(
            f"{key}: {tuple(ours[key].shape)} in place of {tuple(own[key].shape)}"
            for key in sorted(own.keys() & ours.keys())
            if ours[key].shape != own[key].shape
        ),
        ignored=checkpoint.ignored,
    )


def _some(keys: Sequence[str], most: int = 8) -> str:
    return ", ".join(keys[:most]) + (", …" if len(keys) > most else "")


# -- the scale of latents ----------------------------------------------------------------------------------------------


def _normalizer(spec: Spec, checkpoint: Checkpoint, preset: str | None) -> Spec | None:
    """What config.json or the preset says of the scale; None, with a warning, where neither does."""
    told = _from_config(checkpoint.config or {}) or spec.args.get("normalizer")
    if preset is None:
        if told is None:
            warnings.warn(
                f"{checkpoint.path}: does not say in which scale diffusion models take its latents, so the model has "
                f"no normalizer, and vae.latents gives them as they are. Say which it is: preset= one of "
                f"{', '.join(presets())}.",
                stacklevel=3,
            )
        return told
    meant = _from_preset(preset, spec)
    if told is not None and _numbers(told) != _numbers(meant):
        raise ValueError(
            f"preset: {preset!r} normalizes by {meant!r}, and {checkpoint.path / 'config.json'} says {told!r}. Leave "
            "the preset out, or take the right one."
        )
    return meant


def _from_config(config: Mapping[str, Any]) -> Spec | None:
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return use("channel_stats")
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    return None if scale is None else use("scale_shift", scale=scale, **({"shift": shift} if shift else {}))


def _put_statistics(normalizer: Any, config: Mapping[str, Any]) -> None:
    """The config's mean and deviation of each channel into `channel_stats`; its scale comes on top of them."""
    mean, std = (torch.tensor(config[key]).flatten() for key in ("latents_mean", "latents_std"))
    std = std / (config.get("scaling_factor") or 1.0)
    normalizer.load_state_dict({"mean": mean, "std": std, "fitted": torch.tensor(True)})


def _from_preset(preset: str, spec: Spec) -> Spec:
    """The normalizer of a recipe, where that is of the weights' kind."""
    if preset not in presets():
        raise ValueError(f"preset: expected one of {', '.join(presets())}; got {preset!r}.")
    other: Spec = recipe[preset]()
    for what, theirs, own in zip(("encoder", "latent channels", "quant conv"), _kind(other), _kind(spec), strict=True):
        if theirs != own:
            raise ValueError(
                f"preset: {preset!r} has {what} {theirs}, and the weights have {own}: they are not {preset}'s. Leave "
                f"the preset out, or take the right one of {', '.join(presets())}."
            )
    return other.args["normalizer"]


def presets() -> list[str]:
    """The recipes that say a scale, of networks that can be loaded."""
    found = {name: recipe[name]().args for name in recipe.names(tags="image")}
    return [name for name, args in found.items() if "normalizer" in args and args["encoder"].name in FAMILIES]


def _kind(spec: Spec) -> tuple[Any, ...]:
    return spec.args["encoder"].name, spec.args["latent"][0], bool(spec.args["encoder"].args.get("quant_conv", False))


def _numbers(normalizer: Spec) -> tuple[Any, ...]:
    return normalizer.name, normalizer.args.get("scale", 1.0), normalizer.args.get("shift", 0.0)


# -- out ---------------------------------------------------------------------------------------------------------------


def save(vae: VAE, folder: str | Path) -> None:
    """Write a folder that diffusers loads: config.json and its weights, in their own type.

    `scaling_factor` and `shift_factor` are those of the model's normalizer, and null where it has none.

    Args:
        vae: a model on `kl_resnet`, `tiny` or `dc` networks.
        folder: made if it is not there.

    Raises:
        ValueError: where diffusers has no such model, saying in what; nothing is written then.
    """
    name = encoder.name_of(type(vae.encoder)) or ""
    if name not in FAMILIES:
        raise ValueError(f"interop: expected an encoder of {', '.join(FAMILIES)}, got {type(vae.encoder).__name__}.")
    module: Any = _module(FAMILIES[name])
    state, config = module.to_diffusers(vae)
    text = json.dumps({**config, **_scale(vae, config)}, indent=2) + "\n"
    folder, plain = Path(folder), _plain(state)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{_WEIGHTS}.safetensors", lambda path: save_file(plain, path, metadata={"format": "pt"}))
    write_atomically(folder / "config.json", lambda path: Path(path).write_text(text, encoding="utf-8"))


def save_ldm(vae: VAE, file: str | Path) -> None:
    """Write one file with LDM's keys: .safetensors, or, with any other ending, torch's with a "state_dict".

    Args:
        vae: a model on `kl_resnet` networks.
        file: where to.

    Raises:
        ValueError: where the model is no AutoencoderKL and no VQModel, saying in what.
    """
    file, state = Path(file), _plain(kl.to_ldm(vae))
    if file.suffix == ".safetensors":
        write_atomically(file, lambda path: save_file(state, path, metadata={"format": "pt"}))
    else:
        write_atomically(file, lambda path: torch.save({"state_dict": state}, path))


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory."""
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}


def _scale(vae: VAE, config: Mapping[str, Any]) -> dict[str, Any]:
    """The normalizer as diffusers' config has it: two numbers, or a mean and a deviation of each channel."""
    if vae.normalizer is None:
        return {"scaling_factor": config.get("scaling_factor")}
    told = vae.spec.args["normalizer"] if vae.spec is not None else None
    if isinstance(told, Spec) and told.name == "scale_shift":
        _, scale, shift = _numbers(told)
        if "scale" in told.args or "shift" in told.args:  # as they were written; what was fitted is asked for below
            return {"scaling_factor": scale, **({"shift_factor": shift} if shift else {})}
    zero, one = (vae.normalizer(torch.full((1, *vae.latent_shape), value)) for value in (0.0, 1.0))
    scale = (one - zero)[0].flatten(1)
    if (scale != scale[:, :1]).any():
        raise ValueError("interop: diffusers knows one scale a channel, and the normalizer has more. Save without it.")
    mean = (-zero[0].flatten(1)[:, 0] / scale[:, 0]).tolist()
    return {"scaling_factor": 1.0, "latents_mean": mean, "latents_std": (1 / scale[:, 0]).tolist()}
