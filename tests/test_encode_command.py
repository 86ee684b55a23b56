"""Latents on disk: they are the model's, whole after any kill, and nothing else is taken for them."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import vaekit
from vaekit import use
from vaekit.cache import CachedLatents, encode_dataset
from vaekit.cli import main
from vaekit.saving import CheckpointError

x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
y = torch.arange(50) % 10
SMALL = {"batch_size": 6, "shard_size": 12}  # five shards, the last of two examples


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", **{"latent": 3, "input_shape": (1, 8, 8), "hidden": (16,), **args}).eval()


def all_of(cached):
    return torch.stack(
        [each[0] if isinstance(each, tuple) else each for each in cached.__getitems__(range(len(cached)))]
    )


# -- what is written ---------------------------------------------------------------------------------------------------


def test_modes_are_the_models_and_decode_to_its_reconstructions(tmp_path):
    vae = model()
    cached = encode_dataset(vae, (x, y), tmp_path, **SMALL)
    assert len(cached) == 50 and torch.allclose(all_of(cached), vae.latents(x), atol=1e-6)
    assert torch.allclose(vae.decode_latents(all_of(cached)), vae.reconstruct(x), atol=1e-6)
    assert [int(label) for _, label in cached.__getitems__([3, 49, -1])] == [3, 9, 9]
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["index.json", *(f"shard-0000{i}.safetensors" for i in range(5))]
    assert [len(load_file(tmp_path / name)["z"]) for name in files[1:]] == [12, 12, 12, 12, 2]


def test_moments_and_samples_have_the_posteriors_mean_and_spread(tmp_path):
    vae = model()
    with torch.no_grad():
        q = vae.encode(x).q
    moments = encode_dataset(vae, x, tmp_path / "moments", what="moments", **SMALL)
    mean = all_of(CachedLatents(tmp_path / "moments", draw=False))
    assert torch.allclose(mean, q.mean, atol=1e-6)
    draws = torch.stack([(all_of(moments) - q.mean) / q.stddev for _ in range(40)])
    assert abs(float(draws.mean())) < 0.05 and abs(float(draws.std()) - 1) < 0.05, "6,000 draws: five errors are 0.06"
    samples = [all_of(encode_dataset(vae, x, tmp_path / f"{s}", what="sample", seed=s, **SMALL)) for s in range(30)]
    noise = (torch.stack(samples) - q.mean) / q.stddev
    assert abs(float(noise.mean())) < 0.08 and abs(float(noise.std()) - 1) < 0.06
    assert len({float(each) for each in noise[0].flatten()}) == 150, "each example has noise of its own"


@pytest.mark.parametrize("what", ["mode", "moments", "sample"])
def test_latents_are_normalised_where_there_is_a_normalizer(tmp_path, what):
    """Of many draws, those that were normalised have the same mean and deviation as draws that are normalised later."""
    vae = model(normalizer="channel_stats").fit_normalizer(x)
    with torch.no_grad():
        vae.normalizer.mean.add_(3.0)
        q = vae.encode(x).q
    cached = encode_dataset(vae, x, tmp_path, what=what, **SMALL)
    found = all_of(CachedLatents(tmp_path, draw=False))
    if what != "sample":
        assert torch.allclose(found, vae.normalizer(q.mean), atol=1e-5)
        assert not torch.allclose(found, q.mean, atol=0.1)
    if what == "moments":
        std = torch.cat([load_file(path)["std"] for path in sorted(tmp_path.glob("*.safetensors"))])
        far = vae.normalizer.inverse(all_of(cached))
        assert torch.allclose(std, (vae.normalizer(q.mean + q.stddev) - vae.normalizer(q.mean)).abs(), atol=1e-4)
        assert float(((far - q.mean) / q.stddev).std()) == pytest.approx(1.0, abs=0.3)
    if what == "sample":
        assert float(((vae.normalizer.inverse(found) - q.mean) / q.stddev).std()) == pytest.approx(1.0, abs=0.3)


def test_codes_are_small_integers_that_decode(tmp_path):
    vae = model(latent=(4, 2, 2), sampler=use("vq", codebook_size=20), encoder="conv", decoder="conv")
    cached = encode_dataset(vae, x, tmp_path, what="codes", **SMALL)
    codes = all_of(cached)
    assert codes.dtype == torch.int64 and codes.shape == (50, 2, 2)
    assert load_file(tmp_path / "shard-00000.safetensors")["codes"].dtype == torch.uint8
    with torch.no_grad():
        assert torch.equal(codes, vae.encode(x).index)
        assert torch.allclose(vae.decode(vae.sampler.lookup(codes)), vae.reconstruct(x), atol=1e-6)


def test_a_conditional_model_is_given_the_labels(tmp_path):
    vae = model(condition=use("class", classes=10), encoder=use("mlp", hidden=(16,)))
    cached = encode_dataset(vae, (x, y), tmp_path / "a", **SMALL)
    assert torch.allclose(all_of(cached), vae.latents(x, y), atol=1e-6)
    with pytest.raises(ValueError, match="has a condition. Give data as"):
        encode_dataset(vae, x, tmp_path / "b")


def test_bytes_half_precision_and_a_folder_of_images(tmp_path):
    from PIL import Image

    for i in range(5):
        Image.fromarray((x[i, 0] * 255).byte().numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    vae = model()
    with pytest.warns(UserWarning, match="3.png"):
        cached = encode_dataset(vae, tmp_path, tmp_path / "out", dtype="float16", batch_size=2, shard_size=2)
    whole = (x[[0, 1, 2, 4]] * 255).byte()
    assert torch.allclose(all_of(cached), vae.latents(whole.float() / 255), atol=2e-3) and len(cached) == 4
    assert all_of(cached).dtype == torch.float32 and "3.png" in next(iter(cached.index["unreadable"]))
    assert torch.equal(all_of(cached), all_of(encode_dataset(vae, whole, tmp_path / "b", dtype="float16")))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_loaders_see_each_example_once_with_its_label(tmp_path):
    vae = model()
    cached = encode_dataset(vae, (x, y), tmp_path, **SMALL)
    z = vae.latents(x)
    for workers in (0, 2):
        seen = list(DataLoader(cached, 8, shuffle=True, num_workers=workers))
        found, labels = (torch.cat(each) for each in zip(*seen, strict=True))
        order = torch.cdist(found, z).argmin(1)
        assert sorted(order.tolist()) == list(range(50)) and torch.equal(labels, y[order])
    again = pickle.loads(pickle.dumps(cached))
    assert torch.equal(again[7][0], cached[7][0])
    with pytest.raises(IndexError, match="example 50 of 50"):
        cached[50]


def test_a_changed_shard_is_told(tmp_path):
    cached = encode_dataset(model(), x, tmp_path, **SMALL)
    cached.verify()
    path = tmp_path / "shard-00002.safetensors"
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    with pytest.raises(CheckpointError, match="shard-00002.safetensors: is damaged"):
        CachedLatents(tmp_path).verify()
    path.write_bytes(held[:-1])
    with pytest.raises(CheckpointError, match="shard-00002.safetensors: is missing, or has another size"):
        CachedLatents(tmp_path)


# -- going on ----------------------------------------------------------------------------------------------------------


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_killed_at_each_write_it_goes_on_to_the_same_bytes(tmp_path):
    """SIGKILL at each call that changes the disk, in children of one process, until one is not reached."""
    program = """
        import os, signal, sys
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        import vaekit.cache.encode as encode, vaekit.saving
        from tests.killing import ended, in_child
        from tests.test_encode_command import SMALL, content, model, x

        root = Path(sys.argv[1])
        def work(folder, limit=0):
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
            for module, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (encode, "save_file")):
                wrap(module, name)
            encode.encode_dataset(model(), x[:14], folder, what="sample", **SMALL)
        assert ended(in_child(lambda: work(root / "whole"))) == 0
        limit = 1
        while True:
            folder = root / f"at{limit}"
            code = ended(in_child(lambda: work(folder, limit)))
            if code == 0:
                break
            assert code == -signal.SIGKILL, (limit, code)
            assert ended(in_child(lambda: work(folder))) == 0, limit
            assert content(folder) == content(root / "whole"), limit
            limit += 1
        print("same", limit - 1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("same") and int(done.stdout.split()[1]) > 2 * 5, done.stdout


def test_whole_shards_are_not_encoded_again_and_a_damaged_one_is(tmp_path, monkeypatch):
    vae = model()
    encode_dataset(vae, x, tmp_path, **SMALL)
    before = content(tmp_path)
    seen = []
    real = type(vae).encode
    monkeypatch.setattr(type(vae), "encode", lambda self, x, **k: seen.append(len(x)) or real(self, x, **k))
    encode_dataset(vae, x, tmp_path, **SMALL)
    assert seen == [] and content(tmp_path) == before
    whole = before["shard-00003.safetensors"]
    for damaged in (b"cut", whole[:-1] + bytes([whole[-1] ^ 1])):  # another size, and one bit
        (tmp_path / "shard-00003.safetensors").write_bytes(damaged)
        seen.clear()
        encode_dataset(vae, x, tmp_path, **SMALL)
        assert sum(seen) == 14 and content(tmp_path) == before


def test_unfinished_latents_are_not_read(tmp_path):
    encode_dataset(model(), x, tmp_path, **SMALL)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "finished": False, "shards": index["shards"][:2]}))
    with pytest.raises(CheckpointError, match="is not finished: 24 examples are there"):
        CachedLatents(tmp_path)
    with pytest.raises(CheckpointError, match=r"index.json: not found. Latents are written by"):
        CachedLatents(tmp_path / "nothing")
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(CheckpointError, match="index.json: is damaged"):
        CachedLatents(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(CheckpointError, match="later vaekit"):
        CachedLatents(tmp_path)


def test_other_latents_are_neither_mixed_in_nor_replaced_unasked(tmp_path):
    encode_dataset(model(), x, tmp_path, **SMALL)
    before = content(tmp_path)
    other = model()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    for vae, data, options, told in (
        (other, x, {}, "the model's weights differ"),
        (model(hidden=(8,)), x, {}, "the model's parts differ"),
        (model(), x + 1e-3 * (1 - x), {}, "data was"),
        (model(), x[:40], {}, "data was"),
        (model(), x, {"batch_size": 5}, "batch_size was 6, and is 5"),
        (model(), x, {"what": "moments"}, "what was 'mode', and is 'moments'"),
        (model(), x, {"dtype": "bfloat16"}, "dtype was 'float32', and is 'bfloat16'"),
    ):
        with pytest.raises(CheckpointError, match=told):
            encode_dataset(vae, data, tmp_path, **{**SMALL, **options})
        assert content(tmp_path) == before
    encode_dataset(model(), x[:20], tmp_path, overwrite=True, **SMALL)
    assert len(CachedLatents(tmp_path)) == 20 and len(list(tmp_path.glob("shard-*"))) == 2


def test_what_a_model_does_not_have_is_refused_before_anything_is_written(tmp_path):
    for vae, options, told in (
        (model(), {"what": "codes"}, "the latent is continuous"),
        (model(sampler="dirac", loss=["nll"]), {"what": "moments"}, "no product of normals"),
        (model(sampler="laplace"), {"what": "moments"}, "no product of normals"),
        (model(sampler=use("fsq", levels=(5, 5, 5))), {"what": "moments"}, "no product of normals"),
        (model(), {"dtype": "int8"}, "dtype: expected float32"),
        (model(), {"batch_size": 0}, "batch_size: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=told):
            encode_dataset(vae, x, tmp_path / "out", **options)
        assert not list(tmp_path.glob("out/*"))
    with pytest.raises(TypeError, match="can be gone through once"):
        encode_dataset(model(), iter([x]), tmp_path / "out")


def test_the_global_random_state_and_the_models_mode_are_left_alone(tmp_path):
    vae, state = model(), torch.get_rng_state()
    torch.set_rng_state(state)
    vae.train()
    encode_dataset(vae, x, tmp_path, what="sample", **SMALL)
    assert torch.equal(torch.get_rng_state(), state) and vae.training


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_the_function_does(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vae = model()
    vae.save_pretrained("run/best")
    np.save("x.npy", x.numpy())
    np.save("y.npy", y.numpy())
    words = ["encode", "run", "x.npy", "out", "--labels", "y.npy", "--batch-size", "6", "--shard-size", "12"]
    assert main([*words, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "12 examples" in out and "out: 50 latents (3,); vaekit.cache.CachedLatents('out') reads them" in out
    encode_dataset(vae, (x, y), "same", **SMALL)
    assert {n: b for n, b in content("out").items() if n != "index.json"} == {
        n: b for n, b in content("same").items() if n != "index.json"
    }
    assert main(["encode", "run", "x.npy", "out", "--device", "cpu"]) == 2
    assert "batch_size was 6, and is 256" in (error := capsys.readouterr().err) and "--force" in error
    assert main(["encode", "run", "x.npy", "out", "--device", "cpu", "--force"]) == 0
    assert main(["encode", "run", "digits", "digits", "--split", "test", "--what", "moments"]) == 0
    assert len(CachedLatents("digits")) == 297
    for bad, told in (
        (["encode", "nowhere", "x.npy", "o"], "is no folder"),
        (["encode", "run", "gone", "o"], "neither digits, mnist"),
        (["encode", "run", "digits", "o", "--labels", "y.npy"], "--labels: goes with an .npy file"),
        (["encode", "run", "x.npy", "o", "--labels", "gone.npy"], "gone.npy is not there"),
    ):
        assert main(bad) == 2 and told in capsys.readouterr().err, bad


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing kills here")
def test_two_processes_do_not_write_into_one_folder(tmp_path):
    from vaekit.train.lock import locked

    with locked(tmp_path), pytest.raises(CheckpointError, match="another run writes here"):
        encode_dataset(model(), x, tmp_path, **SMALL)
