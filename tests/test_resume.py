"""Runs that were cut short go on to the same bits; what is in their folder is always whole."""

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vaekit
from tests import killing
from vaekit import CheckpointError, Trainer, use
from vaekit.train import Callback
from vaekit.train.checkpoint import Checkpoints, read_state, verify
from vaekit.train.lock import locked
from vaekit.train.tree import flatten, unflatten

X = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", latent=2, input_shape=(6,), **{"hidden": (8,), **args})


def train(vae, data=X, val=None, **args):
    return Trainer(vae, data, val, **{"epochs": 3, "batch_size": 16, "device": "cpu", **args})


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def numbers(history):
    return [{k: v for k, v in row.items() if k not in killing.TIMES} for row in history.rows]


class StopAt(Callback):
    """Asks the run to end after a step."""

    def __init__(self, step):
        self.step = step

    def logged(self, trainer, values):
        if trainer.step == self.step:
            trainer.stop()


def run_apart(*args):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "tests.killing", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Lines of one process: importing takes longer than the runs."""
    return run_apart(tmp_path_factory.mktemp("killed"), "each", 2, 97).splitlines()


def test_killed_twice_a_run_ends_with_the_same_bits(killed):
    assert killed[0].startswith("same, 2 kills")


def test_killed_while_it_writes_a_run_ends_with_the_same_bits(killed):
    assert killed[1].startswith("same, killed at")


def test_from_outside_sigterm_saves_and_ends_the_process_with_143(killed):
    assert killed[2] == "143, with a whole checkpoint and no lock"


def test_the_same_seed_in_another_process_gives_the_same_bits(tmp_path, killed):
    killing.trainer(tmp_path).fit()
    assert killed[3] == killing.digest(tmp_path)


@pytest.mark.slow
def test_killed_twenty_times_a_run_ends_with_the_same_bits(tmp_path):
    assert run_apart(tmp_path, "random", 20).startswith("same, 20 kills")


@pytest.mark.slow
def test_killed_at_every_third_write_a_run_ends_with_the_same_bits(tmp_path):
    assert run_apart(tmp_path, "writes", 3).startswith("same, killed at")


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(tmp_path, step):
    whole, cut = model(), model()
    history = train(whole, val=X[:20], ema=0.9, schedule="cosine").fit()
    options = {"val": X[:20], "ema": 0.9, "schedule": "cosine", "output_dir": tmp_path}
    first = train(cut, **options, callbacks=[StopAt(step)], log_every=1)
    first.fit()
    assert first.step == step and not first.finished
    again = model()
    trainer = train(again, **options)
    assert numbers(trainer.fit()) == numbers(history) and trainer.finished
    assert torch.equal(weights(again), weights(whole))
    kept = vaekit.load(tmp_path / "last")
    assert torch.equal(weights(kept), weights(trainer.model)) and not torch.equal(weights(kept), weights(again))


class Augmented(Dataset):
    """Draws from all three global generators."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        import random

        noise = torch.rand(6) + float(np.random.rand()) + random.random()
        return (X[i] + 0.1 * noise).clamp(0, 1)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        for x in X:
            yield {"x": (x + 0.1 * torch.rand(6)).clamp(0, 1)}


DATA = {
    "dataset": lambda: Augmented(),
    "loader": lambda: DataLoader(TensorDataset(X), 16, shuffle=True),
    "augmenting loader": lambda: DataLoader(Augmented(), 16, shuffle=True),
    "seeded loader": lambda: DataLoader(TensorDataset(X), 16, shuffle=True, generator=torch.Generator()),
    "stream": lambda: Stream(),
    "list of mappings": lambda: [{"image": x, "label": 0} for x in X],
}


@pytest.mark.parametrize("name", DATA)
def test_in_the_middle_of_an_epoch_of_any_data(tmp_path, name):
    whole, cut, again = model(), model(), model()
    history = train(whole, DATA[name]()).fit()
    train(cut, DATA[name](), output_dir=tmp_path, callbacks=[StopAt(6)], log_every=1).fit()
    assert numbers(train(again, DATA[name](), output_dir=tmp_path).fit()) == numbers(history)
    assert torch.equal(weights(again), weights(whole))


def test_with_loader_processes_and_random_augmentation_in_any_number(tmp_path):
    whole, cut, again = model(), model(), model()
    history = train(whole, Augmented(), num_workers=0).fit()
    train(cut, Augmented(), num_workers=2, output_dir=tmp_path, callbacks=[StopAt(6)], log_every=1).fit()
    assert numbers(train(again, Augmented(), num_workers=1, output_dir=tmp_path).fit()) == numbers(history)
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_with_its_exit_code(tmp_path, number, code):
    before = signal.getsignal(number)

    class Hit(Callback):
        def logged(self, trainer, values):
            if trainer.step == 6:
                os.kill(os.getpid(), number)

    cut = model()
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt) as error:
        train(cut, output_dir=tmp_path, callbacks=[Hit()], log_every=1).fit()
    assert number == signal.SIGINT or error.value.code == code
    assert signal.getsignal(number) is before
    assert Checkpoints(tmp_path, 2).found()[0].name == "step-0000000006"
    whole, again = model(), model()
    train(whole).fit(), train(again, output_dir=tmp_path).fit()
    assert torch.equal(weights(again), weights(whole))


