"""Pixels that are missing from test digits, filled in: the root of the mean squared error on them, by method.

    python examples/imputation.py --root DIR     # the folder with MNIST's IDX files
    python examples/imputation.py --tiny         # few images, one epoch

The VAE is trained on whole images. What is missing: half of the pixels, here and there; nine of ten; or the lower half
of the image. The methods: the pixel's mean over the training set; the mean of the five nearest training images, by what
is known; one reconstruction of the image with the mean put in; `vae.impute` by importance sampling (MIWAE's estimate)
and by Gibbs sampling. Without `--root` it takes the small digits that come with scikit-learn.
"""

import argparse
import os
import time

import torch
from sklearn.impute import KNNImputer
from torch import Tensor

import vaekit
from vaekit.train import digits, mnist


def main() -> None:
    """Train the model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=0, help="0: 5 for MNIST, 50 for digits")
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--images", type=int, default=200, help="test images")
    parser.add_argument(
        "--neighbours", type=int, default=5000, help="training images that neighbours are looked for in"
    )
    parser.add_argument(
        "--n", type=int, default=1000, help="draws of z per image; Gibbs sampling takes a fifth as rounds"
    )
    parser.add_argument("--tiny", action="store_true", help="few images, one epoch")
    given = parser.parse_args()
    (x, _), (x_test, _) = mnist(given.root) if given.root else digits()
    x, x_test = (each.float() / 255 if each.dtype == torch.uint8 else each for each in (x, x_test))
    given.epochs = given.epochs or (5 if len(x) > 10_000 else 50)
    if given.tiny:
        x, given.epochs, given.images, given.n, given.neighbours = x[:1000], 1, 20, 50, 200
    x_test = x_test[: given.images]

    began = time.perf_counter()
    torch.manual_seed(0)
    vae = vaekit.build("mlp", input_shape=tuple(x.shape[1:]), latent=given.latent)
    vaekit.Trainer(vae, x, epochs=given.epochs, batch_size=128, lr=1e-3, device="cpu", progress=False).fit()
    vae.eval()
    generator = torch.Generator().manual_seed(0)
    lower = torch.ones_like(x_test, dtype=torch.bool)
    lower[:, :, x.shape[-2] // 2 :] = False
    known = {
        "half, at random": torch.rand(x_test.shape, generator=generator) < 0.5,
        "nine of ten": torch.rand(x_test.shape, generator=generator) < 0.1,
        "lower half": lower,
    }
    print(f"{'missing':<18}" + "".join(f"{name:>16}" for name in METHODS))
    for name, mask in known.items():
        filled = [fill(vae, x, x_test, mask, given) for fill in METHODS.values()]
        errors = [float((each - x_test)[~mask].square().mean().sqrt()) for each in filled]
        print(f"{name:<18}" + "".join(f"{error:>16.4f}" for error in errors), flush=True)
    print(f"{time.perf_counter() - began:.0f} s")


def mean(vae: vaekit.VAE, x: Tensor, x_test: Tensor, mask: Tensor, given: argparse.Namespace) -> Tensor:
    """The mean of each pixel over the training set."""
    return torch.where(mask, x_test, x.mean(0))


def neighbours(vae: vaekit.VAE, x: Tensor, x_test: Tensor, mask: Tensor, given: argparse.Namespace) -> Tensor:
    """The mean of the nearest training images."""
    imputer = KNNImputer(n_neighbors=5, keep_empty_features=True).fit(x[: given.neighbours].flatten(1).double().numpy())
    holes = x_test.where(mask, torch.nan).flatten(1).double().numpy()
    return torch.from_numpy(imputer.transform(holes)).float().reshape(x_test.shape)


def once(vae: vaekit.VAE, x: Tensor, x_test: Tensor, mask: Tensor, given: argparse.Namespace) -> Tensor:
    """One reconstruction of the image with the mean put in."""
    start = mean(vae, x, x_test, mask, given)
    return torch.where(mask, x_test, vae.reconstruct(start))


def importance(vae: vaekit.VAE, x: Tensor, x_test: Tensor, mask: Tensor, given: argparse.Namespace) -> Tensor:
    """E[missing | known] by weighted draws of q(z|x)."""
    start, noise = mean(vae, x, x_test, mask, given), torch.Generator().manual_seed(0)
    parts = zip(start.split(50), mask.split(50), strict=True)
    return torch.cat([vae.impute(a, m, n=given.n, generator=noise) for a, m in parts])


def gibbs(vae: vaekit.VAE, x: Tensor, x_test: Tensor, mask: Tensor, given: argparse.Namespace) -> Tensor:
    """z and the missing pixels in turn."""
    start, noise = mean(vae, x, x_test, mask, given), torch.Generator().manual_seed(0)
    return vae.impute(start, mask, "gibbs", n=max(2, given.n // 5), generator=noise)


METHODS = {"mean": mean, "5 neighbours": neighbours, "reconstruction": once, "importance": importance, "gibbs": gibbs}


if __name__ == "__main__":
    main()
