"""Latents that are categoricals, bits, or numbers and codes together; priors over codes."""

import itertools
import math

import pytest
import torch
from torch.distributions import OneHotCategorical, RelaxedOneHotCategorical, kl_divergence

import vaekit
from vaekit import use
from vaekit.layers.autoregressive import CausalTransformer, PixelCNN
from vaekit.layers.categories import relaxed
from vaekit.layers.joint import Joint
from vaekit.testing import FAILURE_RATE, goodness_of_fit


def test_relaxed_draws_are_those_of_torch_s_relaxed_categorical():
    logits, temperature = torch.randn(4), torch.tensor(0.6)
    ours, index = relaxed(logits.expand(20_000, 4), (), temperature, hard=False)
    theirs = RelaxedOneHotCategorical(temperature, logits=logits).sample((20_000,))
    for a, b in ((ours, theirs), (ours.square(), theirs.square())):
        error = (a.var(0) + b.var(0)).div(20_000).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()
    assert goodness_of_fit(index[:, None].float(), lambda k: logits.log_softmax(0)[k[:, 0].long()]) > FAILURE_RATE
    assert torch.equal(ours.argmax(-1), index)


def test_hard_draws_are_one_hot_with_the_gradient_of_the_relaxed_ones():
    logits = torch.randn(5, 4, requires_grad=True)
    weights = torch.randn(5, 4)
    gradients = []
    for hard in (False, True):
        torch.manual_seed(0)
        y, _ = relaxed(logits, (), torch.tensor(0.7), hard)
        gradients.append(torch.autograd.grad((y * weights).sum(), logits)[0])
        if hard:
            torch.testing.assert_close(y.detach().sort(-1).values, torch.tensor([0.0, 0, 0, 1]).expand(5, 4))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_temperature_falls_with_training_steps_and_is_saved(tmp_path):
    sampler = use("gumbel_softmax", categories=2, temperature=1.0, smallest=0.5, anneal=0.1)
    vae = vaekit.build("mlp", latent=4, input_shape=(6,), sampler=sampler)
    x = torch.rand(3, 6)
    for _ in range(3):
        vae.loss(x)
    vae.eval()
    vae.loss(x)
    temperature = vae.sampler.temperature
    torch.testing.assert_close(temperature(), torch.tensor(math.exp(-0.3)))
    vae.save_pretrained(tmp_path)
    torch.testing.assert_close(vaekit.load(tmp_path).sampler.temperature(), torch.tensor(math.exp(-0.3)))
    vae.train()
    for _ in range(20):
        vae.loss(x)
    torch.testing.assert_close(temperature(), torch.tensor(0.5))


@pytest.mark.parametrize("latent", [6, (6, 2, 2)])
def test_one_hot_channels_and_codes_say_the_same(latent):
    vae = vaekit.build(
        "conv", latent=latent, input_shape=(1, 8, 8), width=8, sampler=use("gumbel_softmax", categories=3)
    ).eval()
    level = vae.encode(torch.rand(4, 1, 8, 8))
    hot = level.z.unflatten(1, (2, 3))
    assert torch.equal(hot.sum(2), torch.ones_like(hot.sum(2)))
    assert torch.equal(hot.argmax(2), level.index)


def test_a_categorical_kl_is_that_of_torch_s_one_hot_pair():
    vae = vaekit.build(
        "mlp", latent=6, input_shape=(5,), sampler=use("gumbel_softmax", categories=3), prior="categorical"
    )
    torch.nn.init.normal_(vae.prior.logits)
    out = vae(torch.rand(4, 5))
    q, p = out.levels[0].q.base_dist, out.levels[0].p.base_dist
    pair = kl_divergence(OneHotCategorical(logits=q.logits), OneHotCategorical(logits=p.logits)).sum(1)
    torch.testing.assert_close(vaekit.loss["kl"]()(out), pair)


