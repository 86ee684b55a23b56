"""A picture per recipe: what each makes of digits that it never saw, and digits that it makes up.

    python examples/gallery.py --output docs/gallery

Every recipe is trained for a short time on scikit-learn's digits, with small networks: enough to see that it works, and
not enough to tell which one is better. Recipes for images get the digits enlarged to 16×16, and random weights in
perceptual networks. A folder gets one contact sheet per group of recipes, and `recipes.json` with the call, the steps
and the processor's seconds of each.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import vaekit
from vaekit.saving import write_atomically
from vaekit.train import digits

SHOWN = 8

#: title of a sheet → the files of `vaekit.recipes` whose recipes it shows
GROUPS = {
    "networks": ("networks", "transformers"),
    "classic": ("classic", "bounds"),
    "posteriors and priors": ("posteriors", "densities"),
    "disentangling": ("disentangling",),
    "reconstruction": ("reconstruction",),
    "points and critics": ("deterministic", "adversarial"),
    "codes": ("quantized",),
    "images": ("images", "tokenizers"),
    "latent diffusion": ("latent_diffusion",),
}

#: groups whose networks make images too small for the digits as they are
ENLARGED = ("images", "latent diffusion")

#: arguments that make a recipe small, or let it settle within few steps; the others are as they are
LEVELS = dict.fromkeys(
    ("sd1", "sdxl", "sd3", "flux1", "ldm_kl_f4", "ldm_kl_f8", "ldm_kl_f16", "ldm_kl_f32", "vavae_f16d32"),
    {"widths": (16, 32, 32), "groups": 4},
)
SMALL: dict[str, dict[str, Any]] = {
    **LEVELS,
    "vqgan_f16": {"widths": (16, 32, 32), "groups": 4, "codebook_size": 64},
    "taesd": {"widths": (32, 32, 32), "blocks": (1, 1, 1)},
    "taesd3": {"widths": (32, 32, 32), "blocks": (1, 1, 1)},
    "dc_ae_f32c32": {"widths": (16, 16, 32)},
    "photo_vae": {"widths": (32, 32, 32), "weights": "random"},
    # at 0.8, as published, a critic of so few steps pulls the digits apart
    "vq_gan": {"widths": (32, 32, 32), "weights": "random", "codebook_size": 64, "start": 75, "adversarial": 0.1},
    "unet_attn_gan": {"width": 16, "weights": "random", "start": 75},
    "dfc_vae": {"weights": "random"},
    "unet_attn": {"width": 16, "heads": 2, "blocks": 1},
    "titok": {"width": 64, "depth": 2, "heads": 2, "tokens": 8, "codebook_size": 64, "patch": 2},
    "vit_vae": {"width": 64, "depth": 2, "heads": 2, "patch": 2},
    "miwae": {"m": 2, "k": 4},
    "piwae": {"m": 2, "k": 4},
    "conv": {"width": 16},
    "resnet": {"width": 16},
    "joint_vae": {"steps": 150},
    "disentangled_beta_vae": {"steps": 150},
    "categorical_vae": {"anneal": 2e-3},
}

#: recipes whose latents nothing draws to a density that is known: one is fitted to them afterwards
AFTERWARDS = {"ae": "gmm", "rae_l2": "gmm", "rae_gp": "gmm", "two_stage_vae": "two_stage"}


def recipes(group: str) -> list[str]:
    """vaekit's own recipes of a group."""
    homes = [f"vaekit.recipes.{name}" for name in GROUPS[group]]
    return [name for name in vaekit.recipe.names() if vaekit.recipe[name].__module__ in homes]


def call(name: str, shape: tuple[int, ...]) -> str:
    """How a recipe is built here, as one would type it."""
    given = {"latent": 8, "input_shape": shape} | SMALL.get(name, {})
    return f"vaekit.build({', '.join([repr(name), *(f'{key}={value!r}' for key, value in given.items())])})"


