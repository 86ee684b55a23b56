"""A run as a YAML file: a model, data, the Trainer's arguments and, if wanted, a space to search.

    model: {recipe: mlp, latent: 8, input_shape: [1, 8, 8]}
    data: {train: digits}
    train: {epochs: 10, lr: 1e-3, output_dir: runs/first}

Names are those of the registries. A file can't name a class or a module to import.
"""

import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vaekit.build import build
from vaekit.kinds import recipe
from vaekit.registry import parameters
from vaekit.spec import Spec, use
from vaekit.train.callbacks import Callback, EarlyStop
from vaekit.train.datasets import digits, mnist
from vaekit.train.frames import Frames, LatentScatter, LatentTraversal, ReconstructionGrid, Samples
from vaekit.train.hub import PushToHub
from vaekit.train.search import search
from vaekit.train.trackers import TRACKERS, tracker
from vaekit.train.trainer import Trainer
from vaekit.vae import VAE

SECTIONS = ("model", "data", "train", "search")
DATA = ("train", "val", "root")
CALLBACKS: dict[str, type[Callback]] = {
    "early_stop": EarlyStop,
    "reconstructions": ReconstructionGrid,
    "samples": Samples,
    "traversal": LatentTraversal,
    "latent": LatentScatter,
    "hub": PushToHub,
}
_TRAINER = tuple(name for name in parameters(Trainer) if name not in ("vae", "train", "val", "augment"))
_SEARCH = tuple(
    p.name
    for p in inspect.signature(search).parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.name not in ("output_dir", "seed", "progress")
)
_IMPORTS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
NAME = "config.yaml"


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as everyone expects."""


_Loader.yaml_implicit_resolvers = {key: list(held) for key, held in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def parse(text: str, where: str) -> Any:
    """YAML as plain values.

    Raises:
        ValueError: where it is none.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 — a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: is no YAML: {error}") from error


