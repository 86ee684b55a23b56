"""The Trainer against loops written by hand, and its refusals."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vaekit
from vaekit import CheckpointError, Trainer
from vaekit.train import History, digits, mnist
from vaekit.train.data import TensorBatches, on_device

X = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 3


def model(recipe="mlp", **args):
    torch.manual_seed(0)
    if recipe == "mlp":
        args.setdefault("hidden", (8,))
    return vaekit.build(recipe, latent=2, input_shape=(1, 4, 4), **args)


def train(vae, data=X, val=None, **args):
    return Trainer(vae, data, val, **{"epochs": 2, "batch_size": 16, "device": "cpu", **args})


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_a_run_equals_the_hand_written_loop_bit_for_bit():
    vae, twin = model(), model()
    train(vae, epochs=3, seed=5).fit()
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3, fused=True)
    orders = [list(TensorBatches(X, None, 16, shuffle=True, seed=5).epoch(e)) for e in (1, 2, 3)]
    torch.manual_seed(5)
    for order in orders:
        for x, _ in order:
            optimizer.zero_grad()
            twin.loss(x).total.backward()
            optimizer.step()
    assert torch.equal(weights(vae), weights(twin)) and not torch.equal(weights(vae), weights(model()))


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    runs = []
    for seed in (1, 1, 2):
        vae = model()
        history = train(vae, val=X, seed=seed).fit()
        runs.append((weights(vae), history["val/total"]))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert not torch.equal(runs[0][0], runs[2][0])


def test_validation_does_not_change_the_run():
    with_val, without = model(), model()
    train(with_val, val=X[:20]).fit()
    train(without).fit()
    assert torch.equal(weights(with_val), weights(without))


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    trainer = train(model())
    torch.random.set_rng_state(before)
    trainer.fit()
    assert torch.equal(before, torch.random.get_rng_state())


def test_history_is_what_a_hand_computation_gives():
    vae = model("ae", encoder="mlp", decoder="mlp")  # no noise, so that the numbers can be had again
    trainer = train(vae, val=X[:37], epochs=1, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0))
    history = trainer.fit()
    with torch.no_grad():
        each = vaekit.loss["mse"]()(vae(X))
    row = history.rows[0]
    assert row["train/total"] == pytest.approx(float(each.mean()), rel=1e-5), "uneven batches count by their size"
    assert row["val/mse"] == pytest.approx(float(each[:37].mean()), rel=1e-5)
    assert row["epoch"] == 1 and row["step"] == 4 and row["seconds"] > 0 and row["examples_per_second"] > 0
    assert trainer.evaluate(X[:5])["mse"] == pytest.approx(float(each[:5].mean()), rel=1e-5)


def test_training_lowers_the_objective():
    history = train(model(), (X > 0.7).float(), epochs=60, lr=1e-2).fit()
    assert history["train/total"][-1] < history["train/total"][0] - 1
    assert len(history) == 60 and set(history.rows[0]) >= {"train/nll", "train/kl"}


def test_steps_end_a_run_in_the_middle_of_an_epoch():
    history = train(model(), epochs=None, steps=6).fit()
    assert [row["step"] for row in history.rows] == [4, 6]


@pytest.mark.parametrize("log_every", [1, 3, 1000])
def test_how_often_one_looks_changes_no_number(log_every):
    assert train(model(), log_every=log_every).fit()["train/nll"] == pytest.approx(train(model()).fit()["train/nll"])


class Mappings(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"image": X[i], "label": LABELS[i]}


@pytest.mark.parametrize(
    "data",
    [
        X, X.numpy(), (X, LABELS), [X.numpy(), LABELS.numpy()], TensorDataset(X), TensorDataset(X, LABELS), Mappings(),
        DataLoader(TensorDataset(X), 16), DataLoader(X, 16), np.asarray(X, dtype=np.float64),
    ],
    ids=["tensor", "array", "pair", "arrays", "dataset", "labelled", "mappings", "loader", "plain loader", "double"],
)  # fmt: skip
def test_data_come_in_many_forms(data):
    history = train(model(), data, val=data).fit()
    assert len(history["train/total"]) == 2 and all(np.isfinite(history["val/total"]))


def test_the_order_of_a_dataset_is_a_function_of_seed_and_epoch():
    orders = []
    for seed in (0, 0, 1):
        trainer = train(model(), TensorDataset(X), seed=seed)
        orders.append([torch.cat([x for x, _ in trainer.train.epoch(e)]) for e in (1, 2, 1)])
    assert torch.equal(orders[0][0], orders[1][0]) and torch.equal(orders[0][0], orders[0][2])
    assert not torch.equal(orders[0][0], orders[0][1]) and not torch.equal(orders[0][0], orders[2][0])
    assert torch.equal(orders[0][0].flatten(1).sum(1).sort().values, X.flatten(1).sum(1).sort().values)


def test_bytes_are_scaled_on_the_device():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8)
    for data_range, expected in (((0.0, 1.0), [0, 0.2, 1]), ((-1.0, 1.0), [-1, -0.6, 1]), (None, [0, 51, 255])):
        scaled, _ = on_device((x, None), torch.device("cpu"), data_range)
        torch.testing.assert_close(scaled, torch.tensor(expected, dtype=torch.float32))
    as_bytes, as_floats = (X * 255).byte(), (X * 255).byte().float() / 255
    a, b = model(), model()
    train(a, as_bytes).fit()
    train(b, as_floats).fit()
    torch.testing.assert_close(weights(a), weights(b))


def test_labels_reach_a_condition_and_are_ignored_without_one():
    vae = model("conditional_vae", classes=3, encoder="mlp", decoder="mlp")
    assert len(train(vae, (X, LABELS), val=(X, LABELS)).fit()["val/total"]) == 2
    with pytest.raises(
        ValueError, match=r"train: the model has a condition, so labels are needed: give \(train, labels\)"
    ):
        train(vae, X)


def test_checkpoints_are_the_last_and_the_best_epoch(tmp_path):
    vae = model()
    history = train(vae, val=X, epochs=4, output_dir=tmp_path, lr=0.5).fit()
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))
    best = int(np.argmin(history["val/total"]))
    again = model()
    if best < 3:
        train(again, epochs=best + 1, lr=0.5).fit()
        assert torch.equal(weights(vaekit.load(tmp_path / "best")), weights(again))
    assert (
        json.loads((tmp_path / "history.json").read_text())
        == history.rows
        == History.load(tmp_path / "history.json").rows
    )


def test_the_best_epoch_is_kept_when_later_ones_are_worse(tmp_path):
    vae = model()

    class Worse(torch.optim.SGD):
        """Good steps first, then ruinous ones."""

        calls = 0

        def step(self, closure=None):
            Worse.calls += 1
            for p in vae.parameters():
                p.data *= 0.99 if Worse.calls <= 4 else 3.0

    history = train(vae, val=X, epochs=3, output_dir=tmp_path, optimizer=lambda w: Worse(w, lr=0.1)).fit()
    assert int(np.argmin(history["val/total"])) == 0
    best, last = vaekit.load(tmp_path / "best"), vaekit.load(tmp_path / "last")
    assert torch.equal(weights(last), weights(vae)) and weights(best).norm() < weights(last).norm() / 10


def test_a_run_is_not_replaced_unless_asked(tmp_path):
    train(model(), output_dir=tmp_path).fit()
    told = r"already holds a run \(history.json, last, best, checkpoints\)\. .*overwrite=True"
    with pytest.raises(CheckpointError, match=told):
        train(model(), output_dir=tmp_path, resume=False)
    train(model(), output_dir=tmp_path, overwrite=True).fit()


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="root may write everywhere")
def test_an_output_folder_that_can_not_be_written_is_told_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/run: can't be written .*Choose another output_dir"):
        train(model(), output_dir=tmp_path / "file" / "run")


def test_a_loss_that_is_not_finite_names_the_term_and_the_steps(tmp_path):
    vae = vaekit.build("vae", latent=2, input_shape=(3,), data_range=None, loss={"mse": 1.0, "kl": 1.0})
    trainer = Trainer(
        vae, torch.randn(64, 3), epochs=50, batch_size=16, lr=1e30, log_every=3, device="cpu", output_dir=tmp_path
    )
    with pytest.warns(UserWarning, match=r"left out: total, mse.*gradient of encoder.* are not finite at step"):
        with pytest.raises(
            FloatingPointError,
            match=r"total, mse.* not finite at step 12, the 11th in a row, after step 11\. Lower lr \(now 1e\+30\)",
        ):
            trainer.fit()
    assert all(torch.isfinite(p).all() for p in vae.parameters())


def test_frozen_parameters_stay():
    vae = model()
    for p in vae.encoder.parameters():
        p.requires_grad_(False)
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    train(vae).fit()
    moved = {k.split(".")[0] for k, v in vae.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"sampler", "decoder"}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "nadam"])
def test_optimizers_go_by_name(name):
    assert type(train(model(), optimizer=name).optimizer).__name__.lower() == name


def test_a_batch_larger_than_the_data_and_a_last_batch_of_one():
    assert train(model(), X[:5], batch_size=128).fit().rows[-1]["step"] == 2
    assert train(model(), X[:17], batch_size=16).fit().rows[-1]["step"] == 4


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"epochs": None}, "give either epochs or steps; got epochs=None, steps=None"),
        ({"epochs": 1, "steps": 1}, "give either epochs or steps"),
        ({"epochs": 0}, "epochs should be a whole number, at least 1, got 0"),
        ({"batch_size": 0}, "batch_size should be a whole number, at least 1"),
        ({"log_every": 0}, "log_every should be a whole number, at least 1"),
        ({"lr": 0.0}, "lr should be positive, got 0"),
        ({"optimizer": "adma"}, "there is no optimizer 'adma'. Did you mean adam.*Known: .*adam, .*timm's: .*lamb"),
        ({"device": "cuda:7"}, r"device: 'cuda:7' is not available here\. Available: .*cpu, or 'auto'"),
        ({"device": "gpu"}, "device: 'gpu' is no device"),
    ],
)
def test_bad_arguments(args, match):
    with pytest.raises(ValueError, match=match):
        train(model(), **args)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (X[:0], "train: is empty"),
        (TensorDataset(X[:0]), "train: is empty"),
        (DataLoader(TensorDataset(X[:5]), 16, drop_last=True), "train: gives no batch"),
        ((X, LABELS[:7]), "train: has 50 examples and 7 labels"),
        (X * 2, r"train, examples from 0 on: vae: x has values from .* to \d"),
        (torch.where(torch.arange(50).reshape(-1, 1, 1, 1) == 31, torch.nan, X), "train, examples from 0 on: .*NaN.*in example 31"),
        (X[:, :, :3], r"train, examples from 0 on: .*expected x of shape \(b, 1, 4, 4\), got \(50, 1, 3, 4\)"),
    ],
)  # fmt: skip
def test_bad_data(data, match):
    with pytest.raises(ValueError, match=match):
        train(model(), data)


def test_data_of_an_unknown_form():
    with pytest.raises(TypeError, match="train: expected a tensor, an array, .*; got str"):
        train(model(), "digits")

    class Strange(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return {"picture": X[i]}

    with pytest.raises(TypeError, match=r"train: items have the keys \['picture'\]; expected 'x' or 'image'"):
        train(model(), Strange()).fit()


def test_a_missing_accelerate_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r'Trainer needs accelerate, .* Run: pip install "vaekit\[train\]"'):
        train(model())


def test_history_says_what_it_knows():
    with pytest.raises(KeyError, match=r"no epoch has 'val/loss'\. Known: .*train/total"):
        train(model()).fit()["val/loss"]


def test_digits_come_with_scikit_learn():
    (x, y), (x_test, y_test) = digits()
    assert x.shape == (1500, 1, 8, 8) and x_test.shape == (297, 1, 8, 8) and len(y) == 1500 and len(y_test) == 297
    assert float(x.min()) == 0 and float(x.max()) == 1 and set(y.tolist()) == set(range(10))


def write_idx(path, array):
    import gzip

    head = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize(("folder", "suffix"), [(".", ".gz"), ("MNIST/raw", "")])
def test_mnist_is_read_from_its_files(tmp_path, folder, suffix):
    root = tmp_path / folder
    root.mkdir(parents=True, exist_ok=True)
    images = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 256
    for part in ("train", "t10k"):
        write_idx(root / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(root / f"{part}-labels-idx1-ubyte{suffix}", np.array([7, 3]))
    (x, y), (x_test, _) = mnist(tmp_path)
    assert x.dtype == torch.uint8 and x.shape == x_test.shape == (2, 1, 28, 28) and y.tolist() == [7, 3]
    assert torch.equal(x[:, 0], torch.as_tensor(images).byte())


def test_mnist_says_what_is_missing_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no train-images-idx3-ubyte\.gz, neither itself nor in MNIST/raw"):
        mnist(tmp_path)
    from vaekit.train.datasets import read_idx

    path = tmp_path / "cut"
    write_idx(path, np.zeros((3, 4)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"says \[3, 4\] and holds 11 bytes"):
        read_idx(path)
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="is no IDX file of bytes: it begins with 47494638"):
        read_idx(path)
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(ValueError, match="can't be unpacked"):
        read_idx(tmp_path / "cut.gz")


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.skipif("VAEKIT_DATA" not in os.environ, reason="VAEKIT_DATA does not give a folder with MNIST's IDX files")
def test_ten_epochs_on_mnist_reach_the_published_bound():
    """784-400-20 with grey-scale cross-entropy: PyTorch's example reaches 105.5 nats after 10 epochs."""
    (x, _), (x_test, _) = mnist(os.environ["VAEKIT_DATA"])
    torch.manual_seed(0)
    history = Trainer(vaekit.build("mlp"), x, x_test, epochs=10, device="cpu").fit()
    assert 104 < history["val/total"][-1] < 107


