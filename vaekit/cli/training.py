"""Commands that train: `demo`, and runs and searches that a file says."""

import json
import time
from pathlib import Path
from typing import Any

import torch

import vaekit
from vaekit.cli.command import Command
from vaekit.saving import write_atomically


def commands(make: Any) -> dict[str, Command]:
    """`demo`, `train`, `resume`, `search` and `init`."""
    demo_ = make(description="Train on digits, and write pictures, numbers and the model into a folder.")
    demo_.add_argument("--data", type=str, default="digits", choices=("digits", "mnist"), help="which digits")
    demo_.add_argument("--root", type=str, default=".", help="folder of MNIST's IDX files, for --data mnist")
    demo_.add_argument("--out", type=str, default="runs/demo", help="folder for what comes out")
    demo_.add_argument("--force", action="store_true", help="replace a run that is already there")
    demo_.add_argument("--recipe", type=str, default="", help="a recipe's name; conv for digits, mlp for MNIST")
    demo_.add_argument("--latent", type=int, default=8, help="size of the latent vector")
    demo_.add_argument("--epochs", type=int, default=0, help="passes over the data; 0: 100 for digits, 10 for MNIST")
    demo_.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")

    train_ = make(description="Train what a file says. A run that is there goes on.")
    train_.add_argument("file", type=str, help="a config, such as `vaekit init RECIPE` writes")
    train_.add_argument("changes", type=str, nargs="*", default=[], help="key=value, such as lr=1e-4 or model.latent=8")
    train_.add_argument("--force", action="store_true", help="replace a run that is already there")

    resume_ = make(description="Go on with a run that was stopped or killed.")
    resume_.add_argument("run", type=str, help="the run's folder")
    resume_.add_argument(
        "changes", type=str, nargs="*", default=[], help="key=value, such as epochs=20 for more of them"
    )

    search_ = make(description="Train for points of the space that a file says, and keep the best.")
    search_.add_argument("file", type=str, help="a config with a section `search`")
    search_.add_argument("changes", type=str, nargs="*", default=[], help="key=value, such as search.runs=20")

    init_ = make(description="Print a commented config: `vaekit init mlp > c.yaml`, then `vaekit train c.yaml`.")
    init_.add_argument("recipe", type=str, help="a recipe's name; see `vaekit list recipe`")
    return {
        "demo": Command(demo_, "train on digits, look at the pictures", demo),
        "train": Command(train_, "train what a file says", train),
        "resume": Command(resume_, "go on with a run", resume),
        "search": Command(search_, "search a space of arguments", search),
        "init": Command(init_, "print a commented config", init),
    }


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
    told = ", ".join(
        f"{name} {last[name]:.5g}" for name in ("train/total", "val/total", "active_units") if name in last
    )
    print(f"{'done' if trainer.finished else 'stopped'} after step {trainer.step}: {told}")
    if folder is not None:
        print(f"{folder}: the model is in best/ and last/: vaekit.load('{folder}/best')")
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
