"""Densities fitted to latents: against scipy, scikit-learn, entropies; saved, loaded, and refused where they can't be."""

import copy
import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.covariance import shrunk_covariance
from sklearn.mixture import GaussianMixture
from torch.distributions import Independent, MultivariateNormal, Normal

import vaekit
from vaekit import use
from vaekit.layers.fitting import minimise
from vaekit.testing import FAILURE_RATE, Subject, check, goodness_of_fit, laws, trains

SMALL = {
    "flow": {"flow": "maf", "transforms": 2, "hidden": (16,), "epochs": 5, "lr": 1e-2},
    "gmm": {"components": 3},
    "full_gaussian": {},
    "kde": {"points": 100},
    "empirical": {"points": 50},
    "two_stage": {"hidden": (8,), "epochs": 1},
}
WITH_DENSITY = ("flow", "gmm", "full_gaussian", "kde")
CORRELATED = MultivariateNormal(torch.tensor([5.0, -2.0]), torch.tensor([[2.0, 1.2], [1.2, 1.0]]))


def make(name, latent=(2,), **args):
    return vaekit.prior[name](latent, **{**SMALL[name], **args})


def fitted(name, z, **args):
    prior = make(name, tuple(z.shape[1:]), **args).to(z)
    with torch.no_grad():
        prior.fit(z)
    return prior


def model(name):
    """A model for a prior: one with a KL, or without where the prior has no density."""
    slots = {} if name in WITH_DENSITY else {"sampler": "dirac", "loss": {"nll": 1.0}}
    return vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,), **slots)


# -- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args"),
    [(n, SMALL[n]) for n in ("flow", "gmm", "full_gaussian")]
    + [("gmm", {"components": 3, "covariance": "diag"}), ("flow", {**SMALL["flow"], "flow": "nsf"})],
)
def test_fitted_densities_obey_the_laws(name, args):
    check("prior", name, **args)


@pytest.mark.parametrize("name", ["kde", "empirical", "two_stage"])
def test_priors_that_need_a_fit_obey_the_other_laws(name):
    subject = Subject("prior", name, SMALL[name])
    for law in laws("prior"):
        if law.__name__ in ("documents_its_arguments", "refuses_an_unknown_argument"):
            law(subject)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_samples_follow_the_fitted_density(name):
    prior = fitted(name, CORRELATED.sample((1000,)), **({"epochs": 10} if name == "flow" else {}))
    with torch.no_grad():
        assert goodness_of_fit(prior().sample((10_000,)), prior().log_prob) > FAILURE_RATE


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_the_density_is_better_than_a_standard_normal_at_other_data(name):
    prior, others = fitted(name, CORRELATED.sample((1000,))), CORRELATED.sample((1000,))
    with torch.no_grad():
        loss = -prior().log_prob(others).mean()
    assert loss < -Independent(Normal(torch.zeros(2), torch.ones(2)), 1).log_prob(others).mean() - 5


@pytest.mark.parametrize("name", SMALL)
def test_map_latents_are_fitted_and_drawn_in_their_shape(name):
    z = torch.randn(300, 2, 2, 2)
    z[:, 0, 1] += 3 * z[:, 1, 0] + 4
    prior = fitted(name, z)
    drawn = prior().sample((4, 5))
    assert prior().event_shape == (2, 2, 2) and prior().batch_shape == () and drawn.shape == (4, 5, 2, 2, 2)
    if name != "two_stage":  # whose single epoch here shows nothing
        many = prior().sample((4000,)).flatten(1)
        torch.testing.assert_close(many.mean(0), z.flatten(1).mean(0), rtol=0, atol=1.0)
    if prior.has_density:
        assert prior().log_prob(drawn).shape == (4, 5)
        alone = torch.stack([prior().log_prob(each) for each in drawn])
        torch.testing.assert_close(alone, prior().log_prob(drawn), rtol=1e-4, atol=1e-4)


# -- each against its oracle -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_gmm_is_scikit_learns(covariance):
    z = torch.cat([CORRELATED.sample((150,)), torch.randn(100, 2)]).double()
    prior = fitted("gmm", z, covariance=covariance, components=4, regularization=1e-4, seed=7)
    theirs = GaussianMixture(4, covariance_type=covariance, reg_covar=1e-4, max_iter=200, random_state=7).fit(z.numpy())
    at = 3 * torch.randn(50, 2, dtype=torch.float64)
    torch.testing.assert_close(prior().log_prob(at), torch.as_tensor(theirs.score_samples(at.numpy())))


@pytest.mark.parametrize("name", WITH_DENSITY[1:])
def test_a_density_of_nothing_is_refused_and_no_longer_after_the_fit(name):
    prior = make(name)
    with pytest.raises(ValueError, match=rf"{name} is not fitted yet: call vae.fit_prior\('{name}', data\)"):
        prior()
    prior.fit(torch.randn(50, 2))
    twin = make(name)
    twin.load_state_dict(prior.state_dict())
    assert prior().event_shape == twin().event_shape == (2,)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.4])