def read(path: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """A config from its file, with changes `key=value`, checked.

    Args:
        path: the file.
        changes: "train.lr=1e-4", or "lr=1e-4" where one section alone has the key.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: naming the key that is wrong, and one that is near.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. `vaekit init RECIPE > {path}` writes one.")
    held = parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(held, Mapping):
        raise ValueError(f"{path}: expected sections {', '.join(SECTIONS)}, got {type(held).__name__}.")
    config: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in held.items()}
    for change in changes:
        _change(config, change)
    check(config)
    return config


def check(config: Mapping[str, Any]) -> None:
    """Look at every key, before anything is built.

    Raises:
        ValueError: naming the key that is wrong, and one that is near.
    """
    for section, value in config.items():
        _known(section, SECTIONS, "config")
        if not isinstance(value, Mapping):
            raise ValueError(f"{section}: expected a mapping, got {value!r}.")
        _refuse_imports(value, section)
    for section in ("model", "data", "train"):
        if section not in config:
            raise ValueError(f"config: the section {section!r} is missing.")
    model, train = config["model"], config["train"]
    if "@vae" not in model and not isinstance(model.get("recipe"), str):
        raise ValueError("model: name a recipe (`recipe: mlp`; see `vaekit list recipe`), or give a saved spec.")
    if "@vae" not in model:
        known = [*_model_arguments(), *parameters(recipe[model["recipe"]])]
        for key in model:
            _known(key, ("recipe", *known), "model")
    for key in config["data"]:
        _known(key, DATA, "data")
    if "train" not in config["data"]:
        raise ValueError("data: 'train' is missing: digits, mnist, a folder of images, or an .npy file.")
    hints = typing.get_type_hints(Trainer.__init__)
    for key, value in train.items():
        _known(key, _TRAINER, "train")
        _check_type(f"train.{key}", value, hints[key])
    for key in config.get("search", {}):
        _known(key, ("space", *_SEARCH), "search")


def model_of(config: Mapping[str, Any]) -> VAE:
    """The config's model."""
    model = _revived(config["model"])
    if isinstance(model, Spec):
        return build(model)
    return build(model["recipe"], **{key: value for key, value in model.items() if key != "recipe"})


def data_of(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Training and validation data: digits and MNIST bring both, with labels."""
    given = config["data"]
    own: Any = None
    if given["train"] == "digits":
        train, own = digits()
    elif given["train"] == "mnist":
        train, own = mnist(given.get("root", "."))
    else:
        train = _open(given["train"], "data.train")
    return train, _open(given["val"], "data.val") if given.get("val") is not None else own


def trainer_of(config: Mapping[str, Any], **changed: Any) -> Trainer:
    """The Trainer that a config describes, with its model, which is the same each time."""
    import torch

    from vaekit.train.rng import own_noise

    given = {**trainer_arguments(config["train"]), **changed}
    train, val = data_of(config)  # before the model, which takes longer to be made than a wrong path to be told
    with own_noise(given.get("seed", 0), torch.device("cpu")):
        vae = model_of(config)
    try:
        return Trainer(vae, train, val, **given)
    except TypeError as error:
        raise ValueError(f"train: {error}") from error


def trainer_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The section `train` as the Trainer takes it: names made callbacks, trackers and specs."""
    made = {key: _named(key, value) for key, value in given.items()}
    for key in ("callbacks", "trackers"):
        if key in made and not isinstance(made[key], list):
            raise ValueError(f"train.{key}: expected a list, such as [{made[key]}], got {made[key]!r}.")
    if "callbacks" in made:
        made["callbacks"] = [_callback(each, f"train.callbacks[{i}]") for i, each in enumerate(made["callbacks"])]
    if "trackers" in made:
        found = [_one(each, f"train.trackers[{i}]") for i, each in enumerate(made["trackers"])]
        for i, (name, options) in enumerate(found):
            if name in TRACKERS:
                for key in options:
                    _known(key, tuple(parameters(TRACKERS[name])), f"train.trackers[{i}].{name}")
        made["trackers"] = [tracker(name, **options) for name, options in found]
    return made


def searched(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `search` that a config describes."""
    given = dict(config.get("search", {}))
    if "space" not in given:
        raise ValueError("search: 'space' is missing: names, each with a list of values, or low and high.")
    if "@vae" in config["model"]:
        model, own = _revived(config["model"]), {}
    else:
        own = {key: value for key, value in _revived(config["model"]).items() if key != "recipe"}
        model = config["model"]["recipe"]
    if "objective" in own:
        raise ValueError("search: 'objective' of the model can't be given beside a search's.")
    train, val = data_of(config)
    left = {"callbacks", "trackers", "resume", "overwrite", "max_time", "progress"}
    fixed = trainer_arguments({key: value for key, value in config["train"].items() if key not in left})
    fixed = {key: value for key, value in {**own, **fixed}.items() if key not in given["space"]}
    return {"model": model, "train": train, "val": val, **fixed, **given}


def describe(name: str) -> str:
    """A commented config for a recipe: all of its arguments, and the Trainer's, with what they mean.

    Raises:
        UnknownName: where there is no such recipe.
    """
    function = recipe[name]
    meant = _meanings(function)
    lines = [f"# {(inspect.getdoc(function) or name).splitlines()[0]}", "model:", f"  recipe: {name}"]
    shape: Any = None
    for key, parameter in parameters(function).items():
        shape = parameter.default if key == "input_shape" else shape
        lines.append(_line(key, parameter.default, meant.get(key, "")))
    lines += [
        '  # parts can be swapped: `prior: standard`, or with arguments: `prior: {"@prior": vamp, components: 50}`'
    ]
    sources: dict[Any, str] = {(1, 8, 8): "digits", (1, 28, 28): "mnist"}
    usual = sources.get(tuple(shape or ()), "path/to/images")
    lines += ["", "data:", f"  train: {usual}  # digits, mnist, a folder of images, or an .npy file"]
    lines += ["  # val: path/to/more  # digits and mnist bring their own"]
    lines += ["  # root: .  # the folder of MNIST's files"] if usual != "mnist" else ["  root: .  # MNIST's files"]
    shown = {"epochs": 10, "batch_size": 128, "lr": 1e-3, "output_dir": f"runs/{name}"}
    shown |= {"callbacks": ["reconstructions", "samples"], "trackers": ["tensorboard"]}
    if shape is not None and len(shape) != 3:
        shown["callbacks"] = ["latent"]
    meant = _meanings(Trainer)
    meant["callbacks"] = f"{', '.join(CALLBACKS)}; with arguments: {{early_stop: {{patience: 5}}}}"
    meant["trackers"] = ", ".join(TRACKERS)
    meant["optimizer"] = "a name of torch.optim or timm; with arguments: {name: adamw, weight_decay: 0.05}"
    meant["schedule"] = "cosine, linear, onecycle, …; with arguments: {name: cosine, warmup: 500}"
    lines += ["", "train:"]
    lines += [_line(key, value, meant.get(key, "")) for key, value in shown.items()]
    for key in _TRAINER:
        if key not in shown:
            lines.append(_line(key, parameters(Trainer)[key].default, meant.get(key, ""), off=True))
    lines += ["", "# search:  # with `vaekit search`", "#   method: tpe", "#   runs: 20", "#   space:"]
    lines += ["#     lr: {low: 1e-4, high: 1e-2, log: true}", "#     latent: [8, 16, 32]"]
    return "\n".join(lines) + "\n"


def dump(config: Mapping[str, Any]) -> str:
    """A config as YAML."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


# -- keys and values -----------------------------------------------------------------------------------------------


def _change(config: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ValueError(f"{change!r}: expected key=value, such as train.lr=1e-4.")
    value, path = parse(text, key), key.split(".")
    if path[0] not in SECTIONS:
        name = config.get("model", {}).get("recipe") if isinstance(config.get("model"), Mapping) else None
        own = list(parameters(recipe[name])) if isinstance(name, str) else []
        _known(path[0], [*_TRAINER, *DATA, *_model_arguments(), *own], change)
        path.insert(0, "train" if path[0] in _TRAINER else "data" if path[0] in DATA else "model")
    place: Any = config
    for step in path[:-1]:
        if not isinstance(place.get(step), dict):
            place[step] = dict(place[step]) if isinstance(place.get(step), Mapping) else {}
        place = place[step]
    place[path[-1]] = value


def _known(key: Any, known: Sequence[str], where: str) -> None:
    if key not in known:
        near = get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(dict.fromkeys(known))}."
        raise ValueError(f"{where}: there is no {key!r}.{hint}")


def _refuse_imports(value: Any, path: str) -> None:
    """No file may name something to import."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _refuse_imports(key, f"{path}.{key}")
            _refuse_imports(each, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            _refuse_imports(each, f"{path}[{i}]")
    elif isinstance(value, str) and _IMPORTS.fullmatch(value):
        raise ValueError(f"{path}: {value!r} names something to import, and a config may only name what is registered.")


def _check_type(path: str, value: Any, hint: Any) -> None:
    """Numbers and switches of the Trainer are such."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    allowed = set(typing.get_args(hint)) if union else {hint}
    scalars = allowed & {int, float, bool, type(None)}
    mapping = any(typing.get_origin(each) is Mapping for each in allowed - scalars)
    if len(allowed - scalars) > mapping or (mapping and isinstance(value, Mapping)):
        return
    if type(value) not in scalars and not (float in scalars and type(value) is int):
        words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
        told = [word for each, word in words.items() if each in scalars] + (["a mapping"] if mapping else [])
        raise ValueError(f"{path}: expected {' or '.join(told)}, got {value!r}.")


def _named(key: str, value: Any) -> Any:
    """Optimizers and schedules by name with arguments, inside players and phases too."""
    if key in ("optimizer", "schedule") and isinstance(value, Mapping):
        if not isinstance(value.get("name"), str):
            raise ValueError(f"train.{key}: expected a name, or a mapping with 'name' and arguments, got {value!r}.")
        return use(value["name"], **{k: v for k, v in value.items() if k != "name"})
    if isinstance(value, Mapping) and key not in ("lr", "callbacks", "trackers"):
        return {k: _named(k, v) for k, v in value.items()}
    if key == "phases" and isinstance(value, list):
        return [_named("phase", each) for each in value]
    return value


def _one(given: Any, path: str) -> tuple[str, dict[str, Any]]:
    """`name`, or `{name: {argument: value}}`."""
    if isinstance(given, Mapping) and len(given) == 1:
        ((name, options),) = given.items()
        if isinstance(options, Mapping):
            return name, dict(options)
    if not isinstance(given, str):
        raise ValueError(f"{path}: expected a name, or {{name: {{argument: value}}}}, got {given!r}.")
    return given, {}


def _callback(given: Any, path: str) -> Callback:
    name, options = _one(given, path)
    _known(name, tuple(CALLBACKS), path)
    kind = CALLBACKS[name]
    takes = dict(parameters(kind))
    if issubclass(kind, Frames):
        takes |= parameters(Frames)
    takes = {key: takes[key] for key in takes.keys() - {"options", "x", "token"}}  # no secret stands in a file
    for key in options:
        _known(key, sorted(takes), f"{path}.{name}")
    needs = [key for key, each in takes.items() if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    if missing := sorted(set(needs) - options.keys()):
        raise ValueError(f"{path}.{name}: needs {missing[0]!r}: {{{name}: {{{missing[0]}: …}}}}.")
    return kind(**options)


def _model_arguments() -> list[str]:
    return [p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _revived(model: Mapping[str, Any]) -> Any:
    """Saved specs inside as specs."""
    return Spec.from_dict({"@config": "model", "held": dict(model)}).args["held"]


def _open(given: Any, path: str) -> Any:
    if isinstance(given, str) and given.endswith(".npy") and Path(given).is_file():
        return np.load(given, mmap_mode="r", allow_pickle=False)
    if isinstance(given, str) and Path(given).is_dir():
        return given
    raise ValueError(f"{path}: {given!r} is neither digits, mnist, a folder of images nor an .npy file.")


def _meanings(target: Any) -> dict[str, str]:
    """The arguments' first sentences, from a docstring."""
    document = inspect.getdoc(target) or ""
    found: dict[str, str] = {}
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", document + "\n", re.MULTILINE)
    key = ""
    for line in section[1].splitlines() if section else ():
        if match := re.match(r"    (\w+): (.*)", line):
            key = match[1]
            found[key] = match[2]
        elif key and line.strip():
            found[key] += f" {line.strip()}"
    return found


def _line(key: str, value: Any, meaning: str, *, off: bool = False) -> str:
    if value is inspect.Parameter.empty:
        written = ""
    else:
        plain = list(value) if isinstance(value, tuple) else value
        written = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    meaning = re.split(r"(?<=\w)\. |; None|`\[", meaning)[0].rstrip(": .")
    return f"  {'# ' if off else ''}{key}: {written}" + (f"  # {meaning}" if meaning else "")
