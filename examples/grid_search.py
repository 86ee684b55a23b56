"""A grid of 5×5×5×5×5 MLP VAEs: epochs, batch size, learning rate, hidden width and latent size; the best one exported.

    python examples/grid_search.py --root DIR             # 24 of the 3,125 runs, in a random order
    python examples/grid_search.py --root DIR --runs 100  # 76 more
    python examples/grid_search.py --root DIR --full      # the rest; it says how long they would take

Stop it when you like: started again, it goes on. Started twice, two processes share the runs. Images are told apart
three ways: `--examples` to train on, 2,000 more of MNIST's training set to choose by, and the test set, which the best
model alone sees. That one is drawn and exported to ONNX, and so is the graph in the file. Without `--root` it takes the
small digits that come with scikit-learn.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vaekit import plot
from vaekit.interop.onnx import export
from vaekit.saving import write_atomically
from vaekit.train import digits, mnist
from vaekit.train.search import Found, search

SPACE: dict[str, list[Any]] = {
    "epochs": [1, 2, 4, 8, 16],
    "batch_size": [32, 64, 128, 256, 512],
    "lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    "hidden": [(50,), (100,), (200,), (400,), (800,)],
    "latent": [2, 5, 10, 20, 50],
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--runs", type=int, default=24, help="how many in all")
    parser.add_argument("--examples", type=int, default=10_000, help="images to train on, the first of the set")
    parser.add_argument("--output", default="grid_search", help="folder of the search; another one for other images")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--tiny", action="store_true", help="two runs on a few small digits")
    sizes.add_argument("--full", action="store_true", help="the whole grid")
    given = parser.parse_args()
    given.runs = 2 if given.tiny else 5**5 if given.full else given.runs
    return given


def main() -> None:
    """Search, and tell, draw and export the best."""
    given = arguments()
    x, x_val, (x_test, y_test) = data(given)
    output = Path(given.output)
    # every run of the sample to its end, and none in the middle of a run: they take seconds
    found = search(SPACE, "mlp", x, x_val, runs=given.runs, output_dir=output, prune=False, resume_runs=False)
    vae = found.load().eval()

    torch.manual_seed(0)  # the bound draws z
    with torch.no_grad():
        bound = -float(vae.elbo(x_test).mean())
    print(f"best of {len(found.rows)}: {dict(found.params)}")
    print(f"-ELBO {found.value:.2f} nats where it was chosen, {bound:.2f} on the test set")
    print(f"{sum(row['seconds'] or 0 for row in found.rows):.0f} s of runs; the model: vaekit.load('{output}/best')")

    draw_values(found, output / "values.png")
    plot.reconstructions(vae, x_test[:12], columns=12, path=output / "reconstructions.png")
    plot.samples(vae, 36, columns=12, path=output / "samples.png")
    first = torch.stack([(y_test == digit).nonzero()[0, 0] for digit in range(10)])
    a, b = first[torch.tensor([0, 4, 3, 1])], first[torch.tensor([6, 9, 5, 7])]
    plot.interpolations(vae, x_test[a], x_test[b], path=output / "interpolations.png")
    model = export(vae, output / "best.onnx", "reconstruct")
    draw_graph(model, output / "graph.png")
    print(f"{model}: {model.stat().st_size / 1024:.0f} KiB; pictures beside it")


def data(given: argparse.Namespace) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Images to train on, images to choose by, and (images, labels) to test: (n, 1, h, w) in [0, 1]."""
    (x, _), (x_test, y_test) = mnist(given.root) if given.root and not given.tiny else digits()
    x, x_test = (each.float() / 255 if each.dtype == torch.uint8 else each for each in (x, x_test))
    held = 100 if len(x) < 10_000 else 2000
    return x[:-held][: 200 if given.tiny else given.examples], x[-held:], (x_test, y_test)


