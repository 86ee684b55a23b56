"""A VAE of 11 million parameters on photos of 128×128: |x - x̂| + LPIPS + 0.02 KL, and what it makes of new ones.

    python examples/photo_vae.py --weights alexnet.safetensors       # crops of sample photos
    python examples/photo_vae.py --weights … --data DIR --workers 4   # a folder of images

Without `--data` it learns from random crops of photos that come inside scikit-image and scikit-learn, and is tested on
two photos that it never sees, a cat and a flower. A run that was stopped goes on when the command is given again.

All three terms are means, which is what their weights mean: |x - x̂| over an image's values in [0, 1], LPIPS over the
images, and KL, in nats, over the latent's 4096 dimensions. A KL summed over them, against a sum over the 49,152 values,
would have the weight 0.02 · 49152 / 4096 = 0.24; latent diffusion's autoencoders have 1e-6 there.

Two choices are for a CPU's sake. LPIPS takes AlexNet's features, as the package lpips does by default; those of VGG16
(`--net vgg`) cost more. And the recipe's networks give way to TAESD's blocks, without norms. `--full` trains networks
like the recipe's, with VGG16's features.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, random_split

import vaekit
from vaekit import use
from vaekit.evaluate import Examples, reconstruction
from vaekit.train import ReconstructionGrid, tracker
from vaekit.train.folder import ImageFolder, Unreadable
from vaekit.train.pictures import grid, save_png

SHAPE = (3, 128, 128)
# most of the work is at full size, most of the parameters are at the smallest
NETWORKS = {
    "tiny": use("tiny", widths=(32, 64, 128, 288), blocks=(1, 1, 1, 2)),
    "kl_resnet": use("kl_resnet", widths=(32, 64, 160, 256), layers=1, groups=8),
}
TINY = {
    "tiny": use("tiny", widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1)),
    "kl_resnet": use("kl_resnet", widths=(8, 8, 8, 8), layers=1, groups=8),
}
# LPIPS's networks, and files of their weights that are found in the folder VAEKIT_WEIGHTS
FILES = {"alex": "*alexnet*", "vgg": "*vgg16*", "squeeze": "*squeezenet*"}


class Crops(Dataset):
    """Random square crops of photos in memory, flipped half of the time, as bytes (3, 128, 128)."""

    def __init__(self, photos: list[Tensor], count: int) -> None:
        self.photos, self.count = photos, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        """Another crop each time; the Trainer seeds what a dataset draws."""
        photo = self.photos[i % len(self.photos)]
        side = int(torch.randint(SHAPE[1], min(photo.shape[1:]) + 1, ()))
        top, left = (int(torch.randint(n - side + 1, ())) for n in photo.shape[1:])
        crop = resized(photo[:, top : top + side, left : left + side])
        return crop.flip(-1) if torch.rand(()) < 0.5 else crop


def resized(image: Tensor) -> Tensor:
    """A square image of bytes in the model's size."""
    x = torch.nn.functional.interpolate(image[None].float(), SHAPE[1:], mode="area")
    return x[0].round().to(torch.uint8)


