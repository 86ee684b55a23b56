"""Parts under torch.compile: whole, or honest about it."""

import copy

import pytest
import torch

import vaekit
from tests.laws.test_laws import SUBJECTS
from vaekit.kinds import FittedPrior
from vaekit.objective import TrainStep

PARTS = [s for s in SUBJECTS if s.kind in ("encoder", "sampler", "decoder", "likelihood", "loss", "prior", "condition")]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("subject", PARTS, ids=lambda s: f"{s.kind}-{s.name}")
def test_a_part_compiles_whole_or_says_that_it_does_not(subject):
    ranks = getattr(subject.target, "ranks", (0,))
    vae = subject.model((1, 12, 12) if 2 in ranks and 0 not in ranks else (6,))
    x = torch.rand(4, *vae.input_shape)
    cond = None if vae.condition is None else vae.condition.example(4)
    if isinstance(vae.prior, FittedPrior) and vae.space == "real":
        vae.prior.fit(torch.randn(200, *vae.latent_shape))
    twin = copy.deepcopy(vae)  # a step changes what follows it, such as the averages of a codebook
    step = torch.compile(TrainStep(vae), fullgraph=True, backend="aot_eager")

    def run():
        torch.manual_seed(0)
        return step(x, cond).total

    if not subject.target.compiles:
        with pytest.raises(Exception, match="."):  # Dynamo has many exceptions
            for _ in range(torch._dynamo.config.recompile_limit + 1):  # one is that each step is another graph
                run()
        return
    total = run()
    total.backward()
    torch.manual_seed(0)
    torch.testing.assert_close(total, twin.loss(x, cond).total, rtol=1e-4, atol=1e-4)


def test_schedules_move_on_under_compile():
    vae = vaekit.build(
        "mlp", latent=2, input_shape=(1, 4, 4), loss={"nll": vaekit.geco(10.0), "kl": vaekit.ramp(0, 1, steps=4)}
    )
    step = torch.compile(TrainStep(vae), fullgraph=True, backend="aot_eager")
    found = [float(step(torch.rand(2, 1, 4, 4)).weights["kl"]) for _ in range(4)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.75])


def test_inductor_gives_the_same_loss():
    torch.manual_seed(0)
    vae = vaekit.build("conv", latent=2, input_shape=(1, 8, 8), width=4, sampler="dirac", loss={"nll": 1.0})
    x = torch.rand(4, 1, 8, 8)
    compiled = torch.compile(TrainStep(vae), fullgraph=True)
    total = compiled(x).total
    torch.testing.assert_close(total, vae.loss(x).total, rtol=1e-4, atol=1e-4)
    total.backward()  # a report of one term with weight 1 once had no gradient
    assert all(p.grad is not None for p in vae.parameters())
