"""The loop: batches, steps, validation, checkpoints. accelerate is under it, the model above it."""

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from vaekit.device import pick
from vaekit.objective import TrainStep
from vaekit.optional import require
from vaekit.saving import CheckpointError
from vaekit.train.data import Batches, TensorBatches, batches, on_device
from vaekit.train.history import History, Meter
from vaekit.vae import VAE, evaluating


class Trainer:
    """Trains a VAE on one objective, with validation after each epoch and checkpoints on disk.

    The order of the examples is a function of seed and epoch. The model's own noise is drawn from torch's global
    generators, the CPU's and the device's, which are seeded when `fit` begins and put back as they were when it ends
    (except on MPS). Validation draws from a seed of its own, the same after every epoch, and runs in evaluation mode.

    Args:
        vae: the model; trained in place.
        train: a tensor or array `(n, *data)`, (data, labels), a `Dataset` or a `DataLoader`. Bytes are scaled to the
            model's data range. Labels go to the model's condition, and are ignored where it has none.
        val: the same, for validation; None for none.
        epochs: passes over the training data; give this or `steps`. A stream without an end needs `steps`.
        steps: training steps.
        batch_size: examples in a batch.
        lr: learning rate.
        critic_lr: learning rate of the networks that losses train against the model; None takes `lr`.
        optimizer: the name of a class of `torch.optim` in lower case, or a function from parameters to an optimizer.
            Where torch has a fused kernel for it, that is used.
        seed: of the order and of the noise; None leaves the global generators alone.
        output_dir: where `last/`, `best/` (saved models) and `history.json` go; None writes nothing.
        overwrite: whether a run that is already in `output_dir` may be replaced.
        checkpoint_every: epochs between writes of `last/`; the last epoch, and a new best, are always written.
        device: "auto" or a device's name.
        log_every: steps between looks at the loss, which wait for the device.
        num_workers: processes that load a `Dataset`.
        progress: whether a progress bar is shown; None: where there is a terminal.

    Raises:
        MissingPackage: where accelerate is missing; the message names the extra.
        ValueError: where the arguments contradict each other, or data do not fit the model.
        CheckpointError: where `output_dir` holds a run, or can't be written.
        BuildError: where the model can't be saved, and `output_dir` asks for it.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,))
        >>> history = vaekit.Trainer(vae, torch.rand(64, 1, 4, 4), epochs=2, batch_size=32, device="cpu").fit()
        >>> len(history["train/total"])
        2
    """

    def __init__(
        self,
        vae: VAE,
        train: Any,
        val: Any = None,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int = 128,
        lr: float = 1e-3,
        critic_lr: float | None = None,
        optimizer: str | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = "adam",
        seed: int | None = 0,
        output_dir: str | Path | None = None,
        overwrite: bool = False,
        checkpoint_every: int = 1,
        device: str | torch.device = "auto",
        log_every: int = 50,
        num_workers: int = 0,
        progress: bool | None = None,
    ) -> None:
        if (epochs is None) == (steps is None):
            raise ValueError(f"Trainer: give either epochs or steps; got epochs={epochs}, steps={steps}.")
        counts = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "log_every": log_every}
        for name, value in {**counts, "checkpoint_every": checkpoint_every}.items():
            if value is not None and (not isinstance(value, Integral) or value < 1):
                raise ValueError(f"Trainer: {name} should be a whole number, at least 1, got {value!r}.")
        for name, rate in (("lr", lr), ("critic_lr", critic_lr)):
            if rate is not None and not rate > 0:
                raise ValueError(f"Trainer: {name} should be positive, got {rate}.")
        # some losses compare the examples of a batch, and can't do with one: a rest that small is left out
        losses = getattr(vae.objective, "terms", {}).items()
        needs = {label: getattr(loss, "smallest_batch", 1) for label, loss in losses}
        self._least = max(needs.values(), default=1)
        if batch_size < self._least:
            which = max(needs, key=needs.__getitem__)
            raise ValueError(
                f"Trainer: batch_size={batch_size} is too small for the loss {which!r}, which needs at least "
                f"{self._least} examples."
            )
        self._accelerate = require("accelerate", user="Trainer", extra="train")
        self.vae, self.seed, self.log_every, self.progress = vae, seed, log_every, progress
        self.epochs, self.steps, self.checkpoint_every = epochs, steps, checkpoint_every
        self.device = pick(device)
        options: dict[str, Any] = {"seed": seed or 0, "num_workers": num_workers}
        self.train = batches(train, batch_size, shuffle=True, name="train", **options)
        self.val = None if val is None else batches(val, batch_size, shuffle=False, name="val", **options)
        for name, data in (("train", self.train), ("val", self.val)):
            self._check(name, data)
        self.folder = None if output_dir is None else self._claim(Path(output_dir), overwrite)
        self.optimizer = _optimizer(optimizer, vae.to(self.device), lr, critic_lr)
        self.history = History()
        self._begun = False

    def fit(self) -> History:
        """Train, and return the history. The model stays on the device, in training mode.

        Raises:
            FloatingPointError: where a term or a weight is not finite, naming it and the steps; checkpoints stay as
                they are.
            RuntimeError: where this Trainer has run before.
            ValueError: where several processes were started.
        """
        if self._begun:
            raise RuntimeError(
                "Trainer: fit has been called, and would begin again at epoch 1. Make a new Trainer to train on: the "
                "model keeps its weights."
            )
        # accelerate's idea of a device is one for the whole process, whichever came first; ours is this run's
        accelerator = self._accelerate.Accelerator(device_placement=False)
        if accelerator.num_processes > 1:
            raise ValueError(
                f"Trainer: runs in one process so far, and {accelerator.num_processes} were started. Start it without "
                "torchrun, or write a loop over vaekit.objective.TrainStep(vae), which DDP wraps."
            )
        # accelerate's own optimizer and backward look for optional packages at every step: 0.3 ms that a process alone
        # can do without
        step, optimizer = accelerator.prepare_model(TrainStep(self.vae)), self.optimizer
        best, done, began, self._begun = math.inf, 0, time.perf_counter(), True
        length = self.train.length
        total = self.steps if self.epochs is None or length is None else self.epochs * length
        quiet = None if self.progress is None else not self.progress  # None: where there is no terminal
        with _own_noise(self.seed, self.device), tqdm(total=total, disable=quiet, unit="step") as bar:
            for epoch in itertools.count(1) if self.epochs is None else range(1, self.epochs + 1):
                meter, seen, started = Meter(), 0, time.perf_counter()
                self.vae.train()
                for x, cond in self._batches(self.train, epoch):
                    optimizer.zero_grad(set_to_none=True)
                    report = step(x, cond)
                    report.total.backward()
                    optimizer.step()
                    meter.add(report, len(x))
                    done, seen = done + 1, seen + len(x)
                    if done % self.log_every == 0:
                        self._look(meter, done, bar)
                    if done == self.steps:
                        break
                if not seen:
                    raise ValueError(
                        f"train: gives no batch in epoch {epoch}. A stream has to be one that can restart."
                    )
                row = {f"train/{name}": value for name, value in self._look(meter, done, bar).items()}
                row["examples_per_second"] = seen / (time.perf_counter() - started)
                row |= {f"val/{name}": value for name, value in self.evaluate().items()}
                row |= {"epoch": epoch, "step": done, "seconds": time.perf_counter() - began}
                self._refuse([*_not_finite(row), *_broken(self.vae)], f"after step {done}")
                self.history.add(row)
                score = row.get("val/total", row["train/total"])
                ends = done == self.steps or epoch == self.epochs
                if self.folder is not None and accelerator.is_main_process:
                    self._save(self.folder, last=ends or epoch % self.checkpoint_every == 0, best=score < best)
                best = min(best, score)
                if ends:
                    break
        return self.history

    @torch.no_grad()
    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Mean of the objective and its terms over a data set, in evaluation mode.

        Args:
            data: what the Trainer takes as `val`, which it is by default. Without either, nothing is computed.

        Returns:
            "total" and each term's mean over the examples.

        Raises:
            ValueError: where the data give no batch.
        """
        held = self.val if data is None else batches(data, 512, shuffle=False, seed=0, num_workers=0, name="data")
        if held is None:
            return {}
        meter = Meter()
        with _own_noise(1, self.device), evaluating(self.vae):
            for x, cond in self._batches(held, 0):
                meter.add(self.vae.loss(x, cond), len(x))
        means = meter.read()
        if not means:
            raise ValueError("val: gives no batch. A stream has to be one that can restart.")
        return means

    def _batches(self, data: Batches, epoch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches on the device, with labels only for a model that has a condition; no rest too small for a loss."""
        for batch in data.epoch(epoch):
            if len(batch[0]) < self._least:
                continue
            x, label = on_device(batch, self.device, self.vae.data_range)
            yield x, label if self.vae.condition is not None else None

    def _look(self, meter: Meter, step: int, bar: Any) -> dict[str, float]:
        """The means so far, read from the device.

        Raises:
            FloatingPointError: where one of them is not finite.
        """
        means = meter.read()
        self._refuse(_not_finite(means), f"between steps {max(1, step - self.log_every + 1)} and {step}")
        bar.update(step - bar.n)
        bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
        return means

    def _refuse(self, bad: list[str], when: str) -> None:
        """Stop a run in which something is not finite, before it is written over the last good checkpoint."""
        if not bad:
            return
        kept = self.folder is not None and (self.folder / "last").exists() and self.history.rows
        raise FloatingPointError(
            f"Trainer: {', '.join(bad[:5])}{', …' if len(bad) > 5 else ''} is not finite, {when}. Lower lr (now "
            f"{self.optimizer.param_groups[0]['lr']:g}) or look at the data."
            + (f" {self.folder}/last holds the last good checkpoint." if kept else "")
        )

    def _check(self, name: str, data: Batches | None) -> None:
        """Look at all data in memory once, before the first step."""
        if data is None:
            return
        if isinstance(data, TensorBatches):
            if self.vae.condition is not None and data.labels is None:
                raise ValueError(f"{name}: the model has a condition, so labels are needed: give ({name}, labels).")
            where = next((p.device for p in self.vae.parameters()), torch.device("cpu"))
            for start in range(0, len(data.x), 8192):
                part = slice(start, start + 8192)
                batch = data.x[part], None if data.labels is None else data.labels[part]
                x, label = on_device(batch, where, self.vae.data_range)
                try:
                    self.vae.check(x)
                    if self.vae.condition is not None:
                        with torch.no_grad(), evaluating(self.vae.condition):
                            self.vae.condition(label, len(x))
                except ValueError as error:
                    raise ValueError(f"{name}, examples from {start} on: {error}") from None
        elif data.length == 0:
            raise ValueError(f"{name}: gives no batch. It is smaller than the batch size and drop_last is set.")

    def _claim(self, folder: Path, overwrite: bool) -> Path:
        """The output folder, and a try at saving, so that nothing is trained that can't be kept."""
        taken = [name for name in ("history.json", "last", "best") if (folder / name).exists()]
        if taken and not overwrite:
            raise CheckpointError(
                f"{folder}: already holds a run ({', '.join(taken)}). Choose another output_dir, or set overwrite=True "
                "(--force on the command line)."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".try-") as tried:
                self.vae.save_pretrained(tried)
        except OSError as error:
            raise CheckpointError(f"{folder}: can't be written ({error}). Choose another output_dir.") from error
        return folder

    def _save(self, folder: Path, *, last: bool, best: bool) -> None:
        for name in [name for name, asked in (("last", last), ("best", best)) if asked]:
            self.vae.save_pretrained(folder / name)
        self.history.save(folder / "history.json")


