"""The learning rate, found: one short run whose rate rises from far too low to far too high."""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from vaekit.optional import require
from vaekit.saving import write_atomically
from vaekit.train.optimizers import Choice
from vaekit.train.trainer import Trainer
from vaekit.vae import VAE


@dataclass(frozen=True)
class Rates:
    """What `find_lr` found.

    Args:
        lr: the rates that were tried, rising.
        loss: the total at each, smoothed; up to where it was not finite any more.
        lowest: the rate at which it was lowest.
        steepest: the rate at which it fell fastest, in the logarithm of the rate.
        suggestion: a tenth of `lowest`: near the fast fall, and well before the loss rises.
    """

    lr: Sequence[float]
    loss: Sequence[float]
    lowest: float
    steepest: float
    suggestion: float

    def save(self, path: str | Path) -> None:
        """Draw the loss over the rate, as PNG."""
        require("matplotlib", user="find_lr", extra="train")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(self.lr, self.loss)
        axes.axvline(self.suggestion, linestyle="--", color="tab:green", label=f"suggestion {self.suggestion:.2g}")
        best, first = min(self.loss), self.loss[0]
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(best - 0.1 * (first - best), None))
        axes.set_ylim(top=first + (first - best))
        axes.legend()
        write_atomically(Path(path), lambda beside: figure.savefig(beside, format="png"))


def find_lr(
    vae: VAE,
    train: Any,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    batch_size: int = 128,
    optimizer: Choice = "adam",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    smoothing: float = 0.9,
    num_workers: int = 0,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Rates:
    """Trains a copy of a model for a few steps, with a rate that rises evenly in its logarithm, and looks at the loss.

    Args:
        vae: stays as it is.
        train: as the Trainer takes it.
        low: the first rate.
        high: the last.
        steps: from the one to the other.
        batch_size: examples in a batch; the rate found belongs to it.
        optimizer: as the Trainer takes it; the rate found belongs to it, too.
        precision: as the Trainer takes it.
        smoothing: how much of the mean of the losses before is kept at each step, in [0, 1).
        num_workers: processes that load a dataset.
        device: "auto" or a device's name.
        seed: of order and noise.

    Raises:
        ValueError: where the numbers are out of their range, or the loss falls at none of the rates.

    References:
        Cyclical Learning Rates for Training Neural Networks (Smith, 2017), https://arxiv.org/abs/1506.01186

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(8,))
        >>> found = find_lr(vae, torch.rand(256, 4), batch_size=32, steps=40, device="cpu")
        >>> 1e-5 < found.suggestion < 1
        True
    """
    if not 0 < low < high:
        raise ValueError(f"find_lr: expected 0 < low < high, got low={low}, high={high}.")
    if steps < 10:
        raise ValueError(f"find_lr: expected at least 10 steps, got {steps}.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"find_lr: smoothing should be in [0, 1), got {smoothing}.")
    trial, losses = copy.deepcopy(vae), []
    inner = trial.loss

    def noted(x: Tensor, cond: Any = None) -> Any:
        report = inner(x, cond)
        losses.append(report.total.detach())
        return report

    trial.loss = noted  # type: ignore[method-assign] — what is trained is a copy
    rates = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    trainer = Trainer(
        trial,
        train,
        steps=steps,
        batch_size=batch_size,
        lr=low,
        optimizer=optimizer,
        schedule=lambda made: LambdaLR(made, lambda i: rates[min(i, steps - 1)] / low),
        precision=precision,
        skip_limit=steps,  # too high a rate is what is looked for
        num_workers=num_workers,
        device=device,
        seed=seed,
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.fit()
        except FloatingPointError:  # so were the weights, in the end
            pass
    return _read(rates, torch.stack(losses).tolist(), smoothing)


def _read(rates: Sequence[float], losses: Sequence[float], smoothing: float) -> Rates:
    smooth: list[float] = []
    mean = 0.0
    for i, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            break
        mean = smoothing * mean + (1 - smoothing) * loss
        smooth.append(mean / (1 - smoothing**i))
    at = min(range(len(smooth)), key=smooth.__getitem__, default=0)
    if at < 2:
        raise ValueError(
            f"find_lr: the loss falls at no rate from {rates[0]:g} on. Lower low, or look at the data and the model."
        )
    falls = [smooth[i - 1] - smooth[i + 1] for i in range(1, at)]
    steepest = 1 + max(range(len(falls)), key=falls.__getitem__)
    return Rates(rates[: len(smooth)], smooth, rates[at], rates[steepest], rates[at] / 10)
