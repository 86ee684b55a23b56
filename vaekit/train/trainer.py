"""The loop: batches, steps, validation, checkpoints. accelerate is under it, the model above it."""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vaekit.device import networks_in, pick, pick_memory_format, pick_precision
from vaekit.kinds import CriticLoss, Weight
from vaekit.objective import TrainStep
from vaekit.train.callbacks import Callback
from vaekit.train.checkpoint import Checkpoints
from vaekit.train.checks import bad_values, check_counts, check_data, no_batch, smallest_batch
from vaekit.train.data import Batches, TensorBatches, ahead, batches, on_device
from vaekit.train.ema import Ema
from vaekit.train.guards import Guard, Symptoms, broken_weights
from vaekit.train.history import History, Meter
from vaekit.train.lock import locked
from vaekit.train.optimizers import Choice
from vaekit.train.phases import Phase, applied, make_phases
from vaekit.train.place import Place
from vaekit.train.players import Player, make_players
from vaekit.train.processes import Processes, synchronised
from vaekit.train.resume import claim, go_on, save
from vaekit.train.rng import mix, own_noise
from vaekit.train.signals import Stop, listening
from vaekit.train.trackers import tracker
from vaekit.vae import VAE, evaluating


class Trainer:
    """Trains a VAE on its objective, with validation after each epoch and checkpoints that a run goes on from exactly.

    The order of the examples is a function of seed and epoch. The model's own noise is drawn from torch's global
    generators, the CPU's and the device's, which are seeded when `fit` begins and put back as they were when it ends.
    Validation draws from a seed of its own, the same after every epoch, and runs in evaluation mode.

    A run with an `output_dir` that was killed, however it was, goes on from its last checkpoint when the same Trainer
    is made again; on the CPU it ends with the same bits as a run that was left alone. SIGTERM, Ctrl-C and `max_time`
    save first.

    Args:
        vae: the model; trained in place.
        train: a tensor or array `(n, *data)`, mapped from disk or not; (data, labels); a dataset, torchvision's and
            Hugging Face's among them; a `DataLoader`; a folder of images; an iterable of examples, or of batches.
            Bytes are scaled to the model's data range on the device. Labels go to the model's condition, and are
            ignored where it has none.
        val: the same, for validation; None for none.
        epochs: passes over the training data; give this or `steps`. A stream without an end needs `steps`.
        steps: training steps.
        batch_size: examples in a batch.
        lr: learning rate, or rates by the beginnings of weights' names: `{"encoder": 1e-4, "rest": 1e-3}`.
        critic_lr: learning rate of the networks that losses train against the model; None takes `lr`.
        optimizer: the name of a class of `torch.optim` in lower case, or one of timm's; `use("adamw",
            weight_decay=0.05)` for arguments; or a function from parameters to an optimizer. Where torch has a fused
            kernel for it, that is used.
        schedule: of the learning rate: "cosine", "linear", "onecycle", …, any of torch's, "timm.cosine", …; arguments,
            `warmup` among them, as `use("cosine", warmup=500)`; a function from the optimizer; None: constant. See
            `Schedule`.
        players: player ("vae", or the label of a loss with a critic) → its own `lr`, `optimizer`, `schedule`,
            `grad_clip`, and `every`: it is updated at every so many steps, from the one after `offset` on.
        freeze: parts that are not trained, by the beginnings of weights' names.
        precision: "fp32", "bf16", "fp16", or "auto": bf16 where the accelerator has it. Networks compute in it; losses
            and densities stay in float32.
        ema: decay of a moving average of the weights, such as 0.999, which is then what is validated and saved.
        grad_clip: largest norm of each player's gradients, or norms by player.
        accumulate: batches whose gradients make one step.
        compile: whether the step is compiled; a mapping gives arguments of `torch.compile`.
        memory_format: "contiguous", "channels_last", or "auto", the latter on CUDA.
        augment: x → x, applied to training batches on the device.
        phases: changes of these arguments in the course of the run, each with `epochs` or `steps` of its own:
            `[{"epochs": 5, "freeze": ["decoder"]}, {"epochs": 5, "lr": 1e-5, "weights": {"lpips": 1.0}}]`.
        seed: of the order and of the noise; None leaves the global generators alone.
        output_dir: where `last/`, `best/` (saved models), `checkpoints/` and `history.json` go; None writes nothing.
        resume: "auto" goes on with a run that `output_dir` holds; a path, with the run or the checkpoint there; False
            begins.
        overwrite: whether a run that is already in `output_dir` is replaced.
        checkpoint_every: steps between checkpoints, or "epoch"; there is also one at the end, and at a new best.
        keep: how many of the newest checkpoints stay, beside the best.
        max_time: seconds, or a timedelta, after which the run saves and returns; made again, it goes on.
        skip_limit: how many steps in a row may be skipped because a loss or a gradient is not finite.
        callbacks: see `Callback`.
        trackers: callbacks that record, or the names csv, tensorboard, wandb, mlflow; called after the others.
        device: "auto" or a device's name.
        log_every: steps between looks at the loss, which wait for the device.
        num_workers: processes that load a dataset.
        progress: whether a progress bar is shown; None: where there is a terminal.

    Raises:
        MissingPackage: where accelerate is missing; the message names the extra.
        ValueError: where the arguments contradict each other, or data do not fit the model.
        CheckpointError: where `output_dir` holds a run that is not this one, another process writes there, or it can't
            be written.
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
        lr: float | Mapping[str, float] = 1e-3,
        critic_lr: float | None = None,
        optimizer: Choice = "adam",
        schedule: Choice | None = None,
        players: Mapping[str, Mapping[str, Any]] | None = None,
        freeze: Sequence[str] = (),
        precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
        ema: float | None = None,
        grad_clip: float | Mapping[str, float] | None = None,
        accumulate: int = 1,
        compile: bool | Mapping[str, Any] = False,
        memory_format: Literal["auto", "contiguous", "channels_last"] = "auto",
        augment: Callable[[Tensor], Tensor] | None = None,
        phases: Sequence[Mapping[str, Any]] | None = None,
        seed: int | None = 0,
        output_dir: str | Path | None = None,
        resume: Literal["auto", False] | str | Path = "auto",
        overwrite: bool = False,
        checkpoint_every: int | Literal["epoch"] = "epoch",
        keep: int = 2,
        max_time: float | timedelta | None = None,
        skip_limit: int = 10,
        callbacks: Iterable[Callback] = (),
        trackers: Iterable[Callback | str] = (),
        device: str | torch.device = "auto",
        log_every: int = 50,
        num_workers: int = 0,
        progress: bool | None = None,
    ) -> None:
        base = Phase(
            epochs, steps, train, batch_size, lr, critic_lr, optimizer, schedule, players, freeze, grad_clip,
            accumulate, augment,
        )  # fmt: skip
        self.phases = make_phases(base, phases)
        check_counts(log_every=log_every, keep=keep)
        check_counts(**({} if checkpoint_every == "epoch" else {"checkpoint_every": checkpoint_every}))
        self._least = smallest_batch(vae, self.phases)
        self.processes = Processes(device)
        self.vae, self.seed, self.log_every, self.progress = vae, seed, log_every, progress
        self.resume, self.compile = resume, compile
        self.checkpoint_every = None if checkpoint_every == "epoch" else int(checkpoint_every)
        self.max_time = max_time.total_seconds() if isinstance(max_time, timedelta) else max_time
        self.callbacks = [*callbacks, *(tracker(each) for each in trackers)]
        self.device = pick(self.processes.device(device))
        self.dtype = pick_precision(precision, self.device)

        options: dict[str, Any] = {
            "seed": seed or 0,
            "num_workers": num_workers,
            "shape": vae.input_shape,
            "pin": self.device.type == "cuda",
        }
        share = self.processes.share
        held: dict[tuple[int, int], Batches] = {}
        for phase in self.phases:
            key = (id(phase.train), phase.batch_size)
            if key not in held:
                held[key] = batches(phase.train, phase.batch_size, shuffle=True, name="train", share=share, **options)
                check_data(vae, "train", held[key])
        self._data = [held[id(phase.train), phase.batch_size] for phase in self.phases]
        #: the validation data, all of them; each process looks at its own part
        self.val = None if val is None else batches(val, batch_size, shuffle=False, name="val", **options)
        check_data(vae, "val", self.val)
        alone = val is None or share[1] == 1
        own = self.val if alone else batches(val, batch_size, shuffle=False, name="val", share=share, **options)
        self._own_val = own

        vae.to(device=self.device, memory_format=pick_memory_format(memory_format, self.device))  # type: ignore[call-overload]
        self.ema = None if ema is None else Ema(vae, ema)
        self._players = [self._make_players(i) for i in range(len(self.phases))]
        # without a fused kernel, whether a step is finite has to be known before it is made
        self._gated = self.device.type != "cpu" and all(
            group.get("fused") for players in self._players for p in players for group in p.optimizer.param_groups
        )
        self._scaler = torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None
        parts = getattr(vae.objective, "modules", list)()
        self._counting: list[Any] = [m for m in parts if isinstance(m, (Weight, CriticLoss)) and hasattr(m, "step")]
        self.guard, self._symptoms = Guard(skip_limit), Symptoms(vae)
        self.history, self.place, self._meter = History(), Place(), Meter()
        self._stop, self._agreed, self._begun, self._at_rest = Stop(), False, False, True
        self._told: set[str] = set()
        self._logged = 0
        self.folder = None if output_dir is None else Path(output_dir)
        self._checkpoints = None if self.folder is None else Checkpoints(self.folder, keep)
        self._overwrite = overwrite
        if self.folder is not None:
            folder = self.folder
            self.processes.same(lambda: claim(folder, vae, resume=resume, overwrite=overwrite))

    # -- what may be asked of a run ------------------------------------------------------------------------------

    @property
    def train(self) -> Batches:
        """The training data of the phase that the run is in."""
        return self._data[min(self.place.phase, len(self._data) - 1)]

    @property
    def players(self) -> list[Player]:
        """Who is trained in the phase that the run is in."""
        return self._players[min(self.place.phase, len(self._players) - 1)]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The first player's, which is the model's own."""
        return self.players[0].optimizer

    @property
    def _looks(self) -> bool:
        """Whether each batch is looked at: not where all were, nor where looking waits for the device."""
        return self.device.type == "cpu" and not (isinstance(self.train, TensorBatches) and self.train.in_memory)

    @property
    def model(self) -> VAE:
        """The model to look at: the moving average where there is one."""
        return self.vae if self.ema is None else self.ema.module  # type: ignore[return-value]

    @property
    def step(self) -> int:
        """Steps done."""
        return self.place.step

    @property
    def finished(self) -> bool:
        """Whether the run is done, rather than stopped."""
        return self.place.phase == len(self.phases)

    def stop(self) -> None:
        """End the run after the step that it is at; it is saved, and goes on when it is started again."""
        self._stop.ask()

    # -- the loop ------------------------------------------------------------------------------------------------

    def fit(self) -> History:
        """Train, and return the history. The model stays on the device, in training mode.

        Raises:
            FloatingPointError: where too many steps in a row, validation or a weight are not finite, naming what and
                when; checkpoints stay as they are.
            CheckpointError: where a checkpoint can't be written or read.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
            SystemExit: after SIGTERM, once a checkpoint is written.
            RuntimeError: where this Trainer has run before.
        """
        if self._begun:
            raise RuntimeError(
                "Trainer: fit has been called, and would begin again at epoch 1. Make a new Trainer to train on: the "
                "model keeps its weights."
            )
        self._begun, self._stop = True, Stop(self.max_time)
        with ExitStack() as held:
            if self.folder is not None:
                mine = locked(self.folder)
                self.processes.same(lambda: held.enter_context(mine))
            held.enter_context(synchronised(self.vae, self.processes, self.device))
            step = self.processes.wrap(TrainStep(self.vae))
            if self.compile is not False:
                step = torch.compile(step, **({} if self.compile is True else self.compile))
            held.enter_context(listening(self._stop))
            held.enter_context(own_noise(self._seed(self.seed), self.device))
            held.enter_context(self._precision(self.vae))
            go_on(self, overwrite=self._overwrite)
            quiet = None if self.progress is None else not self.progress  # None: where there is no terminal
            quiet = quiet if self.processes.first else True
            total = self._total()
            bar = held.enter_context(tqdm(total=total, initial=self.step, disable=quiet, unit="step"))
            self.processes.same(lambda: self._tell("begin"))
            self._agree()
            try:
                while not self.finished and not self._stopping:
                    self._phase(step, bar)
            finally:
                self._tell("end")
        self._stop.leave()
        return self.history

    def _phase(self, step: Any, bar: Any) -> None:
        """A phase's epochs, from where the run is."""
        place, number = self.place, self.place.phase
        phase = self.phases[number]
        with applied(phase, self.vae) as frozen:
            while place.phase == number:
                began = time.perf_counter()
                self.vae.train()
                for module in frozen:
                    module.eval()
                self._epoch(step, phase, bar, began)
                if self._stopping:
                    if not self._at_rest:
                        place.seconds += time.perf_counter() - began
                        save(self)
                    return

    def _epoch(self, step: Any, phase: Phase, bar: Any, began: float) -> None:
        """What is left of an epoch, and its end."""
        place, self._at_rest, had = self.place, False, self.place.seen
        found = self._batches(self.train, place.epoch, place.batch, phase.augment)
        groups = _grouped(found, phase.accumulate)
        for group, size in () if phase.over(-1, place.phase_steps) else self._shared(groups, self.train, place.epoch):
            place.batch = max(place.batch, *(i for i, *_ in group))
            self._step(step, [(x, label, n) for _, x, label, n in group], size)
            place.step, place.phase_steps, place.seen = place.step + 1, place.phase_steps + 1, place.seen + size
            if place.step % self.log_every == 0:
                self._look(bar)
            if self._stopping:
                return
            if phase.over(-1, place.phase_steps):
                break
            due = self.checkpoint_every is not None and place.step % self.checkpoint_every == 0
            if due and place.batch != self.train.length:  # an epoch's end has its own
                before, place.seconds = place.seconds, place.seconds + time.perf_counter() - began
                save(self)
                place.seconds = before
        self._end_epoch(phase, bar, began, had)

    def _end_epoch(self, phase: Phase, bar: Any, began: float, had: int) -> None:
        """Validation, history, checkpoint."""
        place = self.place
        if not place.seen:
            raise no_batch(self.train, place.epoch)
        means, lasted = self._look(bar), time.perf_counter() - began
        row: dict[str, float] = {name if "/" in name else f"train/{name}": value for name, value in means.items()}
        row |= {f"lr/{player.name}": player.lr for player in self.players}
        row["examples_per_second"] = (place.seen - had) / lasted
        first: list[tuple[Tensor, Any]] = []
        for model in (self.vae, self.model) if self.ema is not None else (self.vae,):
            self.processes.copy_buffers(model)
        validated = self._validate(self._own_val, first, together=True)
        row |= {f"val/{name}": value for name, value in validated.items()}
        if self._stopping:
            return  # in the middle of validation: it is done again when the run goes on
        row |= self.processes.same(lambda: self._look_for_symptoms(first, row))
        row |= {"epoch": place.epoch, "step": place.step, "seconds": place.seconds + time.perf_counter() - began}
        if self.guard.skipped:
            row["skipped_steps"] = self.guard.skipped
        for unreadable in self.processes.each(self.train.unreadable):
            self.train.unreadable.update(unreadable)
        if self.train.unreadable:
            row["unreadable"] = len(self.train.unreadable)
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if bad or (bad := broken_weights(self.vae)):
            raise self._not_finite(f"{', '.join(bad[:5])}{', …' if len(bad) > 5 else ''} is not finite")
        score = row.get("val/total", row.get("train/total", math.inf))
        for player in self.players:
            player.schedule.scored_epoch(score)
        row = self.processes.same(lambda: self._tell("epoch", row) or row)
        self.history.add(row)
        self._agree()
        best, place.best = score < place.best, min(score, place.best)
        place.epoch, place.batch, place.seen, self._meter = place.epoch + 1, 0, 0, Meter()
        place.seconds, place.phase_epochs = row["seconds"], place.phase_epochs + 1
        if phase.over(place.phase_epochs, place.phase_steps):
            place.phase += 1
            if not self.finished:
                place.phase_epochs = place.phase_steps = 0
        self._at_rest = True
        due = self.checkpoint_every is None or place.step % self.checkpoint_every == 0
        if due or best or self.finished or self._stopping:
            save(self, best=best)

    def _step(self, step: Any, group: list[tuple[Tensor, Any, int]], size: int) -> None:
        """One update of the weights from one group of batches, unless something in it is not finite."""
        number, players = self.place.step + 1, self.players
        for player in players:
            player.optimizer.zero_grad(set_to_none=True)
        if self._looks and (bad := max(self.processes.each(bad_values([x for x, *_ in group])))):
            self.guard.refuse(number, bad)
            self._skip(self._read_guard())
            return
        try:
            terms = self._backward(step, group, size)
        except torch.OutOfMemoryError as error:
            phase = self.phases[self.place.phase]
            raise torch.OutOfMemoryError(
                f"Trainer: out of memory at step {number} with batches of {phase.batch_size}. The same steps in less: "
                f"batch_size={max(1, phase.batch_size // 2)}, accumulate={2 * phase.accumulate}. ({error})"
            ) from error
        except ValueError as error:
            raise ValueError(f"train, batch {self.place.batch} of epoch {self.place.epoch}: {error}") from error
        playing = [player for player in players if player.plays(number)]
        if self._scaler is not None:
            for player in playing:
                self._scaler.unscale_(player.optimizer)
        gradients = [(player, found) for player in playing if (found := player.gradients()) is not None]
        whole = self.guard.watch(number, terms, [found for _, found in gradients])
        moved = self._move(gradients, whole)
        self._meter.add({**terms, **{f"grad_norm/{p.name}": g.norm for p, g in gradients}}, size)
        if moved:
            for player in playing:
                player.schedule.step()
            if self.ema is not None:
                self.ema.update(self.vae)

    def _backward(self, step: Any, group: list[tuple[Tensor, Any, int]], size: int) -> dict[str, Tensor]:
        """Gradients of the group's mean loss; returns the means of total and terms, detached.

        Each batch weighs as many examples as it has, of the `size` that all processes have in this step.
        """
        scale = (lambda total: total) if self._scaler is None else self._scaler.scale
        several = self.processes.count > 1
        if len(group) == 1 and not several:
            report = step(*group[0][:2])
            scale(report.total).backward()
            return {"total": report.total.detach(), **report.terms}
        terms: dict[str, Tensor] = {}
        for i, (x, label, n) in enumerate(group):
            last = i == len(group) - 1
            with step.no_sync() if several and not last else nullcontext():
                report, share = step(x, label), n / size
                # DDP takes the mean over the processes, and this is a part of a sum
                scale(report.total * (share * self.processes.count)).backward()
            for name, value in {"total": report.total.detach(), **report.terms}.items():
                terms[name] = value * share + terms[name] if name in terms else value * share
            if not last:
                for part in self._counting:  # they count steps, and this was a part of one
                    part.step -= 1
        return self.processes.sum(terms)

    def _move(self, gradients: list[tuple[Player, Any]], whole: Tensor) -> bool:
        """Update the weights where everything is finite; returns whether that was so, as far as is known."""
        if self._scaler is not None:
            scale = self._scaler.get_scale()
            for player, found in gradients:
                player.clip(found.norm)
                self._scaler.step(player.optimizer)
            self._scaler.update()
            if self._scaler.get_scale() < scale:
                if scale >= 1:  # an overflow, which is the scaler's everyday business
                    self.guard.forget()
                return False
            return True
        if self._gated:
            for player, found in gradients:
                player.clip(found.norm)
                player.optimizer.grad_scale = None  # type: ignore[attr-defined]
                player.optimizer.found_inf = (~whole).float()  # type: ignore[attr-defined]
                player.optimizer.step()
            return True
        if not whole:
            self._skip(self._read_guard())
            return False
        for player, found in gradients:
            player.clip(found.norm)
            player.optimizer.step()
        return True

    # -- validation ----------------------------------------------------------------------------------------------

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Mean of the objective and its terms over a data set, in evaluation mode, with the moving average if any.

        Args:
            data: what the Trainer takes as `val`, which it is by default. Without either, nothing is computed.

        Returns:
            "total" and each term's mean over the examples.

        Raises:
            ValueError: where the data give no batch.
        """
        if data is None:
            return self._validate(self.val, [], together=False)
        shape = self.vae.input_shape
        given = batches(data, 512, shuffle=False, seed=0, num_workers=0, name="data", shape=shape)
        return self._validate(given, [], together=False)

    @torch.no_grad()
    def _validate(
        self, held: Batches | None, first: list[tuple[Tensor, Any]], *, together: bool, few: int = 512
    ) -> dict[str, float]:
        """Means over the data, the first few examples of which are put into `first`; nothing where asked to stop.

        Args:
            held: the data.
            first: filled.
            together: whether all processes are here, each with its part, and may stop.
            few: examples in `first`.
        """
        if held is None:
            return {}
        meter, model = Meter(), self.model
        with own_noise(self._seed(1) if together else 1, self.device), evaluating(model), self._precision(model):
            groups = _grouped(self._batches(held, 0, 0, None), 1)
            for group, _ in self._shared(groups, held, 0) if together else _alone(groups):
                if together and self._stopping:
                    return {}
                ((_, x, cond, n),) = group
                report = model.loss(x, cond)
                meter.add({"total": report.total, **report.terms}, n)
                if sum(len(each) for each, _ in first) < few:
                    first.append((x, cond))
        means = meter.read(finite=False)
        if not means:
            raise ValueError("val: gives no batch. A stream has to be one that can restart.")
        if together and self.processes.count > 1:
            parts = self.processes.each(meter.state_dict())
            return {
                name: sum(part["sums"][name] for part in parts) / sum(part["sizes"][name] for part in parts)
                for name in means
            }
        return means

    def _look_for_symptoms(self, first: list[tuple[Tensor, Any]], row: Mapping[str, float]) -> dict[str, float]:
        with own_noise(1, self.device):
            return self._symptoms.look(first or self._some(), row, self.place.step)

    def _some(self, few: int = 512) -> list[tuple[Tensor, Any]]:
        """A few training examples, where they cost nothing."""
        if not isinstance(self.train, TensorBatches):
            return []
        found: list[tuple[Tensor, Any]] = []
        for _, x, label in self._batches(self.train, 0, 0, None):
            found.append((x, label))
            if sum(len(each) for each, _ in found) >= few:
                break
        return found

    # -- data ----------------------------------------------------------------------------------------------------

    def _batches(
        self, data: Batches, epoch: int, start: int, augment: Callable[[Tensor], Tensor] | None
    ) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """(batches over, x, label) on the device, labels only for a model with a condition; no rest too small."""
        conditional = self.vae.condition is not None

        def sent() -> Iterator[tuple[int, Tensor, Tensor | None]]:
            for i, (x, label) in enumerate(data.epoch(epoch, start), start + 1):
                if len(x) >= self._least:
                    yield i, *on_device((x, label if conditional else None), self.device, self.vae.data_range)

        for i, x, label in sent() if self.device.type == "cpu" else ahead(sent()):
            yield i, x if augment is None else augment(x), label
        for path, reason in data.unreadable.items() if self.processes.first else ():
            if path not in self._told:
                self._told.add(path)
                warnings.warn(f"Trainer: left out an image that can't be read: {path} ({reason})", stacklevel=2)

    def _shared(
        self, groups: Iterator[list[tuple[int, Tensor, Any]]], data: Batches, epoch: int
    ) -> Iterator[tuple[list[tuple[int, Tensor, Any, int]], int]]:
        """Each group of (batches over, x, label, how many examples count), with the examples of all processes in it.

        A process whose part is over goes on with an example that does not count, until all are done.
        """
        if self.processes.count == 1:
            yield from _alone(groups)
            return
        seen: list[tuple[int, Tensor, Any]] = []
        while True:
            group = next(groups, [])
            size = sum(len(x) for _, x, _ in group)
            rows = self.processes.numbers(size, len(group), self._stop.asked)
            most = int(max(row[1] for row in rows))
            self._agreed = self._agreed or any(row[2] for row in rows)
            if not most:
                return
            seen = group or seen or list(itertools.islice(self._batches(data, epoch, 0, None), 1))
            if not seen:
                raise ValueError(
                    f"Trainer: process {self.processes.rank + 1} of {self.processes.count} has no batch of the data. "
                    "Start fewer processes, or lower batch_size."
                )
            i, x, label = seen[-1]
            rest = (i, x[: self._least], None if label is None else label[: self._least], 0)
            counted = [(number, x, label, len(x)) for number, x, label in group]
            yield counted + [rest] * (most - len(group)), int(sum(row[0] for row in rows))

    # -- looking -------------------------------------------------------------------------------------------------

    def _look(self, bar: Any) -> dict[str, float]:
        """The epoch's means so far, read from the device."""
        self._skip(self._read_guard())
        means = self._meter.read()
        bar.update(self.step - bar.n)
        bar.set_postfix({name: f"{value:.4g}" for name, value in means.items() if "/" not in name})
        if self._logged != self.step:  # an epoch's end may be a look's turn as well
            self._logged = self.step
            self._tell("logged", means)
        return means

    def _read_guard(self) -> list[str]:
        try:
            return self.guard.read()
        except FloatingPointError as error:
            raise self._not_finite(str(error)) from None

    def _skip(self, told: list[str]) -> None:
        if told and self.processes.first:
            more = f" (and {len(told) - 3} more)" if len(told) > 3 else ""
            warnings.warn(f"Trainer: left out: {'; '.join(told[:3])}{more}.", stacklevel=2)

    def _not_finite(self, what: str) -> FloatingPointError:
        """The end of a run in which something is not finite, before it is written over the last good checkpoint."""
        kept = self._checkpoints is not None and self._checkpoints.found()
        return FloatingPointError(
            f"Trainer: {what}, after step {self.step}. Lower lr (now {self.players[0].lr:g}) or look at the data."
            + (f" {self.folder}/last holds the last good checkpoint." if kept else "")
        )

    def _tell(self, event: str, *given: Any) -> None:
        """Call the callbacks, which the first process does alone."""
        for callback in self.callbacks if self.processes.first else ():
            getattr(callback, event)(self, *given)

    @property
    def _stopping(self) -> bool:
        """Whether the run is asked to end: with several processes, once all know."""
        return self._stop.asked if self.processes.count == 1 else self._agreed

    def _agree(self) -> None:
        """Let all processes know whether one of them was asked to stop."""
        if self.processes.count > 1:
            self._agreed = self.processes.any(self._stop.asked)

    def _seed(self, seed: int | None) -> int | None:
        """A seed for this process alone."""
        return seed if seed is None or self.processes.first else mix(seed, self.processes.rank)

    def _precision(self, model: VAE) -> AbstractContextManager[None]:
        losses = getattr(model.objective, "terms", {}).values()
        critics = [loss.critic for loss in losses if isinstance(loss, CriticLoss)]
        return networks_in(self.dtype, self.device, model.encoder, model.decoder, *critics)

    def _make_players(self, i: int) -> list[Player]:
        phase = self.phases[i]
        with applied(phase, self.vae):
            return make_players(
                self.vae,
                lr=phase.lr,
                critic_lr=phase.critic_lr,
                optimizer=phase.optimizer,
                schedule=phase.schedule,
                grad_clip=phase.grad_clip,
                settings=phase.players,
                steps=phase.total(self._data[i].length),
            )

    def _total(self) -> int | None:
        totals = [phase.total(data.length) for phase, data in zip(self.phases, self._data, strict=True)]
        return None if None in totals else sum(total for total in totals if total is not None)


def _grouped(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _alone(
    groups: Iterator[list[tuple[int, Tensor, Any]]],
) -> Iterator[tuple[list[tuple[int, Tensor, Any, int]], int]]:
    """Groups with what counts in them, in a process alone."""
    for group in groups:
        counted = [(i, x, label, len(x)) for i, x, label in group]
        yield counted, sum(n for *_, n in counted)
