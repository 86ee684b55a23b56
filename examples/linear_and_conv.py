"""Linear layers against convolutions: the same test digits, reconstructed by both VAEs after each of 20 epochs.

    python examples/linear_and_conv.py --root DIR     # the folder with MNIST's IDX files

Both have 20 latent dimensions, the Bernoulli likelihood, the same images in the same order, and Adam with rate 1e-3. It
writes a film with a picture per epoch, a grid of some epochs, the curves of both, and `history.json`. Without `--root`
it takes the small digits that come with scikit-learn.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vaekit
from vaekit import plot
from vaekit.plot.figures import draw_rows
from vaekit.saving import write_atomically
from vaekit.train import Callback, History, digits, mnist
from vaekit.train.pictures import grid, save_png


class Kept(Callback):
    """The reconstructions of some images after each epoch."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.epochs: list[Tensor] = []

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """Reconstruct, by the posterior's mean: nothing is drawn."""
        self.epochs.append(trainer.model.reconstruct(self.x.to(trainer.device)).cpu())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=None, help="20 where left out")
    parser.add_argument("--examples", type=int, default=None, help="training images, the first of the set")
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--output", default="linear_and_conv", help="folder for all that is written")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--tiny", action="store_true", help="three epochs on a few small digits")
    sizes.add_argument("--full", action="store_true", help="all 60,000 images")
    given = parser.parse_args()
    given.epochs = given.epochs or (3 if given.tiny else 20)
    given.examples = given.examples or (200 if given.tiny else 60_000 if given.full else 10_000)
    return given


def main() -> None:
    """Train one after the other, and draw them side by side."""
    given = arguments()
    (x, _), (x_test, y_test) = mnist(given.root) if given.root and not given.tiny else digits()
    x, x_test = (each.float() / 255 if each.dtype == torch.uint8 else each for each in (x, x_test))
    x = x[: given.examples]
    shown = x_test[torch.stack([(y_test == digit).nonzero()[0, 0] for digit in range(10)])]  # the first of each digit

    shape = tuple(x.shape[1:])
    recipes = {
        "linear": vaekit.recipe["mlp"](input_shape=shape, latent=given.latent),
        "conv": vaekit.recipe["conv"](input_shape=shape, latent=given.latent, width=16),
    }
    models, histories, kept = {}, {}, {}
    for name, spec in recipes.items():
        torch.manual_seed(0)
        models[name] = vae = vaekit.build(spec, likelihood="bernoulli")
        print(vae)
        kept[name] = Kept(shown)
        options: dict[str, Any] = {"epochs": given.epochs, "batch_size": 128, "lr": 1e-3, "device": "cpu"}
        trainer = vaekit.Trainer(vae, x, x_test, callbacks=[kept[name]], **options)
        histories[name] = trainer.fit()
        last = histories[name].rows[-1]
        print(f"{name}: test -ELBO {last['val/total']:.2f} nats after {given.epochs} epochs, {last['seconds']:.0f} s")

    output = Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    draw(shown, kept, models["linear"], output)
    compare(histories, output)
    print(f"film, grid and curves: {output}/")


def draw(shown: Tensor, kept: dict[str, Kept], vae: vaekit.VAE, output: Path) -> None:
    """A film with a frame per epoch, pixel by pixel, and a grid with the epochs 1, 2, 5, 10, 20, … below each other."""
    epochs, frames = len(next(iter(kept.values())).epochs), output / "frames"
    shutil.rmtree(frames, ignore_errors=True)  # of a longer run
    frames.mkdir()
    for i in range(epochs):
        rows = torch.cat([shown, *(each.epochs[i] for each in kept.values())])
        save_png(grid(rows, len(shown)), frames / f"reconstructions-{i + 1:04d}.png")
    plot.film(frames, output / "reconstructions.gif", seconds=0.4)

    some = [e for e in (1, 2, 5, 10, 20, 50, 100) if e < epochs] + [epochs]
    rows, names = [shown], ["x"]
    for e in some:
        rows += [each.epochs[e - 1] for each in kept.values()]
        names += [f"{name} {e}" for name in kept]
    draw_rows(rows, vae, names=names, path=output / "grid.png")


def compare(histories: dict[str, History], output: Path) -> None:
    """The bound and its two terms over the epochs, a line per model, and the numbers as JSON."""
    rows: list[dict[str, float]] = []
    for of_both in zip(*(history.rows for history in histories.values()), strict=True):
        named = zip(histories, of_both, strict=True)
        terms = {"total": "test -ELBO, nats", "nll": "test nll, nats", "kl": "test KL, nats"}
        rows.append({f"{title}/{name}": row[f"val/{term}"] for name, row in named for term, title in terms.items()})
    plot.curves(rows, path=output / "curves.png")
    text = json.dumps({name: history.rows for name, history in histories.items()}, indent=1)
    write_atomically(output / "history.json", lambda beside: Path(beside).write_text(text))


if __name__ == "__main__":
    main()
