"""Callbacks that draw the model after each epoch, and make a film of it when the run ends."""

import math
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.train.callbacks import Callback, is_main_process
from vaekit.train.data import TensorBatches, on_device
from vaekit.train.pictures import grid, save_gif, save_png, save_scatter
from vaekit.train.rng import own_noise


class Frames(Callback):
    """A picture every few epochs, `pictures/<name>-0001.png`, and `pictures/<name>.gif` at the end.

    The main process alone draws and writes. A picture that fails warns once, and training goes on.

    Args:
        every: epochs between two pictures.
        folder: where they go; None: `pictures` in the run's `output_dir`.
        gif: whether there is a film at the end.
        seconds: that a picture of the film is shown.
    """

    name = "frames"
    images = True  # whether the data have to be images

    def __init__(
        self, *, every: int = 1, folder: str | Path | None = None, gif: bool = True, seconds: float = 0.25
    ) -> None:
        if every < 1:
            raise ValueError(f"{type(self).__name__}: every should be at least 1, got {every}.")
        self.every, self.gif, self.seconds = every, gif, seconds
        self.folder = None if folder is None else Path(folder)
        self._failed = False

    @abstractmethod
    def draw(self, trainer: Any, path: Path) -> None:
        """Write a picture of the model as it is now."""

    def begin(self, trainer: Any) -> None:
        """Find the folder, and look whether there is something to draw.

        Raises:
            ValueError: where the data are no images, or there is no folder.
        """
        shape = trainer.vae.input_shape
        if self.images and (len(shape) != 3):
            raise ValueError(f"{type(self).__name__}: draws images (c, h, w), and the data have the shape {shape}.")
        if self.folder is None and trainer.folder is None:
            raise ValueError(f"{type(self).__name__}: give the Trainer an output_dir, or the callback a folder.")
        self.folder = self.folder or trainer.folder / "pictures"

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """Draw, if it is time to."""
        number = int(row["epoch"])
        if number % self.every == 0 and is_main_process():
            self._try(lambda: self._frame(trainer, number))

    def end(self, trainer: Any) -> None:
        """Make the film."""
        if self.gif and is_main_process():
            self._try(self._film)

    def _frame(self, trainer: Any, number: int) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        with own_noise(3, trainer.device), torch.no_grad():
            self.draw(trainer, self.folder / f"{self.name}-{number:04d}.png")

    def _film(self) -> None:
        assert self.folder is not None
        found = sorted(self.folder.glob(f"{self.name}-[0-9]*.png"), key=lambda path: int(path.stem.rpartition("-")[2]))
        if found:
            save_gif(found, self.folder / f"{self.name}.gif", seconds=self.seconds)

    def _try(self, write: Any) -> None:
        try:
            write()
        except Exception as error:  # whatever it is, a run is worth more than a picture
            if not self._failed:
                warnings.warn(f"{type(self).__name__}: a picture failed, and training goes on: {error}", stacklevel=2)
            self._failed = True


