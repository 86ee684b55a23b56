"""The latents of examples, in the plane."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vaekit.evaluate.examples import Examples
from vaekit.evaluate.latents import latents as encoded
from vaekit.optional import require
from vaekit.plot.figures import Figure, finished, new_figure
from vaekit.vae import VAE


def latents(
    vae: VAE,
    data: Any,
    labels: Any = None,
    *,
    method: Literal["pca", "tsne"] = "pca",
    count: int = 2000,
    limit: float | None = None,
    title: str = "",
    seed: int = 0,
    path: str | Path | None = None,
) -> Figure:
    """What stands for each example in the latent, coloured by label: as it is where z has two numbers.

    Beyond two, its two principal components, or t-SNE; a single number as a histogram. t-SNE shows who is near whom:
    its distances and sizes of clusters mean nothing.

    Args:
        vae: any model.
        data: see `vaekit.evaluate.Examples`.
        labels: classes, or numbers, (n,), where they are not part of `data`.
        method: "pca" or "tsne", for more than two dimensions.
        count: the first so many examples are drawn.
        limit: both axes go from -limit to limit, so that the pictures of a film match; None: to fit.
        title: above the figure.
        seed: what t-SNE starts from.
        path: a file to write, its format by its ending; None writes none.

    Raises:
        ValueError: where the method is unknown, or examples are too few for it.
        MissingPackage: where matplotlib, or scikit-learn for more than two dimensions, is missing.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method: expected 'pca' or 'tsne', got {method!r}.")
    examples = Examples(vae, data, labels)
    z, y = _first(vae, examples, count)
    z, name = _plane(z, method, seed)
    figure = new_figure(6.6, 5.6)
    axes = figure.subplots()
    if z.shape[1] == 1:
        _histogram(axes, z[:, 0], y)
    else:
        _points(figure, axes, z, y)
        axes.set(xlabel=f"{name}1", ylabel=f"{name}2", aspect="equal")
        if limit is not None:
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.set_title(title, fontsize="medium")
    return finished(figure, path)


def _first(vae: VAE, examples: Examples, count: int) -> tuple[Tensor, Tensor | None]:
    """Latents `(n, d)` and labels of the first examples."""
    batches, taken = [], 0
    for x, label in examples:
        x, label = x[: count - taken], None if label is None else label[: count - taken]
        batches.append((x, label))
        taken += len(x)
        if taken >= count:
            break
    whole = torch.cat([x for x, _ in batches])
    y = None if batches[0][1] is None else torch.cat([label for _, label in batches if label is not None])
    found = encoded(vae, Examples(vae, whole, y))
    y = None if y is None or y.ndim != 1 else y.cpu()
    return found.center.double().cpu(), y


def _plane(z: Tensor, method: str, seed: int) -> tuple[Tensor, str]:
    """Points `(n, 2)` and what the axes are called; `(n, 1)` stays."""
    if z.shape[1] <= 2:
        return z, "z"
    if method == "pca":
        sklearn: Any = require("sklearn.decomposition", user="plot.latents", extra="plot")
        if len(z) < 2:
            raise ValueError(f"plot.latents: principal components need at least 2 examples, got {len(z)}.")
        return torch.from_numpy(sklearn.PCA(2).fit_transform(z.numpy())), "principal component "
    sklearn = require("sklearn.manifold", user="plot.latents", extra="plot")
    if len(z) < 4:
        raise ValueError(f"plot.latents: t-SNE needs at least 4 examples, got {len(z)}. Use method='pca'.")
    near = min(30.0, (len(z) - 1) / 3)
    tsne = sklearn.TSNE(2, perplexity=near, init="pca", random_state=seed)
    return torch.from_numpy(tsne.fit_transform(z.numpy())), "t-SNE "


def _points(figure: Figure, axes: Any, z: Tensor, y: Tensor | None) -> None:
    style: dict[str, Any] = {"s": 9, "alpha": 0.8, "linewidths": 0}
    classes = _classes(y)
    if classes is None:
        drawn = axes.scatter(z[:, 0], z[:, 1], c=y, **style)
        if y is not None:
            figure.colorbar(drawn, ax=axes, label="label")
        return
    assert y is not None
    for i, one in enumerate(classes):
        own = z[y == one]
        axes.scatter(own[:, 0], own[:, 1], color=_colour(i, len(classes)), label=str(one), **style)
    axes.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2)


def _histogram(axes: Any, z: Tensor, y: Tensor | None) -> None:
    classes = _classes(y)
    parts = [z] if classes is None or y is None else [z[y == one] for one in classes]
    colours = None if classes is None else [_colour(i, len(classes)) for i in range(len(classes))]
    axes.hist(
        [part.numpy() for part in parts],
        bins=40,
        stacked=True,
        color=colours,
        label=classes and [str(one) for one in classes],
    )
    axes.set(xlabel="z1", ylabel="examples")
    if classes is not None:
        axes.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _classes(y: Tensor | None) -> list[int] | None:
    """The classes, where labels are some few whole numbers."""
    if y is None or y.is_floating_point():
        return None
    found = y.unique().tolist()
    return found if len(found) <= 20 else None


def _colour(i: int, count: int) -> str:
    if count <= 10:
        return f"C{i}"
    return require("matplotlib", user="plot.latents", extra="plot").colormaps["tab20"](i)