def test_kde_is_scipys(bandwidth, d):
    z = torch.randn(60, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64) + 3
    prior = fitted("kde", z, bandwidth=bandwidth, points=80)  # 20 places stay empty
    theirs = scipy.stats.gaussian_kde(z.T.numpy(), bandwidth)
    at = 3 + 2 * torch.randn(50, d, dtype=torch.float64)
    torch.testing.assert_close(prior().log_prob(at), torch.as_tensor(theirs.logpdf(at.T.numpy())))
    torch.testing.assert_close(prior().mean, z.mean(0))


def test_kde_keeps_as_many_points_as_it_may_each_once():
    z = torch.arange(500.0)[:, None].repeat(1, 2) + torch.randn(500, 2) * 0.1
    prior = fitted("kde", z, points=100)
    matches = (prior.points[:, None] == z).all(-1)
    assert matches.sum(1).eq(1).all() and matches.sum(0).max() == 1
    theirs = scipy.stats.gaussian_kde(prior.points.T.double().numpy())
    expected = torch.as_tensor(theirs.logpdf(z[:5].T.double().numpy())).float()
    torch.testing.assert_close(prior().log_prob(z[:5]), expected, rtol=1e-3, atol=1e-3)
    assert prior.points.mean() == pytest.approx(250, abs=50), "the first points, and not a random choice"


def test_the_kde_does_not_lose_digits_far_from_zero():
    z = torch.randn(200, 2)
    at = torch.randn(20, 2)
    near, far = fitted("kde", z, points=200), fitted("kde", z + 1000, points=200)
    torch.testing.assert_close(near().log_prob(at), far().log_prob(at + 1000), rtol=0, atol=0.02)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_full_gaussian_has_the_shrunk_covariance(shrinkage):
    z = CORRELATED.sample((200,)).double()
    p = fitted("full_gaussian", z, shrinkage=shrinkage)()
    covariance = shrunk_covariance(np.cov(z.T.numpy()), shrinkage)
    exact = scipy.stats.multivariate_normal(z.mean(0).numpy(), covariance)
    torch.testing.assert_close(p.log_prob(z), torch.as_tensor(exact.logpdf(z.numpy())))


def test_shrinkage_makes_few_points_enough():
    z = torch.randn(4, 6)
    with pytest.raises(ValueError, match="raise shrinkage"):
        fitted("full_gaussian", z, shrinkage=0.0)
    assert torch.isfinite(fitted("full_gaussian", z, shrinkage=0.1)().log_prob(z)).all()


@pytest.mark.parametrize("flow", ["maf", "nsf"])
def test_a_flow_reaches_the_entropy_of_what_it_is_fitted_to(flow):
    torch.manual_seed(1)
    prior = fitted("flow", CORRELATED.sample((2000,)), flow=flow, epochs=15, hidden=(32,), lr=5e-3)
    with torch.no_grad():
        loss = -prior().log_prob(CORRELATED.sample((5000,))).mean()
    assert float(loss) == pytest.approx(float(CORRELATED.entropy()), abs=0.1)
    plain = Independent(Normal(CORRELATED.mean, CORRELATED.variance.sqrt()), 1)
    assert loss < -plain.log_prob(CORRELATED.sample((5000,))).mean() - 0.1, "no better than a diagonal normal"


@pytest.mark.parametrize("name", ["flow", "two_stage"])
def test_a_fit_scales_the_latents_first_and_leaves_a_constant_one_its_unit(name):
    z = torch.randn(100, 3) * torch.tensor([100.0, 0.01, 0.0]) + torch.tensor([7.0, 0.0, 2.0])
    prior = fitted(name, z, epochs=1)
    torch.testing.assert_close(prior.loc, z.mean(0))
    torch.testing.assert_close(prior.scale[:2], z.std(0)[:2])
    assert prior.scale[2] == 1


def test_a_step_of_a_fit_does_not_depend_on_how_many_points_are_in_it(monkeypatch):
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)  # Adam hides the size of a gradient
    z = torch.randn(64, 2)
    prior = make("flow", epochs=3, batch_size=64)
    twin = make("flow", epochs=3, batch_size=128)
    twin.load_state_dict(prior.state_dict())
    for part, points in ((prior, z), (twin, torch.cat([z, z]))):
        part.loc.zero_()
        minimise(part._negative_log_prob, part.parameters(), points, **part.training_of)
    torch.testing.assert_close(twin().log_prob(z), prior().log_prob(z))


