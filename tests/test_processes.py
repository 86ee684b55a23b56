"""Two processes are one with twice the batch: the same weights, numbers and files, and the same end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import vaekit
from tests.two_processes import Items
from vaekit.train.checkpoint import Checkpoints
from vaekit.train.checks import check_launch
from vaekit.train.data import batches, part
from vaekit.train.processes import Processes, synchronised

ROOT = Path(__file__).parents[1]
#: (model, data, arguments) whose runs in two processes, with batches of 8, and in one, with batches of 16, are compared
CASES = {
    "vae": ("plain", {}, {}),
    "vae, accumulating": ("plain", {"n": 41}, {"accumulate": 2}),
    "vae, with one example in the last step": ("plain", {"n": 33, "form": "dataset"}, {"ema": 0.9}),
    "vae from a loader": ("plain", {"form": "loader"}, {}),
    "gan before and after its start": ("gan", {"n": 37}, {}),
    "gan of balanced weight": ("balanced", {"n": 37}, {"grad_clip": 1.0}),
    "vae_gan": ("vae_gan", {"n": 37}, {}),
    "vq with moving averages": ("vq", {"n": 33}, {}),  # the second process has none of the last batch
    "a weight that follows its term": ("geco", {"n": 33}, {}),  # and so here
    "a weight that follows its term, accumulating": ("geco", {"n": 41}, {"accumulate": 2}),
    "a batch with NaN in one process": ("plain", {"form": "nan"}, {}),
}


def launch(groups, timeout=300):
    """Groups of processes, one after another, out of one interpreter."""
    known = ("RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP", "FSDP_VERSION")
    environment = {k: v for k, v in os.environ.items() if k not in known} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.two_processes", json.dumps(groups)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, timeout=timeout, capture_output=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def torchrun(runs, timeout=240):
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.two_processes", json.dumps(runs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, timeout=timeout, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]


def read(path, processes=2):
    return [torch.load(f"{path}.{rank}", weights_only=False) for rank in range(processes)]


#: those of the above that are also run with their weights shared out
SHARDED = [
    "vae, accumulating",
    "vae, with one example in the last step",
    "gan of balanced weight",
    "vq with moving averages",
]
SHARING = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """All cases at once: starting a process takes longer than any of them."""
    folder = tmp_path_factory.mktemp("compared")

    def runs(name, batch, cases=CASES):
        return [
            {
                "loader_batch": batch,
                "model": model,
                "out": f"{folder}/{name}-{i}",
                "args": {"batch_size": batch, **args},
                **form,
            }
            for i, (case, (model, form, args)) in enumerate(CASES.items())
            if case in cases
        ]

    launch(
        [
            {"processes": 2, "runs": runs("two", 8)},
            {"processes": 1, "runs": runs("one", 16)},
            {"processes": 2, "runs": runs("shared", 8, SHARDED), "environment": SHARING},
        ]
    )
    found = {case: (read(f"{folder}/two-{i}"), read(f"{folder}/one-{i}", 1)[0]) for i, case in enumerate(CASES)}
    shared = {case: read(f"{folder}/shared-{i}") for i, case in enumerate(CASES) if case in SHARDED}
    return found, shared


def check_same(first, second, alone):
    assert first["error"] is None and alone["error"] is None, (first["error"], alone["error"])
    for name, value in alone["state"].items():
        if value.is_floating_point():
            torch.testing.assert_close(
                first["state"][name], value, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert all(torch.equal(value, second["state"][name]) for name, value in first["state"].items())
    skipped = ("seconds", "examples_per_second", "perplexity", "codes_used", "active_units")  # the first's own examples
    for row, other in zip(first["rows"], alone["rows"], strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {*skipped}:
            assert row[key] == pytest.approx(other[key], rel=1e-7, abs=1e-9), key


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_twice_the_batch(compared, case):
    (first, second), alone = compared[0][case]
    check_same(first, second, alone)
    assert first["parts"] == "Parameter"


@pytest.mark.parametrize("case", SHARDED)
def test_and_so_they_do_with_the_weights_shared_out(compared, case):
    first, second = compared[1][case]
    check_same(first, second, compared[0][case][1])
    assert first["parts"] == "DTensor", "what was trained was whole"


def test_only_the_first_process_speaks(compared):
    (first, second), _ = compared[0]["a batch with NaN in one process"]
    assert any("left out" in line for line in first["said"])
    assert not second["said"]


def run(tmp_path, name, processes=2, **options):
    return {"model": "gan", "out": str(tmp_path / name), "same_noise": False, **options}


@pytest.mark.slow
@pytest.mark.sample
def test_a_stopped_run_goes_on_to_the_same_bits_and_other_numbers_of_processes_are_refused(tmp_path):
    """Each process's own noise goes on, and so does its place in the data; one process writes."""
    args = {"output_dir": str(tmp_path / "stopped"), "ema": 0.9, "checkpoint_every": 2}
    left_alone = run(tmp_path, "whole", args={**args, "output_dir": None})
    stopped = run(tmp_path, "stopped-first", args=args, stop=4)
    on = run(tmp_path, "on", args=args)
    killed = run(tmp_path, "killed", kill=1, args={**args, "output_dir": str(tmp_path / "killed-run")})
    torchrun([left_alone, stopped, on, killed])
    whole, half, end = (read(tmp_path / name) for name in ("whole", "stopped-first", "on"))
    for rank in range(2):
        assert not half[rank]["rows"] or len(half[rank]["rows"]) < 2
        assert end[rank]["error"] is None, end[rank]["error"]
        for name, value in whole[rank]["state"].items():
            assert torch.equal(end[rank]["state"][name], value), (rank, name)
    assert not torch.equal(*(found["state"]["encoder.body.layers.0.weight"] for found in (whole[0], half[0])))

    errors = [found["error"] for found in read(tmp_path / "killed")]
    assert errors == [None, "SystemExit: 143"], "the one that got the signal leaves with it, and the other returns"
    assert len(list((tmp_path / "killed-run" / "checkpoints").iterdir())) == 1
    assert not (tmp_path / "killed-run" / "run.lock").exists()

    launch([{"processes": 1, "runs": [run(tmp_path, "alone", args=args)]}])
    (alone,) = read(tmp_path / "alone", 1)
    assert "processes was 2, and is 1" in alone["error"]


