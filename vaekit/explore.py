"""A web page to look around in a model's latent: `vaekit explore RUN`, or `page(Explorer(vae)).launch()`.

`Explorer` is what the page does, without a page: places in the latent are lists of coordinates along directions, which
are the latent's own dimensions for a vector, and the principal components of the data's latents for a map.
"""

from typing import Any

import torch
from torch import Tensor

from vaekit.modes import evaluating, seeded
from vaekit.optional import require
from vaekit.train.data import on_device
from vaekit.train.folder import to_bytes
from vaekit.train.pictures import grid
from vaekit.vae import VAE

SLIDERS = 16
"""Coordinates on a page."""
SPAN = 3.0
"""How far a slider goes, in deviations."""


class Explorer:
    """Pictures of places in a model's latent, and the places of pictures.

    z = m + Σ_i c_i s_i d_i: coordinates c_i along directions d_i, in units of deviations s_i. A vector latent has its
    own dimensions for directions, m = 0 and s = 1. A map has principal components of the latents of `x`, those of
    draws from the prior where there is no x; what they leave out of an example is kept apart, so that its picture is
    still its own.

    Args:
        vae: a model of images of 1 or 3 channels.
        x: some data `(n, *input_shape)`, to find directions with.
        most: principal components at most.

    Raises:
        ValueError: where the data are no images of 1 or 3 channels, or the condition takes something else than a class.

    Example:
        >>> import vaekit
        >>> explorer = Explorer(vaekit.build("mlp", latent=20, input_shape=(1, 28, 28)))
        >>> explorer.size, explorer.pages, explorer.names(1)
        (20, 2, ['z16', 'z17', 'z18', 'z19'])
        >>> explorer.decode([0.0] * 20).shape
        (280, 280, 3)
    """

    def __init__(self, vae: VAE, x: Tensor | None = None, *, most: int = 64) -> None:
        shape = vae.input_shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"explore: shows images (c, h, w) of 1 or 3 channels, and the model's data have the shape {shape}. Use "
                "vaekit.plot.latents, or the model itself."
            )
        self.classes: int = 0
        if vae.condition is not None:
            self.classes = int(getattr(vae.condition, "classes", 0))
            if not self.classes:
                raise ValueError("explore: the model's condition is not a class. Use the model itself, in Python.")
        self.vae, self.device = vae, vae.device
        self.components = len(vae.latent_shape) > 1
        if self.components:
            self.middle, self.steps = _components(self._drawn(512) if x is None else self._encoded(x), most)
        else:
            self.middle = torch.zeros(vae.latent_shape[0], device=self.device)
            self.steps = torch.eye(vae.latent_shape[0], device=self.device)
        self.enlarge = max(1, round(280 / max(shape[1:])))

    @property
    def size(self) -> int:
        """How many coordinates there are."""
        return len(self.steps)

    @property
    def pages(self) -> int:
        """Pages of sliders."""
        return -(-self.size // SLIDERS)

    def names(self, number: int) -> list[str]:
        """What the sliders of a page are called."""
        word = "component " if self.components else "z"
        return [f"{word}{i}" for i in range(number * SLIDERS, min(self.size, (number + 1) * SLIDERS))]

    def decode(self, place: list[float], rest: Tensor | None = None, label: int = 0) -> Any:
        """The picture at a place: bytes (H, W, 3), each pixel large enough to see.

        Args:
            place: the coordinates, `size` of them.
            rest: what an example has beside them, from `encode`.
            label: class, for a conditional model.
        """
        return self._picture(self._z(place, rest), label)

    def encode(self, image: Any, label: int = 0) -> tuple[list[float], Tensor]:
        """The place of a picture: its coordinates, and what they leave out of its latent.

        Args:
            image: one of PIL's, of any size and mode.
            label: class, for a conditional model.
        """
        return self._placed(self._encoded(self._opened(image), self._cond(label, 1))[0])

    def draw(self, seed: int, label: int = 0) -> tuple[list[float], Tensor]:
        """The place of a draw from the prior."""
        return self._placed(self._drawn(1, seed, label)[0])

    def reconstruct(self, image: Any, label: int = 0) -> tuple[Any, Any]:
        """A picture as the model sees it, and what it makes of it: bytes (H, W, 3) each."""
        x = self._opened(image)
        with seeded(0, self.device):
            return self._shown(x), self._shown(self.vae.reconstruct(x, self._cond(label, 1)))

    def interpolate(self, first: Any, second: Any, steps: int = 8, label: int = 0) -> Any:
        """From the one picture to the other, in a row: bytes (H, W, 3)."""
        a, b = self._opened(first), self._opened(second)
        with seeded(0, self.device):
            made = self.vae.interpolate(a, b, steps, self._cond(label, 1))
        return self._shown(made.flatten(0, 1), columns=steps)

    def _placed(self, z: Tensor) -> tuple[list[float], Tensor]:
        place = ((self.steps / self.steps.square().sum(1, keepdim=True)) @ (z - self.middle)).tolist()
        return place, z - self._z(place, None)

    def _z(self, place: list[float], rest: Tensor | None) -> Tensor:
        z = self.middle + torch.tensor(place, device=self.device) @ self.steps
        return z if rest is None else z + rest.to(self.device)

    @torch.no_grad()
    def _picture(self, z: Tensor, label: int) -> Any:
        if self.vae.space == "sphere":
            z = z / torch.linalg.vector_norm(z).clamp_min(1e-6)
        with evaluating(self.vae):
            return self._shown(self.vae.decode(z.reshape(1, *self.vae.latent_shape), self._cond(label, 1)))

    @torch.no_grad()
    def _encoded(self, x: Tensor, cond: Any = None) -> Tensor:
        if self.classes and cond is None:
            cond = self._cond(0, len(x))
        with evaluating(self.vae), seeded(0, self.device):
            return self.vae.encode(x, cond=cond).mode.flatten(1).float()

    @torch.no_grad()
    def _drawn(self, n: int, seed: int = 0, label: int = 0) -> Tensor:
        """z ~ p(z), `(n, d)`."""
        with evaluating(self.vae), seeded(seed, self.device):
            z = self.vae._drawn(n, self.vae._embed(self._cond(label, n), n))
        return z.flatten(1).float()

    def _opened(self, image: Any) -> Tensor:
        held = to_bytes(image, self.vae.input_shape)[None]
        return on_device((held, None), self.device, self.vae.data_range)[0]

    def _cond(self, label: int, n: int) -> Any:
        return torch.full((n,), int(label), device=self.device) if self.classes else None

    def _shown(self, x: Tensor, columns: int = 1) -> Any:
        picture = grid(x, columns, data_range=self.vae.data_range, gap=1 if columns > 1 else 0)
        large = self.enlarge if columns == 1 else max(1, self.enlarge // 3)
        return picture.repeat_interleave(large, 0).repeat_interleave(large, 1).numpy()


def _components(z: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The mean (d,) and the principal components `(k, d)`, each as long as the deviation along it."""
    middle = z.mean(0)
    _, scale, directions = torch.linalg.svd(z - middle, full_matrices=False)
    count = max(1, min(most, len(z) - 1, int((scale > 1e-5 * scale[0]).sum())))
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()  # the same each time
    return middle, (directions * signs * scale[:, None] / max(len(z) - 1, 1) ** 0.5)[:count]


def page(explorer: Explorer, *, title: str = "vaekit") -> Any:
    """The page, Gradio's `Blocks`: `.launch()` serves it.

    Args:
        explorer: what it does.
        title: above it.

    Raises:
        MissingPackage: where gradio is missing.
    """
    gr: Any = require("gradio", user="vaekit explore", extra="explore")
    classes = [(str(i), i) for i in range(max(1, explorer.classes))]
    start = [0.0] * explorer.size
    with gr.Blocks(title=f"vaekit: {title}", analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}")
        place, rest, number = gr.State(start), gr.State(None), gr.State(0)
        label = gr.Dropdown(classes, value=0, label="class", visible=explorer.classes > 0)
        with gr.Tab("Explore"), gr.Row():
            with gr.Column(scale=2):
                sliders = [gr.Slider(-SPAN, SPAN, value=0.0, step=0.05, label="z") for _ in range(SLIDERS)]
                with gr.Row(visible=explorer.pages > 1):
                    before, after = gr.Button("◀ fewer"), gr.Button("more ▶")
            with gr.Column(scale=1):
                picture = _image(gr, "decoded")
                with gr.Row():
                    random, zero = gr.Button("Random"), gr.Button("Back to 0")
                seed = gr.State(0)
        with gr.Tab("Reconstruct"):
            with gr.Row():
                given = gr.Image(type="pil", label="image", height=300, elem_id="given")
                seen, again = _image(gr, "as the model sees it"), _image(gr, "reconstruction")
            look = gr.Button("Set the sliders to it")
        with gr.Tab("Interpolate"):
            with gr.Row():
                first = gr.Image(type="pil", label="from", height=240, elem_id="first")
                second = gr.Image(type="pil", label="to", height=240, elem_id="second")
            steps = gr.Slider(2, 16, value=8, step=1, label="steps")
            row = _image(gr, "between")

        def move(i: int) -> Any:
            def moved(values: list[float], left: Any, number: int, label: int, value: float) -> list[Any]:
                values = list(values)
                values[number * SLIDERS + i] = float(value)
                return [values, explorer.decode(values, left, label)]

            return moved

        def turned(values: list[float], number: int) -> list[Any]:
            names = explorer.names(number)
            updates = [
                gr.update(label=n, value=_inside(values[number * SLIDERS + i]), visible=True)
                for i, n in enumerate(names)
            ]
            return updates + [gr.update(visible=False) for _ in range(SLIDERS - len(names))]

        def step(by: int) -> Any:
            def turn(values: list[float], number: int) -> list[Any]:
                number = min(max(number + by, 0), explorer.pages - 1)
                return [number, *turned(values, number)]

            return turn

        def drawn(seed: int, label: int, number: int) -> list[Any]:
            values, left = explorer.draw(seed, label)
            return [seed + 1, values, left, explorer.decode(values, left, label), *turned(values, number)]

        def zeroed(label: int, number: int) -> list[Any]:
            return [start, None, explorer.decode(start, None, label), *turned(start, number)]

        def looked(image: Any, label: int, number: int) -> list[Any]:
            if image is None:
                raise gr.Error("Upload an image first.")
            values, left = explorer.encode(image, label)
            return [values, left, explorer.decode(values, left, label), *turned(values, number)]

        def reconstructed(image: Any, label: int) -> Any:
            return (None, None) if image is None else explorer.reconstruct(image, label)

        def between(a: Any, b: Any, steps: float, label: int) -> Any:
            return None if a is None or b is None else explorer.interpolate(a, b, int(steps), label)

        blocks.load(turned, [place, number], sliders)
        blocks.load(explorer.decode, [place, rest, label], picture)
        label.change(explorer.decode, [place, rest, label], picture)
        for i, slider in enumerate(sliders):  # `input` is the user's hand alone: what a button sets does not come back
            slider.input(move(i), [place, rest, number, label, slider], [place, picture], show_progress="hidden")
        before.click(step(-1), [place, number], [number, *sliders])
        after.click(step(1), [place, number], [number, *sliders])
        random.click(drawn, [seed, label, number], [seed, place, rest, picture, *sliders])
        zero.click(zeroed, [label, number], [place, rest, picture, *sliders])
        look.click(looked, [given, label, number], [place, rest, picture, *sliders])
        given.change(reconstructed, [given, label], [seen, again])
        for each in (first, second, steps):
            each.change(between, [first, second, steps, label], row)
    return blocks


def _image(gr: Any, label: str) -> Any:
    name = label.replace(" ", "-")
    return gr.Image(label=label, interactive=False, height=300, format="png", elem_id=name)


def _inside(value: float) -> float:
    return max(-SPAN, min(SPAN, round(value, 2)))
