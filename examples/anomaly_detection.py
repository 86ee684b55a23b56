"""One digit is held out of training and is to be told from the others: AUROC of each score, for each digit.

    python examples/anomaly_detection.py --root DIR     # the folder with MNIST's IDX files
    python examples/anomaly_detection.py --tiny         # two digits, one epoch

A score is larger for the more usual, so the AUROC is the chance that a usual test image gets a larger one than an image
of the held-out digit: 0.5 is guessing, and below it the unseen digit looks more usual than those seen (a 1 does to the
ELBO: it has few strokes to get wrong). Without `--root` it takes the small digits that come with scikit-learn.
"""

import argparse
import os
import time

import torch
from sklearn.metrics import roc_auc_score

import vaekit
from vaekit.scoring import KINDS, perturb, score, statistics
from vaekit.train import digits, mnist


def main() -> None:
    """Train one model (and its background model) per digit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)), help="which are held out")
    parser.add_argument("--draws", type=int, default=16, help="draws of z per image, for the ELBO")
    parser.add_argument("--tiny", action="store_true", help="two digits, one epoch, few images")
    given = parser.parse_args()
    (x, y), (x_test, y_test) = mnist(given.root) if given.root else digits()
    x, x_test = (each.float() / 255 if each.dtype == torch.uint8 else each for each in (x, x_test))
    if given.tiny:
        x, y, x_test, y_test = x[:1000], y[:1000], x_test[:200], y_test[:200]
        given.epochs, given.digits, given.draws = 1, given.digits[:2], 4

    began = time.perf_counter()
    print("held out  " + "".join(f"{kind:>18}" for kind in KINDS))
    rows = []
    for digit in given.digits:
        rows.append(aurocs(x[y != digit], x_test, y_test != digit, given))
        print(f"{digit:>8}  " + "".join(f"{value:>18.3f}" for value in rows[-1]), flush=True)
    means = torch.tensor(rows).mean(0).tolist()
    print("    mean  " + "".join(f"{value:>18.3f}" for value in means))
    print(f"{time.perf_counter() - began:.0f} s")


def aurocs(usual: torch.Tensor, x_test: torch.Tensor, is_usual: torch.Tensor, given: argparse.Namespace) -> list[float]:
    """The AUROC of each score, for models that are trained on `usual`."""
    torch.manual_seed(0)
    vae = train(usual, given)
    background = train(perturb(usual, 0.2, generator=torch.Generator().manual_seed(0)), given)
    references = {"mahalanobis": statistics(vae, usual), "likelihood_ratio": background}
    found = []
    for kind in KINDS:
        scores = score(vae, x_test, kind, reference=references.get(kind), n=given.draws)
        found.append(float(roc_auc_score(is_usual.numpy(), scores.numpy())))
    return found


def train(x: torch.Tensor, given: argparse.Namespace) -> vaekit.VAE:
    """The plain VAE, 400 hidden units, Adam with rate 1e-3."""
    vae = vaekit.build("mlp", input_shape=tuple(x.shape[1:]), latent=given.latent)
    vaekit.Trainer(vae, x, epochs=given.epochs, batch_size=128, lr=1e-3, device="cpu").fit()
    return vae.eval()


if __name__ == "__main__":
    main()
