"""The loop: phases, epochs and steps, and what comes after each."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vaekit.device import is_out_of_memory
from vaekit.train.checks import bad_values, no_batch, out_of_memory
from vaekit.train.data import TensorBatches
from vaekit.train.feed import grouped
from vaekit.train.guards import broken_weights
from vaekit.train.history import Meter
from vaekit.train.phases import Phase, applied
from vaekit.train.processes import Agreement
from vaekit.train.resume import save
from vaekit.train.rng import own_noise
from vaekit.train.updates import Group
from vaekit.train.validation import FEW, validate

if TYPE_CHECKING:
    from vaekit.train.trainer import Trainer


class Loop:
    """Goes through a run from where it is, until it is done or asked to stop.

    Args:
        trainer: whose run it is.
        step: x, label → Report; compiled, or wrapped for many processes.
        agreement: whether to stop.
        bar: shows progress.
    """

    def __init__(self, trainer: "Trainer", step: Any, agreement: Agreement, bar: Any) -> None:
        self.trainer, self.step, self.agreement, self.bar = trainer, step, agreement, bar
        self.at_rest = True  # whether the place that the run is at has been saved, if it is saved at all
        self._logged = 0

    def run(self) -> None:
        """All phases that are left."""
        trainer = self.trainer
        trainer.processes.same(lambda: trainer.tell("begin"))
        self.agreement.ask_around()
        try:
            while not trainer.finished and not self.agreement.asked:
                self._phase()
            for shards in trainer.shards:
                shards.gather()
            trainer.vae.to(trainer.device)
        finally:
            trainer.tell("end")

    def _phase(self) -> None:
        """A phase's epochs, from where the run is."""
        trainer, place = self.trainer, self.trainer.place
        number = place.phase
        phase = trainer.phases[number]
        with ExitStack() as held:
            others = {id(each): each for each in (trainer.vae, trainer.model) if each is not trainer.trained}
            for each in others.values():
                held.enter_context(applied(phase, each))
            frozen = held.enter_context(applied(phase, trainer.trained))
            while place.phase == number:
                began = time.perf_counter()
                trainer.vae.train()
                trainer.trained.train()
                for module in frozen:
                    module.eval()
                self._epoch(phase, began)
                if self.agreement.asked:
                    if not self.at_rest:
                        place.seconds += time.perf_counter() - began
                        save(trainer)
                    return

    def _epoch(self, phase: Phase, began: float) -> None:
        """What is left of an epoch, and its end."""
        trainer, place, data = self.trainer, self.trainer.place, self.trainer.train
        self.at_rest, had = False, place.seen
        groups = grouped(trainer.feed.pieces(data, place.epoch, place.batch, phase.augment), phase.accumulate)
        shared = trainer.feed.shared(groups, data, place.epoch, self.agreement)
        for group, size in () if phase.over(-1, place.phase_steps) else shared:
            place.batch = max(place.batch, *(i for i, *_ in group))
            self._step([(x, label, n) for _, x, label, n in group], size)
            place.step, place.phase_steps, place.seen = place.step + 1, place.phase_steps + 1, place.seen + size
            if place.step % trainer.log_every == 0:
                self._look()
            if self.agreement.asked:
                return
            if phase.over(-1, place.phase_steps):
                break
            every = trainer.checkpoint_every
            if every is not None and place.step % every == 0 and place.batch != data.length:  # its end has its own
                before, place.seconds = place.seconds, place.seconds + time.perf_counter() - began
                save(trainer)
                place.seconds = before
        if not place.seen:
            raise no_batch(data, place.epoch)
        if trainer.ema is not None:
            trainer.ema.follow(trainer.trained)
        with ExitStack() as held:
            for shards in trainer.shards:
                held.enter_context(shards.together(trainer.device))
            self._end_epoch(phase, began, had)

    def _step(self, group: Group, size: int) -> None:
        """One update of the weights from one group of batches, unless something in it is not finite."""
        trainer, place = self.trainer, self.trainer.place
        number = place.step + 1
        if self._sees() and (bad := max(trainer.processes.each(bad_values([x for x, *_ in group])))):
            trainer.guard.refuse(number, bad)
            self._read_guard()
            return
        try:
            values, moved = trainer.updates.make(self.step, number, trainer.players, group, size)
        except ValueError as error:
            raise ValueError(f"train, batch {place.batch} of epoch {place.epoch}: {error}") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            phase = trainer.phases[place.phase]
            raise out_of_memory(number, phase.batch_size, phase.accumulate, trainer.pieces, error) from error
        if not moved and trainer.updates.scaler is None:
            self._read_guard()
        trainer.meter.add(values, size)
        if moved and trainer.ema is not None:
            trainer.ema.update(trainer.trained)

    def _sees(self) -> bool:
        """Whether each batch is looked at: not where all were, nor where looking waits for the device."""
        data = self.trainer.train
        return self.trainer.device.type == "cpu" and not (isinstance(data, TensorBatches) and data.in_memory)

    def _end_epoch(self, phase: Phase, began: float, had: int) -> None:
        """Validation, history, checkpoint."""
        trainer, place, processes = self.trainer, self.trainer.place, self.trainer.processes
        means, lasted = self._look(), time.perf_counter() - began
        row: dict[str, float] = {name if "/" in name else f"train/{name}": value for name, value in means.items()}
        row |= {f"lr/{player.name}": player.lr for player in trainer.players}
        row["examples_per_second"] = (place.seen - had) / lasted
        for model in (trainer.vae,) if trainer.model is trainer.vae else (trainer.vae, trainer.model):
            processes.copy(model.buffers())
        first: list[tuple[Tensor, Any]] = []
        if trainer.own_val is not None:
            seed = trainer.noise_seed(1)
            given: dict[str, Any] = {"dtype": trainer.dtype, "seed": seed, "agreement": self.agreement, "first": first}
            found = validate(trainer.model, trainer.own_val, trainer.feed, **given)
            row |= {f"val/{name}": value for name, value in found.items()}
        if self.agreement.asked:
            return  # in the middle of validation: it is done again when the run goes on
        row |= processes.same(lambda: self._symptoms(first, row))
        row |= {"epoch": place.epoch, "step": place.step, "seconds": place.seconds + time.perf_counter() - began}
        self._note_skipped(row)
        bad = [name for name, value in row.items() if not math.isfinite(value)] or broken_weights(trainer.vae)
        if bad:
            raise self._not_finite(f"{', '.join(bad[:5])}{', …' if len(bad) > 5 else ''} is not finite")
        score = row.get("val/total", row.get("train/total", math.inf))
        for player in trainer.players:
            player.schedule.scored_epoch(score)
        row = processes.same(lambda: trainer.tell("epoch", row) or row)
        trainer.history.add(row)
        self.agreement.ask_around()
        best, place.best = score < place.best, min(score, place.best)
        place.epoch, place.batch, place.seen, trainer.meter = place.epoch + 1, 0, 0, Meter()
        place.seconds, place.phase_epochs = row["seconds"], place.phase_epochs + 1
        if phase.over(place.phase_epochs, place.phase_steps):
            place.phase += 1
            if not trainer.finished:
                place.phase_epochs = place.phase_steps = 0
        self.at_rest = True
        due = trainer.checkpoint_every is None or place.step % trainer.checkpoint_every == 0
        if due or best or trainer.finished or self.agreement.asked:
            save(trainer, best=best)

    def _note_skipped(self, row: dict[str, float]) -> None:
        """Steps and images that were left out."""
        trainer = self.trainer
        if trainer.guard.skipped:
            row["skipped_steps"] = trainer.guard.skipped
        for unreadable in trainer.processes.each(trainer.train.unreadable):
            trainer.train.unreadable.update(unreadable)
        if trainer.train.unreadable:
            row["unreadable"] = len(trainer.train.unreadable)

    def _symptoms(self, first: Sequence[tuple[Tensor, Any]], row: Mapping[str, float]) -> dict[str, float]:
        trainer = self.trainer
        with own_noise(1, trainer.device):
            return trainer.symptoms.look(first or trainer.feed.some(trainer.train, FEW), row, trainer.step)

    def _look(self) -> dict[str, float]:
        """The epoch's means so far, read from the device."""
        self._read_guard()
        means = self.trainer.meter.read()
        self.bar.update(self.trainer.step - self.bar.n)
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in means.items() if "/" not in name})
        if self._logged != self.trainer.step:  # an epoch's end may be a look's turn as well
            self._logged = self.trainer.step
            self.trainer.tell("logged", means)
        return means

    def _read_guard(self) -> None:
        """Tell which steps were left out."""
        try:
            told = self.trainer.guard.read()
        except FloatingPointError as error:
            raise self._not_finite(str(error)) from None
        if told and self.trainer.processes.first:
            more = f" (and {len(told) - 3} more)" if len(told) > 3 else ""
            warnings.warn(f"Trainer: left out: {'; '.join(told[:3])}{more}.", stacklevel=2)

    def _not_finite(self, what: str) -> FloatingPointError:
        """The end of a run in which something is not finite, before it is written over the last good checkpoint."""
        trainer = self.trainer
        kept = trainer.checkpoints is not None and trainer.checkpoints.found()
        return FloatingPointError(
            f"Trainer: {what}, after step {trainer.step}. Lower lr (now {trainer.players[0].lr:g}) or look at the data."
            + (f" {trainer.folder}/last holds the last good checkpoint." if kept else "")
        )
