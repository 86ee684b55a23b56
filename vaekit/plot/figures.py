"""Figures without pyplot, and examples drawn into them: images as one grid of pixels, signals as lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vaekit.optional import require
from vaekit.saving import write_atomically
from vaekit.train.pictures import grid
from vaekit.vae import VAE

Figure: TypeAlias = Any
"""`matplotlib.figure.Figure`: matplotlib is imported where a figure is made."""

DPI = 120


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches; pyplot does not know of it, so that nothing has to be closed."""
    module: Any = require("matplotlib.figure", user="vaekit.plot", extra="plot")
    return module.Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def finished(figure: Figure, path: str | Path | None) -> Figure:
    """The figure, written to `path` where there is one; its ending is the format.

    Raises:
        ValueError: where matplotlib writes no files of that ending.
    """
    if path is not None:
        path = Path(path)
        kind = path.suffix[1:].lower() or "png"
        known = figure.canvas.get_supported_filetypes()
        if kind not in known:
            raise ValueError(f"path: {path.name} ends in none of {', '.join(known)}. Choose one, such as .png or .svg.")
        write_atomically(path, lambda beside: figure.savefig(beside, format=kind))
    return figure


def check_drawable(vae: VAE, name: str) -> None:
    """Refuse data that are neither images of 1 or 3 channels nor signals.

    Raises:
        ValueError: saying why, and what to do.
    """
    shape = vae.input_shape
    if len(shape) == 3 and shape[0] not in (1, 3):
        why = f"images have 1 or 3 channels to be seen, and these have {shape[0]}: draw vae.reconstruct(x)[:, :3]"
    elif len(shape) == 1:
        why = f"rows of {shape[0]} numbers are no picture: use plot.latents and plot.curves, which draw any model"
    elif len(shape) > 3:
        why = f"volumes of shape {shape} have no one picture: draw slices of what vae.reconstruct(x) gives"
    else:
        return
    raise ValueError(f"plot.{name}: {why}.")


def draw_rows(
    rows: Sequence[Tensor],
    vae: VAE,
    *,
    names: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    path: str | Path | None = None,
) -> Figure:
    """Rows of examples `(n, *input_shape)`, equally many in each, as one figure.

    Images are one grid of pixels with a white line of one pixel between them, from the first to the last value of the
    data range; signals a small panel each, all in one scale, a line for each channel.

    Args:
        rows: the examples.
        vae: their model.
        names: of the rows; none where empty.
        columns: names of the columns.
        title: of the figure.
        path: a file to write.
    """
    size = len(rows[0])
    examples = torch.cat([row.detach().float().cpu() for row in rows])
    draw = _draw_images if len(vae.input_shape) == 3 else _draw_signals
    figure = draw(examples, size, vae, names, columns)
    if title:
        figure.suptitle(title, fontsize="medium")
    return finished(figure, path)


def _draw_images(images: Tensor, size: int, vae: VAE, names: Sequence[str], columns: Sequence[str]) -> Figure:
    picture = grid(images, size, data_range=vae.data_range)
    height, width = (edge + 2 for edge in images.shape[-2:])  # with the pixel around each
    side = min(max(0.75, 1.6 - 0.05 * size), 14 / size)  # inches for an image
    figure = new_figure(side * size + 0.9, side * len(images) / size * height / width + 0.5)
    axes = figure.subplots()
    axes.imshow(picture.numpy(), interpolation="nearest")
    axes.set_xticks([width * (i + 0.5) - 0.5 for i in range(len(columns))], columns)
    axes.set_yticks([height * (i + 0.5) - 0.5 for i in range(len(names))], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _draw_signals(signals: Tensor, size: int, vae: VAE, names: Sequence[str], columns: Sequence[str]) -> Figure:
    count = len(signals) // size
    figure = new_figure(min(14.0, 1.6 * size + 1), min(40.0, 1.1 * count + 0.5))
    panels = figure.subplots(count, size, squeeze=False, sharex=True, sharey=True)
    for i, (axes, signal) in enumerate(zip(panels.flat, signals, strict=True)):
        axes.plot(signal.T.numpy(), linewidth=1)
        axes.tick_params(labelsize="x-small")
        if i < len(columns):
            axes.set_title(columns[i], fontsize="small")
    for axes, name in zip(panels[:, 0], names, strict=False):
        axes.set_ylabel(name)
    if vae.data_range is not None:
        low, high = vae.data_range
        panels[0, 0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return figure
