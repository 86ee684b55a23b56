"""The learning rate finder against a problem whose rates are known, and uploads to a hub that is a folder."""

import shutil
import warnings

import pytest
import torch

import vaekit
from vaekit import Trainer
from vaekit.train import PushToHub, find_lr

X = (torch.arange(64)[:, None] % 2 * torch.ones(6)) * 0.9 + 0.05


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", latent=2, input_shape=(6,), **{"hidden": (8,), **args})


class Bowl(vaekit.loss["nll"]):
    """½ Σ h_i w_i², whatever the data: gradient descent diverges from rate 2 / max h on."""

    def __init__(self, curvature):
        super().__init__()
        self.curvature = curvature
        self.weight = torch.nn.Parameter(torch.ones(len(curvature)))

    def forward(self, out):
        return (0.5 * (self.curvature * self.weight.square()).sum()).expand(len(out.x))


@pytest.mark.parametrize("steepest", [0.5, 40.0])
def test_the_rate_of_the_lowest_loss_is_where_gradient_descent_begins_to_diverge(steepest):
    curvature = torch.tensor([steepest, steepest])
    vae = model(loss=[vaekit.term(Bowl(curvature), label="bowl")])
    found = find_lr(vae, X, low=1e-4, high=100.0, steps=60, optimizer="sgd", smoothing=0.0, batch_size=8, device="cpu")
    diverges = 2 / steepest
    assert 0.3 * diverges < found.lowest < 3 * diverges, (found.lowest, diverges)
    assert found.suggestion == found.lowest / 10 and found.steepest <= found.lowest
    assert len(found.lr) == len(found.loss) <= 60 and found.lr[0] == 1e-4


def test_the_model_is_left_as_it_was_and_the_same_seed_finds_the_same():
    vae, twin = model(), model()
    before = torch.random.get_rng_state()
    runs = [find_lr(vae, X, low=1e-4, steps=15, batch_size=16, device="cpu") for _ in range(2)]
    assert runs[0] == runs[1] and torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), twin.state_dict().values(), strict=True))
    assert "loss" not in vars(vae)


def test_the_curve_is_drawn(tmp_path):
    found = find_lr(model(), X, low=1e-4, steps=15, batch_size=16, device="cpu")
    found.save(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"low": 0.0}, "expected 0 < low < high"),
        ({"low": 2.0}, "expected 0 < low < high"),
        ({"steps": 3}, "at least 10 steps, got 3"),
        ({"smoothing": 1.0}, r"smoothing should be in \[0, 1\)"),
        ({"low": 1e6, "high": 1e9, "optimizer": "sgd"}, "falls at no rate from 1e"),
    ],
)
def test_bad_arguments_and_rates_that_never_help(args, match):
    with pytest.raises(ValueError, match=match):
        find_lr(model(), X, device="cpu", batch_size=16, **args)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that is a folder, and fails where it is told to."""
    import huggingface_hub

    class Folder:
        uploads, fail = [], False

        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, *, private, exist_ok):
            self.private = private

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            if Folder.fail:
                raise ConnectionError("the hub can't be reached\nmore")
            Folder.uploads.append(repo_id)
            shutil.copytree(folder_path, tmp_path / repo_id, dirs_exist_ok=True)
            return "address"

    monkeypatch.setattr(huggingface_hub, "HfApi", Folder)
    return Folder


def test_the_model_is_uploaded_every_few_epochs_and_at_the_end(hub, tmp_path):
    vae = model()
    trainer = Trainer(
        vae, X, epochs=5, batch_size=32, device="cpu", ema=0.9, callbacks=[PushToHub("me/digits", every=2)]
    )
    trainer.fit()
    assert hub.uploads == ["me/digits"] * 3, "after epochs 2, 4 and 5"
    kept = vaekit.load(tmp_path / "me" / "digits")
    for a, b in zip(kept.state_dict().values(), trainer.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert 'vaekit.load("me/digits")' in (tmp_path / "me" / "digits" / "README.md").read_text()


def test_an_upload_that_fails_warns_and_the_next_tries_again(hub):
    class Back(vaekit.train.Callback):
        def logged(self, trainer, values):
            hub.fail = trainer.step < 3

    hub.fail = True
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = Trainer(
            model(),
            X,
            epochs=2,
            batch_size=32,
            device="cpu",
            log_every=1,
            callbacks=[Back(), PushToHub("me/x", every=1)],
        ).fit()
    assert len(history) == 2 and hub.uploads == ["me/x"]
    assert [str(w.message) for w in told] == [
        "PushToHub: me/x: the upload failed, and training goes on: ConnectionError: the hub can't be reached"
    ]


def test_a_model_that_can_not_be_written_down_is_told_before_the_first_step(hub):
    class Own(vaekit.loss["nll"]):
        pass

    vae = model(loss=[vaekit.term(Own(), label="own")])
    with pytest.raises(Exception, match="own"):
        Trainer(vae, X, epochs=1, device="cpu", callbacks=[PushToHub("me/x")]).fit()
    with pytest.raises(ValueError, match="every should be at least 1, got 0"):
        PushToHub("me/x", every=0)
