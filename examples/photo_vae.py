"""A VAE of 12 million parameters on photos of 128×128: |x - x̂| + LPIPS + 0.02 KL, and what it makes of new ones.

    python examples/photo_vae.py --weights vgg16.safetensors --minutes 20      # crops of scikit-image's photos
    python examples/photo_vae.py --data DIR                                    # a folder of images

LPIPS looks through VGG16: give its ImageNet weights as a file, or leave `--weights` to let torchvision fetch them.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import vaekit
from vaekit.train.pictures import grid, save_png

SIZE = 128
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


class Crops(Dataset):
    """Random crops of photos in memory, scaled to the model's size; the same for the same index and epoch."""

    def __init__(self, photos: list[Tensor], count: int) -> None:
        self.photos, self.count = photos, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        draw = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        photo = self.photos[int(torch.randint(len(self.photos), (), generator=draw))]
        side = int(torch.randint(SIZE, min(photo.shape[1:]) + 1, (), generator=draw))
        top, left = (int(torch.randint(n - side + 1, (), generator=draw)) for n in photo.shape[1:])
        crop = photo[None, :, top : top + side, left : left + side].float() / 255
        crop = torch.nn.functional.interpolate(crop, (SIZE, SIZE), mode="area")[0]
        return crop.flip(-1) if torch.rand((), generator=draw) < 0.5 else crop


class Folder(Dataset):
    """The images below a folder, as squares of the model's size."""

    def __init__(self, folder: str) -> None:
        kinds = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
        self.files = sorted(f for f in Path(folder).rglob("*") if f.suffix.lower() in kinds)
        if not self.files:
            raise SystemExit(f"{folder}: holds no image ({', '.join(sorted(kinds))})")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        from PIL import Image, ImageOps

        with Image.open(self.files[i]) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (SIZE, SIZE))
        return (
            torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
            .reshape(SIZE, SIZE, 3)
            .permute(2, 0, 1)
            .float()
            / 255
        )


def photos() -> list[Tensor]:
    """scikit-image's and scikit-learn's sample photos, (3, h, w) bytes: those that come with the packages."""
    from sklearn.datasets import load_sample_images

    found: list[Any] = list(load_sample_images().images)
    try:
        from skimage import data
    except ImportError:
        print("scikit-image is not installed: two photos of scikit-learn serve")
    else:
        found += [getattr(data, name)() for name in PHOTOS]
    return [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in found]


def main() -> None:
    """Train, measure, and draw reconstructions and samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of images; without it, crops of sample photos")
    parser.add_argument("--weights", default=None, help="VGG16's ImageNet weights, a file; 'random' for a try")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to train")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", default="photo_vae", help="folder for pictures and the model")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a small model")
    given = parser.parse_args()
    folder = os.environ.get("VAEKIT_WEIGHTS")
    found = next(iter(sorted(Path(folder).glob("*vgg16*"))), None) if folder else None
    weights = given.weights or (str(found) if found else "random" if given.tiny else "pretrained")

    torch.manual_seed(0)
    widths = (16, 32, 32, 32) if given.tiny else (64, 128, 192, 256)
    extra = {"encoder": {"groups": 8}, "decoder": {"groups": 8}} if given.tiny else {}
    vae = vaekit.build("photo_vae", input_shape=(3, SIZE, SIZE), widths=widths, weights=weights, **extra)
    print(vae)
    source = Folder(given.data) if given.data else Crops(photos(), 100_000)
    loader = DataLoader(source, given.batch_size, shuffle=True, drop_last=True, num_workers=given.workers)
    held = torch.stack([source[i] for i in range(8)])

    optimizer = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], lr=2e-4)
    began, step, limit = time.perf_counter(), 0, 3 if given.tiny else 10**9
    vae.train()
    while step < limit and time.perf_counter() - began < 60 * given.minutes:
        for x in loader:
            report = vae.loss(x)
            optimizer.zero_grad(set_to_none=True)
            report.total.backward()
            optimizer.step()
            step += 1
            if step % 50 == 0 or step == limit:
                print(f"step {step}, {time.perf_counter() - began:.0f} s: {report}", flush=True)
            if step >= limit or time.perf_counter() - began > 60 * given.minutes:
                break

    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    made = vae.reconstruct(held).clamp(0, 1)
    psnr = -10 * (made - held).square().flatten(1).mean(1).log10()
    print(f"{step} steps of {given.batch_size} in {time.perf_counter() - began:.0f} s; PSNR {psnr.mean():.1f} dB")
    save_png(grid(torch.cat([held, made]), len(held)), out / "reconstructions.png")
    if not given.tiny:  # the posterior's mean weight of 0.02 leaves latents far from N(0, I): draw where they lie
        vae.fit_prior("full_gaussian", (x for x, _ in zip(loader, range(64), strict=False)), shrinkage=0.1)
    save_png(grid(vae.sample(8).clamp(0, 1), 8), out / "samples.png")
    vae.save_pretrained(out / "model")
    print(f"pictures and model: {out}")


if __name__ == "__main__":
    main()