class _Shown(Frames):
    """Pictures of examples: given ones, or the first of validation."""

    count = 0

    def __init__(self, x: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.x = x

    def examples(self, trainer: Any) -> tuple[Tensor, Any, Tensor | None]:
        """x, what the condition takes, and labels, if any."""
        conditional = trainer.vae.condition is not None
        if self.x is not None:
            given = self.x if isinstance(self.x, tuple) else (self.x, None)
            x, label = on_device((given[0][: self.count], given[1]), trainer.device, trainer.vae.data_range)
            label = None if label is None else label[: self.count]
            return x, label if conditional else None, label
        data = trainer.val if trainer.val is not None else trainer.train
        if trainer.val is None and not isinstance(data, TensorBatches):  # a stream may not come back
            raise ValueError("there are no examples: give the Trainer val, or the callback x.")
        held: list[tuple[Tensor, Any]] = []
        for batch in data.epoch(0):
            held.append(on_device(batch, trainer.device, trainer.vae.data_range))
            if sum(len(x) for x, _ in held) >= self.count:
                break
        x = torch.cat([x for x, _ in held])[: self.count]
        label = None if held[0][1] is None else torch.cat([each for _, each in held])[: self.count]
        return x, label if conditional else None, label


class ReconstructionGrid(_Shown):
    """Examples above, their reconstructions below.

    Args:
        x: images, or (images, labels); None: the first of `val`, or of `train` where there is none.
        count: how many.
        columns: images in a row.
        options: see `Frames`.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,))
        >>> x = torch.rand(16, 1, 4, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pictures = ReconstructionGrid(count=8, folder=folder)
        ...     _ = vaekit.Trainer(vae, x, x, epochs=2, device="cpu", callbacks=[pictures]).fit()
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['reconstructions-0001.png', 'reconstructions-0002.png', 'reconstructions.gif']
    """

    name = "reconstructions"

    def __init__(self, x: Any = None, *, count: int = 24, columns: int = 8, **options: Any) -> None:
        super().__init__(x, **options)
        self.count, self.columns = count, columns

    def draw(self, trainer: Any, path: Path) -> None:
        """Pairs of rows."""
        x, cond, _ = self.examples(trainer)
        save_pairs(x, trainer.model.reconstruct(x, cond), self.columns, trainer.vae, path)


class Samples(Frames):
    """Images drawn from the prior, from the same noise each time.

    Args:
        count: how many.
        columns: images in a row.
        cond: what the condition takes, for so many; None: examples of it.
        options: see `Frames`.
    """

    name = "samples"

    def __init__(self, *, count: int = 64, columns: int = 8, cond: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.count, self.columns, self.cond = count, columns, cond

    def draw(self, trainer: Any, path: Path) -> None:
        """A grid."""
        vae = trainer.model
        cond = self.cond if self.cond is not None or vae.condition is None else vae.condition.example(self.count)
        cond = cond.to(trainer.device) if isinstance(cond, Tensor) else cond
        drawn = vae.sample(self.count, cond, generator=torch.Generator().manual_seed(0))
        save_grid(drawn, self.columns, trainer.vae, path)


class LatentTraversal(_Shown):
    """What each latent dimension does to one example: a row a dimension.

    Args:
        x: images, or (images, labels), the first of which is taken; None: of `val`, or of `train`.
        dims: latent dimensions; None: the first ten.
        steps: images in a row.
        span: how far to go.
        options: see `Frames`.
    """

    name = "traversal"
    count = 1

    def __init__(self, x: Any = None, *, dims: Any = None, steps: int = 9, span: float = 3.0, **options: Any) -> None:
        super().__init__(x, **options)
        self.dims, self.steps, self.span = dims, steps, span

    def draw(self, trainer: Any, path: Path) -> None:
        """A grid."""
        x, cond, _ = self.examples(trainer)
        images = trainer.model.traverse(x, self.dims, self.steps, self.span, cond)
        save_grid(images.flatten(0, 2), self.steps, trainer.vae, path)


class LatentScatter(_Shown):
    """The latents of examples, coloured by label; the film shows how they part.

    Args:
        x: data, or (data, labels); None: the first of `val`, or of `train`.
        count: how many.
        options: see `Frames`.
    """

    name, images = "latent", False

    def __init__(self, x: Any = None, *, count: int = 2000, **options: Any) -> None:
        super().__init__(x, **options)
        self.count = count

    def draw(self, trainer: Any, path: Path) -> None:
        """A scatter plot."""
        x, cond, labels = self.examples(trainer)
        labels = labels if labels is not None and labels.ndim == 1 else None
        z = trainer.model.latents(x, cond)
        save_scatter(z, labels, path, title=f"latents after step {trainer.step}")


def save_pairs(x: Tensor, again: Tensor, columns: int, vae: Any, path: Path) -> None:
    """Rows of x, each above the row of what was made of it, as PNG."""
    rest = -len(x) % columns
    white = vae.data_range[1] if vae.data_range is not None else float(torch.maximum(x.max(), again.max()))
    fill = x.new_full((rest, *x.shape[1:]), white)
    rows = [torch.cat([each, fill]).reshape(-1, columns, *x.shape[1:]) for each in (x, again)]
    save_grid(torch.stack(rows, dim=1).flatten(0, 2), columns, vae, path)


def save_grid(images: Tensor, columns: int, vae: Any, path: Path) -> None:
    """Images of a model's data as PNG, large enough to see."""
    enlarge = max(1, math.ceil(48 / images.shape[-1])) if images.shape[-1] < 48 else 1
    save_png(grid(images, columns, data_range=vae.data_range), path, enlarge=enlarge)
