"""The balanced weight against LDM's formula, computed the long way; and what it costs."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

import vaekit
from vaekit import term, use
from vaekit.kinds import CriticLoss
from vaekit.layers.frozen import frozen
from vaekit.weights import gradient_balanced


class Counted(nn.Module):
    """A small network that counts how often its backward pass runs."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.LazyLinear(1))
            self.body(torch.zeros(1, 1, 8, 8))
        self.passes = 0

    def forward(self, x):
        if x.requires_grad:
            x.register_hook(lambda _: setattr(self, "passes", self.passes + 1))
        return self.body(x)


class Perceptual(vaekit.kinds.Loss):
    """Distance in a fixed network, of weight 2."""

    def __init__(self, network):
        super().__init__()
        self.network = (network,)

    def forward(self, out) -> Float[Tensor, " b"]:
        return (frozen(self.network[0], out.p_x.mean) - self.network[0](out.x).detach()).square().sum(1)


class Game(CriticLoss):
    """-D(x̂), from step `start` on, rising over `ramp` steps."""

    def __init__(self, critic, start=0, ramp=0):
        super().__init__()
        self.critic, self.start, self.ramp, self.step = critic, start, ramp, 0

    @property
    def fade(self) -> float:
        return 0.0 if self.step < self.start else min(1.0, (self.step - self.start + 1) / (self.ramp + 1))

    def tick(self) -> None:
        self.step += 1

    def forward(self, out) -> Float[Tensor, " b"]:
        return -frozen(self.critic, out.p_x.mean)[:, 0]

    def critic_loss(self, out) -> Float[Tensor, " b"]:
        return (1 - self.critic(out.x)).relu()[:, 0] + (1 + self.critic(out.p_x.mean.detach())).relu()[:, 0]


def model(weight, **game):
    torch.manual_seed(0)
    seen, critic = Counted(1), Counted(2)
    loss = [
        term("nll"),
        term(Perceptual(seen), weight=2.0, label="perceptual"),
        term("kl", weight=0.1),
        term(Game(critic, **game), weight=weight, label="game"),
    ]
    vae = vaekit.build(
        "conv", latent=4, input_shape=(1, 8, 8), loss=loss, likelihood=use("gaussian", scale="learned")
    ).double()
    return vae, seen.double(), critic.double(), torch.rand(6, 1, 8, 8, dtype=torch.float64)


def gradients(vae):
    return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}


def by_the_formula(vae, x, weight, most=1e4, fade=1.0):
    """R's and G's gradient at the last layer, each by a pass of its own; then R + w·G + KL and the critic's loss."""
    torch.manual_seed(3)
    out = vae(x)
    losses = vae.objective.terms
    rest = losses["nll"](out).mean() + 2.0 * losses["perceptual"](out).mean()
    game = losses["game"](out).mean()
    last = (
        vae.decoder.out.weight
        if hasattr(vae.decoder, "out")
        else [p for p in vae.decoder.parameters() if p.ndim > 1][-1]
    )
    of_rest = torch.autograd.grad(rest, last, retain_graph=True)[0].norm()
    of_game = torch.autograd.grad(game, last, retain_graph=True)[0].norm()
    ratio = weight * (of_rest / (of_game + 1e-4)).clamp(0, most).detach()
    vae.zero_grad()
    (rest + 0.1 * losses["kl"](out).mean() + fade * ratio * game + losses["game"].critic_loss(out).mean()).backward()
    return ratio, gradients(vae)


@pytest.mark.parametrize(("weight", "most"), [(0.5, 1e4), (1.0, 1e-2)])
def test_the_balanced_weight_is_ldms_and_so_are_all_gradients(weight, most):
    vae, _, _, x = model(gradient_balanced(weight, most=most))
    ratio, expected = by_the_formula(vae, x, weight, most)
    vae.zero_grad()
    torch.manual_seed(3)
    report = vae.loss(x)
    report.total.backward()
    torch.testing.assert_close(report.weights["game"], ratio.to(report.weights["game"].dtype), rtol=1e-12, atol=0)
    found = gradients(vae)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_one_backward_pass_goes_through_each_network_once():
    vae, seen, critic, x = model(gradient_balanced(0.5))
    before = seen.passes, critic.passes
    vae.loss(x).total.backward()
    assert (seen.passes - before[0], critic.passes - before[1]) == (1, 1)


def test_the_ramp_is_not_balanced_away():
    vae, _, _, x = model(gradient_balanced(0.5), ramp=3)
    _, expected = by_the_formula(vae, x, 0.5, fade=0.25)
    vae.zero_grad()
    torch.manual_seed(3)
    vae.loss(x).total.backward()
    for name, gradient in gradients(vae).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_before_the_start_the_model_feels_nothing_of_the_game():
    vae, _, critic, x = model(gradient_balanced(0.5), start=2)
    plain, *_ = model(0.0)
    for step in range(3):
        grads = []
        for each in (vae, plain):
            each.zero_grad()
            torch.manual_seed(step)
            each.loss(x).total.backward()
            grads.append({n: g for n, g in gradients(each).items() if ".critic." not in n})
        same = all(torch.allclose(grads[0][n], grads[1][n], rtol=1e-9, atol=0) for n in grads[1])
        assert same == (step < 2)


def test_the_last_layer_can_be_named_and_a_wrong_name_is_refused():
    vae, _, _, x = model(gradient_balanced(0.5, last="nowhere.weight"))
    with pytest.raises(
        ValueError,
        match=r"gradient_balanced last: expected one of the decoder's parameters, such as '.*'; got 'nowhere.weight'",
    ):
        vae.loss(x)


@pytest.mark.parametrize("name", ["mlp", "conv", "resnet", "unet_attn"])
def test_the_last_layer_is_the_one_that_the_graph_meets_first(name):
    decoder = vaekit.build(name, latent=4, input_shape=(1, 16, 16)).decoder
    node, first = decoder(torch.randn(2, 4)).grad_fn, None
    front = [node]
    while first is None:
        parents = [parent for node in front for parent, _ in node.next_functions if parent is not None]
        first = next((p.variable for p in parents if hasattr(p, "variable") and p.variable.ndim > 1), None)
        front = parents
    balanced = vaekit.weight["gradient_balanced"]()
    assert balanced.last_layer(decoder) is first


def test_in_evaluation_and_without_gradients_the_total_is_a_plain_sum():
    vae, _, _, x = model(gradient_balanced(0.5))
    vae.loss(x).total.backward()
    with torch.no_grad():
        report = vae.eval().loss(x)
    scale = {"nll": 1.0, "perceptual": 2.0, "kl": 0.1, "game": report.weights["game"], "game_critic": 1.0}
    torch.testing.assert_close(report.total, sum(scale[n] * v for n, v in report.terms.items()))
