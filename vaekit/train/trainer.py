"""The Trainer: what it is given, what it makes of that, and what may be asked of it. The loop is in `loop.py`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vaekit.device import pick, pick_memory_format, pick_precision
from vaekit.objective import TrainStep
from vaekit.train.callbacks import Callback
from vaekit.train.checkpoint import Checkpoints
from vaekit.train.checks import check_counts, check_data, check_launch, smallest_batch
from vaekit.train.data import Batches, batches
from vaekit.train.ema import Ema
from vaekit.train.feed import Feed
from vaekit.train.guards import Guard, Symptoms
from vaekit.train.history import History, Meter
from vaekit.train.lock import locked
from vaekit.train.loop import Loop
from vaekit.train.optimizers import Choice
from vaekit.train.phases import Phase, applied, make_phases
from vaekit.train.pieces import Pieces
from vaekit.train.place import Place
from vaekit.train.players import Player, make_players
from vaekit.train.processes import Agreement, Processes, synchronised
from vaekit.train.resume import claim, go_on
from vaekit.train.rng import mix, own_noise
from vaekit.train.shards import Shards
from vaekit.train.signals import Stop, listening
from vaekit.train.trackers import tracker
from vaekit.train.updates import Updates
from vaekit.train.validation import precision_of, validate
from vaekit.vae import VAE


class Trainer:
    """Trains a VAE on its objective, with validation after each epoch and checkpoints that a run goes on from exactly.

    The order of the examples is a function of seed and epoch. The model's own noise is drawn from torch's global
    generators, the CPU's and the device's, which are seeded when `fit` begins and put back as they were when it ends.
    Validation draws from a seed of its own, the same after every epoch, and runs in evaluation mode.

    A run with an `output_dir` that was killed, however it was, goes on from its last checkpoint when the same Trainer
    is made again; on the CPU it ends with the same bits as a run that was left alone. SIGTERM, Ctrl-C and `max_time`
    save first.

    Started by torchrun or `accelerate launch` it trains in many processes, by DDP or FSDP.

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
        auto_batch: whether a batch that does not fit into memory is cut into pieces that do, for the same step.
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
        auto_batch: bool = False,
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
        least = smallest_batch(vae, self.phases)
        self.processes = Processes(device)
        self.vae, self.seed, self.log_every, self.progress = vae, seed, log_every, progress
        self.resume, self.compile = resume, compile
        self.checkpoint_every = None if checkpoint_every == "epoch" else int(checkpoint_every)
        self.max_time = max_time.total_seconds() if isinstance(max_time, timedelta) else max_time
        self.callbacks = [*callbacks, *(tracker(each) for each in trackers)]
        self.device = pick(self.processes.device(device))
        self.dtype = pick_precision(precision, self.device)
        check_launch(self.processes, auto_batch=auto_batch, dtype=self.dtype)
        self._take_data(val, num_workers)
        self._place_model(ema, pick_memory_format(memory_format, self.device))
        self._players = [self._make_players(i) for i in range(len(self.phases))]

        self.history, self.place, self.meter = History(), Place(), Meter()
        self.guard, self.symptoms = Guard(skip_limit), Symptoms(vae)
        self.feed = Feed(vae, self.processes, self.device, least)
        self.pieces = Pieces(self.trained, self.device, allowed=auto_batch, least=least)
        every = [player for players in self._players for player in players]
        self.updates = Updates(self.trained, self.processes, self.guard, self.dtype, every, self.pieces)
        self._stop, self._begun = Stop(), False
        self.folder = None if output_dir is None else Path(output_dir)
        self.checkpoints = None if self.folder is None else Checkpoints(self.folder, keep)
        self._overwrite = overwrite
        if self.folder is not None:
            folder = self.folder
            self.processes.same(lambda: claim(folder, vae, resume=resume, overwrite=overwrite))

    def _take_data(self, val: Any, num_workers: int) -> None:
        options: dict[str, Any] = {
            "seed": self.seed or 0,
            "num_workers": num_workers,
            "shape": self.vae.input_shape,
            "pin": self.device.type == "cuda",
        }
        share = self.processes.share
        held: dict[tuple[int, int], Batches] = {}
        for phase in self.phases:
            key = (id(phase.train), phase.batch_size)
            if key not in held:
                held[key] = batches(phase.train, phase.batch_size, shuffle=True, name="train", share=share, **options)
                check_data(self.vae, "train", held[key])
        self.data = [held[id(phase.train), phase.batch_size] for phase in self.phases]
        size = self.phases[0].batch_size
        #: the validation data, all of them
        self.val = None if val is None else batches(val, size, shuffle=False, name="val", **options)
        check_data(self.vae, "val", self.val)
        alone = val is None or share[1] == 1
        #: this process's part of them
        self.own_val = self.val if alone else batches(val, size, shuffle=False, name="val", share=share, **options)

    def _place_model(self, ema: float | None, layout: torch.memory_format) -> None:
        """The model that moves, on the device, and its moving average; with FSDP, copies that are shared out."""
        vae = self.vae
        vae.to(memory_format=layout)  # type: ignore[call-overload]
        self.trained, self.shards = vae, []
        if self.processes.sharded:
            self.processes.copy([*vae.parameters(), *vae.buffers()])
            together = self.device.type == "cuda"
            self.shards = [Shards(vae, self.processes.accelerator, self.device, synchronise=together)]
            self.trained = self.shards[0].part
        else:
            vae.to(self.device)
        self.ema = None if ema is None else Ema(vae, ema)
        #: the model to look at: the moving average where there is one
        self.model: VAE = vae if self.ema is None else self.ema.module  # type: ignore[assignment]
        if self.ema is not None and self.shards:
            self.shards.append(Shards(self.model, self.processes.accelerator, self.device, synchronise=False))
            self.ema.averages(self.shards[1].part)

    # -- what may be asked of a run ------------------------------------------------------------------------------

    @property
    def train(self) -> Batches:
        """The training data of the phase that the run is in."""
        return self.data[min(self.place.phase, len(self.data) - 1)]

    @property
    def players(self) -> list[Player]:
        """Who is trained in the phase that the run is in."""
        return self._players[min(self.place.phase, len(self._players) - 1)]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The first player's, which is the model's own."""
        return self.players[0].optimizer

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

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Mean of the objective and its terms over a data set, in evaluation mode, with the moving average if any.

        Args:
            data: what the Trainer takes as `val`, which it is by default. Without either, nothing is computed.

        Returns:
            "total" and each term's mean over the examples.

        Raises:
            ValueError: where the data give no batch.
        """
        held = self.val
        if data is not None:
            shape = self.vae.input_shape
            held = batches(data, 512, shuffle=False, seed=0, num_workers=0, name="data", shape=shape)
        return {} if held is None else validate(self.model, held, self.feed, dtype=self.dtype, seed=1)

    def fit(self) -> History:
        """Train, and return the history. The model stays on the device, in training mode.

        Raises:
            FloatingPointError: where too many steps in a row, validation or a weight are not finite, naming what and
                when; checkpoints stay as they are.
            torch.OutOfMemoryError: saying what would fit.
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
        agreement = Agreement(self.processes, self._stop)
        with ExitStack() as held:
            if self.folder is not None:
                mine = locked(self.folder)
                self.processes.same(lambda: held.enter_context(mine))
            if self.shards:
                step = self.shards[0].step
            else:
                held.enter_context(synchronised(self.vae, self.processes, self.device))
                step = self.processes.wrap(TrainStep(self.vae))
            if self.compile is not False:
                step = torch.compile(step, **({} if self.compile is True else self.compile))
            held.enter_context(listening(self._stop))
            held.enter_context(own_noise(self.noise_seed(self.seed), self.device))
            held.enter_context(precision_of(self.trained, self.dtype, self.device))
            go_on(self, overwrite=self._overwrite)
            quiet = None if self.progress is None else not self.progress  # None: where there is no terminal
            quiet = quiet if self.processes.first else True
            bar = held.enter_context(tqdm(total=self._total(), initial=self.step, disable=quiet, unit="step"))
            Loop(self, step, agreement, bar).run()
        self._stop.leave()
        return self.history

    # -- for the loop --------------------------------------------------------------------------------------------

    def tell(self, event: str, *given: Any) -> None:
        """Call the callbacks, which the first process does alone."""
        for callback in self.callbacks if self.processes.first else ():
            getattr(callback, event)(self, *given)

    def noise_seed(self, seed: int | None) -> int | None:
        """A seed for this process alone."""
        return seed if seed is None or self.processes.first else mix(seed, self.processes.rank)

    def _make_players(self, i: int) -> list[Player]:
        phase = self.phases[i]
        with applied(phase, self.trained):
            return make_players(
                self.trained,
                lr=phase.lr,
                critic_lr=phase.critic_lr,
                optimizer=phase.optimizer,
                schedule=phase.schedule,
                grad_clip=phase.grad_clip,
                settings=phase.players,
                steps=phase.total(self.data[i].length),
            )

    def _total(self) -> int | None:
        totals = [phase.total(data.length) for phase, data in zip(self.phases, self.data, strict=True)]
        return None if None in totals else sum(total for total in totals if total is not None)
