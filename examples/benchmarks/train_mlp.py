"""How long a training step of the Trainer takes beside a hand-written tensor loop of the same network.

Both train 784-400-20 on images in memory: batch 128, Adam with rate 1e-3, cross-entropy plus KL. They take turns in one
process, and the median of the ratios is what counts, since the machine's speed drifts.

    python examples/benchmarks/train_mlp.py --root DIR     # the folder with MNIST's IDX files
"""

import argparse
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vaekit
from vaekit.train import mnist


class HandWritten(nn.Module):
    """The network of PyTorch's own VAE example."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.log_variance = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.back, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def loss(self, x: Tensor) -> Tensor:
        """Cross-entropy plus KL, nats per example."""
        h = F.relu(self.hidden(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        logits = self.out(F.relu(self.back(z)))
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (nll + kl) / len(x)


def hand_written(x: Tensor, steps: int, *, fused: bool) -> float:
    """Seconds per step of the loop that one writes without a library."""
    model = HandWritten()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)
    flat = x.flatten(1)
    order = torch.randperm(len(x))[: steps * 128]
    began = time.perf_counter()
    for index in order.split(128):
        optimizer.zero_grad()
        model.loss(flat[index]).backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps


def with_trainer(x: Tensor, steps: int) -> float:
    """Seconds per step of `Trainer.fit`, its set-up and its history included."""
    trainer = vaekit.Trainer(vaekit.build("mlp"), x, steps=steps, batch_size=128, device="cpu", progress=False)
    began = time.perf_counter()
    trainer.fit()
    return (time.perf_counter() - began) / steps


def main() -> None:
    """Print seconds per step and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tiny", action="store_true", help="a quick look that says nothing about speed")
    given = parser.parse_args()
    if given.tiny:
        given.rounds, given.steps = 2, 5
    x = mnist(given.root)[0][0].float() / 255 if given.root else torch.rand(60_000, 1, 28, 28)
    print(
        "MNIST" if given.root else "random images (no --root given)", f"{len(x):,}, {torch.get_num_threads()} threads"
    )
    with_trainer(x, 5), hand_written(x, 5, fused=False)  # first calls allocate
    rows = []
    for _ in range(given.rounds):
        rows.append([hand_written(x, given.steps, fused=False), with_trainer(x, given.steps)])
        rows[-1].append(hand_written(x, given.steps, fused=True))
    plain, trainer, fused = (statistics.median(row[i] for row in rows) * 1e3 for i in range(3))
    print(f"ms per step: tensor loop {plain:.2f}, Trainer {trainer:.2f}, tensor loop with fused Adam {fused:.2f}")
    print(f"Trainer / tensor loop:                 {statistics.median(row[1] / row[0] for row in rows):.3f}")
    print(f"Trainer / tensor loop with fused Adam: {statistics.median(row[1] / row[2] for row in rows):.3f}")


if __name__ == "__main__":
    main()
