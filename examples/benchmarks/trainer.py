"""What the Trainer costs, as ratios measured in one process, in turns, so that a machine that slows down slows all.

1. An epoch on images in memory, 784-400-20 with batches of 128, beside a tensor loop written by hand, and beside
   pythae's trainer on the same network where pythae is installed.
2. Training from a folder of images, beside going through its data alone and computing alone.
3. An epoch with a checkpoint at its end, beside one without.
4. How often the network is run: once for each batch of training, once for each batch of validation.

    python examples/benchmarks/trainer.py --root DIR  # the folder with MNIST's IDX files; random images without it

Loading and computing share the cores: with --workers 1 and --threads 1, two cores have one each.
"""

import argparse
import importlib.util
import logging
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import vaekit
from vaekit.train import mnist
from vaekit.train.data import batches, on_device

SIZE, RATE, LATENT, HIDDEN = 128, 1e-3, 20, 400


class HandWritten(nn.Module):
    """The network of PyTorch's own VAE example."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, HIDDEN)
        self.mean, self.log_variance = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.back, self.out = nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, 784)

    def loss(self, x: Tensor) -> Tensor:
        """Cross-entropy plus KL, nats per example."""
        h = F.relu(self.hidden(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        logits = self.out(F.relu(self.back(z)))
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (nll + kl) / len(x)


def by_hand(x: Tensor, *, fused: bool) -> None:
    """An epoch of the loop that one writes without a library."""
    model, flat = HandWritten(), x.flatten(1)
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=fused)
    for index in torch.randperm(len(x)).split(SIZE):
        optimizer.zero_grad()
        model.loss(flat[index]).backward()
        optimizer.step()


def network() -> vaekit.VAE:
    """The same network, by vaekit."""
    return vaekit.build("mlp", latent=LATENT, hidden=(HIDDEN,))


def by_trainer(x: Any, vae: Any = None, **options: Any) -> None:
    """An epoch of `Trainer.fit`, with the Trainer's set-up and history."""
    given = {"epochs": 1, "batch_size": SIZE, "lr": RATE, "device": "cpu", "progress": False, **options}
    vaekit.Trainer(vae or network(), x, **given).fit()