def train(name: str, x: Tensor, y: Tensor, steps: int) -> tuple[vaekit.VAE, float]:
    """A trained model and the processor's seconds that it took, its density for sampling counted in."""
    torch.manual_seed(0)
    vae = vaekit.build(name, latent=8, input_shape=tuple(x.shape[1:]), **SMALL.get(name, {}))
    x, labels = ranged(vae, x), label(vae, y)
    data = x if labels is None else (x, labels)
    began = time.process_time()
    rate = 1e-3 if name in LEVELS or name in ("vit_vae", "titok", "vq_gan") else 3e-3
    batch = 64 if x.shape[-1] == 8 else 16
    vaekit.Trainer(vae, data, steps=steps, batch_size=batch, lr=rate, device="cpu", grad_clip=10.0).fit()
    if vae.space == "codes":
        vae.fit_prior("autoregressive", x, width=32, depth=2, epochs=max(1, steps // 60))
    elif name in AFTERWARDS:
        vae.fit_prior(AFTERWARDS[name], x)
    elif len(vae.latent_shape) > 1:  # the KL of latent diffusion is too small to draw latents anywhere
        vae.fit_prior("full_gaussian", x)
    return vae.eval(), time.process_time() - began


def ranged(vae: vaekit.VAE, x: Tensor) -> Tensor:
    """Images in [0, 1] in the model's range."""
    low, high = vae.data_range or (0.0, 1.0)
    return low + (high - low) * x


def label(vae: vaekit.VAE, y: Tensor) -> Tensor | None:
    """Labels for a model that takes some; of those that only a loss reads, every other one is hidden."""
    if vae.condition is None:
        return None
    return y if vae.condition.dim else torch.where(torch.arange(len(y)) % 2 == 0, y, -1)


def strip(vae: vaekit.VAE, images: Tensor) -> Tensor:
    """Images side by side, black at 0 and white at 1: (height, n · width)."""
    low, high = vae.data_range or (0.0, 1.0)
    grey = ((images - low) / (high - low)).clamp(0, 1)
    return torch.cat(list(torch.nn.functional.pad(grey[:, 0], (1, 1, 1, 1), value=0.5)), 1)


def draw(rows: list[tuple[str, Tensor, Tensor | None]], path: Path) -> None:
    """A sheet: a row for each recipe, what it makes of the images of the first row, and its own."""
    figure = Figure(figsize=(9.6, 0.56 * len(rows) + 0.3), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (name, again, drawn), (left, right) in zip(rows, grid, strict=True):
        for axes, shown in ((left, again), (right, drawn)):
            axes.set(xticks=[], yticks=[], frame_on=False)
            if shown is not None:
                axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        left.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    grid[0, 0].set_title("reconstructions", fontsize=9)
    grid[0, 1].set_title("samples", fontsize=9)
    write_atomically(path, lambda beside: figure.savefig(beside, format="png", pil_kwargs={"optimize": True}))


def main() -> None:
    """Train the recipes, and draw a sheet for each group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="gallery", help="folder for the sheets")
    parser.add_argument("--group", nargs="+", choices=[*GROUPS], default=[*GROUPS], help="these alone")
    parser.add_argument("--steps", type=int, default=300, help="of each recipe, of 64 images or 16 enlarged ones")
    parser.add_argument("--tiny", action="store_true", help="two steps for one recipe of each group")
    given = parser.parse_args()
    (x, y), (x_test, y_test) = digits()
    large, large_test = (torch.nn.functional.interpolate(each, (16, 16), mode="bilinear") for each in (x, x_test))
    output = Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    told = output / "recipes.json"
    found: dict[str, Any] = json.loads(told.read_text()) if told.exists() else {}
    for group in given.group:
        x_train, x_shown = (large, large_test[:SHOWN]) if group in ENLARGED else (x, x_test[:SHOWN])
        rows: list[tuple[str, Tensor, Tensor | None]] = []
        for name in recipes(group)[:1] if given.tiny else recipes(group):
            steps = 2 if given.tiny else given.steps
            vae, seconds = train(name, x_train, y, steps)
            cond = label(vae, y_test[:SHOWN])
            if not rows:
                rows.append(("digits", strip(vae, ranged(vae, x_shown)), None))
            drawn = vae.sample(SHOWN, cond, generator=torch.Generator().manual_seed(0))
            rows.append((name, strip(vae, vae.reconstruct(ranged(vae, x_shown), cond)), strip(vae, drawn)))
            prior = type(vae.prior).__name__.removesuffix("Prior")
            found[name] = {
                "group": group,
                "call": call(name, tuple(x_train.shape[1:])),
                "steps": steps,
                "prior": prior,
                "seconds": seconds,
            }
            print(f"{name:<24}{seconds:6.1f} s  samples from {prior}", flush=True)
        draw(rows, output / f"{group.replace(' ', '-')}.png")
        write_atomically(told, lambda beside: Path(beside).write_text(json.dumps(found, indent=1) + "\n"))


if __name__ == "__main__":
    main()
