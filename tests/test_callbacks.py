"""What looks at a run: it changes nothing, and does not end it by its own failure."""

import csv
import os

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit.train.callbacks import EarlyStop, Metrics
from vaekit.train.frames import LatentScatter, LatentTraversal, ReconstructionGrid, Samples
from vaekit.train.trackers import TRACKERS, Tracker, tracker


def data(n=20):
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return (x, torch.arange(n) % 3), (x[:10], torch.arange(10) % 3)


def run(callbacks=(), *, recipe="mlp", epochs=2, **options):
    torch.manual_seed(0)
    vae = vaekit.build(recipe, latent=3, input_shape=(1, 4, 4), **({"hidden": (8,)} if recipe == "mlp" else {}))
    train, val = data()
    trainer = vaekit.Trainer(
        vae, train, val, epochs=epochs, batch_size=8, device="cpu", callbacks=callbacks, log_every=1, **options
    )
    return trainer, trainer.fit()


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.vae.parameters()])


def everything():
    return [
        ReconstructionGrid(count=6, columns=4),
        Samples(count=6, columns=3),
        LatentTraversal(steps=3),
        LatentScatter(),
    ]


def test_looking_changes_nothing_and_writes_pictures_and_films(tmp_path):
    alone, _ = run()
    looked, _ = run(
        [*everything(), Metrics({"mse": torch.nn.functional.mse_loss})],
        trackers=[tracker("csv"), tracker("tensorboard")],
        output_dir=tmp_path,
    )
    assert torch.equal(weights(alone), weights(looked))
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    wanted = ("reconstructions", "samples", "traversal", "latent")
    assert names == {f"{name}{end}" for name in wanted for end in ("-0001.png", "-0002.png", ".gif")}
    for name in wanted:
        with Image.open(tmp_path / "pictures" / f"{name}.gif") as film:
            assert film.n_frames == 2 and film.info["loop"] == 0


def test_a_reconstruction_stands_below_its_image(tmp_path):
    trainer, _ = run([ReconstructionGrid(count=6, columns=4, folder=tmp_path)], epochs=1)
    x = data()[1][0][:6]
    with Image.open(tmp_path / "reconstructions-0001.png") as image:
        picture = np.asarray(image.convert("RGB"))[:, :, 0]
    scale = picture.shape[1] // (4 * 6)  # four columns of 4 pixels, with one of gap on each side
    small = picture[scale // 2 :: scale, scale // 2 :: scale] / 255
    assert small.shape == (4 * 6, 4 * 6)
    again = trainer.vae.reconstruct(x)
    for i in range(6):
        row, column = 2 * (i // 4) * 6 + 1, (i % 4) * 6 + 1
        assert np.allclose(small[row : row + 4, column : column + 4], x[i, 0], atol=0.003)
        assert np.allclose(small[row + 6 : row + 10, column : column + 4], again[i, 0], atol=0.003)
    assert (small[12:, 12:] == 1).all()


def test_pictures_of_a_conditional_model_and_without_validation(tmp_path):
    _, history = run(everything(), recipe="conditional_vae", output_dir=tmp_path, epochs=1)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,))
    shown = [ReconstructionGrid(folder=tmp_path / "b", every=2)]
    vaekit.Trainer(vae, data()[0][0], epochs=3, device="cpu", callbacks=shown).fit()
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"reconstructions-0002.png", "reconstructions.gif"}


def test_a_film_goes_on_with_the_run(tmp_path):
    for epochs in (1, 3):
        run([Samples(count=2, columns=2)], epochs=epochs, output_dir=tmp_path)
    with Image.open(tmp_path / "pictures" / "samples.gif") as film:
        assert film.n_frames == 3


def test_a_picture_that_fails_warns_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="Samples: a picture failed, and training goes on") as told:
        _, history = run([Samples(folder=tmp_path / "file" / "below")], epochs=3)
    assert len(history) == 3 and len([w for w in told if "picture" in str(w.message)]) == 1


def test_pictures_of_what_is_no_image_are_refused():
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(8,))
    with pytest.raises(ValueError, match=r"draws images \(c, h, w\), and the data have the shape \(4,\)"):
        vaekit.Trainer(vae, torch.rand(8, 4), epochs=1, device="cpu", callbacks=[Samples(folder="x")]).fit()
    with pytest.raises(ValueError, match="give the Trainer an output_dir"):
        run([Samples()])


