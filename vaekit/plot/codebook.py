"""How often a model of codes uses each of them."""

from pathlib import Path
from typing import Any

from vaekit.evaluate.examples import Examples
from vaekit.evaluate.latents import CodeUsage, code_usage
from vaekit.evaluate.latents import latents as encoded
from vaekit.plot.figures import Figure, finished, new_figure
from vaekit.vae import VAE


def codebook(vae: VAE, data: Any, labels: Any = None, *, path: str | Path | None = None) -> Figure:
    """How often each code occurs in a data set, the most frequent first, a line for each group of codes.

    A flat line over the whole width is a codebook that is used well; the legend has the share of codes that occur, and
    the perplexity, the number of equally frequent codes that would hold as much.

    Args:
        vae: a model with codes, such as those of `vq` or `fsq`.
        data: see `vaekit.evaluate.Examples`.
        labels: for a model with a condition, where they are not part of `data`.
        path: a file to write, its format by its ending; None writes none.

    Raises:
        ValueError: where the latent has no codes.
        MissingPackage: where matplotlib is missing.
    """
    size = getattr(vae.sampler, "codebook_size", 0)
    usage = code_usage(encoded(vae, Examples(vae, data, labels)), int(size))
    return finished(_draw(usage), path)


def _draw(usage: CodeUsage) -> Figure:
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    for i, counts in enumerate(usage.counts):
        shares = counts.double() / counts.sum()
        name = f"group {i}: " if len(usage.counts) > 1 else ""
        told = f"{name}{usage.used[i]:.0%} used, perplexity {usage.perplexity[i]:.4g}"
        axes.step(
            range(1, len(shares) + 1), shares.numpy(), where="mid", label=told, marker="." if len(shares) < 40 else ""
        )
    axes.axhline(1 / usage.size, color="grey", linestyle=":", label=f"even: 1/{usage.size}")
    axes.set(xlabel="code, by frequency", ylabel="share", xlim=(0.5, usage.size + 0.5), yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return figure
