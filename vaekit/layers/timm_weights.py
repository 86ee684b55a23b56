"""timm networks by name: without weights, and filled from timm's cache, a download or a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.layers.download import unanswered, unanswered_by_hub
from vaekit.layers.misfits import misfits
from vaekit.optional import require


def outline(name: str) -> nn.Module:
    """A network without weights, on the meta device; on the CPU where it can't be made there."""
    timm = require("timm", user=f"backbone {name!r}")
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(get_close_matches(name, timm.list_models(), 3))
        raise ValueError(f"backbone: timm has no {name!r}.{f' Near: {near}.' if near else ''}")
    for device in ("meta", "cpu"):
        try:
            with _same_draws(), torch.device(device):
                return _made(name)
        except (RuntimeError, NotImplementedError) as error:  # it reads its tensors, or the tag is unknown
            if device == "cpu":
                raise ValueError(f"backbone: timm can't make {name!r} ({error}).") from error
    raise AssertionError


def filled(name: str, weights: str) -> nn.Module:
    """The network with its weights.

    Raises:
        FileNotFoundError: where they are not here and can't be downloaded; the message says which file to put where.
        ValueError: where a file does not fit the network; the message says what differs.
    """
    with _same_draws(), torch.device("cpu"):
        if weights == "pretrained":
            # timm's own way to read its files, which knows their old keys
            return _made(name, pretrained=True, pretrained_cfg_overlay={"file": pretrained_file(name)})
        network = _made(name)
        if weights != "random":
            _read_into(network, Path(weights), name)
        return network


def _made(name: str, **given: Any) -> nn.Module:
    """The network without its classifier, and for images of any size where it can do with them."""
    timm = require("timm", user=f"backbone {name!r}")
    try:
        network = timm.create_model(name, num_classes=0, dynamic_img_size=True, **given)
    except TypeError:  # no such option
        network = timm.create_model(name, num_classes=0, **given)
    return network.eval().requires_grad_(False)


@contextmanager
def _same_draws() -> Iterator[None]:
    """The same random numbers each time, with the global generator left where it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the accelerators' generators as well
    try:
        yield
    finally:
        torch.set_rng_state(state)


def pretrained_file(name: str, *, by_path: bool = True) -> str:
    """The path of timm's own weights, in the cache or downloaded into it.

    Args:
        name: of the network.
        by_path: whether the part takes a path, or "random", as `weights`, which the message says then; otherwise it
            takes `pretrained` alone.

    Raises:
        FileNotFoundError: where they are not here and can't be downloaded; the message says which file to put where.
    """
    timm, hub = require("timm", user=f"backbone {name!r}"), require("huggingface_hub", user=f"backbone {name!r}")
    config: Any = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        instead = "Give a file, or ask for 'random'." if by_path else "Leave pretrained=False."
        raise ValueError(f"weights: timm has no trained weights for {name!r}. {instead}")
    if config.hf_hub_id:
        return _from_hub(name, hub, config, by_path)
    place = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(config.url))
    if not place.exists():
        reason, error = unanswered(config.url), None
        try:
            if reason is None:
                place.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(config.url, str(place), progress=False)
        except OSError as caught:
            reason, error = str(caught), caught
        if reason is not None:
            raise _not_here(name, reason, place.name, config.url, f"put it to {place}", by_path) from error
    return str(place)


def _from_hub(name: str, hub: Any, config: Any, by_path: bool) -> str:
    """The path of a network's file in the hub's cache, or downloaded into it, where the hub answers soon."""
    repository, _, revision = config.hf_hub_id.partition("@")
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for file in files:
        cached = hub.try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return cached
    source, error = f"https://huggingface.co/{repository}", None
    reason = unanswered_by_hub()
    for file in files if reason is None else ():
        try:
            return hub.hf_hub_download(repository, file, revision=revision or None)
        except Exception as caught:  # the hub's client has many, and some come from below it
            error = error or caught
    kept = f"run `hf download {repository} {files[0]}` there and copy what it puts into {hub.constants.HF_HUB_CACHE}"
    raise _not_here(name, reason or str(error).split("\n")[0], files[0], source, kept, by_path) from error


def _not_here(name: str, reason: str, file: str, source: str, kept: str, by_path: bool) -> FileNotFoundError:
    if by_path:
        kept = f"give weights='path/to/{file}', or {kept}"
        untrained = "An untrained network has to be asked for: weights='random'."
    else:
        untrained = "An untrained network is had by pretrained=False."
    return FileNotFoundError(
        f"weights: those of timm's {name!r} are not in the cache, and can't be downloaded ({reason}). Get {file} from "
        f"{source} where there is a network and {kept}. {untrained}"
    )


def _read_into(network: nn.Module, path: Path, name: str) -> None:
    """Fill a network from a file, all of it or nothing; what belongs to a classifier is left out."""
    models = require("timm.models", user=f"backbone {name!r}")
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: there is no file {path}. Put the weights of timm's {name!r} there (safetensors or a torch "
            "checkpoint), or give 'pretrained' for timm's own, or 'random'."
        )
    try:
        found = models.load_state_dict(str(path))
    except Exception as error:
        raise ValueError(f"weights: {path} can't be read as safetensors or a torch checkpoint ({error}).") from error
    config: Any = network.pretrained_cfg
    own = network.state_dict()
    heads = config.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))

    def without_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if key in own or not key.startswith(heads or "\0")}

    given = without_heads(found)
    # the keys of other libraries, as timm's own files may have them
    rename: Any = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if set(given) != set(own) and rename is not None:
        try:
            given = without_heads(rename(dict(found), network))
        except Exception:  # it expects another file: the report below says what this one holds
            given = without_heads(found)
    if told := misfits(given, own, spare="num_batches_tracked"):
        raise ValueError(f"weights: {path} does not fit timm's {name!r}: {told}. Nothing was loaded.")
    network.load_state_dict(given, strict=False)