def test_a_gaussian_run_with_an_optimal_scale_validates_at_the_running_one():
    history = train(model("sigma_vae", encoder="mlp", decoder="mlp"), val=X, epochs=3).fit()
    assert all(np.isfinite(history["val/total"]))


def test_no_progress_bar_is_drawn_where_nobody_looks(capfd):
    train(model()).fit()
    assert capfd.readouterr() == ("", "")
    train(model(), progress=True).fit()
    assert "step" in capfd.readouterr().err


def test_checkpoints_are_written_every_so_many_steps_and_at_the_end(tmp_path):
    vae = model()
    train(vae, epochs=5, output_dir=tmp_path, checkpoint_every=7, keep=9, lr=1e-12).fit()  # no epoch is much the best
    steps = [int(path.name[5:15]) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert {7, 14, 20} <= set(steps) and torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))


def test_a_trainer_fits_once():
    trainer = train(model())
    trainer.fit()
    with pytest.raises(RuntimeError, match="fit has been called, .*Make a new Trainer"):
        trainer.fit()


def test_a_critic_has_a_learning_rate_of_its_own():
    vae = vaekit.build("adversarial_ae", latent=2, input_shape=(6,))
    before = [p.detach().clone() for p in vae.players()["adversarial_latent"]]
    trainer = vaekit.Trainer(vae, torch.rand(64, 6), epochs=1, batch_size=32, critic_lr=1e-12, lr=1e-2, device="cpu")
    encoder = vae.sampler.head.project[1].weight.detach().clone()
    trainer.fit()
    for old, new in zip(before, vae.players()["adversarial_latent"], strict=True):
        torch.testing.assert_close(old, new)
    assert not torch.allclose(encoder, vae.sampler.head.project[1].weight)
    with pytest.raises(ValueError, match="critic_lr should be positive, got 0"):
        vaekit.Trainer(vae, torch.rand(64, 6), epochs=1, critic_lr=0.0)