@pytest.mark.parametrize("name", ["flow", "two_stage"])
def test_a_fit_repeats_and_leaves_the_global_random_state_alone(name):
    z = CORRELATED.sample((200,))
    prior = make(name)
    twin, other = copy.deepcopy(prior), make(name, seed=1)
    other.load_state_dict(prior.state_dict())
    state = torch.get_rng_state()
    for part in (prior, twin, other):
        with torch.no_grad():
            part.fit(z)
        torch.manual_seed(0)
        torch.set_rng_state(state)
    assert all(torch.equal(a, b) for a, b in zip(prior.parameters(), twin.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(prior.parameters(), other.parameters(), strict=True))
    before = torch.get_rng_state()
    prior.fit(z)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in prior.parameters())


def ring(n):
    angle = 2 * math.pi * torch.rand(n)
    return 3 * torch.stack([angle.cos(), angle.sin()], 1) * (1 + 0.03 * torch.randn(n, 1))


def test_two_stage_finds_a_ring():
    torch.manual_seed(2)
    prior = fitted("two_stage", ring(2000), hidden=(64, 64), epochs=100, lr=3e-3, batch_size=128)
    z = prior().sample((2000,))
    far = z.norm(dim=1)
    assert ((far - 3).abs() < 0.6).float().mean() > 0.7, "a normal with the ring's spread has 0.3"
    octant = ((torch.atan2(z[:, 1], z[:, 0]) + math.pi) / (math.pi / 4)).long().clamp(0, 7).bincount(minlength=8)
    assert octant.min() > 120
    assert prior.log_gamma.exp() < 0.3


def test_two_stage_is_a_standard_normal_before_the_fit():
    z = make("two_stage")().sample((10_000,))
    exact = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    assert goodness_of_fit(z, exact.log_prob) > FAILURE_RATE


def test_two_stage_samples_have_the_second_decoders_noise():
    prior = fitted("two_stage", CORRELATED.sample((100,)))
    with torch.no_grad():
        prior.decoder[1].weight.zero_()
        prior.decoder[1].bias.zero_()
        prior.log_gamma.fill_(math.log(0.4))
    z = prior().sample((50_000,))
    torch.testing.assert_close(z.mean(0), prior.loc, rtol=0, atol=0.02)
    torch.testing.assert_close(z.std(0), 0.4 * prior.scale, rtol=0.02, atol=0)


def test_two_stage_minimises_minus_the_elbo_of_the_second_vae():
    prior = make("two_stage").double()
    y, noise = torch.randn(2, 5, 2, dtype=torch.float64)
    with torch.no_grad():
        prior.log_gamma.fill_(-0.7)
    mean, log_scale = prior.encoder(y).chunk(2, -1)
    q, p = Normal(mean, log_scale.exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    u = mean + q.scale * noise
    log_p = Normal(prior.decoder(u), math.exp(-0.7)).log_prob(y)
    expected = (torch.distributions.kl_divergence(q, p) - log_p).sum(1)
    torch.testing.assert_close(prior._negative_elbo(y, noise), expected)


def test_empirical_draws_every_stored_point_equally_often():
    z = torch.arange(40.0)[:, None].repeat(1, 2)
    prior = fitted("empirical", z)  # 10 places stay empty
    drawn = prior().sample((40_000,))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    counts = drawn[:, 0].long().bincount(minlength=41)
    assert counts[40:].sum() == 0
    assert scipy.stats.chisquare(counts[:40]).pvalue > 1e-4
    few = fitted("empirical", torch.arange(500.0)[:, None].repeat(1, 2))
    assert len(few().sample((20_000,)).unique(dim=0)) == 50 and few.points.max() > 300


@pytest.mark.parametrize("name", ["empirical", "two_stage"])
def test_priors_without_a_density_say_so(name):
    prior = fitted(name, torch.randn(20, 2))
    assert not prior.has_density
    with pytest.raises(NotImplementedError, match=f"{name} can be sampled and has no density"):
        prior().log_prob(torch.zeros(1, 2))


# -- with a model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fitted_prior_is_saved_and_loaded_with_the_model(name, tmp_path):
    vae, x = model(name), torch.rand(300, 1, 4, 4)
    vae.fit_prior(name, x, **SMALL[name])
    vae.save_pretrained(tmp_path)
    twin = vaekit.load(tmp_path)
    assert twin.spec == vae.spec
    for key, value in vae.prior.state_dict().items():
        assert torch.equal(value, twin.prior.state_dict()[key]), key
    drawn = [(torch.manual_seed(3), each.sample(4))[1] for each in (vae, twin)]
    assert drawn[0].shape == (4, 1, 4, 4) and torch.equal(*drawn)
    if vae.prior.has_density:
        z = torch.randn(5, 2)
        assert torch.equal(vae.prior().log_prob(z), twin.prior().log_prob(z))
        assert torch.isfinite(twin.log_prob(x[:3], n=10)).all()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_double_precision_models_are_fitted_in_double_precision(name):
    vae = model(name).double().fit_prior(name, torch.rand(100, 1, 4, 4, dtype=torch.float64), **SMALL[name])
    assert vae.prior().sample((3,)).dtype == torch.float64
    if vae.prior.has_density:
        assert vae.prior().log_prob(torch.randn(3, 2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", ["kde", "empirical"])
def test_a_prior_of_stored_points_can_be_built_and_not_used_before_the_fit(name):
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="dirac", prior=use(name), loss={"nll": 1.0})
    with pytest.raises(ValueError, match=rf"{name} is not fitted yet: call vae.fit_prior\('{name}', data\)"):
        vae.sample(2)
    vae.prior.fit(torch.randn(30, 2))
    assert vae.sample(2).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("name", SMALL)
def test_nan_and_too_few_points_are_refused_and_leave_the_prior_as_it_was(name):
    prior = make(name)
    before = copy.deepcopy(prior.state_dict())
    broken = torch.randn(50, 2)
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match=f"{name}: the latents hold NaN"):
        prior.fit(broken)
    least = {"gmm": 3, "empirical": 1}.get(name, 2)
    with pytest.raises(ValueError, match=f"{name}: expected at least {least} latents"):
        prior.fit(torch.randn(least - 1, 2))
    assert all(torch.equal(value, before[key]) for key, value in prior.state_dict().items())


def test_kde_refuses_points_on_a_line():
    with pytest.raises(ValueError, match="has no inverse"):
        fitted("kde", torch.arange(50.0)[:, None].repeat(1, 2))


def test_a_fit_that_diverges_says_so():
    weight = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="Lower lr"):
        minimise(
            lambda z: (weight * z).sqrt().sum(1), [weight], torch.randn(8, 2), epochs=1, lr=0.1, batch_size=8, seed=0
        )