@pytest.mark.parametrize("sampler", [use("gumbel_softmax", categories=3), "relaxed_bernoulli"])
def test_the_importance_weighted_estimate_reaches_the_sum_over_all_codes(sampler):
    torch.manual_seed(0)
    vae = vaekit.build("mlp", latent=3, input_shape=(5,), sampler=sampler).eval()
    x = torch.rand(2, 5)
    size, shape = vae.sampler.codebook_size, vae.sampler.index_shape
    codes = torch.tensor(list(itertools.product(range(size), repeat=math.prod(shape)))).reshape(-1, 1, *shape)
    log_joint = vae.predict(vae.sampler.lookup(codes).expand(-1, 2, -1)).log_prob(x) - math.prod(shape) * math.log(size)
    torch.testing.assert_close(vae.log_prob(x, n=20_000), log_joint.logsumexp(0), rtol=0, atol=0.02)


# -- numbers and codes together ----------------------------------------------------------------------------------------


def test_a_joint_density_is_the_product_of_its_parts():
    vae = vaekit.build("mlp", latent=8, input_shape=(10,), sampler=use("joint", categories=3, variables=2)).eval()
    level = vae.encode(torch.rand(4, 10), n=6)
    q = level.q
    assert isinstance(q, Joint)
    numbers, hot = level.z[..., :2], level.z[..., 2:].unflatten(-1, (2, 3))
    log_q = q.numbers.log_prob(numbers) + (q.base.logits * hot).sum((-1, -2))
    torch.testing.assert_close(level.log_posterior(), log_q)
    drawn = level.p.sample((5,))
    assert drawn.shape == (5, 8) and torch.equal(drawn[:, 2:].unflatten(1, (2, 3)).sum(2), torch.ones(5, 2))
    parts = kl_divergence(q.numbers, level.p.numbers) + kl_divergence(q.index, level.p.index)
    torch.testing.assert_close(kl_divergence(q, level.p), parts)


def test_capacities_hold_the_kl_of_each_part():
    torch.manual_seed(0)
    vae = vaekit.build(
        "joint_vae", latent=2, input_shape=(12,), categories=3, gamma=50.0, capacity=1.0, steps=1
    ).train()
    x = torch.rand(64, 12)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        vae.loss(x).total.backward()
        optimizer.step()
    out = vae(x)
    q, p = out.levels[0].q, out.levels[0].p
    torch.testing.assert_close(kl_divergence(q.numbers, p.numbers).mean(), torch.tensor(1.0), rtol=0, atol=0.1)
    torch.testing.assert_close(kl_divergence(q.index, p.index).mean(), torch.tensor(1.0), rtol=0, atol=0.1)


def test_a_capacity_grows_linearly_and_stays():
    capacity = vaekit.loss["capacity"](end=6.0, start=2.0, steps=4)
    vae = vaekit.build("mlp", latent=2, input_shape=(6,))
    out = vae(torch.rand(3, 6))
    kl = vaekit.loss["kl"]()(out)
    found = [capacity(out) for _ in range(7)]
    for value, room in zip(found, [2.0, 3, 4, 5, 6, 6, 6], strict=True):
        torch.testing.assert_close(value, (kl - room).abs())


def test_labels_are_learned_and_the_missing_ones_inferred():
    torch.manual_seed(0)
    centers = 0.2 + 0.6 * torch.eye(3).repeat(1, 4)
    y = torch.arange(300) % 3
    x = (centers[y] + 0.05 * torch.randn(300, 12)).clamp(0, 1)
    known = torch.where(torch.arange(300) < 30, y, -1)
    vae = vaekit.build("semi_supervised_vae", latent=2, input_shape=(12,), classes=3)
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        vae.loss(x, known).total.backward()
        optimizer.step()
    inferred = vae.eval().encode(x).q.base.logits[:, 0].argmax(-1)
    assert (inferred[30:] == y[30:]).float().mean() > 0.95


def test_examples_without_a_label_have_no_cross_entropy():
    vae = vaekit.build("semi_supervised_vae", latent=2, input_shape=(12,), classes=3)
    out = vae(torch.rand(4, 12), torch.tensor([0, -1, 2, -1]))
    value = vaekit.loss["cross_entropy"]()(out)
    logits = out.levels[0].q.base.logits[:, 0]
    torch.testing.assert_close(value, torch.stack([-logits[0, 0], value[1] * 0, -logits[2, 2], value[3] * 0]))


