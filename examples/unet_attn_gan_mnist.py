"""U-Net-like VAEs with attention on MNIST: VGG16's features, a critic of patches, and latents of 2, 4 and 16 numbers.

    python examples/unet_attn_gan_mnist.py --root DIR --weights vgg16.safetensors

`DIR` holds MNIST's IDX files; without it, scikit-learn's small digits serve, enlarged. VGG16's weights are a file, or
"pretrained": torchvision's cache or download.

Each size of the latent has a folder with the history, the model, a film of reconstructions and one of the latent space;
beside them are a table that compares the sizes and a picture of the curves. A run that was stopped goes on when the
command is given again; a run with other settings wants another --output.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vaekit
from vaekit.evaluate import Examples, reconstruction
from vaekit.saving import write_atomically
from vaekit.train import Callback, History, LatentScatter, ReconstructionGrid, digits, mnist

SCORES = ("mse", "ssim", "psnr")


class Scores(Callback):
    """MSE, SSIM and PSNR of reconstructions after each epoch, on several sets of images."""

    def __init__(self, **images: Tensor) -> None:
        self.images = images

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """Reconstruct, and put the means into the history."""
        for name, x in self.images.items():
            found = reconstruction(trainer.model, Examples(trainer.model, x))
            row |= {f"{name}/{score}": float(found[score].mean()) for score in SCORES}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--weights", default=None, help="VGG16's weights: a file, 'pretrained' or 'random'")
    parser.add_argument("--latent", type=int, nargs="+", default=[2, 4, 16], help="sizes of the latent")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--examples", type=int, default=None, help="training images; the first of the set")
    parser.add_argument("--width", type=int, default=None, help="channels of the networks' first level")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", default="unet_attn_gan_mnist", help="folder for all that is written")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--tiny", action="store_true", help="seconds, with random weights and enlarged digits")
    sizes.add_argument("--full", action="store_true", help="all 60,000 images, full width, 20 epochs: for a GPU")
    given = parser.parse_args()
    epochs, examples, width = (2, 128, 8) if given.tiny else (20, 60_000, 32) if given.full else (6, 5_000, 16)
    given.epochs, given.examples = given.epochs or epochs, given.examples or examples
    given.width, given.weights = given.width or width, given.weights or ("random" if given.tiny else "pretrained")
    return given


def data(given: argparse.Namespace) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Images to train on, and images with labels to test: (n, 1, 28, 28) in [0, 1]."""
    if given.root and not given.tiny:
        (x, _), (x_test, y_test) = mnist(given.root)
        x, x_test = x[: given.examples].float() / 255, x_test.float() / 255
    else:
        (x, _), (x_test, y_test) = digits()
        x, x_test = (torch.nn.functional.interpolate(each, (28, 28), mode="bilinear") for each in (x, x_test))
    tested = len(x_test) if given.full else 64 if given.tiny else 1000
    return x[: given.examples], (x_test[:tested], y_test[:tested])


def run(latent: int, x: Tensor, test: tuple[Tensor, Tensor], given: argparse.Namespace, folder: Path) -> History:
    """Train one size of the latent."""
    steps = given.epochs * -(-len(x) // given.batch_size)
    torch.manual_seed(0)
    vae = vaekit.build(
        "unet_attn_gan",
        input_shape=tuple(x.shape[1:]),
        latent=latent,
        width=given.width,
        weights=given.weights,
        perceptual=0.01,  # the features' squared error is some thousand times the values'
        start=steps // 2,  # a critic finds nothing to say of blurred digits but that they are blurred
    )
    print(vae)
    trainer = vaekit.Trainer(
        vae,
        x,
        test,
        epochs=given.epochs,
        batch_size=given.batch_size,
        lr=1e-3,
        critic_lr=2e-4,
        grad_clip=1.0,
        output_dir=folder,
        callbacks=[
            Scores(train=x[: len(test[0])], test=test[0]),
            ReconstructionGrid(test[0], count=24, columns=12),
            LatentScatter(test),
        ],
    )
    return trainer.fit()


def draw(histories: dict[int, History], path: Path) -> None:
    """The scores of all sizes over the epochs: tested, and trained on in dashes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, score in zip(figure.subplots(1, len(SCORES)), SCORES, strict=True):
        for i, (latent, history) in enumerate(histories.items()):
            axes.plot(history["epoch"], history[f"test/{score}"], f"C{i}-", label=f"latent {latent}")
            axes.plot(history["epoch"], history[f"train/{score}"], f"C{i}--")
        axes.set(xlabel="epoch", ylabel=f"{score.upper()}{', dB' if score == 'psnr' else ''}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), title="test, train dashed", loc="outside right center")
    write_atomically(path, lambda beside: figure.savefig(beside, format="png"))


def main() -> None:
    """Train each size, and compare them."""
    given = arguments()
    x, test = data(given)
    output, histories, table = Path(given.output), {}, []
    began = time.perf_counter()
    for latent in given.latent:
        histories[latent] = history = run(latent, x, test, given, output / f"latent-{latent}")
        last = history.rows[-1]
        scores = {f"{name}/{score}": last[f"{name}/{score}"] for name in ("train", "test") for score in SCORES}
        table.append({"latent": latent, **scores, "test/kl": last["val/kl"], "seconds": round(last["seconds"])})
    written = json.dumps(table, indent=2) + "\n"
    write_atomically(output / "comparison.json", lambda beside: Path(beside).write_text(written))
    draw(histories, output / "curves.png")
    print(f"{'latent':>6}" + "".join(f"{name:>12}" for name in list(table[0])[1:]))
    for row in table:
        print(f"{row['latent']:>6}" + "".join(f"{value:12.4g}" for value in list(row.values())[1:]))
    print(f"{len(x)} images, {given.epochs} epochs, {time.perf_counter() - began:.0f} s; pictures in {output}/")


if __name__ == "__main__":
    main()