def test_gmm_explains_an_absent_scikit_learn(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(ImportError, match=r"vaekit\[train\]"):
        make("gmm").fit(torch.randn(20, 2))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("flow", {"epochs": 0}),
        ("flow", {"lr": 0.0}),
        ("two_stage", {"batch_size": 0}),
        ("two_stage", {"hidden": (0,)}),
        ("gmm", {"components": 0}),
        ("gmm", {"iterations": 0}),
        ("gmm", {"regularization": -1.0}),
        ("full_gaussian", {"shrinkage": 1.5}),
        ("kde", {"points": 1}),
        ("kde", {"bandwidth": 0.0}),
        ("empirical", {"points": 0}),
    ],
)
def test_bad_arguments_are_named(name, args):
    with pytest.raises(ValueError, match=f"{next(iter(args))}: expected"):
        make(name, **args)


# -- a prior for each condition ----------------------------------------------------------------------------------------


def conditional(**slots):
    return vaekit.build(
        input_shape=(6,),
        latent=2,
        data_range=None,
        encoder=use("mlp", hidden=(8,)),
        decoder=use("mlp", hidden=(8,)),
        likelihood=use("gaussian", scale=1.0),
        prior=use("conditional_normal", hidden=(8,)),
        **slots,
    )


def test_a_conditional_prior_starts_standard_learns_and_tells_classes_apart():
    vae = conditional(condition=use("class", classes=3, dim=5))
    c = torch.tensor([0, 1, 1])
    p = vae.encode(torch.randn(3, 6), cond=c).p
    assert p.batch_shape == (3,) and p.event_shape == (2,)
    assert not p.mean.any() and (p.stddev == 1).all()
    trains(vae)
    p = vae.encode(torch.randn(3, 6), cond=c).p
    assert not torch.equal(p.mean[0], p.mean[1]) and torch.equal(p.mean[1], p.mean[2])
    assert not torch.equal(p.stddev[0], p.stddev[1])
    assert vae.sample(3, c).shape == (3, 6) and vae.log_prob(torch.randn(3, 6), n=5, cond=c).shape == (3,)


def test_a_conditional_prior_reads_the_mean_of_the_tokens_of_its_own_example():
    prior = vaekit.prior["conditional_normal"]((2, 2), 5)
    torch.nn.init.normal_(prior.out.weight)
    tokens = torch.randn(3, 4, 5)
    p = prior(tokens)
    assert p.event_shape == (2, 2)
    torch.testing.assert_close(prior(tokens[1:2]).mean[0], p.mean[1])
    torch.testing.assert_close(prior(tokens.flip(1)).mean, p.mean)
    torch.testing.assert_close(prior(tokens.mean(1, keepdim=True)).stddev, p.stddev)


def test_a_conditional_prior_refuses_a_model_and_a_call_without_a_condition():
    with pytest.raises(vaekit.BuildError, match="conditional_normal: expected a condition"):
        conditional()
    with pytest.raises(ValueError, match="expected the condition's tokens"):
        vaekit.prior["conditional_normal"]((2,), 5)()
