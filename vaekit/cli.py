"""The command `vaekit`: train from a file, use what was trained, look at what is registered."""

import difflib
import importlib.metadata
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import vaekit
from vaekit.device import available, describe
from vaekit.optional import MissingPackage, require
from vaekit.registry import UnknownArgument, UnknownName, registries
from vaekit.saving import WEIGHTS, CheckpointError, write_atomically


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 2 where the arguments or the machine do not allow it, or 130 after Ctrl-C.

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
        return _COMMANDS[command](**vars(options))
    except (MissingPackage, CheckpointError, UnknownName, UnknownArgument, ValueError, FileNotFoundError) as error:
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

    train_ = make(description="Train what a file says. A run that is there goes on.")
    train_.add_argument("file", type=str, help="a config, such as `vaekit init RECIPE` writes")
    train_.add_argument("changes", type=str, nargs="*", default=[], help="key=value, such as lr=1e-4 or model.latent=8")
    train_.add_argument("--force", action="store_true", help="replace a run that is already there")
    commands.add_subcommand("train", train_, help="train what a file says")

    resume_ = make(description="Go on with a run that was stopped or killed.")
    resume_.add_argument("run", type=str, help="the run's folder")
    resume_.add_argument(
        "changes", type=str, nargs="*", default=[], help="key=value, such as epochs=20 for more of them"
    )
    commands.add_subcommand("resume", resume_, help="go on with a run")

    sample_ = make(description="Draw images from a trained model, as PNG.")
    sample_.add_argument("run", type=str, help="a run's folder, or a saved model's")
    sample_.add_argument("--number", type=int, default=64, help="how many")
    sample_.add_argument("--out", type=str, default="", help="the picture; samples.png in the folder where left out")
    sample_.add_argument("--seed", type=int, default=0, help="what they are drawn from")
    sample_.add_argument("--temperature", type=float, default=1.0, help="below 1 for typical, above 1 for unusual ones")
    sample_.add_argument("--label", type=int, default=None, help="class, for a conditional model; else all of them")
    commands.add_subcommand("sample", sample_, help="draw from a trained model")

    reconstruct_ = make(description="Pass images through a trained model: each above what is made of it, as PNG.")
    reconstruct_.add_argument("run", type=str, help="a run's folder, or a saved model's")
    reconstruct_.add_argument("images", type=str, nargs="+", help="files, or folders of them")
    reconstruct_.add_argument(
        "--out", type=str, default="", help="the picture; reconstruct.png in the folder by default"
    )
    reconstruct_.add_argument("--label", type=int, default=None, help="class of the images, for a conditional model")
    commands.add_subcommand("reconstruct", reconstruct_, help="pass images through a trained model")

    search_ = make(description="Train for points of the space that a file says, and keep the best.")
    search_.add_argument("file", type=str, help="a config with a section `search`")
    search_.add_argument("changes", type=str, nargs="*", default=[], help="key=value, such as search.runs=20")
    commands.add_subcommand("search", search_, help="search a space of arguments")

    init_ = make(description="Print a commented config: `vaekit init mlp > c.yaml`, then `vaekit train c.yaml`.")
    init_.add_argument("recipe", type=str, help="a recipe's name; see `vaekit list recipe`")
    commands.add_subcommand("init", init_, help="print a commented config")

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


def train(file: str, changes: list[str], force: bool) -> int:
    """Train what a config says."""
    from vaekit.train import config

    given = config.read(file, changes)
    return _fit(given, overwrite=True) if force else _fit(given)


def resume(run: str, changes: list[str]) -> int:
    """Go on with the run in a folder."""
    from vaekit.train import config

    path = Path(run) / config.NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found. `vaekit resume` takes the output_dir of a `vaekit train`.")
    if not any(Path(run, "checkpoints").glob("step-*")):
        raise FileNotFoundError(f"{run}: has no checkpoint to go on from. Start again: `vaekit train {path}`.")
    return _fit(config.read(path, [*changes, f"train.output_dir={json.dumps(run)}"]), overwrite=False)


def _fit(given: dict[str, Any], **changed: Any) -> int:
    from vaekit.train import config

    trainer = config.trainer_of(given, **changed)
    print(trainer.vae)
    folder = trainer.folder
    if folder is not None:
        text = config.dump({**given, "train": {k: v for k, v in given["train"].items() if k != "overwrite"}})
        write_atomically(folder / config.NAME, lambda beside: Path(beside).write_text(text, encoding="utf-8"))
    try:
        history = trainer.fit()
    except KeyboardInterrupt:
        print(f"\nstopped after step {trainer.step}" + ("" if folder is None else f"; go on: vaekit resume {folder}"))
        return 130
    last = history.rows[-1] if len(history) else {}
    told = ", ".join(f"{name} {last[name]:.5g}" for name in ("train/total", "val/total") if name in last)
    print(f"{'done' if trainer.finished else 'stopped'} after step {trainer.step}: {told}")
    if folder is not None:
        print(f"{folder}: the model is in best/ and last/: vaekit.load('{folder}/best')")
    return 0


