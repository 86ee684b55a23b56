"""Runs that are killed and started again, in children of one process that has imported everything.

    python -m tests.killing FOLDER random 20      # SIGKILL at 20 random instants, and until the run is done
    python -m tests.killing FOLDER writes         # SIGKILL at each call with which a checkpoint is written, one by one
    python -m tests.killing FOLDER each 2 97      # some of both, SIGTERM, and a digest of the end

It prints "same" where the model, the whole state of the last checkpoint and the history equal those of a run that nobody
killed, bit by bit.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

import vaekit
import vaekit.train.checkpoint as checkpoint
from vaekit import term, use
from vaekit.train import Callback

TIMES = ("seconds", "examples_per_second")


class Slow(Callback):
    """Steps long enough to be hit."""

    def logged(self, trainer, values):
        time.sleep(0.002)


def trainer(folder):
    """Dropout, noise, GECO, a ramp, a critic with its own player, EMA, schedules, accumulation, augmentation."""
    torch.manual_seed(0)
    loss = [
        term("nll", weight=vaekit.geco(2.0)),
        term("kl", weight=vaekit.ramp(0, 1, steps=30)),
        term("adversarial_latent", weight=0.1),
    ]
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), encoder=use("mlp", hidden=(8,)), loss=loss)
    x = torch.rand(75, 6, generator=torch.Generator().manual_seed(0))
    return vaekit.Trainer(
        vae, x, x[:30], epochs=4, batch_size=8, accumulate=2, ema=0.9, schedule=use("cosine", warmup=3), grad_clip=1.0,
        players={"adversarial_latent": {"lr": 1e-2, "every": 2}}, augment=lambda x: x * torch.rand(len(x), 1),
        output_dir=folder, checkpoint_every=3, keep=2, log_every=1, callbacks=[Slow()], device="cpu", progress=False,
    )  # fmt: skip


def in_child(work):
    """The child's exit code, or minus the signal that ended it."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid):
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def fit(folder):
    return lambda: trainer(folder).fit()


def state(folder):
    path, found = checkpoint.Checkpoints(folder, 2).newest(strict=True)
    assert (folder / "last").resolve() == path.resolve()
    for row in found["history"]:
        for name in TIMES:
            row.pop(name)
    found["place"].pop("seconds")
    return found, vaekit.load(folder / "last").state_dict(), vaekit.load(folder / "best").state_dict()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool((a == b).all()) if hasattr(a, "shape") else a == b


def compare(reference, folder, what):
    for name, a, b in zip(("state", "last", "best"), state(reference), state(folder), strict=True):
        if not same(a, b):
            differ = [key for key in a if not same(a[key], b[key])]
            sys.exit(f"{what}: {name} differs in {differ}")


def left_alone(root):
    """Seconds of the run that nobody kills."""
    began = time.perf_counter()
    assert ended(in_child(fit(root / "whole"))) == 0
    return time.perf_counter() - began


def at_random(root, kills, lasts):
    draw, done = random.Random(0), 0
    folder, round_ = root / "killed", 0
    while done < kills:
        pid = in_child(fit(folder))
        time.sleep(draw.uniform(0.02, 0.6 * lasts))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        if code == 0:
            compare(root / "whole", folder, f"round {round_}")
            shutil.rmtree(folder)
            round_ += 1
        else:
            assert code == -signal.SIGKILL, code
            done += 1
    assert ended(in_child(fit(folder))) == 0
    compare(root / "whole", folder, "the last round")
    print(f"same, {done} kills, {round_ + 1} rounds")


def at_writes(root, stride):
    def counted(limit):
        """Every call that changes the disk counts; the process dies in the middle of number `limit`, half written."""
        calls = [0]

        def wrap(module, name):
            real = getattr(module, name)

            def call(*args, **kwargs):
                calls[0] += 1
                if calls[0] == limit:
                    if name == "save_file":
                        Path(args[1]).write_bytes(b"half")
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            setattr(module, name, call)

        for module, name in (
            (os, "fsync"), (os, "rename"), (os, "replace"), (os, "symlink"), (os, "unlink"),
            (checkpoint, "save_file"), (vaekit.saving, "save_file"), (shutil, "rmtree"),
        ):  # fmt: skip
            wrap(module, name)

    limit = 1
    while True:
        folder = root / f"at{limit}"

        def work(folder=folder, limit=limit):
            counted(limit)
            trainer(folder).fit()

        code = ended(in_child(work))
        if code == 0:
            break
        assert code == -signal.SIGKILL, (limit, code)
        assert ended(in_child(fit(folder))) == 0, limit
        compare(root / "whole", folder, f"killed at write {limit}")
        shutil.rmtree(folder)
        limit += stride
    print(f"same, killed at {(limit - 1) // stride} of {limit - 1} writes")


def terminated(root):
    def work():
        endless = trainer(root / "term")
        endless.phases[0] = dataclasses.replace(endless.phases[0], epochs=10**6)
        endless.fit()

    pid = os.fork()
    if not pid:
        try:
            work()
        except SystemExit as left:
            os._exit(left.code)
        os._exit(1)
    while not (root / "term" / "last").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    code = ended(pid)
    checkpoint.verify(root / "term" / "last")
    assert not (root / "term" / "run.lock").exists()
    print(f"{code}, with a whole checkpoint and no lock")


def digest(folder):
    return vaekit.saving.digest(vaekit.load(folder / "last").state_dict())


def main():
    torch.set_num_threads(1)
    root, what, *counts = Path(sys.argv[1]), *sys.argv[2:]
    lasts = left_alone(root)
    if what in ("random", "each"):
        at_random(root, int(counts[0]), lasts)
    if what in ("writes", "each"):
        at_writes(root, int(counts[-1]) if counts else 1)
    if what == "each":
        terminated(root)
        print(digest(root / "whole"))


if __name__ == "__main__":
    main()