def by_pythae(x: Tensor) -> None:
    """An epoch of pythae's trainer, with its set-up, and without its progress bars."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.latent_dim, self.net = LATENT, HandWritten()

        def forward(self, x: Tensor) -> ModelOutput:
            h = F.relu(self.net.hidden(x.flatten(1)))
            return ModelOutput(embedding=self.net.mean(h), log_covariance=self.net.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self, net: HandWritten) -> None:
            super().__init__()
            self.back, self.out = net.back, net.out

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.out(F.relu(self.back(z))).sigmoid().unflatten(1, (1, 28, 28)))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    encoder = Encoder()
    decoder = Decoder(encoder.net)
    del encoder.net.back, encoder.net.out  # the decoder's
    model = VAE(config, encoder=encoder, decoder=decoder)
    settings = BaseTrainerConfig(per_device_train_batch_size=SIZE, learning_rate=RATE, no_cuda=True)
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=settings)
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([], trainer.model)
    trainer.train_step(1)


Clock = Callable[[], float]


def in_turns(rounds: int, *turns: Callable[[], object], clock: Clock = time.perf_counter) -> list[list[float]]:
    """Seconds of each, `rounds` times."""
    rows = []
    for _ in range(rounds):
        row = []
        for turn in turns:
            began = clock()
            turn()
            row.append(clock() - began)
        rows.append(row)
    return rows


def ratio(rows: Sequence[Sequence[float]], a: int, b: int) -> float:
    """The median over rounds of one turn's time by another's."""
    return statistics.median(row[a] / row[b] for row in rows)


def in_memory(x: Tensor, rounds: int) -> None:
    """Epochs on data in memory; what torch.compile takes before the first is told apart."""
    ways: dict[str, Callable[[Tensor], None]] = {
        "tensor loop": lambda x: by_hand(x, fused=False),
        "tensor loop with fused Adam": lambda x: by_hand(x, fused=True),
        "Trainer": by_trainer,
        "Trainer(compile=True)": lambda x: by_trainer(x, compile=True),
    }
    if importlib.util.find_spec("pythae") is not None:
        ways["pythae's trainer"] = by_pythae
    else:
        print("pythae is not installed, so it is left out: pip install pythae==0.1.2")
    for name, way in ways.items():  # first steps allocate, and compile
        began = time.perf_counter()
        way(x[: 3 * SIZE - SIZE // 2])
        if "compile" in name:
            print(f"compiling: {time.perf_counter() - began:.0f} s, once a process")
    rows = in_turns(rounds, *(partial(way, x) for way in ways.values()))
    names, steps = list(ways), math.ceil(len(x) / SIZE)
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        print(f"{name}: {1e3 * statistics.median(column) / steps:.2f} ms a step")
    for a in range(2, 4):
        for b in (0, 1, *range(4, len(names))):
            print(f"{names[a]} / {names[b]}: {ratio(rows, a, b):.3f}")


def photos(folder: Path, count: int, size: int) -> Path:
    """A folder of JPEGs of smooth noise."""
    draw = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def from_folder(count: int, size: int, workers: int, rounds: int) -> None:
    """Training from files, beside its two halves."""
    vae, batch = vaekit.build("conv", latent=16, input_shape=(3, size, size)), 32

    def loading(folder: Path) -> None:
        held = batches(folder, batch, shuffle=True, seed=0, num_workers=workers, name="train", shape=(3, size, size))
        for each in held.epoch(1):
            on_device(each, torch.device("cpu"), (0.0, 1.0))

    with tempfile.TemporaryDirectory() as kept:
        folder = photos(Path(kept), count, size)
        x = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
        options: dict[str, Any] = {"batch_size": batch, "num_workers": workers}
        by_trainer(x[: 2 * batch], vae, **options)
        turns = (
            lambda: loading(folder),
            lambda: by_trainer(x, vae, **options),
            lambda: by_trainer(folder, vae, **options),
        )
        rows = in_turns(rounds, *turns)
        own = in_turns(rounds, *turns[1:], clock=time.process_time)
    data, compute, both = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"data alone {data:.2f} s, computing alone {compute:.2f} s, both {both:.2f} s ({workers} loading processes)")
    slower = statistics.median(row[2] / max(row[:2]) for row in rows)
    print(f"training from a folder / the slower half:                   {slower:.3f}")
    print(f"this process's own time, from a folder / from memory:       {ratio(own, 1, 0):.3f}")


def with_checkpoints(x: Tensor, rounds: int) -> None:
    """Epochs with and without a checkpoint at the end."""

    def saving() -> None:
        with tempfile.TemporaryDirectory() as folder:
            by_trainer(x, output_dir=folder, epochs=2)

    rows = in_turns(rounds, lambda: by_trainer(x, epochs=2), saving)
    saved: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = vaekit.Trainer(network(), x[: 4 * SIZE], epochs=6, device="cpu", output_dir=folder, progress=False)
        from vaekit.train import loop

        inner = loop.save

        def timed(*args: Any, **options: Any) -> None:
            began = time.perf_counter()
            inner(*args, **options)
            saved.append(time.perf_counter() - began)

        loop.save = timed
        try:
            trainer.fit()
        finally:
            loop.save = inner
    epoch = statistics.median(row[0] for row in rows) / 2
    print(f"a checkpoint takes {1e3 * statistics.median(saved):.0f} ms, an epoch {epoch:.2f} s")
    print(f"a checkpoint / an epoch:                        {statistics.median(saved) / epoch:.4f}")
    print(f"two epochs with checkpoints / two without them: {ratio(rows, 1, 0):.3f}")


def passes(x: Tensor) -> None:
    """How often the encoder is run."""
    vae, sizes = network(), []
    vae.encoder.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    train, val = x[: 20 * SIZE], x[: 5 * SIZE]
    vaekit.Trainer(vae, train, val, epochs=1, batch_size=SIZE, device="cpu", progress=False).fit()
    looked = sum(sizes) - len(train) - len(val)
    print(f"examples through the encoder: {len(train)} to train, {len(val)} to validate, {looked} to look for symptoms")


def main() -> None:
    """Print the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=5000, help="files in the folder")
    parser.add_argument("--workers", type=int, default=1, help="processes that load them")
    parser.add_argument("--threads", type=int, help="that torch computes with; as many as it likes by default")
    parser.add_argument("--tiny", action="store_true", help="a quick look that says nothing about speed")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # pythae writes to the console through its own handlers
    x = mnist(given.root)[0][0].float() / 255 if given.root and not given.tiny else torch.rand(60_000, 1, 28, 28)
    if given.tiny:
        given.rounds, given.images, given.workers, x = 1, 40, 0, x[: 6 * SIZE]
    if given.threads:
        torch.set_num_threads(given.threads)
    print(f"{'MNIST' if given.root and not given.tiny else 'random images'}, {len(x):,}; {vaekit.device.describe()}")
    in_memory(x, given.rounds)
    from_folder(given.images, 16 if given.tiny else 32, given.workers, given.rounds)
    with_checkpoints(x, given.rounds)
    passes(x)


if __name__ == "__main__":
    main()