def sample(run: str, number: int, out: str, seed: int, temperature: float, label: int | None) -> int:
    """Write a picture of draws from a trained model."""
    from vaekit.train.frames import save_grid

    vae, folder = _trained(run)
    _wants_images(vae, "sample")
    if number < 1:
        raise ValueError(f"--number should be at least 1, got {number}.")
    path = Path(out) if out else folder / "samples.png"
    cond = _labels(vae, label, number)
    drawn = vae.sample(number, cond, temperature, torch.Generator().manual_seed(seed))
    save_grid(drawn, min(8, number), vae, path)
    print(path)
    return 0


def reconstruct(run: str, images: list[str], out: str, label: int | None) -> int:
    """Write a picture of images and what a trained model makes of them."""
    from vaekit.train.data import on_device
    from vaekit.train.folder import SUFFIXES, to_bytes
    from vaekit.train.frames import save_pairs

    vae, folder = _trained(run)
    _wants_images(vae, "reconstruct")
    opens: Any = require("PIL.Image", user="vaekit reconstruct", extra="train")
    found = []
    for given in map(Path, images):
        inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES) if given.is_dir() else [given]
        found += inside
    if not found:
        raise ValueError(f"{', '.join(images)}: no images there ({', '.join(sorted(SUFFIXES))}).")
    try:
        held = [to_bytes(opens.open(path), vae.input_shape) for path in found]
    except OSError as error:  # what PIL raises for a file that is no image
        raise ValueError(f"an image can't be read: {error}") from error
    x, _ = on_device((torch.stack(held), None), torch.device("cpu"), vae.data_range)
    again = vae.reconstruct(x, _labels(vae, label, len(x)))
    path = Path(out) if out else folder / "reconstruct.png"
    save_pairs(x, again, min(8, len(x)), vae, path)
    print(f"{path}: {len(x)} images, mean squared error {(x - again).square().mean().item():.5g}")
    return 0


def search(file: str, changes: list[str]) -> int:
    """Search the space that a config says."""
    from vaekit.train import config
    from vaekit.train.search import search as run

    found = run(**config.searched(config.read(file, changes)))
    if found.folder is None:
        print("no run is done")
        return 0
    print(f"best: {found.value:.5g} with {dict(found.params)}")
    print(f"its model: vaekit.load('{found.folder}')")
    return 0


def init(recipe: str) -> int:
    """Print a commented config."""
    from vaekit.train import config

    print(config.describe(recipe), end="")
    return 0


def _trained(run: str) -> tuple[vaekit.VAE, Path]:
    """The model of a run, its best where there is one, or of a saved model's folder."""
    folder = Path(run)
    if not folder.is_dir():
        raise FileNotFoundError(f"{run}: is no folder.")
    found = next((path for path in (folder / "best", folder / "last", folder) if (path / WEIGHTS).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{run}: holds no saved model, neither itself nor in best/ or last/.")
    return vaekit.load(found), folder


def _wants_images(vae: vaekit.VAE, command: str) -> None:
    if len(vae.input_shape) != 3:
        raise ValueError(
            f"vaekit {command}: draws images (c, h, w), and the model's data have the shape {vae.input_shape}. Use "
            "vaekit.load(...) in Python."
        )


def _labels(vae: vaekit.VAE, label: int | None, number: int) -> Any:
    """What a condition on classes takes."""
    if vae.condition is None:
        if label is not None:
            raise ValueError("--label: the model has no condition.")
        return None
    condition: Any = vae.condition
    classes = getattr(condition, "classes", None)
    if classes is None:
        raise ValueError("the model's condition is not a class: use vaekit.load(...) in Python.")
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"--label should be in [0, {classes}), got {label}.")
    return torch.arange(number) % classes if label is None else torch.full((number,), label)


_COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "resume": resume,
    "sample": sample,
    "reconstruct": reconstruct,
    "search": search,
    "init": init,
    "demo": demo,
    "list": show_list,
    "info": show_info,
    "env": show_environment,
}


if __name__ == "__main__":
    sys.exit(main())
