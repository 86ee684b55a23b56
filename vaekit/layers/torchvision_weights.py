"""The convolutions of torchvision's classifiers: without weights, and filled from its cache, a download or a file."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.layers.download import unanswered
from vaekit.layers.misfits import misfits
from vaekit.optional import MissingPackage, require


def outline(name: str) -> nn.Sequential:
    """torchvision's `name(…).features` on the meta device. No activation overwrites what came before it."""
    models = require("torchvision.models", user=f"the network {name!r}")
    with torch.device("meta"):
        stack: nn.Sequential = models.get_model(name, weights=None).features
    for layer in stack.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return stack


def filled(name: str, weights: str) -> nn.Sequential:
    """The same with its weights, on the CPU.

    Args:
        name: as torchvision has it.
        weights: "pretrained" (torchvision's cache, or its download), a file (safetensors or a torch checkpoint) with
            tensors named `features.*`, or "random": normal with He's variance, the same in every process.

    Raises:
        FileNotFoundError: where the weights are not here and can't be downloaded; it says which file to put where.
        ValueError: where a file can't be read or does not fit; it says what differs.
    """
    stack = outline(name).to_empty(device="cpu").float()
    if weights == "random":
        return _random(stack)
    path = _pretrained(name) if weights == "pretrained" else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: there is no file {path}. Put the weights of torchvision's {name!r} there (safetensors or a "
            "torch checkpoint, with tensors named features.*), or give 'pretrained' for a download, or 'random'."
        )
    state = {key: t for key, t in read(path).items() if key.startswith("features.")}
    if told := misfits(state, {f"features.{key}": t for key, t in stack.state_dict().items()}):
        raise ValueError(f"weights: {path} does not fit torchvision's {name!r}: {told}. Nothing was loaded.")
    stack.load_state_dict({key.removeprefix("features."): t for key, t in state.items()})
    return stack


def read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or a torch checkpoint.

    Raises:
        ValueError: where it is neither.
    """
    try:
        if path.suffix == ".safetensors":
            return require("safetensors.torch", user=str(path)).load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged files raise many kinds
        raise ValueError(f"weights: {path} can't be read as safetensors or a torch checkpoint ({error}).") from error


def package_file(package: str, *parts: str, user: str) -> Path:
    """A file that comes with an installed package, which is not imported.

    Raises:
        MissingPackage: where the package is not there.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingPackage(f"{user} needs {package}, which is not installed. Run: pip install {package}")
    return Path(found.submodule_search_locations[0], *parts)


def _pretrained(name: str) -> Path:
    """Where torchvision keeps the weights, which are downloaded where they are not there."""
    weights: Any = require("torchvision.models", user=f"the network {name!r}").get_model_weights(name).DEFAULT
    place = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    if place.is_file():
        return place
    reason, error = unanswered(weights.url), None
    if reason is None:
        try:
            weights.get_state_dict(progress=False, check_hash=True)
        except Exception as caught:  # the network may go away at any time
            reason, error = str(caught), caught
        else:
            return place
    raise FileNotFoundError(
        f"weights: those of torchvision's {name!r} are not in its cache, and can't be downloaded ({reason}). Get "
        f"{weights.url} where there is a network and put it to {place}, or anywhere and give weights='path/to/"
        f"{place.name}'. An untrained network has to be asked for: weights='random'."
    ) from error


def _random(stack: nn.Sequential) -> nn.Sequential:
    draws = torch.Generator().manual_seed(0)  # of its own: the global random state is left alone
    for layer in stack.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draws)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return stack