def test_in_the_middle_of_validation_too(tmp_path):
    whole, cut, again = model(), model(), model()
    train(whole, val=X).fit()
    trainer = train(cut, val=X, output_dir=tmp_path)
    loss = trainer.vae.loss

    def asking(x, cond=None):
        if not trainer.vae.training:
            trainer.stop()
        return loss(x, cond)

    trainer.vae.loss = asking
    assert len(trainer.fit()) == 0 and not trainer.finished and trainer.step == 4
    assert len(train(again, val=X, output_dir=tmp_path).fit()) == 3
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize("time_", [1e-9, timedelta(microseconds=1)])
def test_max_time_saves_and_returns(tmp_path, time_):
    vae, whole = model(), model()
    train(whole).fit()
    for _ in range(3 * 4 + 3):
        trainer = train(vae, output_dir=tmp_path, max_time=time_)
        trainer.fit()
        if trainer.finished:
            break
        # nothing is done without time, so the next try is given a step by a stop of its own
        trainer = train(vae, output_dir=tmp_path, log_every=1, callbacks=[StopAt(trainer.step + 1)])
        trainer.fit()
    assert trainer.finished and torch.equal(weights(vae), weights(whole))


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    worker = threading.Thread(target=lambda: train(model(), output_dir=tmp_path).fit())
    worker.start()
    worker.join()
    assert (tmp_path / "last").exists()


def run_of(tmp_path, **args):
    trainer = train(model(), output_dir=tmp_path, **args)
    trainer.fit()
    return trainer


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


