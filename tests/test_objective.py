"""Schedules over training, against their equations."""

import math

import pytest
import torch

import vaekit
from vaekit import cyclical, geco, ramp
from vaekit.objective import TrainStep

X = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def model(weight):
    return vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,), loss={"nll": 1.0, "kl": weight})


def weights(weight, steps):
    vae = model(weight)
    return [float(vae.loss(X).weights["kl"]) for _ in range(steps)]


def test_a_ramp_is_linear_and_then_stays():
    assert weights(ramp(1, 3, steps=4, begin=2), 9) == pytest.approx([1, 1, 1, 1.5, 2, 2.5, 3, 3, 3])
    assert weights(ramp(0, 1, steps=4, shape="cosine"), 5) == pytest.approx(
        [(1 - math.cos(math.pi * t / 4)) / 2 for t in range(5)]
    )


def test_cycles_climb_and_hold():
    assert weights(cyclical(0, 1, period=4, climb=0.5), 9) == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 0])
    assert weights(cyclical(0, 1, period=2, climb=1.0, cycles=2), 7) == pytest.approx([0, 0.5, 0, 0.5, 1, 1, 1])


def test_geco_grows_where_the_constraint_is_broken_and_shrinks_where_it_holds():
    for target, sign in ((1.0, 1), (1e4, -1)):
        vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"nll": geco(target), "kl": 1.0})
        found = [float(vae.loss(X).weights["nll"]) for _ in range(5)]
        assert all(sign * (b - a) > 0 for a, b in zip(found, found[1:], strict=False))


def test_geco_follows_its_recursion():
    vae = vaekit.build(
        "mlp", latent=2, input_shape=(1, 4, 4), loss={"nll": geco(10.0, rate=0.1, momentum=0.5), "kl": 1.0}
    )
    multiplier, mean = 1.0, None
    for _ in range(6):
        report = vae.loss(X)
        assert float(report.weights["nll"]) == pytest.approx(multiplier, rel=1e-4)
        gap = (float(report.terms["nll"]) - 10) / 10
        mean = gap if mean is None else 0.5 * mean + 0.5 * gap
        multiplier *= math.exp(0.1 * min(max(mean, -10), 10))


def test_geco_is_not_moved_by_a_mean_that_is_not_finite():
    weight = vaekit.weight["geco"](10.0)
    weight(torch.tensor(12.0))
    weight.tick()
    before = [held.clone() for held in (weight.multiplier, weight.constraint)]
    assert before[0] > 1
    for bad in (float("nan"), float("inf")):
        weight(torch.tensor(bad))
        weight.tick()
    assert before == [weight.multiplier, weight.constraint]
    weight(torch.tensor(12.0))
    weight.tick()
    assert weight.multiplier > before[0]


def test_geco_holds_the_reconstruction_at_its_target():
    torch.manual_seed(0)
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss={"nll": geco(7.0, rate=0.05), "kl": 1.0})
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    data = (torch.rand(256, 1, 4, 4) < torch.linspace(0.05, 0.95, 16).reshape(1, 1, 4, 4)).float()
    for _ in range(1500):
        optimizer.zero_grad()
        report = vae.loss(data)
        report.total.backward()
        optimizer.step()
    nll = sum(float(vae.loss(data).terms["nll"]) for _ in range(20)) / 20
    assert nll == pytest.approx(7.0, abs=0.35)


def test_schedules_count_training_steps_only():
    vae = model(ramp(0, 1, steps=10)).eval()
    for _ in range(3):
        vae.loss(X)
    assert int(vae.objective.weights["kl"].step) == 0
    vae.train().loss(X)
    vae.reconstruct(X)
    assert int(vae.objective.weights["kl"].step) == 1


def test_several_draws_average_the_terms():
    torch.manual_seed(0)
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), objective=vaekit.use("weighted_sum", samples=4000))
    one = torch.stack([vaekit.loss["nll"]()(vae(X)).mean() for _ in range(2000)]).mean()
    assert float(vae.loss(X).terms["nll"]) == pytest.approx(float(one.detach()), abs=0.02)
    with pytest.raises(vaekit.BuildError, match="vae.objective: samples: expected at least 1"):
        vaekit.build("vae", objective=vaekit.use("weighted_sum", samples=0))
    with pytest.raises(vaekit.BuildError, match="vae.objective: objective: no loss terms"):
        vaekit.build("vae", loss=[])


def test_a_report_holds_no_graph_but_the_totals():
    report = model(ramp(0, 1, steps=3)).loss(X)
    assert report.total.requires_grad and not any(t.requires_grad for t in report.terms.values())


def test_a_train_step_is_the_models_loss():
    vae = model(1.0)
    torch.manual_seed(1)
    a = TrainStep(vae)(X).total
    torch.manual_seed(1)
    assert torch.equal(a, vae.loss(X).total)


def test_a_hand_written_loop_learns():
    torch.manual_seed(0)
    vae, data = model(1.0), (torch.rand(64, 1, 4, 4) < 0.2).float()
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    first = last = 0.0
    for step in range(150):
        optimizer.zero_grad()
        total = vae.loss(data).total
        total.backward()
        optimizer.step()
        first, last = (float(total.detach()) if step == 0 else first), float(total.detach())
    entropy = -16 * (0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert first > 10 and last < entropy + 0.6
