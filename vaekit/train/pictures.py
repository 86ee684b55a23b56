"""Pictures of a model: grids of images as PNG, latents as a scatter, and films of both as GIF."""

from collections.abc import Sequence
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


def save_gif(frames: Sequence[str | Path], path: str | Path, *, seconds: float = 0.25, longest: int = 200) -> None:
    """Write pictures as a film that goes round, the last one shown for two seconds.

    Args:
        frames: files of pictures, in order.
        path: of the GIF.
        seconds: that a picture is shown.
        longest: of more pictures than these, so many are taken, evenly.

    Raises:
        ValueError: where there is no picture.
    """
    if not frames:
        raise ValueError("save_gif: there is no picture.")
    image_module: Any = require("PIL.Image", user="vaekit.train.pictures", extra="train")
    count = min(len(frames), longest)
    chosen = [frames[round(i * (len(frames) - 1) / max(count - 1, 1))] for i in range(count)]
    images = []
    for file in chosen:
        with image_module.open(file) as image:
            images.append(image.convert("RGB").quantize(128))
    images = [image if image.size == images[-1].size else image.resize(images[-1].size) for image in images]
    times = [max(int(seconds * 1000), 20)] * (count - 1) + [2000]
    options = {"save_all": True, "append_images": images[1:], "duration": times, "loop": 0}
    write_atomically(Path(path), lambda beside: images[0].save(beside, format="GIF", **options))


def save_scatter(z: Tensor, labels: Tensor | None, path: str | Path, *, title: str) -> None:
    """Write latents (n, d) as a scatter plot, coloured by label; beyond two dimensions, their two main components."""
    require("matplotlib", user="vaekit.train.pictures", extra="train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    z = z.detach().float().cpu().flatten(1)
    axes_name = "z"
    if z.shape[1] > 2:
        centred = z - z.mean(0)
        main = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
        main = main * main.gather(1, main.abs().argmax(1, keepdim=True)).sign()  # else films jump
        z, axes_name = centred @ main.T, "principal component"
    elif z.shape[1] == 1:
        z = torch.cat([z, torch.zeros_like(z)], dim=1)
    figure = Figure(figsize=(6.4, 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours: dict[str, Any] = {} if labels is None else {"c": labels.cpu(), "cmap": "tab10"}
    points = axes.scatter(z[:, 0], z[:, 1], s=9, alpha=0.8, linewidths=0, **colours)
    axes.set(xlabel=f"{axes_name} 1", ylabel=f"{axes_name} 2", title=title, aspect="equal")
    if labels is not None:
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
        axes.legend(*points.legend_elements(), title="class", **beside)
    write_atomically(Path(path), lambda beside: figure.savefig(beside, format="png"))