def draw_values(found: Found, path: Path) -> None:
    """-ELBO of each run, once over each axis of the grid."""
    figure = Figure(figsize=(12, 2.8), dpi=100, layout="constrained")
    done = [row for row in found.rows if row["value"] is not None]
    low = min(row["value"] for row in done)
    for axes, (name, values) in zip(figure.subplots(1, len(SPACE), sharey=True), SPACE.items(), strict=True):
        keys = [str(value[0] if isinstance(value, tuple) else value) for value in values]
        at = [keys.index(str(row[name]).strip("[]")) for row in done]  # a width is kept as the text "[400]"
        axes.scatter(at, [row["value"] - low for row in done], s=16, alpha=0.7)
        ticks = [
            f"{value:.0e}".replace("e-0", "e-") if isinstance(value, float) else key
            for value, key in zip(values, keys, strict=True)
        ]
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_title(name.replace("_", " "), loc="left", fontsize="medium")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("-ELBO above the best, nats")
    write_atomically(path, lambda beside: figure.savefig(beside, format="png"))


def graph(model: str | Path) -> tuple[list[str], list[tuple[int, int]]]:
    """The graph in an ONNX file: a name per box, and an arrow (from, to) per tensor that goes from box to box.

    Inputs and outputs are boxes, with their shapes, and so is each operator, with the shapes of its weights. Boxes
    stand in an order in which every arrow goes forward, as operators do in the file.
    """
    import onnx

    held = onnx.load(str(model), load_external_data=False).graph
    weights = {each.name: list(each.dims) for each in held.initializer}
    boxes, arrows, made = [], [], {}

    def shape(value: Any) -> str:
        dims = value.type.tensor_type.shape.dim
        return " × ".join("any" if each.dim_param else str(each.dim_value) for each in dims)

    for value in held.input:
        made[value.name] = len(boxes)
        boxes.append(f"{value.name}\n{shape(value)}")
    for node in held.node:
        large = [weights[name] for name in node.input if len(weights.get(name, ())) > 1]
        arrows += [(made[name], len(boxes)) for name in dict.fromkeys(node.input) if name in made]
        made |= dict.fromkeys(node.output, len(boxes))
        boxes.append("\n".join([node.op_type, *(" × ".join(map(str, dims)) for dims in large)]))
    for value in held.output:
        arrows.append((made[value.name], len(boxes)))
        boxes.append(f"{value.name}\n{shape(value)}")
    return boxes, arrows


def layers(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    """The layer of each box: one below the lowest box that an arrow comes from."""
    found = [0] * count
    for start, end in sorted(arrows, key=lambda arrow: arrow[1]):
        found[end] = max(found[end], found[start] + 1)
    return found


def draw_graph(model: str | Path, path: Path, columns: int = 6) -> None:
    """The graph as boxes and arrows: to the right, one line down after every `columns` layers, and back to the left."""
    boxes, arrows = graph(model)
    depth = layers(len(boxes), arrows)
    figure = Figure(figsize=(1.6 * columns, 1.1 * (max(depth) // columns + 1)), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(-(max(depth) // columns) - 0.5, 0.5))
    axes.axis("off")
    texts = []
    for i, name in enumerate(boxes):
        line, column = divmod(depth[i], columns)
        column = columns - 1 - column if line % 2 else column
        before = sum(other == depth[i] for other in depth[:i])  # boxes of the same layer stand below each other
        frame = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "C0"}
        texts.append(axes.text(column, -line - 0.4 * before, name, ha="center", va="center", fontsize=9, bbox=frame))
    figure.draw_without_rendering()  # frames have their sizes then, and arrows end at them
    for start, end in arrows:
        ends = {"patchA": texts[start].get_bbox_patch(), "patchB": texts[end].get_bbox_patch(), "shrinkB": 1}
        style = {"arrowstyle": "-|>", "color": "0.4", **ends}
        axes.annotate("", xy=texts[end].get_position(), xytext=texts[start].get_position(), arrowprops=style)
    write_atomically(path, lambda beside: figure.savefig(beside, format="png"))


if __name__ == "__main__":
    main()