def test_a_rest_too_small_for_a_loss_is_left_out():
    # in pythae a last batch of one gives a loss of NaN
    vae = vaekit.build("wae_mmd", latent=2, input_shape=(6,))
    history = vaekit.Trainer(vae, torch.rand(65, 6), torch.rand(33, 6), epochs=1, batch_size=32, device="cpu").fit()
    assert history["step"] == [2] and all(v == v for v in history["train/total"] + history["val/total"])
    with pytest.raises(
        ValueError, match="batch_size=1 is too small for the loss 'mmd', which needs at least 2 examples"
    ):
        vaekit.Trainer(vae, torch.rand(64, 6), epochs=1, batch_size=1)


def test_validation_that_is_not_finite_stops_before_the_checkpoint(tmp_path):
    class Vanishing(vaekit.loss["nll"]):
        def forward(self, out):
            return super().forward(out) / (1 if self.training else 0)

    loss = [vaekit.term(Vanishing(), label="odd")]
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), hidden=(8,), loss=loss)
    trainer = vaekit.Trainer(vae, torch.rand(64, 6), torch.rand(8, 6), epochs=1, batch_size=32, device="cpu")
    with pytest.raises(FloatingPointError, match="val/total, val/odd is not finite, after step 2"):
        trainer.fit()
    assert not trainer.history.rows