@pytest.mark.parametrize("n", [1, 3, 5, 16, 17, 31])
def test_every_example_is_dealt_once(n):
    x = torch.arange(n)[:, None].float()
    loader = torch.utils.data.DataLoader(Items(x), 4)
    for form in (x, Items(x), loader, iter_again(x)):

        def make(share, form=form):
            return made(form, share)

        parts = [list(make((rank, 3)).epoch(1)) for rank in range(3)]
        dealt = torch.cat([x.reshape(-1, 1) for own in parts for x, _ in own]).flatten()
        assert dealt.sort().values.tolist() == list(range(n))
        resumed = [x for x, _ in make((1, 3)).epoch(1, 1)]
        assert [x.tolist() for x in resumed] == [x.tolist() for x, _ in parts[1][1:]]


def made(data, share):
    return batches(data, 4, shuffle=True, seed=0, num_workers=0, name="train", shape=(1,), share=share)


class iter_again:
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.parametrize("n", range(12))
def test_parts_differ_by_one_example_at_most(n):
    sizes = [len(range(n)[part(n, (rank, 5))]) for rank in range(5)]
    assert sum(sizes) == n and max(sizes) - min(sizes) <= 1


def test_a_loader_that_deals_by_itself_is_refused():
    x = [torch.rand(1) for _ in range(4)]
    sampler = torch.utils.data.distributed.DistributedSampler(x, num_replicas=2, rank=0)
    with pytest.raises(ValueError, match="has a DistributedSampler"):
        made(torch.utils.data.DataLoader(x, sampler=sampler), (0, 2))


def test_batch_normalisation_is_of_all_processes_on_cuda_and_as_it_was_afterwards():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2)), nn.GroupNorm(1, 2))
    before, weights = model[1][0], list(model.parameters())
    two = Processes("cpu")
    two.count = 2
    with synchronised(model, two, torch.device("cuda")):
        assert isinstance(model[1][0], nn.SyncBatchNorm)
        assert all(a is b for a, b in zip(model.parameters(), weights, strict=True)), "optimizers hold these"
        model[1][0].running_mean.fill_(3)
    assert model[1][0] is before and before.running_mean.eq(3).all()
    with synchronised(model, two, torch.device("cpu")):
        assert model[1][0] is before


@pytest.mark.slow
@pytest.mark.sample
def test_a_stopped_run_of_shared_weights_goes_on_and_its_checkpoints_are_whole(tmp_path):
    args = {"output_dir": str(tmp_path / "stopped"), "ema": 0.9, "checkpoint_every": 2, "grad_clip": 1.0}
    runs = [
        run(tmp_path, "whole", args={**args, "output_dir": None}),
        run(tmp_path, "half", args=args, stop=4),
        run(tmp_path, "on", args=args),
    ]
    launch([{"processes": 2, "runs": runs, "environment": SHARING}])
    whole, on = read(tmp_path / "whole"), read(tmp_path / "on")
    for rank in range(2):
        assert on[rank]["error"] is None and whole[rank]["error"] is None, (on[rank]["error"], whole[rank]["error"])
        for name, value in whole[rank]["state"].items():
            assert torch.equal(on[rank]["state"][name], value), (rank, name)
    path, state = Checkpoints(tmp_path / "stopped", 2).newest(strict=True)
    assert all(torch.equal(v, on[0]["state"][k]) for k, v in state["ema"]["current"].items())
    moments = state["players"][0]["optimizer"]["state"]
    shapes = [tuple(p.shape) for p in vaekit.load(path).players()["vae"]]
    assert [tuple(own["exp_avg"].shape) for own in moments.values()] == shapes


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM"])
def test_ways_of_accelerates_that_the_trainer_does_not_know_are_refused(monkeypatch, kind):
    import accelerate

    class Other:
        process_index, num_processes = 0, 2
        distributed_type = accelerate.DistributedType[kind]

        def __init__(self, **given):
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "Accelerator", Other)
    with pytest.raises(ValueError, match=f"was started as {kind}, which it can't do. .*or FSDP in accelerate's config"):
        Processes("cpu")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"auto_batch": True, "dtype": None}, "auto_batch=True is for one process"),
        ({"auto_batch": False, "dtype": torch.float16}, "precision='fp16' does not go with FSDP"),
    ],
)
def test_what_several_processes_can_not_do_is_told(given, match):
    two = Processes("cpu")
    two.count, two.sharded = 2, True
    with pytest.raises(ValueError, match=match):
        check_launch(two, **given)
