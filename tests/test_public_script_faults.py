"""The five faults of the public script that trains an autoencoder of latent diffusion: none of them is here.

That script (diffusers' `train_autoencoderkl.py`) measures LPIPS without a gradient, lets the discriminator's loss reach
the autoencoder, casts its weights to half precision, goes past DDP's forward, and trains the two on different batches
with settings that are not the paper's. Each test fails where its fault is put in.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import vaekit
from vaekit import Trainer, gradient_balanced, term, use
from vaekit.objective import TrainStep
from vaekit.train import Callback
from vaekit.train.processes import Processes

X = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CRITIC = use("patchgan", width=4, layers=1, norm="group")


def model(*terms):
    torch.manual_seed(0)
    conv = use("conv", width=4)
    return vaekit.build(encoder=conv, decoder=conv, latent=4, input_shape=(3, 16, 16), loss=["l1", "kl", *terms])


def gradients(parameters):
    return [None if p.grad is None else p.grad.clone() for p in parameters]


def backward(vae, *, seed=1):
    vae.zero_grad()
    torch.manual_seed(seed)
    report = vae.loss(X)
    report.total.backward()
    return report


def test_1_lpips_moves_the_model():
    """Its share of the gradient is what finite differences of LPIPS itself say, and it is not zero."""
    x = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lpips = term("lpips", weight=10.0, net="squeeze", weights="random")
    torch.manual_seed(0)
    vae = vaekit.build("conv", width=4, latent=4, input_shape=(3, 20, 20), loss=["l1", lpips]).double()
    bias = vae.decoder.get_parameter([n for n, p in vae.decoder.named_parameters() if p.ndim == 1][-1])

    def report(moved=0.0, i=0):
        torch.manual_seed(1)
        with torch.no_grad():
            bias[i] += moved
        found = vae.loss(x)
        with torch.no_grad():
            bias[i] -= moved
        return found

    (with_lpips,) = torch.autograd.grad(report().total, bias)
    vae.objective.numbers["lpips"] = 0.0
    (without,) = torch.autograd.grad(report().total, bias)
    for i in range(len(bias)):
        slope = 10 * float(report(1e-6, i).terms["lpips"] - report(-1e-6, i).terms["lpips"]) / 2e-6
        assert float(with_lpips[i] - without[i]) == pytest.approx(slope, rel=1e-3) and abs(slope) > 1e-4


def test_2_the_discriminators_loss_does_not_reach_the_model():
    """A critic that learns beside a model that it does not judge yet leaves the same model, bit for bit."""
    with_critic = model(term("adversarial", critic=CRITIC, critic_start=0, start=1000))
    alone = model()
    alone.load_state_dict({k: v for k, v in with_critic.state_dict().items() if not k.startswith("objective")})
    critic = with_critic.objective.terms["adversarial"].critic
    before = [p.clone() for p in critic.parameters()]
    for vae in (with_critic, alone):
        Trainer(vae, X, epochs=2, batch_size=4, device="cpu").fit()
    assert any(not torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True)), "the critic learned"
    own, other = with_critic.state_dict(), alone.state_dict()
    assert all(torch.equal(own[name], value) for name, value in other.items())


@pytest.mark.parametrize("weight", [0.5, gradient_balanced(0.5)], ids=["fixed", "balanced"])
def test_2_and_nothing_is_left_for_the_next_step(weight):
    """Playing for real, the model's gradient is that of its own terms, and the critic's that of its own loss."""
    vae = model(term("adversarial", critic=CRITIC, weight=weight))
    players = vae.players()
    report = backward(vae)
    found = {name: gradients(player) for name, player in players.items()}
    torch.manual_seed(1)
    out, losses = vae(X), vae.objective.terms
    scale = float(report.weights["adversarial"])
    own = losses["l1"](out).mean() + losses["kl"](out).mean() + scale * losses["adversarial"](out).mean()
    told = losses["adversarial"].critic_loss(out).mean()
    for name, loss in (("vae", own), ("adversarial", told)):
        wanted = torch.autograd.grad(loss, players[name], retain_graph=True, allow_unused=True)
        for a, b in zip(found[name], wanted, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_3_half_precision_rounds_no_update_away():
    """Twenty steps of Adam at the script's rate move all weights by about what the rate says; bfloat16 ones stay."""
    lr, steps = 4.5e-6, 20

    def moved(vae, **args):
        layers = [m.weight for m in vae.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
        before = [p.detach().clone() for p in layers]
        Trainer(vae, X, steps=steps, batch_size=8, lr=lr, device="cpu", **args).fit()
        apart = torch.cat(
            [(a.detach().float() - b.float()).abs().flatten() for a, b in zip(layers, before, strict=True)]
        )
        return float((apart > 0).float().mean()), float(apart.mean())

    vae = model()
    share, mean = moved(vae, precision="bf16")
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert share > 0.99 and mean > 0.25 * lr * steps
    share, mean = moved(model().bfloat16(), precision="fp32")  # the fault itself
    assert share < 0.5


def test_4_the_step_is_ddps_forward(tmp_path, monkeypatch):
    """A DDP that doubles each gradient doubles each update, the critic's too; one that is gone past would not."""
    made = []

    def wrap(self, step):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        wrapped = DistributedDataParallel(step, find_unused_parameters=True)

        def double(state, bucket):
            future = torch.futures.Future()
            future.set_result(bucket.buffer() * 2)
            return future

        wrapped.register_comm_hook(None, double)
        made.append(wrapped)
        return wrapped

    game = term("adversarial", critic=CRITIC, weight=0.5)
    plain, doubled = model(game), model(game)
    start = [p.detach().clone() for p in plain.parameters()]
    args = {"steps": 1, "batch_size": 8, "optimizer": "sgd", "device": "cpu", "lr": 1e-3}
    Trainer(plain, X, **args).fit()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Processes, "wrap", wrap)
            Trainer(doubled, X, **args).fit()
        assert isinstance(made[0].module, TrainStep)
        for before, once, twice in zip(start, plain.parameters(), doubled.parameters(), strict=True):
            wanted = before + 2 * (once - before)
            torch.testing.assert_close(twice, wanted, rtol=1e-5, atol=1e-7)
        for player in doubled.players().values():
            assert any(bool(p.grad.any()) for p in player)
    finally:
        dist.destroy_process_group()


