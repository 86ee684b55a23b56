"""The first VAE of every course: 784-400-20 on MNIST, grey-scale cross-entropy plus KL, Adam with rate 1e-3.

    python examples/mnist_mlp.py --root DIR     # the folder with MNIST's IDX files

Without `--root` it takes the small digits that come with scikit-learn.
"""

import argparse
import os
import time

import torch

import vaekit
from vaekit.train import digits, mnist


def main() -> None:
    """Train, and print the test set's bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="one epoch on few images")
    given = parser.parse_args()
    (x, _), (x_test, _) = mnist(given.root) if given.root else digits()
    if given.tiny:
        x, x_test, given.epochs = x[:1000], x_test[:200], 1

    torch.manual_seed(0)
    vae = vaekit.build("mlp", input_shape=tuple(x.shape[1:]), latent=20)
    print(vae)
    began = time.perf_counter()
    history = vaekit.Trainer(vae, x, x_test, epochs=given.epochs, batch_size=128, lr=1e-3).fit()
    for row in history.rows:
        print(f"epoch {row['epoch']:>2}: -ELBO train {row['train/total']:.2f}, test {row['val/total']:.2f} nats")
    seconds = time.perf_counter() - began
    print(f"test -ELBO {history['val/total'][-1]:.2f} nats after {given.epochs} epochs, {seconds:.0f} s")


if __name__ == "__main__":
    main()