def test_weights_that_are_not_finite_leave_the_last_good_checkpoint(tmp_path):
    def optimizer(weights):
        held = list(weights)
        sgd = torch.optim.SGD(held, lr=1e-3)
        step = sgd.step
        calls = []

        def broken(*args):
            calls.append(1)
            step(*args)
            if len(calls) == 4:  # the last step of the second epoch
                with torch.no_grad():
                    held[0].fill_(float("nan"))

        sgd.step = broken
        return sgd

    vae = vaekit.build("mlp", latent=2, input_shape=(6,), hidden=(8,))
    trainer = vaekit.Trainer(
        vae, torch.rand(64, 6), epochs=2, batch_size=32, optimizer=optimizer, output_dir=tmp_path / "run", device="cpu"
    )
    with pytest.raises(FloatingPointError, match=r"encoder\.body.* is not finite, after step 4.*last good checkpoint"):
        trainer.fit()
    kept = vaekit.load(tmp_path / "run" / "last")
    assert all(torch.isfinite(p).all() for p in kept.parameters())


def test_reversed_and_read_only_arrays_are_taken():
    x = np.random.default_rng(0).random((64, 6), dtype=np.float32)
    x.flags.writeable = False
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), hidden=(8,))
    for data in (x, x[::-1], x[:, ::-1]):
        vaekit.Trainer(vae, data, epochs=1, batch_size=32, device="cpu").fit()
