"""Four variants on dynamically binarised MNIST, the same networks and budget: bounds and estimates of -log p(x).

    python examples/benchmarks/mnist_nll.py --root DIR

784-300-300-40, 50 epochs of batches of 256, Adam from 1e-3 down to 0 by a cosine. Each batch is binarised anew; the
test digits are binarised once. `--tiny` runs a few steps on noise, to show that it works.
"""

import argparse
import time

import torch

import vaekit
from vaekit import use
from vaekit.train.datasets import mnist

VARIANTS = {
    "vae": {},
    "iwae": {"k": 5},
    "vamp_vae": {"components": 200},
    "flow_vae": {"flow": "maf", "transforms": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="folder with MNIST's four IDX files")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="names of the variants to run")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--tiny", action="store_true", help="a few steps on noise")
    args = parser.parse_args()
    if args.tiny:
        train, test, epochs, draws = torch.rand(512, 1, 28, 28), torch.rand(8, 1, 28, 28), 1, 20
    elif args.root:
        (train, _), (test, _) = mnist(args.root)
        train, test, epochs, draws = train / 255, test[:2000] / 255, args.epochs, 1000
    else:
        parser.error("give --root, the folder with MNIST's files, or --tiny")
    test = torch.bernoulli(test, generator=torch.Generator().manual_seed(0))
    print("| recipe | parameters | -ELBO | IWAE bound, K=50 | NLL, K=1000 | training, s | s per 1000 steps |")
    print("|---|---|---|---|---|---|---|")
    for name in args.only:
        torch.manual_seed(0)
        hidden = {"hidden": (300, 300)}
        networks = {"encoder": use("mlp", **hidden), "decoder": use("mlp", **hidden)}
        vae = vaekit.build(name, latent=40, input_shape=(1, 28, 28), **networks, **VARIANTS[name])
        began = time.perf_counter()
        steps = fit(vae, train, epochs)
        seconds = time.perf_counter() - began
        elbo, bound, nll = (score(vae.eval(), test, n) for n in (1, 50, draws))
        count = sum(p.numel() for p in vae.parameters()) / 1e6
        print(
            f"| `{name}` | {count:.2f} M | {elbo:.2f} | {bound:.2f} | {nll:.2f} | {seconds:.0f} | "
            f"{1000 * seconds / steps:.1f} |",
            flush=True,
        )


def fit(vae: vaekit.VAE, train: torch.Tensor, epochs: int, batch: int = 256) -> int:
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    steps = epochs * (len(train) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(batch)[: len(train) // batch]:
            optimizer.zero_grad()
            vae.loss(torch.bernoulli(train[rows])).total.backward()
            optimizer.step()
            schedule.step()
    return steps


def score(vae: vaekit.VAE, test: torch.Tensor, draws: int) -> float:
    """The mean of -log p(x), estimated by `draws` importance samples, in nats; by one it is the ELBO's."""
    torch.manual_seed(1)
    with torch.inference_mode():
        return -float(torch.cat([vae.log_prob(x, n=draws) for x in test.split(200)]).mean())


if __name__ == "__main__":
    main()
