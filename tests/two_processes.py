"""Runs of one or more processes, in a fresh interpreter.

    python -m torch.distributed.run … -m tests.two_processes RUNS     # in the processes that torchrun starts
    python -m tests.two_processes GROUPS                              # in forks of one process: imported once

RUNS is a list of runs, as JSON, and GROUPS of `{"processes": 2, "environment": {…}, "runs": RUNS}`. What each process
learned is written to the run's `out` with its number.
"""

import json
import os
import signal
import socket
import sys
import traceback
import warnings

import torch
from torch.distributions import Normal

import vaekit
from vaekit import Trainer, term, use
from vaekit.train import Callback, History

X = torch.rand(45, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KEYS = (("form", None), ("n", 45), ("loader_batch", 8))
DRAWS = Normal.rsample, Normal.sample
MLP = use("mlp", hidden=(8,))


def rsample(self, shape=()):
    """Noise that is a function of the example, so that it does not matter where the example is."""
    loc = self.loc.expand(self._extended_shape(shape))
    return loc + self.scale * torch.sin(37 * loc.detach())


def sample(self, shape=()):
    """Draws of the prior belong to no example."""
    return (self.loc + 0.3 * self.scale).expand(self._extended_shape(shape))


def model(name):
    torch.manual_seed(0)
    args = {"latent": 2, "input_shape": (1, 8, 8), "encoder": MLP, "decoder": MLP}
    if name == "gan":
        critic = use("patchgan", width=8, layers=1, norm="group")
        args["loss"] = ["nll", "kl", term("adversarial", weight=0.5, critic=critic, start=2)]
    if name == "balanced":
        game = term("adversarial", weight=vaekit.gradient_balanced(), critic=use("mlp", hidden=(8,)), start=2)
        args["loss"] = ["nll", "kl", game]
    if name == "geco":
        args["loss"] = [term("nll", weight=vaekit.geco(50.0, rate=0.3)), "kl"]
    if name == "vq":
        args["sampler"] = use("vq", codebook_size=4, init="normal", restart=0.0)
        args["loss"] = ["nll", "commitment"]
        args["latent"], args["encoder"], args["decoder"] = (2, 2, 2), use("conv", width=8), use("conv", width=8)
    if name == "vae_gan":  # the recipe, with a critic whose normalisation looks at one example at a time
        critic = use("patchgan", width=8, layers=1, norm="group")
        args["loss"] = ["kl", term("feature_matching", adversarial=1.0, critic=critic)]
    return vaekit.build(**args).double()


class StopAt(Callback):
    """Asks to stop; calls come in the first process only."""

    def __init__(self, step):
        self.step = step

    def logged(self, trainer, values):
        if trainer.step == self.step:
            trainer.stop()


class Items(torch.utils.data.Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def data(form, n, loader_batch=8):
    x = X[:n].clone()
    if form == "nan":
        x[5, 0, 0, 0] = float("nan")
    if form in ("dataset", "nan"):
        return Items(x)
    if form == "loader":
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=loader_batch)
    return x


def run(options):
    rank, out = int(os.environ.get("RANK", 0)), options["out"]
    Normal.rsample, Normal.sample = (rsample, sample) if options.get("same_noise", True) else DRAWS
    vae = model(options["model"])
    if rank:  # the first process's weights count
        torch.nn.init.normal_(next(vae.parameters()))
    args = {"epochs": 2, "batch_size": 8, "device": "cpu", "val": X[40:], "log_every": 1, **options.get("args", {})}
    callbacks = [StopAt(options["stop"])] if "stop" in options else []
    if "kill" in options and rank == options["kill"]:
        args["augment"] = lambda x: (os.kill(os.getpid(), signal.SIGTERM), x)[1]
    error, history = None, History()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer = Trainer(vae, data(*(options.get(*key) for key in KEYS)), callbacks=callbacks, **args)
            history = trainer.fit()
        except (Exception, SystemExit) as raised:
            error = f"{type(raised).__name__}: {raised}"
        said = [str(w.message) for w in caught if "Trainer" in str(w.message)]
    kept = {} if error else {"parts": type(trainer.players[0].parameters[0]).__name__}
    found = {**kept, "state": dict(vae.state_dict()), "rows": history.rows, "said": said, "error": error}
    torch.save({**found, "noise": torch.rand(1)}, f"{out}.{rank}")


def work(runs):
    torch.manual_seed(1)
    for options in runs:
        run(options)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def forked(rank, count, port, group):
    """A process of a group, out of this one, which has imported everything."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if count > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= group.get("environment", {})
        work(group["runs"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main():
    given = json.loads(sys.argv[1])
    if "RANK" in os.environ:  # torchrun started this process
        work(given)
        return
    for group in given:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        count = group["processes"]
        pids = [forked(rank, count, port, group) for rank in range(count)]
        if codes := [code for pid in pids if (code := os.waitpid(pid, 0)[1])]:
            sys.exit(f"ended with {codes}")


if __name__ == "__main__":
    main()
