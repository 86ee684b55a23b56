"""Do variants of 100 labelled digits help a small classifier? Its accuracy on the test set, over several draws of them.

    python examples/augmentation.py --root DIR     # the folder with MNIST's IDX files
    python examples/augmentation.py --tiny         # one draw, few steps

A VAE is trained on all training images without their labels. The classifier (one hidden layer of 256) then sees in
each step the labelled images as they are, or one variant of each in place of half of them: `vae.augment`, a shift by at
most two pixels, or both. The last row is another use of the same VAE: a linear classifier on the mode of q(z|x).
Without `--root` it takes the small digits that come with scikit-learn, shifted by at most one pixel.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import vaekit
from vaekit.train import digits, mnist

Variants = Callable[[Tensor], Tensor]


def main() -> None:
    """Train the VAE once and a classifier for each draw of labels and each kind of variants; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=0, help="of the VAE; 0: 5 for MNIST, 50 for digits")
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--labels", type=int, default=100, help="labelled images, the same number of each class")
    parser.add_argument("--draws", type=int, default=5, help="draws of the labelled images")
    parser.add_argument("--steps", type=int, default=500, help="of the classifier")
    parser.add_argument("--tiny", action="store_true", help="one draw, few steps, few images")
    given = parser.parse_args()
    (x, y), (x_test, y_test) = mnist(given.root) if given.root else digits()
    x, x_test = (each.float() / 255 if each.dtype == torch.uint8 else each for each in (x, x_test))
    given.epochs = given.epochs or (5 if len(x) > 10_000 else 50)
    if given.tiny:
        x, y, x_test, y_test = x[:1000], y[:1000], x_test[:200], y_test[:200]
        given.epochs, given.draws, given.steps = 1, 1, 5

    began = time.perf_counter()
    torch.manual_seed(0)
    vae = vaekit.build("mlp", input_shape=tuple(x.shape[1:]), latent=given.latent)
    vaekit.Trainer(vae, x, epochs=given.epochs, batch_size=128, lr=1e-3, device="cpu", progress=False).fit()
    most = 2 if x.shape[-1] > 8 else 1
    kinds: dict[str, Variants | None] = {
        "as they are": None,
        "reconstructions": lambda x: vae.augment(x, strength=0.0),
        "vae, strength 1": vae.augment,
        "vae, strength 2": lambda x: vae.augment(x, strength=2.0),
        "vae, strength 4": lambda x: vae.augment(x, strength=4.0),
        "shifts": lambda x: shifted(x, most),
        "vae, strength 1, and shifts": lambda x: shifted(vae.augment(x), most),
    }
    found: dict[str, list[float]] = {kind: [] for kind in (*kinds, "linear, on the latents")}
    for draw in range(given.draws):
        chosen = labelled(y, given.labels, draw)
        for kind, variants in kinds.items():
            found[kind].append(accuracy(x[chosen], y[chosen], x_test, y_test, variants, given.steps, draw))
        z, z_test = vae.latents(x[chosen]), vae.latents(x_test)
        linear = LogisticRegression(max_iter=2000).fit(z.numpy(), y[chosen].numpy())
        found["linear, on the latents"].append(float(linear.score(z_test.numpy(), y_test.numpy())))
    print(f"{'variants':<28} accuracy, mean and deviation over {given.draws} draws of {given.labels} labels")
    for kind, each in found.items():
        spread = f" ± {statistics.stdev(each):.3f}" if len(each) > 1 else ""
        print(f"{kind:<28} {statistics.mean(each):.3f}{spread}")
    print(f"{time.perf_counter() - began:.0f} s")


def labelled(y: Tensor, count: int, seed: int) -> Tensor:
    """The numbers of `count` examples, as many of each class."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    each = count // 10
    return torch.cat([order[y[order] == label][:each] for label in range(10)])


def accuracy(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, variants: Variants | None, steps: int, seed: int
) -> float:
    """Of a classifier trained on x and, in each step, new variants in place of half of it."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(steps):
        seen = x
        if variants is not None:
            half = torch.rand(len(x)) < 0.5
            seen = torch.where(half[:, None, None, None], variants(x), x)
        loss = nn.functional.cross_entropy(network(seen), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        return float((network(x_test).argmax(1) == y_test).float().mean())


def shifted(x: Tensor, most: int) -> Tensor:
    """Each image moved by up to `most` pixels in both directions, with black behind it."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (most,) * 4)
    down, right = (torch.randint(2 * most + 1, (n, 1)) for _ in range(2))
    rows = (down + torch.arange(height))[:, None, :, None].expand(-1, -1, -1, padded.shape[3])
    columns = (right + torch.arange(width))[:, None, None].expand(-1, -1, height, -1)
    return padded.gather(2, rows).gather(3, columns)


if __name__ == "__main__":
    main()
