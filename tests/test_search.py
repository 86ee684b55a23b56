"""Searches: every point once, taken up after a kill, shared by processes, the best model kept."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

import vaekit
from vaekit.saving import CheckpointError
from vaekit.train.search import search
from vaekit.train.space import Axis, grid

pytest.importorskip("optuna")
COMMON = {"hidden": (4,), "latent": 2, "device": "cpu", "progress": False, "resume_runs": False}


def data(n=24):
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(3))
    return x, x[:8]


def test_a_grid_visits_every_point_once_and_keeps_the_best_model(tmp_path):
    x, val = data()
    space = {"lr": [1e-3, 1e-1], "latent": [1, 2], "hidden": [(4,), (3, 5)], "epochs": [1, 2]}
    common = {key: value for key, value in COMMON.items() if key not in ("hidden", "latent")}
    found = search(space, "mlp", x, val, output_dir=tmp_path, **common)
    points = {(row["lr"], row["latent"], row["hidden"], row["epochs"]) for row in found.rows}
    assert len(found.rows) == 16 and points == set(itertools.product([1e-3, 1e-1], [1, 2], ["[4]", "[3, 5]"], [1, 2]))
    assert found.value == min(row["value"] for row in found.rows) and found.params["hidden"] in ((4,), (3, 5))
    assert [p.name for p in tmp_path.glob("trials/*/model")] == ["model"], "one model is kept"
    # the score is the best epoch's of the same run done by hand, and the model is that epoch's
    torch.manual_seed(0)
    p = dict(found.params)
    vae = vaekit.build("mlp", input_shape=(4,), latent=p["latent"], hidden=p["hidden"])
    history = vaekit.Trainer(vae, x, val, epochs=p["epochs"], lr=p["lr"], device="cpu").fit()
    assert found.value == min(history["val/total"])
    loaded = vaekit.Trainer(found.load(), x, val, epochs=1, device="cpu")
    assert loaded.evaluate()["total"] == pytest.approx(found.value, rel=1e-6)
    assert (tmp_path / "trials.csv").read_text().count("\n") == 17


def test_nothing_is_done_twice_and_another_search_is_refused(tmp_path, capsys):
    x, val = data()
    kept = {**COMMON, "epochs": 1, "output_dir": tmp_path, "progress": True}
    first = search({"lr": [1e-3, 1e-2]}, "mlp", x, val, runs=1, **kept)
    assert "1 runs (grid over lr), 0 done. One of them takes about " in (out := capsys.readouterr().out)
    assert out.count("run 1/1") == 1
    again = search({"lr": [1e-3, 1e-2]}, "mlp", x, val, **kept)
    assert [row["run"] for row in again.rows] == [1, 2] and again.rows[0] == first.rows[0]
    assert "run 1/" not in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="holds another one: space was"):
        search({"lr": [1e-4]}, "mlp", x, val, **kept)


def test_it_says_how_long_before_it_starts(tmp_path, capsys):
    x, val = data()
    found = search(
        {"lr": {"low": 1e-4, "high": 1e-1, "log": True}}, "mlp", x, val, method="random", runs=1000, epochs=3,
        dry_run=True, output_dir=tmp_path, **{**COMMON, "progress": True},
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "1000 runs (random over lr), 0 done" in out and not found.rows and found.folder is None
    with pytest.raises(CheckpointError, match="no run is done"):
        found.load()


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_ranges_are_kept_and_a_search_in_pieces_is_that_in_one(tmp_path, method):
    x, val = data()
    space = {
        "lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "latent": {"low": 1, "high": 4},
        "batch_size": {"low": 8, "high": 24, "step": 8},
    }
    kept = {**COMMON, "method": method, "epochs": 1, "prune": False}
    del kept["latent"]
    whole = search(space, "mlp", x, val, runs=4, output_dir=tmp_path / "a", **kept)
    for runs in (2, 4):
        pieces = search(space, "mlp", x, val, runs=runs, output_dir=tmp_path / "b", **kept)
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.rows]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in pieces.rows]
    assert len({row["lr"] for row in strip}) == 4, "another draw each time"
    for row in strip:
        assert 1e-4 <= row["lr"] <= 1e-1 and row["latent"] in (1, 2, 3, 4) and row["batch_size"] in (8, 16, 24)


def test_a_run_that_falls_behind_is_pruned(tmp_path):
    x, val = data()
    good, bad = [1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 1.4e-2], [1e-6, 2e-6, 3e-6]
    order = next(
        seed for seed in range(1000) if {p["lr"] for p in grid({"lr": Axis("lr", good + bad)}, seed)[5:]} == set(bad)
    )
    kept = {**COMMON, "epochs": 4, "batch_size": 4, "seed": order}
    found = search({"lr": good + bad}, "mlp", x, val, prune=True, output_dir=tmp_path, **kept)
    # Optuna's median needs five runs that are done: each of the others learns too little, and ends after one epoch
    assert [row["state"] for row in found.rows] == ["complete"] * 5 + ["pruned"] * 3 and found.params["lr"] in good
    assert {len(trial.intermediate_values) for trial in found.study.trials[5:]} == {1}


@pytest.mark.filterwarnings("ignore:Trainer. left out")
def test_a_run_that_is_not_finite_fails_alone(tmp_path):
    x, val = data()
    found = search({"lr": [1e-2, 1e30]}, "mlp", x, val, epochs=2, batch_size=4, output_dir=tmp_path, **COMMON)
    assert sorted(row["state"] for row in found.rows) == ["complete", "fail"] and found.params == {"lr": 1e-2}


def test_wrong_spaces_are_told(tmp_path):
    x, val = data()
    kept = {**COMMON, "output_dir": tmp_path}
    for space, told in [
        ({}, "is empty"),
        ({"lrr": [1]}, "takes 'lrr'. Did you mean 'lr'"),
        ({"output_dir": ["a"]}, "takes 'output_dir'"),
        ({"lr": (1e-4, 1e-2)}, "should be a list of values, or"),
        ({"lr": {"low": 1.0, "high": 0.1}}, "low < high"),
        ({"lr": {"low": 0.0, "high": 0.1, "log": True}}, "positive"),
        ({"lr": {"low": 1e-4, "high": 1e-2}}, "a grid needs a list of values, or a 'step'"),
        ({"hidden": [(3,)]}, "in the space and beside it"),
    ]:
        with pytest.raises(ValueError, match=told.replace("(", r"\(")):
            search(space, "mlp", x, val, epochs=1, **kept)
    with pytest.raises(ValueError, match="needs val"):
        search({"lr": [1.0]}, "mlp", x, epochs=1, **kept)
    with pytest.raises(ValueError, match="no epoch has 'val/kll'. Did you mean 'val/kl'"):
        search({"lr": [1e-3]}, "mlp", x, val, epochs=1, objective="val/kll", **kept)


def test_a_part_s_arguments_and_a_function_s_can_be_searched(tmp_path):
    x, val = data()
    found = search({"decoder.hidden": [(3,), (5,)]}, "mlp", x, val, epochs=1, output_dir=tmp_path / "a", **COMMON)
    assert len({row["value"] for row in found.rows}) == 2

    def made(latent):
        return vaekit.build("mlp", input_shape=(4,), latent=latent, hidden=(4,))

    common = {key: value for key, value in COMMON.items() if key not in ("hidden", "latent")}
    found = search({"latent": [1, 2]}, made, x, val, epochs=1, output_dir=tmp_path / "b", **common)
    assert found.load().latent_shape == (found.params["latent"],)


SCRIPT = """
import sys, time, torch, vaekit
from vaekit.train.search import search
torch.set_num_threads(1)
x = torch.rand(24, 4, generator=torch.Generator().manual_seed(3))
search({{"lr": [1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 2e-1]}}, "mlp", x, x[:8], epochs={epochs}, batch_size=4, hidden=(4,), latent=2,
       device="cpu", output_dir=sys.argv[1])