def test_5_both_players_see_the_same_batch():
    """In each step the critic judges the data that were encoded, and what was just decoded from them."""
    vae = model(term("adversarial", critic=CRITIC))
    seen = {"encoded": [], "decoded": [], "judged": []}
    critic = vae.objective.terms["adversarial"].critic

    def note(name, of):
        def hook(module, given, made):
            if module.training:  # the Trainer's own looks at the model are not meant
                seen[name].append(of(given[0], made).detach().clone())

        return hook

    vae.encoder.register_forward_hook(note("encoded", lambda x, _: x))
    vae.decoder.register_forward_hook(note("decoded", lambda _, y: y))
    critic.register_forward_hook(note("judged", lambda x, _: x))
    Trainer(vae, X, steps=3, batch_size=4, device="cpu").fit()
    assert [len(each) for each in seen.values()] == [3, 3, 9]
    for step in range(3):
        x, y, (for_model, real, fake) = seen["encoded"][step], seen["decoded"][step], seen["judged"][3 * step :][:3]
        assert torch.equal(real, x) and torch.equal(for_model, fake)
        torch.testing.assert_close(fake, vae.likelihood(y).mean)


class Settings(Callback):
    """What the optimizers do in the first step."""

    def logged(self, trainer, values):
        keys = ("lr", "betas", "weight_decay")
        self.found = {p.name: [tuple(g[k] for k in keys) for g in p.optimizer.param_groups] for p in trainer.players}


def test_5_and_each_has_the_settings_that_were_asked_for():
    """Rates are those of a step, whatever the batch; LDM's betas reach both players; nothing decays unasked."""
    for size in (2, 8):
        look = Settings()
        vae = model(term("adversarial", critic=CRITIC))
        args = {"steps": 1, "batch_size": size, "device": "cpu", "log_every": 1, "callbacks": [look]}
        Trainer(vae, X, lr=1e-4, critic_lr=3e-4, optimizer=use("adam", betas=(0.5, 0.9)), **args).fit()
        assert {name: set(groups) for name, groups in look.found.items()} == {
            "vae": {(1e-4, (0.5, 0.9), 0)},
            "adversarial": {(3e-4, (0.5, 0.9), 0)},
        }
