"""Latents of a whole set against closed forms of Gaussian aggregates, counts by hand, and labels that are known."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

import vaekit
from tests.test_oracles import linear_gaussian
from vaekit import Level, use
from vaekit.evaluate import Examples, active_units, clustering, code_usage, information, latents, linear_probe
from vaekit.evaluate.examples import Unavailable
from vaekit.evaluate.latents import Latents


def channel(n, noise, spread=1.0, dim=1, prior_scale=1.0, seed=0):
    """q(z|x) = N(x, noise²), x ~ N(0, spread²): I = d/2 log(1 + spread²/noise²), q(z) = N(0, spread² + noise²)."""
    generator = torch.Generator().manual_seed(seed)
    x = spread * torch.randn(n, dim, generator=generator, dtype=torch.float64)
    q = Independent(Normal(x, torch.full_like(x, noise)), 1)
    z = x + noise * torch.randn(n, dim, generator=generator, dtype=torch.float64)
    p = Independent(Normal(torch.zeros(dim).double(), torch.full((dim,), prior_scale).double()), 1)
    return Latents(x, z, [Level(z, q, p)], [0], (x, torch.full_like(x, noise)), None, False)


@pytest.mark.parametrize(("noise", "dim"), [(0.5, 1), (0.7, 2)])
def test_mutual_information_is_that_of_the_gaussian_channel(noise, dim):
    found = information(channel(6000, noise, dim=dim))
    exact = 0.5 * dim * math.log(1 + 1 / noise**2)
    error = float(found.mutual.std()) / 6000**0.5
    assert float(found.mutual.mean()) == pytest.approx(exact, abs=4 * error + 0.02)
    assert 4 * error + 0.02 < 0.1 * exact


def test_the_aggregate_gap_is_the_kl_of_two_gaussians():
    found = information(channel(6000, 0.5, spread=2.0, prior_scale=1.5))
    ratio = (2.0**2 + 0.5**2) / 1.5**2
    assert float(found.gap.mean()) == pytest.approx(0.5 * (ratio - 1 - math.log(ratio)), abs=0.05)


def test_information_and_gap_add_up_to_the_rate():
    """ELBO surgery, with the exact posterior of a linear model, whose aggregate is the prior."""
    vae, exact = linear_gaussian()
    x = exact.sample((4000,))
    data = Examples(vae, x)
    level = vae.encode(x)
    rate = (level.q.log_prob(level.z) - level.p.log_prob(level.z)).mean()
    found = information(latents(vae, data))
    assert float((found.mutual + found.gap).mean()) == pytest.approx(float(rate.detach()), abs=0.1)
    w = vae.decoder.out.weight.detach()
    joint = MultivariateNormal(exact.mean, exact.covariance_matrix).entropy()
    noise = Normal(0.0, 0.7).entropy() * len(w)
    assert float(found.mutual.mean()) == pytest.approx(float(joint - noise), abs=0.1)
    assert float(found.gap.mean()) == pytest.approx(0.0, abs=0.05)


def test_information_is_at_most_log_n_and_that_much_for_posteriors_far_apart():
    found = information(channel(50, 1e-4))
    assert float(found.mutual.mean()) == pytest.approx(math.log(50), abs=1e-6)
    nothing = channel(50, 1.0, spread=0.0)
    torch.testing.assert_close(information(nothing).mutual, torch.zeros(50, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ["mws", "mss"])
def test_the_estimators_over_batches_are_their_formulas_and_exact_for_one_batch(estimator):
    found = channel(60, 0.5)
    exact = information(found)
    whole = information(found, estimator=estimator, batch=60)
    offset = math.log(60) if estimator == "mws" else 0.0  # 1/(n b) in the place of 1/n
    torch.testing.assert_close(whole.mutual, exact.mutual + offset)
    parts = information(found, estimator=estimator, batch=15, seed=3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3)).tensor_split(4)
    for part in order:
        for i in part.tolist():
            pairs = {int(j): float(Normal(found.center[j], 0.5).log_prob(found.z[i])) for j in part}
            others = sum(math.exp(v) for j, v in pairs.items() if j != i)
            if estimator == "mws":
                q = (math.exp(pairs[i]) + others) / (60 * 15)
            else:
                q = math.exp(pairs[i]) / 60 + 59 / (60 * 14) * others
            assert float(parts.mutual[i]) == pytest.approx(pairs[i] - math.log(q), abs=1e-9)


def test_mss_is_above_exact_information_on_average():
    found = channel(400, 0.3)
    exact = float(information(found).mutual.mean())
    mss = [float(information(found, estimator="mss", batch=20, seed=s).mutual.mean()) for s in range(20)]
    assert sum(mss) / 20 > exact


def test_posteriors_of_any_kind_give_what_products_of_normals_give_by_matrices():
    found = channel(40, 0.5, dim=3)
    (level,) = found.levels
    cut = [Level(level.z[a:b], Independent(Normal(found.center[a:b], 0.5), 1), level.p) for a, b in ((0, 15), (15, 40))]
    general = Latents(found.center, found.z, cut, [0, 15], None, None, False)
    for estimator in ("exact", "mws"):
        one, other = (information(each, estimator=estimator, batch=10) for each in (found, general))
        torch.testing.assert_close(one.mutual, other.mutual)
        torch.testing.assert_close(one.gap, other.gap)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_information_does_not_depend_on_the_block(block):
    found = channel(40, 0.5)
    torch.testing.assert_close(information(found, block=block).mutual, information(found).mutual)


def test_latents_do_not_depend_on_the_batch_size_or_on_where_the_mean_is():
    vae = vaekit.build("mlp", latent=3, input_shape=(1, 4, 4), hidden=(8,)).double()
    x = torch.rand(20, 1, 4, 4, dtype=torch.float64)
    found = [latents(vae, Examples(vae, x, batch_size=size), seed=1) for size in (1, 6, 20)]
    for each in found[1:]:
        torch.testing.assert_close(each.z, found[0].z)
        torch.testing.assert_close(information(each).mutual, information(found[0]).mutual)
        torch.testing.assert_close(information(each).gap, information(found[0]).gap)
    torch.testing.assert_close(found[0].center, vae.encode(x).q.mean)
    assert not torch.equal(found[0].z, latents(vae, Examples(vae, x), seed=2).z)


def test_a_posterior_on_the_sphere_has_information():
    vae = vaekit.build(
        "mlp", latent=3, input_shape=(4,), hidden=(8,), sampler="power_spherical", prior="uniform_sphere"
    )
    found = information(latents(vae, Examples(vae, torch.rand(12, 4), batch_size=5)))
    assert -0.5 < float(found.mutual.mean()) < math.log(12)


def test_an_active_unit_is_one_whose_mean_varies_over_the_data():
    means = torch.stack([torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.1, 3.0, 0.2])])
    found = Latents(means, means, [], [], None, None, False)  # variances 0.005, 2, 0.02
    assert active_units(found).tolist() == [False, True, True]
    assert active_units(found, 0.1).tolist() == [False, True, False]
    with pytest.raises(Unavailable, match="2 examples"):
        active_units(Latents(means[:1], means[:1], [], [], None, None, False))


def coded(index, groups=False):
    z = torch.zeros(len(index), 1)
    return Latents(z, z, [], [], None, index, groups)


def test_perplexity_and_usage_are_those_of_the_whole_set():
    index = torch.tensor([[[0, 0], [0, 0]], [[1, 1], [3, 3]]])  # (n, h, w): 4 of code 0, 2 of 1, 2 of 3
    usage = code_usage(coded(index), 8)
    assert usage.used.tolist() == [3 / 8]
    assert float(usage.perplexity[0]) == pytest.approx(2**1.5)  # entropy 1/2·1 + 2·(1/4·2) = 1.5 bits
    assert usage.counts[0].tolist() == [4, 2, 2]
    p = torch.tensor([0.5, 0.25, 0.0, 0.25])
    assert float(usage.perplexity[0]) == pytest.approx(float(Categorical(p).entropy().exp()), rel=1e-6)


def test_groups_of_codes_are_counted_apart():
    index = torch.tensor([[0, 5], [1, 5], [2, 5], [3, 5]])
    usage = code_usage(coded(index, groups=True), 8)
    torch.testing.assert_close(usage.perplexity, torch.tensor([4.0, 1.0]).double())
    assert usage.used.tolist() == [0.5, 1 / 8]


@pytest.mark.parametrize(
    ("sampler", "latent", "groups"), [("vq", (4, 2, 2), 1), ("vq", 4, 1), (use("grouped_vq", groups=2), (4, 2, 2), 2)]
)
def test_code_usage_does_not_depend_on_the_batch_size(sampler, latent, groups):
    sampler = sampler if isinstance(sampler, vaekit.Spec) else use(sampler, codebook_size=8)
    vae = vaekit.build(encoder="conv" if isinstance(latent, tuple) else "mlp", decoder="conv" if isinstance(latent, tuple) else "mlp",
                       latent=latent, input_shape=(1, 8, 8), sampler=sampler)  # fmt: skip
    x = torch.rand(20, 1, 8, 8)
    vae.loss(x)  # the book is filled from data
    vae.eval()
    found = [code_usage(latents(vae, Examples(vae, x, batch_size=size)), vae.sampler.codebook_size) for size in (3, 20)]
    assert len(found[0].used) == groups
    torch.testing.assert_close(found[0].perplexity, found[1].perplexity)
    assert all(torch.equal(a, b) for a, b in zip(found[0].counts, found[1].counts, strict=True))


def test_a_continuous_latent_has_no_codes_and_codes_no_pairwise_density():
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(3,))
    with pytest.raises(Unavailable, match="continuous"):
        code_usage(latents(vae, Examples(vae, torch.rand(3, 4))), 8)
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(3,), sampler="vq")
    with pytest.raises(Unavailable, match="continuous z"):
        information(latents(vae, Examples(vae, torch.rand(3, 4))))


def test_probe_and_clustering_find_classes_that_are_there_and_none_that_are_not():
    labels = torch.arange(3).repeat(60)
    apart = 10.0 * torch.nn.functional.one_hot(labels, 3) + torch.randn(180, 3)
    assert linear_probe(apart, labels) == 1.0
    assert clustering(apart, labels) == (pytest.approx(1.0), pytest.approx(1.0))
    mixed = torch.randn(180, 3)
    nmi, ari = clustering(mixed, labels)
    assert linear_probe(mixed, labels) < 0.6 and nmi < 0.1 and abs(ari) < 0.1
    uneven = (torch.arange(180) % 9 == 0).long()  # a regression on small numbers would know the larger class alone
    small = 1e-4 * (10.0 * torch.nn.functional.one_hot(uneven, 2) + torch.randn(180, 2))
    assert linear_probe(small, uneven) == 1.0
    assert clustering(torch.zeros(180, 3), labels) == (0.0, 0.0)


def test_the_probe_is_judged_on_examples_it_has_not_seen():
    """With more dimensions than examples a regression learns any labels by heart."""
    assert linear_probe(torch.randn(80, 300), torch.randint(2, (80,))) < 0.8


@pytest.mark.parametrize("labels", [torch.zeros(8).long(), torch.rand(8), torch.eye(8).long(), torch.arange(8)])
def test_labels_that_are_no_classes_are_told(labels):
    for measure in (linear_probe, clustering):
        with pytest.raises(Unavailable, match=measure.__name__):
            measure(torch.randn(8, 2), labels)
