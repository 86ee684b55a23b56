"""The game with a discriminator of data inside a model: who feels what, and from which step on."""

import pytest
import torch
from torch import nn

import vaekit
from vaekit import term, use
from vaekit.kinds import Discriminator
from vaekit.layers import adversarial as games

KINDS = ("hinge", "vanilla", "non_saturating", "lsgan", "wgan", "relativistic")


class Critic(Discriminator):
    """Smooth, small, and counting its passes; reads a condition where there is one."""

    def __init__(self, in_shape, cond_dim=0):
        super().__init__()
        self.first = nn.Conv2d(in_shape[0], 4, 3, stride=2)
        self.second = nn.Conv2d(4, 1, 2)
        self.tokens = nn.Linear(cond_dim, 4) if cond_dim else None
        self.passes = 0

    def forward(self, x, cond=None):
        self.passes += 1
        h = self.features(x)[0]
        if self.tokens is not None:
            h = h + self.tokens(cond.mean(1))[:, :, None, None]
        return [self.second(h)]

    def features(self, x):
        return [self.first(x).tanh()]


def model(critic, loss=("nll", "kl"), recipe="conv", **args):
    game = {key: args.pop(key) for key in list(args) if key in GAME}
    terms = [*loss, term("adversarial", weight=args.pop("weight", 0.3), critic=critic, **game)]
    return vaekit.build(recipe, latent=2, input_shape=(1, 8, 8), loss=terms, **args).double()


GAME = {"kind", "start", "critic_start", "ramp", "r1", "r2", "r1_every", "lecam", "augment", "feature_matching"}
X = torch.rand(6, 1, 8, 8, dtype=torch.float64)


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_each_player_feels_its_own_loss_and_no_other(kind):
    vae = model(Critic((1, 8, 8)), kind=kind)
    loss, critic = vae.objective.terms["adversarial"], vae.objective.terms["adversarial"].critic
    torch.manual_seed(1)
    vae.loss(X).total.backward()
    found = gradients(vae)

    vae.zero_grad()
    torch.manual_seed(1)
    out = vae(X)
    generator = vae.objective.terms["nll"](out).mean() + vae.objective.terms["kl"](out).mean()
    generator = generator + 0.3 * games.generator_loss(kind, critic(out.p_x.mean), critic(X)).mean()
    mine = [p for n, p in vae.named_parameters() if ".critic." not in n and p.requires_grad]
    expected = dict(
        zip(
            [n for n, _ in vae.named_parameters() if ".critic." not in n],
            torch.autograd.grad(generator, mine, retain_graph=True),
            strict=True,
        )
    )
    judged = games.critic_loss(kind, critic(X), critic(out.p_x.mean.detach())).mean()
    expected |= dict(
        zip(
            [f"objective.terms.adversarial.critic.{n}" for n, _ in critic.named_parameters()],
            torch.autograd.grad(judged, list(critic.parameters())),
            strict=True,
        )
    )
    assert set(found) == set(expected) and loss.critic is critic
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_before_it_starts_the_critic_is_not_even_run_and_then_learns_first():
    critic = Critic((1, 8, 8))
    vae = model(critic, start=4, critic_start=2)
    feels, learns, ran = [], [], []
    for _ in range(6):
        vae.zero_grad()
        before = critic.passes
        report = vae.loss(X)
        report.total.backward()
        ran.append(critic.passes - before)
        learns.append(critic.first.weight.grad is not None and bool(critic.first.weight.grad.abs().sum() > 0))
        feels.append(float(report.terms["adversarial"]) != 0)
    assert ran == [0, 0, 2, 2, 3, 3]
    assert learns == [False, False, True, True, True, True] and feels == [False] * 4 + [True] * 2


def test_the_share_ramps_up_in_even_steps():
    vae = model(Critic((1, 8, 8)), start=1, ramp=3)
    shares = []
    for _ in range(6):
        shares.append(vae.objective.terms["adversarial"].fade)
        vae.loss(X)
    assert shares == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_steps_are_counted_in_training_alone_and_saved(tmp_path):
    vae = vaekit.build(
        "conv", latent=2, input_shape=(1, 8, 8), loss=["nll", term("adversarial", critic=use("conv", width=4), start=3)]
    )
    x = X.float()
    for _ in range(3):
        vae.loss(x)
    vae.eval().loss(x)
    vae.save_pretrained(tmp_path)
    again = vaekit.load(tmp_path)
    assert again.objective.terms["adversarial"].step == 3 and again.objective.terms["adversarial"].fade == 1.0
    torch.testing.assert_close(again.loss(x).terms["adversarial"], vae.loss(x).terms["adversarial"], rtol=0.5, atol=1)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_draws_of_z_change_nothing(kind):
    vae = model(Critic((1, 8, 8)), kind=kind, lecam=0.1, sampler="dirac", loss=("nll",), r1=1.0, r1_every=1, r2=0.5)
    once = vae.loss(X).terms
    vae.objective.sample_shape = (3,)
    vae.objective.terms["adversarial"].lecam.real.zero_()
    vae.objective.terms["adversarial"].lecam.fake.zero_()
    thrice = vae.loss(X).terms
    for name, value in once.items():
        torch.testing.assert_close(thrice[name], value, msg=name)


