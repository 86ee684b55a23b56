"""The examples of the seed projects run at their smallest, and the graph that one of them draws is the file's."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(script, *args, folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VAEKIT_")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / script), "--tiny", *args]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, timeout=500, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def size_of(picture):
    from PIL import Image

    with Image.open(picture) as image:
        return image.size, getattr(image, "n_frames", 1)


@pytest.fixture(scope="module")
def scratch():
    return example("from_scratch")


@pytest.fixture(scope="module")
def grid():
    pytest.importorskip("onnx")
    pytest.importorskip("optuna")
    return example("grid_search")


def pair(scratch):
    import torch

    torch.manual_seed(0)
    model = scratch.ScratchVAE(64, hidden=9, latent=3)
    return model, scratch.same_from_parts(model, (1, 8, 8)), torch.rand(5, 1, 8, 8)


def test_the_vae_from_scratch_and_the_one_of_parts_are_one_model(scratch):
    scratch.assert_same(*pair(scratch))


@pytest.mark.parametrize("name", ["sampler.head.project.1.bias", "decoder.out.weight"])
def test_they_are_told_apart_by_one_other_weight(scratch, name):
    model, vae, x = pair(scratch)
    vae.get_parameter(name).data.flatten()[0] += 0.1
    with pytest.raises(AssertionError):
        scratch.assert_same(model, vae, x)


def written(folder, nodes, outputs, weights=()):
    from onnx import TensorProto, helper, save

    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])

    held = [helper.make_tensor(name, TensorProto.FLOAT, dims, [0.0] * dims[0] * dims[1]) for name, dims in weights]
    made = helper.make_graph(
        [helper.make_node(kind, given, [name]) for kind, given, name in nodes],
        "g",
        [value("x")],
        [value(name) for name in outputs],
        held,
    )
    save(helper.make_model(made), folder / "g.onnx")
    return folder / "g.onnx"


def test_the_graph_has_a_box_for_each_operator_and_an_arrow_for_each_tensor(grid, tmp_path):
    """x goes two ways, which meet again, and one of them twice into the same operator."""
    nodes = [("MatMul", ["x", "w"], "a"), ("Relu", ["x"], "b"), ("Mul", ["b", "b"], "c"), ("Add", ["a", "c"], "out")]
    boxes, arrows = grid.graph(written(tmp_path, nodes, ["out"], [("w", (2, 2))]))
    assert boxes == ["x\nany × 2", "MatMul\n2 × 2", "Relu", "Mul", "Add", "out\nany × 2"]
    assert sorted(arrows) == [(0, 1), (0, 2), (1, 4), (2, 3), (3, 4), (4, 5)]
    assert grid.layers(len(boxes), arrows) == [0, 1, 1, 2, 3, 4]


def test_the_layer_of_a_box_is_the_longest_way_to_it(grid):
    assert grid.layers(4, [(0, 3), (0, 1), (2, 3), (1, 2)]) == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.sample
def test_from_scratch_trains_both(tmp_path, scratch):
    printed = run("from_scratch.py", folder=tmp_path)
    told = [line for line in printed.splitlines() if "epoch" in line]
    assert [line.split(",")[0] for line in told] == ["from scratch"] * 2 + ["vaekit"] * 2
    assert all((tmp_path / "from_scratch" / f"{name}.png").is_file() for name in ("samples", "reconstructions"))


@pytest.mark.slow
@pytest.mark.sample
def test_linear_and_conv_make_a_frame_an_epoch(tmp_path):
    run("linear_and_conv.py", "--output", "out", folder=tmp_path)
    assert size_of(tmp_path / "out" / "reconstructions.gif")[1] == 3
    histories = json.loads((tmp_path / "out" / "history.json").read_text())
    assert {name: [row["epoch"] for row in rows] for name, rows in histories.items()} == {
        "linear": [1, 2, 3],
        "conv": [1, 2, 3],
    }
    assert (tmp_path / "out" / "grid.png").is_file() and (tmp_path / "out" / "curves.png").is_file()


@pytest.mark.slow
@pytest.mark.sample
def test_the_grid_search_goes_on_where_it_was_and_exports_its_best(tmp_path, grid):
    pytest.importorskip("onnxruntime")
    first = run("grid_search.py", "--output", "out", folder=tmp_path)
    before = (tmp_path / "out" / "trials.csv").read_text()
    assert "run 2/2" in first and len(list(csv.DictReader(before.splitlines()))) == 2
    again = run("grid_search.py", "--output", "out", folder=tmp_path)
    assert "run 2/2" not in again and (tmp_path / "out" / "trials.csv").read_text() == before
    assert (tmp_path / "out" / "best" / "spec.json").is_file()
    boxes, _ = grid.graph(tmp_path / "out" / "best.onnx")
    assert boxes[0] == "x\nany × 1 × 8 × 8" and boxes[-1].startswith("reconstruction")
    for name in ("values", "graph", "samples", "interpolations", "reconstructions"):
        assert (tmp_path / "out" / f"{name}.png").is_file(), name
