"""Faults that a run meets: folders of earlier versions, disks that can't be written, odd data, extreme numbers."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import vaekit
from tests.golden.make_run import trainer as golden_trainer
from vaekit import CheckpointError, Trainer
from vaekit.train import Callback

GOLDEN = Path(__file__).parent / "golden"
X = torch.rand(32, 1, 4, 6, generator=torch.Generator().manual_seed(0))


def model(recipe="mlp", shape=(1, 4, 6), **args):
    torch.manual_seed(0)
    if recipe == "mlp":
        args.setdefault("hidden", (8,))
    return vaekit.build(recipe, latent=2, input_shape=shape, **args)


def fit(data, vae=None, **args):
    vae = vae or model()
    given = {"epochs": 1, "batch_size": 8, "device": "cpu", **args}
    return vae, Trainer(vae, data, **given).fit()


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.glob("run_*")))
def test_a_run_of_an_earlier_version_is_gone_on_with(tmp_path, version):
    shutil.copytree(GOLDEN / version, tmp_path / "run")
    whole, again = golden_trainer(tmp_path / "whole"), golden_trainer(tmp_path / "run")
    whole.fit()
    history = again.fit()
    assert again.finished and again.step == 12 and history["step"] == [3, 6, 9, 12]
    torch.testing.assert_close(weights(again.vae), weights(whole.vae), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights(again.model), weights(whole.model), rtol=1e-4, atol=1e-6)


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody can write into, root neither."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("root may write everywhere, and no mounting here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_read_only_output_folder_is_told_before_the_first_step(read_only):
    for folder in (read_only, read_only / "below"):
        with pytest.raises(CheckpointError, match=r"can't be written .*Choose another output_dir"):
            fit(X, output_dir=folder)


def test_a_folder_that_becomes_unwritable_ends_the_run_and_keeps_what_was_saved(tmp_path, monkeypatch):
    import vaekit.train.checkpoint as checkpoint

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    class Later(Callback):
        def saved(self, trainer, path):
            monkeypatch.setattr(checkpoint.tempfile, "mkdtemp", refuse)

    with pytest.raises(CheckpointError, match=r"step-0000000008: can't be written .*Permission denied"):
        fit(X, epochs=3, output_dir=tmp_path, callbacks=[Later()])
    assert (tmp_path / "last").resolve().name == "step-0000000004" and not (tmp_path / "run.lock").exists()


FORMS = {
    "float64": lambda: X.double(),
    "reversed strides": lambda: X.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
    "every other of a larger one": lambda: torch.stack([X, X], 1).flatten(0, 1)[::2],
    "channels last": lambda: X.to(memory_format=torch.channels_last),
    "with a gradient": lambda: X.clone().requires_grad_(),
    "an inference tensor": lambda: torch.inference_mode()(lambda: X.clone())(),
}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_of_odd_layout_train_as_plain_ones(form):
    data = FORMS[form]()
    vae, history = fit(data)
    plain, other = fit(X)
    torch.testing.assert_close(weights(vae), weights(plain), rtol=1e-5, atol=1e-6)
    assert history["train/total"] == pytest.approx(other["train/total"], rel=1e-5)
    assert data.grad is None, "nothing is learned of the data"


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (X[:, 0], r"\(32, 4, 6\)"),
        (X.expand(-1, 3, -1, -1), r"\(32, 3, 4, 6\)"),
        (X.permute(0, 2, 3, 1), r"\(32, 4, 6, 1\)"),
        (X[..., :5], r"\(32, 1, 4, 5\)"),
    ],
    ids=["no channel", "three channels", "channels at the end", "another width"],
)
def test_another_shape_is_told_with_the_one_that_is_wanted(data, got):
    with pytest.raises(
        ValueError, match=rf"train, examples from 0 on: .*expected x of shape \(b, 1, 4, 6\), got {got}"
    ):
        fit(data)


@pytest.mark.parametrize("log_variance", [-1e4, 1e4])
def test_extreme_posteriors_have_finite_losses_and_gradients(log_variance):
    """A head that has run away is brought back by the KL, where a float32 exponential would have ended the run."""
    vae = model()
    with torch.no_grad():
        vae.sampler.head.project[1].bias[2:] = log_variance
    vae.loss(X).total.backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(X, vae)
    assert weights(vae).isfinite().all()


def test_a_reconstruction_that_is_infinite_is_named_and_left_out():
    class Bursting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = torch.nn.Linear(2, 24), 0

        def forward(self, z):
            self.calls += self.training
            y = self.inner(z).unflatten(-1, (1, 4, 6))
            return y / 0 if self.training and self.calls == 3 else y

    vae = model(decoder=Bursting())
    with pytest.warns(UserWarning, match=r"left out: total, nll.* not finite at step \d"):
        _, history = fit(X, vae, epochs=2)
    assert history["skipped_steps"][-1] == 1 and weights(vae).isfinite().all()


def test_batches_of_one_with_batch_normalisation_are_told():
    class Normed(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(24, 8), torch.nn.BatchNorm1d(8))

    with pytest.raises(ValueError, match=r"train, batch 5 of epoch 1: .*more than 1 value per channel"):
        fit(torch.cat([X, X[:1]]), model(encoder=Normed()))


def test_data_of_fewer_examples_than_a_batch_are_one_batch():
    _, history = fit(X[:3], batch_size=128, epochs=2)
    assert history["step"] == [1, 2]


def test_phases_weights_reach_the_moving_average_that_is_validated():
    phases = [{"epochs": 1}, {"epochs": 1, "weights": {"kl": 0.0}}]
    vae = model()
    history = Trainer(vae, X, X, phases=phases, ema=0.5, batch_size=8, device="cpu").fit()
    total, nll, kl = (history[f"val/{name}"] for name in ("total", "nll", "kl"))
    assert total[0] == pytest.approx(nll[0] + kl[0], rel=1e-5) and total[1] == pytest.approx(nll[1], rel=1e-5)


def test_a_game_that_has_begun_has_begun_for_the_moving_average_too(tmp_path):
    game = vaekit.term("adversarial", weight=1.0, critic=vaekit.use("mlp", hidden=(4,)), start=2)
    vae = model(loss=["nll", "kl", game])
    history = Trainer(vae, X, X, epochs=2, ema=0.5, batch_size=8, device="cpu", output_dir=tmp_path).fit()
    assert all(value != 0 for value in history["val/adversarial"])
    assert vaekit.load(tmp_path / "last").objective.terms["adversarial"].step == 8