def test_the_penalties_come_lazily_with_as_much_more_weight():
    critic = Critic((1, 8, 8))
    vae = model(critic, r1=2.0, r2=3.0, r1_every=4, sampler="dirac", loss=("nll",))
    plain = model(critic, sampler="dirac", loss=("nll",))
    plain.load_state_dict(vae.state_dict())
    more = [
        float(vae.loss(X).terms["adversarial_critic"] - plain.loss(X).terms["adversarial_critic"]) for _ in range(5)
    ]
    made = vae(X).p_x.mean.detach()
    expected = 4 * float((2.0 * games.r1(critic, X) + 3.0 * games.r1(critic, made)).mean().detach())
    assert more == pytest.approx([expected, 0, 0, 0, expected], rel=1e-9, abs=1e-12)


def test_a_critic_of_conditions_is_given_the_tokens():
    critic = Critic((1, 8, 8), cond_dim=64)
    vae = model(critic, recipe="conditional_vae", condition=use("class", classes=3), kind="vanilla")
    label = torch.arange(6) % 3
    vae.loss(X, label).total.backward()
    assert critic.tokens.weight.grad.abs().sum() > 0
    assert not torch.equal(vae.eval().loss(X, label).terms["adversarial"], vae.loss(X, 2 - label).terms["adversarial"])


def test_feature_matching_is_the_mean_absolute_difference_of_features():
    critic = Critic((1, 8, 8))
    vae = model(critic, feature_matching=5.0, sampler="dirac", loss=("nll",))
    out = vae(X)
    expected = (
        -critic(out.p_x.mean)[0].mean() + 5 * (critic.features(out.p_x.mean)[0] - critic.features(X)[0]).abs().mean()
    )
    torch.testing.assert_close(vae.loss(X).terms["adversarial"], expected)


def test_what_the_critic_sees_is_augmented_on_both_sides():
    seen = []

    class Watching(Critic):
        def forward(self, x, cond=None):
            seen.append(x.detach().clone())
            return super().forward(x)

    vae = model(Watching((1, 8, 8)), augment=("translation",), sampler="dirac", loss=("nll",))
    out = vae(X)
    vae.loss(X)
    fooled, real, fake = seen[-3:]
    assert not torch.equal(real, X) and not torch.equal(fake, out.p_x.mean) and not torch.equal(fooled, fake)


def test_a_model_learns_to_fool_a_critic_that_learns_to_tell():
    """A critic alone separates; a model with it moves its logits up."""
    torch.manual_seed(0)
    vae = model(Critic((1, 8, 8)), weight=1.0, loss=("nll",))
    critic = vae.objective.terms["adversarial"].critic
    x = (torch.rand(64, 1, 8, 8, dtype=torch.float64) > 0.5).double()
    sharp = torch.optim.Adam(critic.parameters(), 2e-2)
    for _ in range(60):
        sharp.zero_grad()
        vae.loss(x).total.backward()
        sharp.step()
    with torch.no_grad():
        gap = critic(x)[0].mean() - critic(vae(x).p_x.mean)[0].mean()
    assert gap > 0.5
    others = torch.optim.Adam(vae.decoder.parameters(), 1e-2)
    for _ in range(60):
        others.zero_grad()
        vae.loss(x).total.backward()
        others.step()
    with torch.no_grad():
        assert critic(x)[0].mean() - critic(vae(x).p_x.mean)[0].mean() < 0.7 * gap


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"start": -1}, "start: expected a number of at least 0, got -1"),
        ({"r1_every": 0}, "r1_every: expected at least 1, got 0"),
        ({"lecam": -0.1}, "lecam: expected a number of at least 0, got -0.1"),
    ],
)
def test_bad_arguments_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        vaekit.loss["adversarial"]((1, 8, 8), critic="conv", **args)
