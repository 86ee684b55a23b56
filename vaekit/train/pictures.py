"""Pictures of a model: grids of images as PNG, latents as a scatter."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.optional import require
from vaekit.saving import write_atomically


def grid(images: Tensor, columns: int, *, data_range: tuple[float, float] | None = (0.0, 1.0), gap: int = 1) -> Tensor:
    """Images side by side as one picture of bytes, (H, W, 3), row by row.

    Args:
        images: (n, c, h, w) with 1 or 3 channels; of other channel counts the first is shown.
        columns: images in a row.
        data_range: what is black and what is white; None takes the images' own range.
        gap: white pixels between images.
    """
    low, high = data_range if data_range is not None else (float(images.min()), float(images.max()))
    x = ((images.detach().float().cpu() - low) / max(high - low, 1e-12)).clamp(0, 1)
    x = x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1)
    rows = -(-len(x) // columns)
    x = torch.cat([x, x.new_ones(rows * columns - len(x), *x.shape[1:])])
    x = torch.nn.functional.pad(x, (gap, gap, gap, gap), value=1.0)
    x = x.reshape(rows, columns, *x.shape[1:]).permute(0, 3, 1, 4, 2)  # rows h columns w c
    return (x.reshape(rows * x.shape[1], columns * x.shape[3], 3) * 255).round().byte()


def save_png(picture: Tensor, path: str | Path, *, enlarge: int = 1) -> None:
    """Write a picture of bytes (H, W, 3) as PNG, each pixel `enlarge` pixels wide."""
    image_module: Any = require("PIL.Image", user="vaekit.train.pictures", extra="train")
    image = image_module.fromarray(picture.numpy())
    image = image.resize((image.width * enlarge, image.height * enlarge), image_module.Resampling.NEAREST)
    write_atomically(Path(path), lambda beside: image.save(beside, format="PNG"))


def save_scatter(z: Tensor, labels: Tensor, path: str | Path, *, title: str) -> None:
    """Write latents (n, d) as a scatter plot coloured by label; beyond two dimensions, their two main components."""
    require("matplotlib", user="vaekit.train.pictures", extra="train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    z = z.detach().float().cpu().flatten(1)
    axes_name = "z"
    if z.shape[1] > 2:
        centred = z - z.mean(0)
        z, axes_name = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T, "principal component"
    elif z.shape[1] == 1:
        z = torch.cat([z, torch.zeros_like(z)], dim=1)
    figure = Figure(figsize=(6.4, 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = axes.scatter(z[:, 0], z[:, 1], c=labels.cpu(), cmap="tab10", s=9, alpha=0.8, linewidths=0)
    axes.set(xlabel=f"{axes_name} 1", ylabel=f"{axes_name} 2", title=title, aspect="equal")
    axes.legend(*points.legend_elements(), title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    write_atomically(Path(path), lambda beside: figure.savefig(beside, format="png"))