def _optimizer(
    choice: str | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    vae: VAE,
    lr: float,
    critic_lr: float | None,
) -> torch.optim.Optimizer:
    """The optimizer of that name over everything that is not frozen; critics' weights are groups of their own."""
    weights = [p for p in vae.parameters() if p.requires_grad]
    if not weights:
        raise ValueError("Trainer: the model has no weight to train: every one is frozen (requires_grad=False).")
    if not isinstance(choice, str):
        return choice(weights)
    groups: list[dict[str, Any]] = [
        {"params": own, "lr": lr if name == "vae" else critic_lr or lr}
        for name, held in vae.players().items()
        if (own := [p for p in held if p.requires_grad])
    ]
    known = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
        if cls not in (torch.optim.LBFGS, torch.optim.SparseAdam)  # a closure, and sparse gradients: not in this loop
    }
    if choice.lower() not in known:
        raise ValueError(f"Trainer: there is no optimizer {choice!r}. Known: {', '.join(sorted(known))}.")
    cls: Any = known[choice.lower()]
    try:  # one kernel for all parameters; on 2 CPU threads it takes a third of the time of Adam's plain step
        return cls(groups, lr=lr, fused=True)
    except (TypeError, RuntimeError):
        return cls(groups, lr=lr)


def _not_finite(means: dict[str, float]) -> list[str]:
    return [name for name, value in means.items() if not math.isfinite(value)]


def _broken(vae: nn.Module) -> list[str]:
    """Names of the trained weights that are not finite; waits for the device once."""
    trained = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    whole = torch.stack([p.detach().isfinite().all() for p in trained.values()]).tolist()
    return [name for name, good in zip(trained, whole, strict=True) if not good]


@contextmanager
def _own_noise(seed: int | None, device: torch.device) -> Iterator[None]:
    """Global generators seeded inside the block, the CPU's and those of the device's kind, and restored after it."""
    if seed is None:
        yield
        return
    forked = device.type in ("cuda", "xpu")
    cards = range(torch.get_device_module(device).device_count()) if forked else ()
    with torch.random.fork_rng(list(cards), device_type=device.type if forked else "cuda"):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every accelerator too
        else:
            torch.manual_seed(seed)
        yield