def photos() -> tuple[list[Tensor], list[Tensor]]:
    """Photos to train on, and two to test, (3, h, w) bytes; none of them is downloaded."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    train: list[Any] = [china, data.astronaut(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0]]
    found = [
        [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in each]
        for each in (train, [data.chelsea(), flower])
    ]
    return found[0], found[1]


def sets(given: argparse.Namespace) -> tuple[Any, Tensor]:
    """What to train on, and images to test, in [0, 1]."""
    draws = torch.Generator().manual_seed(0)
    if given.data:
        folder: Any = ImageFolder(given.data, SHAPE)
        count = max(1, min(32, len(folder) // 10))
        train, held = random_split(folder, [len(folder) - count, count], draws)
        found = list(images(held, count))
        if not found:
            raise SystemExit(f"{given.data}: none of the images that were held out for testing can be read")
        return train, torch.stack(found)
    train_photos, test_photos = photos()
    found = []
    for photo in test_photos:
        most = min(photo.shape[1:])
        for side in (most, most // 2, most // 2, most // 2):
            top, left = (int(torch.randint(n - side + 1, (), generator=draws)) for n in photo.shape[1:])
            found.append(resized(photo[:, top : top + side, left : left + side]).float() / 255)
    return Crops(train_photos, 8 if given.tiny else 800), torch.stack(found)


def images(dataset: Any, count: int) -> Iterator[Tensor]:
    """The first images of a data set that can be read, in [0, 1]."""
    for i in range(min(count, len(dataset))):
        example = dataset[i]
        x = example[0] if isinstance(example, tuple) else example
        if not isinstance(x, Unreadable):
            yield x.float() / 255


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of images; without it, crops of sample photos")
    parser.add_argument("--net", choices=tuple(FILES), default=None, help="LPIPS's network")
    parser.add_argument("--weights", help="its ImageNet weights: a file, 'pretrained' or 'random'")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--networks", choices=tuple(NETWORKS), default=None, help="of the encoder and decoder")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--wandb", action="store_true", help="write a Weights & Biases run to the disk (offline)")
    parser.add_argument("--output", default="photo_vae", help="folder for pictures and the model")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--tiny", action="store_true", help="two steps of a small model")
    sizes.add_argument("--full", action="store_true", help="100,000 steps of 32 with VGG16's features: for a GPU")
    given = parser.parse_args()
    steps, batch = (2, 4) if given.tiny else (100_000, 32) if given.full else (1500, 4)
    given.steps, given.batch_size = given.steps or steps, given.batch_size or batch
    given.net = given.net or ("vgg" if given.full else "alex")
    given.networks = given.networks or ("kl_resnet" if given.full else "tiny")
    if given.weights is None:
        files = sorted(Path(os.environ.get("VAEKIT_WEIGHTS", ".")).glob(FILES[given.net]))
        given.weights = "random" if given.tiny else str(files[0]) if files else "pretrained"
    return given


def main() -> None:
    """Train, measure, and draw reconstructions and samples."""
    given = arguments()
    train, test = sets(given)
    torch.manual_seed(0)
    network = (TINY if given.tiny else NETWORKS)[given.networks]
    vae = vaekit.build(
        "photo_vae", input_shape=SHAPE, net=given.net, weights=given.weights, encoder=network, decoder=network
    )
    print(vae)
    began, output = time.perf_counter(), Path(given.output)
    trainer = vaekit.Trainer(
        vae,
        train,
        test,
        steps=given.steps,
        batch_size=given.batch_size,
        lr=given.lr,
        schedule=use("cosine", warmup=min(50, given.steps // 2)),
        ema=0.99,  # warmed up: the mean of the last hundred steps
        grad_clip=1.0,
        num_workers=given.workers,
        output_dir=output,
        callbacks=[ReconstructionGrid(test, count=8)],
        trackers=[tracker("wandb", project="photo_vae", mode="offline")] if given.wandb else [],
    )
    trainer.fit()
    vae = trainer.model
    found = {name: float(each.mean()) for name, each in reconstruction(vae, Examples(vae, test)).items()}
    print(f"{trainer.step} steps of {given.batch_size} images; this time {time.perf_counter() - began:.0f} s")
    print(f"{len(test)} images that it never saw: MSE {found['mse']:.4f}, PSNR {found['psnr']:.1f} dB, "
          f"SSIM {found['ssim']:.3f}, LPIPS ({given.net}) {trainer.evaluate(test)['lpips']:.3f}")  # fmt: skip

    shown = test[: min(8, len(test))]
    save_png(grid(torch.cat([shown, vae.reconstruct(shown)]), len(shown)), output / "reconstructions.png")
    if not given.tiny:  # latents lie in a small part of N(0, I): draw from a Gaussian that is fitted to them
        vae.fit_prior("full_gaussian", (x[None] for x in images(train, 512)), shrinkage=0.1)
    samples = vae.sample(8, generator=torch.Generator().manual_seed(0))
    save_png(grid(samples, 8), output / "samples.png")
    vae.save_pretrained(output / "model")
    print(f"pictures and model: {output}/")


if __name__ == "__main__":
    main()
