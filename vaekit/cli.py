"""The command `vaekit`: a demo, and a look at what is registered."""

import difflib
import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import vaekit
from vaekit.device import available, describe
from vaekit.optional import MissingPackage, require
from vaekit.registry import UnknownName, registries
from vaekit.saving import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 where the arguments or the machine do not allow it.

    Args:
        arguments: words after `vaekit`; None takes those of the process.
    """
    try:
        parser = _parser()
        given = parser.parse_args(arguments)
        command = given.command
        if command is None:
            parser.print_help()
            return 0
        options = given[command]
        return {"demo": demo, "list": show_list, "info": show_info, "env": show_environment}[command](**vars(options))
    except (MissingPackage, CheckpointError, UnknownName, ValueError, FileNotFoundError) as error:
        print(f"vaekit: {error}", file=sys.stderr)
        return 2


def _parser() -> Any:
    jsonargparse = require("jsonargparse", user="the command vaekit", extra="cli")
    make: Any = jsonargparse.ArgumentParser
    parser = make(prog="vaekit", description="Parts for variational autoencoders.", version=vaekit.__version__)
    commands = parser.add_subcommands(required=False, dest="command")

    demo_ = make(description="Train on digits, and write pictures, numbers and the model into a folder.")
    demo_.add_argument("--data", type=str, default="digits", choices=("digits", "mnist"), help="which digits")
    demo_.add_argument("--root", type=str, default=".", help="folder of MNIST's IDX files, for --data mnist")
    demo_.add_argument("--out", type=str, default="runs/demo", help="folder for what comes out")
    demo_.add_argument("--force", action="store_true", help="replace a run that is already there")
    demo_.add_argument("--recipe", type=str, default="", help="a recipe's name; conv for digits, mlp for MNIST")
    demo_.add_argument("--latent", type=int, default=8, help="size of the latent vector")
    demo_.add_argument("--epochs", type=int, default=0, help="passes over the data; 0: 100 for digits, 10 for MNIST")
    demo_.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    commands.add_subcommand("demo", demo_, help="train on digits, look at the pictures")

    list_ = make(description="Registered names, with the first line of what they are.")
    list_.add_argument("kind", type=str, nargs="?", default=None, help="encoder, prior, …; all where left out")
    list_.add_argument("pattern", type=str, nargs="?", default="*", help='shell-style, such as "unet*"')
    commands.add_subcommand("list", list_, help="what is registered")

    info = make(description="Signature, tags, paper and origin of every part of a name.")
    info.add_argument("name", type=str, help="a registered name")
    commands.add_subcommand("info", info, help="about one name")

    commands.add_subcommand("env", make(description="Versions, devices and plugins."), help="about this machine")
    return parser


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


def demo(data: str, root: str, out: str, force: bool, recipe: str, latent: int, epochs: int, device: str) -> int:
    """Train a small VAE on digits, and write pictures, numbers and the model into a folder."""
    from vaekit.train import Trainer, digits, mnist
    from vaekit.train.pictures import grid, save_png, save_scatter

    began = time.perf_counter()
    (x, _), (test, labels) = digits() if data == "digits" else mnist(root)
    test = test.float() / 255 if test.dtype == torch.uint8 else test
    usual = {"digits": ("conv", 100, 64, 2e-3), "mnist": ("mlp", 10, 128, 1e-3)}[data]
    recipe, epochs, batch_size, lr = recipe or usual[0], epochs or usual[1], *usual[2:]
    folder = Path(out)
    torch.manual_seed(0)
    vae = vaekit.build(recipe, latent=latent, input_shape=tuple(x.shape[1:]))
    trainer = Trainer(
        vae, x, test, epochs=epochs, batch_size=batch_size, lr=lr, output_dir=folder, overwrite=force, device=device
    )
    print(vae)
    print(f"\n{len(x):,} {data} to train on, {len(test):,} to test, {epochs} epochs on {trainer.device}")
    before = trainer.evaluate()
    print(f"ELBO on the test digits before: {-before['total']:.2f} nats")
    trainer.fit()
    after = trainer.evaluate()
    print(f"ELBO on the test digits after:  {-after['total']:.2f} nats")

    shown = test[:60].to(trainer.device)
    pairs = torch.stack([shown, vae.reconstruct(shown)]).reshape(2, 4, 15, *shown.shape[1:]).transpose(0, 1)
    enlarge = max(1, 56 // shown.shape[-1])
    save_png(grid(pairs.flatten(0, 2), 15), folder / "reconstructions.png", enlarge=enlarge)
    drawn = vae.sample(90, generator=torch.Generator().manual_seed(0))
    save_png(grid(drawn, 15), folder / "samples.png", enlarge=enlarge)
    some = test[:2000].to(trainer.device)
    with torch.no_grad():
        z = vae.eval().encode(some).mode
    save_scatter(z, labels[: len(some)], folder / "latent.png", title=f"{recipe} on {data}: the latents of test digits")
    print(f"\n{folder}: reconstructions.png (digits above, reconstructions below), samples.png, latent.png,")
    print(f"history.json, and the model in best/ and last/: vaekit.load('{folder}/best')")
    print(f"{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