class Falling(vaekit.train.Callback):
    """Puts numbers that are told before into the history."""

    def __init__(self, values):
        self.values = values

    def epoch(self, trainer, row):
        row["told"] = self.values[int(row["epoch"]) - 1]


def test_early_stop_waits_from_the_best_and_stays_stopped(tmp_path):
    values = [3.0, 2.0, 2.5, 1.95, 2.2, 2.1, 1.0, 0.5]
    for least, direction, length in [(0.0, "minimize", 6), (0.1, "minimize", 4), (0.0, "maximize", 3)]:
        stop = EarlyStop(2, metric="told", least=least, direction=direction)
        _, history = run([Falling(values), stop], epochs=8)
        assert len(history) == length, (least, direction)
    for _ in range(2):
        trainer, history = run([Falling(values), EarlyStop(2, metric="told")], epochs=8, output_dir=tmp_path)
        assert len(history) == 6 and not trainer.finished
    with pytest.raises(ValueError, match="no epoch has 'tol'. Known: .*told"):
        run([Falling(values), EarlyStop(metric="tol")])


def test_metrics_are_those_of_the_whole_of_validation():
    import torchmetrics

    squared = torchmetrics.MeanSquaredError()
    trainer, history = run([Metrics({"mse": torch.nn.functional.mse_loss, "other": squared})], epochs=1)
    x = data()[1][0]
    want = (trainer.vae.reconstruct(x) - x).square().mean().item()
    assert history["val/mse"] == [pytest.approx(want, rel=1e-5)] == history["val/other"]


def test_csv_holds_each_number_once_also_after_going_on(tmp_path):
    for epochs in (1, 3):
        _, history = run(epochs=epochs, output_dir=tmp_path, trackers=[tracker("csv")])
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    totals = [float(row["value"]) for row in rows if row["name"] == "val/total"]
    assert totals == history["val/total"] and len(totals) == 3
    keys = [(row["step"], row["name"]) for row in rows if row["name"] == "train/total"]
    assert {step for step, _ in keys} == {str(i + 1) for i in range(9)}


def test_tensorboard_holds_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, history = run(output_dir=tmp_path, trackers=[tracker("tensorboard")])
    held = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    sections = {name.partition("/")[0] for name in held.Tags()["scalars"]}
    assert sections == {"grad_norm", "lr", "run", "train", "val"}, "a section for each number would hide the losses"
    found = held.Scalars("val/total")
    assert [each.step for each in found] == history["step"]
    assert [each.value for each in found] == pytest.approx(history["val/total"], rel=1e-6)


@pytest.mark.parametrize("where", ["open", "log", "close"])
def test_a_tracker_that_can_t_be_reached_warns_and_training_goes_on(where):
    class Gone(Tracker):
        name = "gone"

        def open(self, trainer, folder):
            self.act("open")

        def log(self, values, step):
            self.act("log")

        def close(self):
            self.act("close")

        def act(self, what):
            if what == where:
                raise ConnectionError("no route to host")

    with pytest.warns(UserWarning, match="tracker 'gone': failed, and training goes on without it: no route") as told:
        _, history = run(trackers=[Gone()], epochs=3)
    assert len(history) == 3 and len([w for w in told if "gone" in str(w.message)]) == 1


def test_trackers_by_name():
    assert {type(tracker(name)) for name in TRACKERS} == set(TRACKERS.values())
    with pytest.raises(ValueError, match="none named 'tensorbord'. Did you mean 'tensorboard'"):
        tracker("tensorbord")


def test_a_tracker_without_its_library_warns(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.warns(UserWarning, match=r"'mlflow': failed.*pip install .vaekit\[mlflow\]"):
        _, history = run(trackers=[tracker("mlflow")], epochs=1)
    assert len(history) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _, history = run(trackers=[tracker("wandb", mode="offline", folder=tmp_path)], epochs=1)
    assert len(history) == 1 and [p for p in tmp_path.rglob("*.wandb") if os.path.getsize(p)]
