"""Commands that look at what is registered, and at the machine."""

import difflib
import importlib.metadata
import platform
import shutil
from typing import Any

import vaekit
from vaekit.cli.command import Command
from vaekit.device import available, describe
from vaekit.registry import registries


def commands(make: Any) -> dict[str, Command]:
    """`list`, `info` and `env`."""
    list_ = make(description="Registered names, with the first line of what they are.")
    list_.add_argument("kind", type=str, nargs="?", default=None, help="encoder, prior, …; all where left out")
    list_.add_argument("pattern", type=str, nargs="?", default="*", help='shell-style, such as "unet*"')

    info = make(description="Signature, tags, paper and origin of every part of a name.")
    info.add_argument("name", type=str, help="a registered name")
    return {
        "list": Command(list_, "what is registered", show_list),
        "info": Command(info, "about one name", show_info),
        "env": Command(make(description="Versions, devices and plugins."), "about this machine", show_environment),
    }


def show_list(kind: str | None, pattern: str) -> int:
    """Print registered names, one a line."""
    kinds = registries()
    if kind is not None and kind not in kinds:
        raise ValueError(f"there is no kind {kind!r}. Kinds: {', '.join(kinds)}.")
    chosen = kinds if kind is None else {kind: kinds[kind]}
    rows = [(k, name, _summary(k, name)) for k, registry in chosen.items() for name in registry.names(pattern)]
    if not rows:
        raise ValueError(f"no {kind or 'part'} matches {pattern!r}.")
    kind_width, name_width = (max(len(row[i]) for row in rows) for i in (0, 1))
    width = max(shutil.get_terminal_size((120, 20)).columns, 60)
    for k, name, summary in rows:
        print(f"{k:<{kind_width}}  {name:<{name_width}}  {summary}"[:width])
    return 0


def _summary(kind: str, name: str) -> str:
    try:
        return registries()[kind].about(name).summary
    except ImportError as error:
        return f"(broken: {error})"


def show_info(name: str) -> int:
    """Print what is known of a name, in every kind that has it."""
    found = [registry for registry in registries().values() if name in registry]
    if not found:
        known = {n for registry in registries().values() for n in registry.names()}
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        hint = f"Near: {', '.join(near)}." if near else "See `vaekit list`."
        raise ValueError(f"nothing is named {name!r}. {hint}")
    print("\n\n".join(str(registry.about(name)) for registry in found))
    return 0


def show_environment() -> int:
    """Print versions, devices and plugins: what a bug report needs."""
    print(f"vaekit {vaekit.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(describe())
    print(f"devices: {', '.join(available())}")
    for package in ("torch", "torchvision", "timm", "lpips", "accelerate", "torchmetrics", "zuko", "diffusers"):
        try:
            print(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{package} not installed")
    for kind, registry in registries().items():
        for name, told in registry.plugins().items():
            print(f"plugin: {kind} {name}, {told}")
    return 0
