"""Small parts against torch's own distributions, and what they owe to the graph around them."""

import math

import pytest
import torch
from torch.distributions import RelaxedBernoulli
from torch.distributions.transformed_distribution import TransformedDistribution

import vaekit
from vaekit import use
from vaekit.layers.modulation import Modulation


def test_the_uniform_prior_over_a_box_has_the_density_of_its_volume():
    p = vaekit.prior["uniform"]((3, 2), low=-2.0, high=0.5)()
    z = p.sample((1000,))
    assert z.min() >= -2 and z.max() < 0.5 and tuple(p.event_shape) == (3, 2)
    torch.testing.assert_close(p.log_prob(z), torch.full((1000,), -6 * math.log(2.5)))
    assert p.log_prob(torch.full((3, 2), 0.6)) == -math.inf
    torch.testing.assert_close(z.mean(0), torch.full((3, 2), -0.75), rtol=0, atol=4 * 2.5 / math.sqrt(12 * 1000))


@pytest.mark.parametrize("learned", [False, True])
def test_the_bernoulli_prior_is_torchs_bernoulli_over_bits(learned):
    prior = vaekit.prior["bernoulli"](2, (4,), probability=0.3, learned=learned)
    bits = torch.randint(2, (20, 4))
    expected = torch.distributions.Bernoulli(torch.tensor(0.3)).log_prob(bits.float()).sum(-1)
    torch.testing.assert_close(prior().log_prob(bits), expected)
    share = prior().sample((5000,)).float().mean(0)
    torch.testing.assert_close(share, torch.full((4,), 0.3), rtol=0, atol=4 * math.sqrt(0.21 / 5000))
    if learned:
        (-prior().log_prob(torch.ones(4, dtype=torch.long))).backward()
        torch.testing.assert_close(prior.logit.grad, torch.full((4,), -0.7))


def test_relaxed_bits_follow_torchs_relaxed_bernoulli():
    """The probability integral transform of the draws, with torch's density, is uniform."""
    sampler = vaekit.sampler["relaxed_bernoulli"]((3,), (3,), temperature=0.6).train()
    h = torch.randn(1, 3)
    logit = sampler.head(h)[0, 0]
    z = sampler(h, (20_000,)).z[:, 0]
    theirs = RelaxedBernoulli(torch.tensor(0.6), logits=logit)
    assert isinstance(theirs, TransformedDistribution)
    ranks = torch.stack(
        [
            torch.searchsorted(a.sort().values, b)
            for a, b in zip(theirs.sample((20_000,)).T.contiguous(), z.T.contiguous(), strict=True)
        ]
    )
    worst = ((ranks.sort().values + 1) / 20_000 - torch.arange(1, 20_001) / 20_000).abs().max()
    assert worst < 2.2 * math.sqrt(2 / 20_000), "a Kolmogorov-Smirnov distance of two samples, at 1e-4 and three tries"


def awaken(network):
    """Let conditions act, which start without effect."""
    for module in network.modules():
        if isinstance(module, Modulation):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter)


def test_pseudo_inputs_learn_their_conditions():
    prior, condition = use("vamp", components=3), use("class", classes=4)
    vae = vaekit.build("conditional_vae", latent=2, input_shape=(1, 8, 8), prior=prior, condition=condition)
    awaken(vae.encoder)
    vae.loss(torch.rand(6, 1, 8, 8), torch.arange(6) % 4).total.backward()
    assert vae.prior.tokens.grad.abs().sum() > 0 and vae.prior.free.grad.abs().sum() > 0


def test_a_prior_is_fitted_to_latents_under_their_labels():
    vae = vaekit.build("conditional_vae", latent=2, input_shape=(1, 8, 8), condition=use("class", classes=2)).eval()
    awaken(vae.encoder)
    x, label = torch.rand(200, 1, 8, 8), torch.arange(200) % 2
    vae.fit_prior("full_gaussian", (x, label))
    expected = vae.encode(x, cond=label).mode.mean(0)
    other = vae.encode(x, cond=torch.zeros_like(label)).mode.mean(0)
    spread = vae.encode(x, cond=label).mode.std(0) + vae.encode(x, cond=label).q.stddev.mean(0)
    found = vae.prior().mean
    assert ((found - expected).abs() < 0.3 * spread).all()
    assert not torch.allclose(expected, other, atol=1e-3), "labels matter here, so that the line above means something"


def test_two_tensors_of_data_are_two_batches_and_not_data_with_labels():
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,)).eval()
    a, b = torch.zeros(30, 1, 4, 4), torch.ones(30, 1, 4, 4)
    torch.manual_seed(0)
    first = vae.fit_prior("full_gaussian", (a, b)).prior().mean
    torch.manual_seed(0)
    torch.testing.assert_close(first, vae.fit_prior("full_gaussian", [a, b]).prior().mean)
    torch.manual_seed(0)
    both = vae.fit_prior("full_gaussian", torch.cat([a, b])).prior().mean
    torch.testing.assert_close(first, both, rtol=0, atol=0.5)


def test_latents_on_a_sphere_are_interpolated_along_it():
    vae = vaekit.build("svae", latent=3, input_shape=(1, 8, 8)).eval()
    a, b = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    start, end = vae.encode(a).mode, vae.encode(b).mode
    shown = vae.interpolate(a, b, steps=5)
    angle = (start * end).sum(-1, keepdim=True).clamp(-1, 1).acos()
    third = (start * (0.5 * angle).sin() + end * (0.5 * angle).sin()) / angle.sin()  # halfway on the great circle
    torch.testing.assert_close(third.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(shown[2], vae.decode(third), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (6,)), ("conv", (2, 9, 7)), ("conv", (1, 20)), ("conv", (1, 8, 8, 8))]
)
def test_a_critics_logits_are_a_map_of_its_last_features(name, shape):
    critic = vaekit.discriminator[name](shape, width=8) if name == "conv" else vaekit.discriminator[name](shape)
    x = torch.randn(5, *shape)
    (logits,), features = critic(x), critic.features(x)
    last = [m for m in critic.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.testing.assert_close(logits, last(features[-1].flatten(1)))
    assert all(len(f) == 5 for f in features)
