"""What goes wrong in a run is noticed, named and survived."""

import warnings

import pytest
import torch
from torch.utils.data import TensorDataset

import vaekit
from vaekit import Trainer, use
from vaekit.train.guards import Guard, Symptoms
from vaekit.train.loop import Loop

X = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", latent=2, input_shape=(6,), **{"hidden": (8,), **args})


def train(vae, data=X, val=None, **args):
    return Trainer(vae, data, val, **{"epochs": 2, "batch_size": 16, "device": "cpu", **args})


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


class Odd(vaekit.loss["nll"]):
    """Values or gradients that are not finite at chosen passes."""

    def __init__(self, at=(), how="value"):
        super().__init__()
        self.at, self.how, self.calls = at, how, 0

    def forward(self, out):
        self.calls += self.training
        value = super().forward(out)
        if self.training and self.calls in self.at:
            if self.how == "value":
                return value * float("nan")
            zero = (out.y * 0).flatten(1).sum(1)
            return value + zero.abs().sqrt()  # finite, with a gradient of 0 · ∞
        return value


def odd(at, how="value", **args):
    return model(loss=[vaekit.term(Odd(at, how), label="odd"), vaekit.term("kl")], **args)


def skipping(trainer):
    """The run's history, and what it warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = trainer.fit()
    return history, [str(each.message) for each in told]


@pytest.mark.parametrize("gated", [False, True], ids=["read", "on the device"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad"])
@pytest.mark.parametrize(("how", "named"), [("value", "total, odd"), ("gradient", "the gradient of encoder.body")])
def test_a_step_that_is_not_finite_moves_nothing_and_is_named(how, named, optimizer, gated):
    vae = odd((3,), how)
    trainer = train(vae, optimizer=optimizer, log_every=1 if not gated else 4)
    trainer.updates.gated = gated
    seen = []
    inner = trainer.updates.move

    def move(gradients, whole):
        before = weights(vae).clone()
        result = inner(gradients, whole)
        seen.append((bool(whole), torch.equal(before, weights(vae))))
        return result

    trainer.updates.move = move
    history, told = skipping(trainer)
    assert seen == [(True, False)] * 2 + [(False, True)] + [(True, False)] * 5
    assert len(told) == 1 and named in told[0] and told[0].endswith("at step 3.")
    assert history["skipped_steps"] == [1, 1] and all(v == v for row in history.rows for v in row.values())
    steps = {float(state["step"]) for state in trainer.optimizer.state.values() if "step" in state}
    assert steps <= {7.0}, "the optimizer counts what it did"


def test_a_run_without_the_bad_step_is_the_same_run():
    vae, twin = odd((3,)), odd(())
    skipping(train(vae, optimizer="sgd"))
    trainer = train(twin, optimizer="sgd")
    inner = trainer.updates.move
    calls = []

    def move(gradients, whole):
        calls.append(1)
        return False if len(calls) == 3 else inner(gradients, whole)

    trainer.updates.move = move
    trainer.fit()
    assert torch.equal(weights(vae), weights(twin))


def test_too_many_in_a_row_stop_the_run_in_its_last_good_state(tmp_path):
    vae = odd(list(range(6, 100)))
    good = odd(())
    train(good, steps=5, epochs=None, output_dir=tmp_path / "good").fit()
    trainer = train(vae, epochs=5, output_dir=tmp_path / "run", skip_limit=3)
    with (
        warnings.catch_warnings(record=True),
        pytest.raises(
            FloatingPointError,
            match=r"total, odd.* not finite at step 9, the 4th in a row, after step 8\. Lower lr .*run/last holds the last",
        ),
    ):
        warnings.simplefilter("always")
        trainer.fit()
    assert torch.equal(weights(vae), weights(good)) and vaekit.load(tmp_path / "run" / "last", trust=True)


def test_a_row_of_bad_steps_may_be_as_long_as_the_limit():
    history, told = skipping(train(odd((2, 3, 4, 6, 7, 8)), skip_limit=3))
    assert history["skipped_steps"] == [3, 6] and len(told) == 6


def test_a_batch_of_nan_from_a_dataset_is_left_out_counted_and_named():
    bad = X.clone()
    bad[7, 2] = float("nan")
    bad[50, 0] = float("inf")
    history, told = skipping(train(model(), TensorDataset(bad), X, log_every=1))
    assert history["skipped_steps"] == [2, 4] and len(told) == 4
    assert all("x holds NaN or infinite values in example" in each and "at step" in each for each in told)


def test_gradients_of_a_frozen_players_step_are_not_asked():
    guard = Guard(3)
    assert bool(guard.watch(1, {"total": torch.tensor(1.0)}, []))
    assert not bool(guard.watch(2, {"total": torch.tensor(1e39)}, []))
    assert guard.read() == ["total is not finite at step 2"] and guard.read() == []


def test_nothing_waits_for_the_device_between_looks(monkeypatch):
    """On an accelerator the losses are read every `log_every` steps; here, the readings are counted."""
    trainer = train(model(), epochs=1, batch_size=4, log_every=8)
    trainer.updates.gated = True
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        real = getattr(torch.Tensor, name)

        def read(self, *args, real=real, name=name):
            if trainer.vae.training and trainer._begun and self.requires_grad is False and not looking:
                reads.append((trainer.step, name, tuple(self.shape)))
            return real(self, *args)

        monkeypatch.setattr(torch.Tensor, name, read)
    looking = []
    inner, check = Loop._look, trainer.vae._check_values
    monkeypatch.setattr(Loop, "_look", lambda loop: (looking.append(1), inner(loop), looking.clear())[1])
    trainer.vae._check_values = lambda x: (looking.append(1), check(x), looking.clear())[1]  # reads on the CPU alone
    monkeypatch.setattr(Loop, "_end_epoch", lambda *given: setattr(trainer.place, "phase", 1))
    trainer.fit()
    assert trainer.step == 16 and not reads


def test_out_of_memory_says_what_would_fit(monkeypatch):
    vae = model()

    def full(x, cond=None):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    vae.loss = full
    with pytest.raises(torch.OutOfMemoryError, match=r"step 1 with batches of 16\. .*batch_size=8, accumulate=2"):
        train(vae).fit()


# -- symptoms --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr(Symptoms, "patience", 1)


@pytest.mark.usefixtures("_impatient")
def test_posterior_collapse_is_told_once_with_numbers():
    vae = model(loss={"nll": 1.0, "kl": 1000.0})
    history, told = skipping(train(vae, lr=0.02, epochs=25))
    (text,) = [each for each in told if "posterior collapse" in each]
    assert "0 of 2 latent dimensions are active" in text and "over 64 examples" in text and "nats" in text
    assert history["active_units"][-1] == 0


def test_a_latent_that_is_used_is_counted_and_not_warned_of(monkeypatch):
    monkeypatch.setattr(Symptoms, "patience", 40)
    labels = torch.arange(64) % 2
    x = (labels[:, None] * torch.ones(6)).float() * 0.9 + 0.05
    vae = model(loss={"nll": 1.0, "kl": 0.01})
    history, told = skipping(train(vae, x, x, lr=0.02, epochs=15))
    z = vae.encode(x).mode
    assert history["active_units"][-1] == int((z.var(0) > 0.01).sum()) > 0
    assert not any("collapse" in each for each in told)


@pytest.mark.usefixtures("_impatient")
def test_dead_codes_are_told_with_perplexity():
    torch.manual_seed(0)
    sampler = use("vq", codebook_size=64)
    vae = vaekit.build("vq_vae", latent=(2, 2, 2), input_shape=(1, 8, 8), sampler=sampler)
    x = torch.zeros(64, 1, 8, 8)
    history, told = skipping(train(vae, x, epochs=4, lr=1e-4))
    row = history.rows[-1]
    texts = [each for each in told if "dead codes" in each]
    assert row["codes_used"] <= 4 and 1 <= row["perplexity"] <= row["codes_used"] + 1e-6
    assert len(texts) == 1 and "of 64 codes are used by 256 latents, with perplexity" in texts[0]


def test_a_silent_discriminator_is_told_with_its_loss():
    vae = vaekit.build("adversarial_ae", latent=2, input_shape=(6,))
    symptoms = Symptoms(vae)
    row = {"train/adversarial_latent_critic": 1e-5, "grad_norm/adversarial_latent": 1e-6}
    symptoms.look([], row, 1000)
    with pytest.warns(UserWarning, match=r"silent discriminator: the loss of adversarial_latent's critic is 1e-05"):
        symptoms.look([], row, 1000)
    symptoms.look([], row, 1000)
    fresh = Symptoms(vae)
    for each in (
        row,
        {**row, "train/adversarial_latent_critic": 0.6},
        row,
        {**row, "grad_norm/adversarial_latent": 0.0},
    ):
        fresh.look([], each, 1000)


def test_symptoms_are_gone_on_with(tmp_path):
    symptoms, again = Symptoms(model()), Symptoms(model())
    symptoms._early = False
    symptoms._tell("collapse", True, "x")
    again.load_state_dict(symptoms.state_dict())
    again._early = False
    with pytest.warns(UserWarning, match="x"):
        again._tell("collapse", True, "x")


# -- memory ----------------------------------------------------------------------------------------------------------


class Small:
    """A device on which a training step of more than so many examples does not fit: before, or after its forward."""

    def __init__(self, vae, fits, after=False):
        self.fits, self.after, self.tries, self.inner = fits, after, [], vae.loss
        vae.loss = self

    def __call__(self, x, cond=None):
        self.tries.append(len(x))
        if len(x) <= self.fits:
            return self.inner(x, cond)
        if self.after:
            self.inner(x, cond)
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")


def changing(x):
    return model(
        loss=[vaekit.term("nll", weight=vaekit.geco(2.0)), vaekit.term("kl", weight=vaekit.ramp(0, 1, steps=9))]
    )


@pytest.mark.parametrize("after", [False, True], ids=["in the forward", "after it"])
def test_a_batch_that_does_not_fit_is_cut_and_the_run_is_that_of_small_batches(after):
    """To the last bit: order, noise, schedules of weights; a try that failed has left nothing behind."""
    vae, twin = changing(X), changing(X)
    small = Small(vae, 5, after)
    history, told = skipping(train(vae, X[:25], auto_batch=True, ema=0.9, schedule="cosine"))
    other = train(twin, X[:25], batch_size=4, accumulate=4, ema=0.9, schedule="cosine").fit()
    assert small.tries[:4] == [16, 8, 4, 4] and max(small.tries[3:]) == 4
    assert torch.equal(weights(vae), weights(twin)) and history["train/total"] == other["train/total"]
    assert all(torch.equal(a, b) for a, b in zip(vae.buffers(), twin.buffers(), strict=True))
    assert len(told) == 2 and "out of memory with 8 examples at a time; going on with 4, and 4 times" in told[1]
    assert "batch_size=4, accumulate=4" in told[1]


def test_what_fits_is_gone_on_with(tmp_path):
    vae = model()
    Small(vae, 5)
    skipping(train(vae, auto_batch=True, output_dir=tmp_path))
    again = model()
    small = Small(again, 5)
    trainer = train(again, auto_batch=True, output_dir=tmp_path, epochs=3)
    trainer.fit()
    assert trainer.step == 12 and set(small.tries) == {4}


def test_where_nothing_fits_the_run_ends_and_says_so():
    vae = model()
    small = Small(vae, 0)
    with warnings.catch_warnings(), pytest.raises(torch.OutOfMemoryError, match=r"step 1 with 1 examples at a time"):
        warnings.simplefilter("ignore")
        train(vae, auto_batch=True).fit()
    assert small.tries == [16, 8, 4, 2, 1]


def test_pieces_are_not_smaller_than_the_losses_need():
    torch.manual_seed(0)
    vae = vaekit.build("wae_mmd", latent=2, input_shape=(6,))
    small = Small(vae, 3)
    history, _ = skipping(train(vae, X[:45], auto_batch=True, epochs=1))
    assert min(small.tries) >= 2 and history["step"] == [3]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_the_hosts_memory_counts_as_well(error):
    vae = model()

    def full(x, cond=None):
        raise error

    vae.loss = full
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size=8, accumulate=2; or auto_batch=True"):
        train(vae).fit()