"""


def start(folder, epochs):
    code = textwrap.dedent(SCRIPT.format(epochs=epochs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_search_goes_on_in_the_middle_of_its_run(tmp_path):
    process = start(tmp_path, epochs=30)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("trials/00001/run/checkpoints/step-*")):
        assert time.monotonic() < until and process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    x, val = data()
    space = {"lr": [1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 2e-1]}
    kept = {**COMMON, "epochs": 30, "batch_size": 4, "runs": 3}
    found = search(space, "mlp", x, val, **{**kept, "resume_runs": True, "output_dir": tmp_path})
    assert [row["state"] for row in found.rows] == ["complete"] * 3
    alone = search(space, "mlp", x, val, **kept, output_dir=tmp_path / "alone")
    assert [row["value"] for row in found.rows] == [row["value"] for row in alone.rows]


@pytest.mark.slow
@pytest.mark.sample
def test_two_processes_share_a_search(tmp_path):
    processes = [start(tmp_path, epochs=3) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    x, val = data()
    found = search(
        {"lr": [1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 2e-1]}, "mlp", x, val, epochs=3, batch_size=4, output_dir=tmp_path,
        **COMMON,
    )  # fmt: skip
    done = [row for row in found.rows if row["state"] == "complete"]
    assert sorted(row["lr"] for row in done) == [1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 2e-1]
    assert found.load().latent_shape == (2,)