# -- priors over codes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["transformer", "pixelcnn"])
def test_each_place_reads_the_codes_before_it_and_no_other(network):
    torch.manual_seed(0)
    prior = vaekit.prior["autoregressive"](5, (4, 4), network=network, width=16, depth=2, heads=2).double().eval()
    network = prior.network
    seen = torch.zeros(16, 16)
    index = torch.randint(5, (1, 4, 4))
    for place in range(16):  # which logits change with the code at this place?
        other = index.clone()
        other.view(-1)[place] = (other.view(-1)[place] + 1) % 5
        a, b = (network(i.flatten(1) if isinstance(network, CausalTransformer) else i, None) for i in (index, other))
        seen[place] = (a - b).reshape(16, 5).abs().amax(1) > 1e-12
    assert torch.equal(seen, torch.ones(16, 16).triu(1)) or isinstance(network, PixelCNN)
    assert not seen.tril().any(), "a place sees itself or one after it"
    if isinstance(network, PixelCNN):  # the last place has every other one in its field, none is blind
        assert seen[:15, 15].all()


@pytest.mark.parametrize("network", ["transformer", "pixelcnn"])
def test_an_autoregressive_prior_is_normalised_and_draws_from_itself(network):
    torch.manual_seed(0)
    prior = vaekit.prior["autoregressive"](3, (2, 2), network=network, width=8, depth=1, heads=2).eval()
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.5)
    codes = torch.tensor(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    p = prior()
    log_p = p.log_prob(codes)
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0))
    drawn = p.sample((20_000,)).flatten(1) @ torch.tensor([27, 9, 3, 1])
    chance = goodness_of_fit(drawn[:, None].float(), lambda k: log_p[k[:, 0].long()].detach())
    assert chance > FAILURE_RATE


def test_a_fitted_autoregressive_prior_finds_what_codes_have_in_common():
    torch.manual_seed(0)
    first = torch.randint(4, (2000, 1))
    codes = torch.cat([first, (first + 1) % 4, torch.randint(4, (2000, 1))], 1)  # the second is known from the first
    prior = vaekit.prior["autoregressive"](4, (3,), width=32, depth=2, heads=2, epochs=8)
    prior.fit(codes[:1500])
    entropy = 2 * math.log(4)
    with torch.no_grad():
        assert abs(-prior().log_prob(codes[1500:]).mean() - entropy) < 0.1


def test_a_condition_steers_an_autoregressive_prior():
    torch.manual_seed(0)
    vae = vaekit.build(
        "mlp", latent=4, input_shape=(8,), sampler=use("gumbel_softmax", categories=2, hard=True),
        prior=use("autoregressive", width=16, depth=1, heads=2), condition=use("class", classes=2),
    )  # fmt: skip
    vae.eval()
    tokens = vae.condition(torch.tensor([0, 1, 1]), 3)
    p = vae.prior(tokens)
    assert p.batch_shape == (3,)
    log_p = p.log_prob(torch.zeros(3, 2, dtype=torch.long))
    assert log_p[0] != log_p[1] and log_p[1] == log_p[2]
    assert p.sample((5,)).shape == (5, 3, 2)


def test_a_counted_prior_has_the_codes_shares():
    codes = torch.tensor([[0, 2], [0, 1], [1, 2], [0, 2]])
    prior = vaekit.prior["categorical"](3, (2,), smoothing=1e-6)
    prior.fit(codes)
    p = prior()
    torch.testing.assert_close(
        p.base_dist.probs, torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.25, 0.75]]), atol=1e-5, rtol=0
    )


def test_fit_prior_takes_the_codes_and_goes_to_disk(tmp_path):
    torch.manual_seed(0)
    vae = vaekit.build("vq_vae", latent=4, input_shape=(1, 8, 8), codebook_size=8)
    x = torch.rand(64, 1, 8, 8)
    vae.fit_prior("autoregressive", x, width=16, depth=1, heads=2, epochs=2)
    vae.save_pretrained(tmp_path)
    again = vaekit.load(tmp_path)
    a, b = (m.sample(3, generator=torch.Generator().manual_seed(1)) for m in (vae, again))
    torch.testing.assert_close(a, b)
    assert again.spec.args["prior"].name == "autoregressive"