FILES = ["model.safetensors", "spec.json", "state.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "flipped") for name in FILES),
        *((FILES[0], how) for how in ("missing", "empty", "cut")),
        (FILES[-1], "cut"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(tmp_path, name, how):
    whole = run_of(tmp_path)
    newest, before = Checkpoints(tmp_path, 2).found()[:2]
    damage(newest / name, how)
    with pytest.raises(CheckpointError, match=f"{newest.name}"):
        Checkpoints(tmp_path, 2).newest(strict=True)
    again = model()
    with pytest.warns(UserWarning, match=rf"{newest.name}.*(damaged|missing).*Going on from {before.name}"):
        train(again, output_dir=tmp_path).fit()
    assert torch.equal(weights(again), weights(whole.vae))
    verify(tmp_path / "last")


def test_where_all_checkpoints_are_damaged_nothing_is_begun(tmp_path):
    run_of(tmp_path)
    for path in Checkpoints(tmp_path, 2).found():
        damage(path / "state.json", "cut")
    with pytest.raises(CheckpointError, match="no checkpoint is whole.*overwrite=True"):
        train(model(), output_dir=tmp_path).fit()


def test_nothing_is_unpickled(tmp_path):
    run_of(tmp_path)
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {canary}",))

    import pickle

    for path in Checkpoints(tmp_path, 2).found():
        for name in ("state.safetensors", "model.safetensors"):
            torch.save({"rng": Evil()}, path / name)
            (path / "rng.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        train(model(), output_dir=tmp_path).fit()
    assert not canary.exists()


def test_no_more_checkpoints_than_asked_stay_and_the_best_does(tmp_path):
    class Worse(Callback):
        def epoch(self, trainer, row):
            with torch.no_grad():
                for p in trainer.vae.parameters():
                    p.mul_(3)

    trainer = run_of(tmp_path, val=X, epochs=6, keep=2, callbacks=[Worse()], lr=1e-6)
    best = int(np.argmin(trainer.history["val/total"])) + 1
    assert best < 5
    assert [p.name for p in Checkpoints(tmp_path, 2).found()] == [f"step-{4 * e:010d}" for e in (6, 5, best)]
    assert (tmp_path / "best").resolve().name == f"step-{4 * best:010d}"


def test_links_that_a_killed_process_did_not_set_are_set(tmp_path):
    run_of(tmp_path, val=X)
    paths = {name: (tmp_path / name).resolve() for name in ("last", "best")}
    for name in paths:
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("checkpoints/step-0000000004")
    train(model(), output_dir=tmp_path, val=X).fit()
    assert {name: (tmp_path / name).resolve() for name in ("last", "best")} == paths


def test_two_runs_on_one_folder_are_told_apart(tmp_path):
    with locked(tmp_path):
        with pytest.raises(CheckpointError, match=rf"another run writes here: process {os.getpid()} on .*is this one"):
            train(model(), output_dir=tmp_path)
    # a holder that knows nothing of vaekit, which would take seconds to import
    code = (
        "import fcntl, json, os, socket, sys, time\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "json.dump({'pid': os.getpid(), 'host': socket.gethostname()}, file)\nfile.flush()\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-S", "-c", code, tmp_path / "run.lock"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=rf"another run writes here: process {child.pid} on \S+ \(run.lock\)"):
        train(model(), output_dir=tmp_path)
    child.kill()
    child.communicate()
    assert (tmp_path / "run.lock").exists(), "it was killed, and took the lock with it, if not the file"
    run_of(tmp_path)
    assert not (tmp_path / "run.lock").exists()


def test_a_full_disk_is_told_and_the_checkpoint_before_it_kept(tmp_path, monkeypatch):
    import vaekit.train.checkpoint as checkpoint

    real, calls = checkpoint.save_file, []

    def full(tensors, path, *args):
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        return real(tensors, path, *args)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step-0000000012: can't be written .*No space left.*make room"):
        run_of(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name[0] == "."] == []
    assert Checkpoints(tmp_path, 2).newest(strict=True)[0].name == "step-0000000008"
    assert (tmp_path / "last").resolve().name == "step-0000000008"
    whole, again = model(), model()
    train(whole).fit(), train(again, output_dir=tmp_path).fit()
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs root on Linux")
def test_a_disk_that_is_really_full(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no mounting here")
    try:
        with pytest.raises(CheckpointError, match=r"can't be written .*(No space left|os error 28)"):
            run_of(folder, keep=50, epochs=50, checkpoint_every=1)
        path, state = Checkpoints(folder, 2).newest(strict=True)
        assert state["place"]["step"] > 0 and (folder / "last").resolve() == path
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"lr": 2e-3}, "lr was 0.001, and is 0.002"),
        ({"batch_size": 8}, "batch_size was 16, and is 8"),
        ({"seed": 1}, "seed was 0, and is 1"),
        ({"ema": 0.9}, "ema was None, and is 0.9"),
        ({"optimizer": use("adamw", weight_decay=0.1)}, "optimizer was 'adam', and is {'name': 'adamw'"),
        ({"train": X[:40]}, "data.examples was 50, and is 40"),
        ({"epochs": 2}, "run of 3 epochs, and 2 are asked for"),
    ],
)
def test_another_run_is_not_gone_on_with(tmp_path, args, match):
    run_of(tmp_path)
    data = args.pop("train", X)
    with pytest.raises(CheckpointError, match=rf"already holds a .*{match}.*overwrite=True"):
        train(model(), data, output_dir=tmp_path, **args).fit()
    with pytest.raises(CheckpointError, match="already holds a run of another model"):
        train(model(hidden=(9,)), output_dir=tmp_path).fit()


def test_a_finished_run_is_given_back_and_a_longer_one_goes_on(tmp_path):
    whole = model()
    train(whole, epochs=5).fit()
    first = run_of(tmp_path)
    again = model()
    trainer = train(again, output_dir=tmp_path)
    assert trainer.fit().rows == first.history.rows and trainer.step == 12
    assert torch.equal(weights(again), weights(first.vae))
    longer = model()
    assert len(train(longer, output_dir=tmp_path, epochs=5).fit()) == 5
    assert torch.equal(weights(longer), weights(whole))


def test_a_run_goes_on_from_elsewhere(tmp_path):
    train(model(), output_dir=tmp_path / "a", callbacks=[StopAt(6)], log_every=1).fit()
    whole = model()
    train(whole).fit()
    for source, folder in ((tmp_path / "a", "b"), (tmp_path / "a" / "last", "c")):
        vae = model()
        train(vae, resume=source, output_dir=tmp_path / folder).fit()
        assert torch.equal(weights(vae), weights(whole))
    assert read_state(tmp_path / "a" / "last")["place"]["step"] == 6
    with pytest.raises(CheckpointError, match="nowhere: holds no checkpoint"):
        train(model(), resume=tmp_path / "nowhere").fit()


def test_callbacks_go_on_as_well(tmp_path):
    class Counting(StopAt):
        count = 0

        def epoch(self, trainer, row):
            self.count += 1
            row["count"] = self.count

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    train(model(), output_dir=tmp_path, callbacks=[Counting(6)], log_every=1).fit()
    assert train(model(), output_dir=tmp_path, callbacks=[Counting(-1)]).fit()["count"] == [1, 2, 3]


def test_state_is_written_and_read_as_it_was():
    state = {
        "a": [1, 2.5, None, True, "text", (1, (2,)), [], {}],
        0: {"x": torch.arange(3), "y": torch.tensor(2.5, dtype=torch.bfloat16)},
        "inf": [float("inf"), float("-inf")],
        "@": {"@tensor": 1},
        "n": np.arange(4, dtype=np.uint32),
        "third": 1 / 3,
    }
    tensors = {}
    tree = json.loads(json.dumps(flatten(state, tensors), allow_nan=False))
    back = unflatten(tree, tensors)
    assert killing.same(state, back) and isinstance(back["a"][5], tuple) and back["n"].dtype == np.uint32
    with pytest.raises(TypeError, match=r"/a/1: holds a function, which a checkpoint can't"):
        flatten({"a": [1, lambda: 0]}, {})


def test_a_folder_of_an_earlier_version_is_not_written_over(tmp_path):
    vae = model()
    vae.save_pretrained(tmp_path / "last")
    (tmp_path / "history.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"already holds a run \(history.json, last\)"):
        train(model(), output_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model(), output_dir=tmp_path, overwrite=True).fit()
    assert (tmp_path / "last").is_symlink()
