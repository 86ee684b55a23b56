"""Posteriors beside the diagonal Gaussian: densities, divergences and gradients against independent ones."""

import math

import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import vaekit
from vaekit import Level
from vaekit.layers.reshaped import Reshaped
from vaekit.losses.kl import divergence
from vaekit.testing import Subject, check, laws, trains

PARTS = [
    ("full_gaussian", {}),
    ("full_gaussian", {"rank": 1}),
    ("laplace", {}),
    ("student_t", {}),
    ("student_t", {"df": 3}),
    ("fixed_sigma", {}),
]
IDS = [f"{name}-{args}" for name, args in PARTS]


def make(name, latent=(3,), **args):
    return vaekit.sampler[name]((5,), latent, **args).double()


def features(b=4, scale=1.0):
    return scale * torch.randn(b, 5, dtype=torch.float64)


@pytest.mark.parametrize(("name", "args"), PARTS, ids=IDS)
def test_posteriors_obey_the_laws(name, args):
    check("sampler", name, **args)


def test_gamma_obeys_the_laws_beside_a_gamma_prior():
    subject = Subject("sampler", "gamma", {})
    for law in laws("sampler"):
        if law.__name__ not in ("trains_in_a_model", "round_trips"):
            law(subject)
    trains(subject.model(prior="gamma"))
    trains(subject.model((2, 4, 4), (1, 2, 2), encoder=vaekit.use("conv", width=4), prior="gamma"))


# -- densities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 1, 3])
@pytest.mark.parametrize("latent", [(4,), (2, 2)])
def test_full_gaussian_is_the_normal_of_its_covariance(rank, latent):
    sampler = make("full_gaussian", latent, rank=rank)
    h = features(scale=3.0)
    level = sampler(h, (7,))
    mean, log_variance = sampler.head(h).flatten(2).unbind(1)
    spread = torch.diag_embed((0.5 * log_variance).exp())
    entries = 30 * torch.tanh(sampler.mix(h) / 30)
    eye = torch.eye(4, dtype=torch.float64)
    if rank is None:
        lower = torch.zeros(4, 4, 4, dtype=torch.float64)
        for n, (i, j) in enumerate((row, column) for row in range(4) for column in range(row)):
            lower[:, i, j] = entries[:, n]
        inner = (eye + lower) @ (eye + lower).mT
    else:
        a = entries.reshape(4, 4, rank)
        inner = eye + a @ a.mT
    exact = MultivariateNormal(mean, spread @ inner @ spread)
    torch.testing.assert_close(level.q.log_prob(level.z), exact.log_prob(level.z.flatten(2)))
    torch.testing.assert_close(level.q.mean.flatten(1), exact.mean)
    torch.testing.assert_close(level.mode.flatten(1), exact.mean)
    torch.testing.assert_close(level.q.variance.flatten(1), exact.variance)
    torch.testing.assert_close(level.q.entropy(), exact.entropy())


@pytest.mark.parametrize("rank", [None, 2])
def test_draws_of_full_gaussian_have_its_covariance(rank):
    q = make("full_gaussian", rank=rank)(features(1, 3.0)).q
    z = q.sample((100_000,))[:, 0]
    exact = q.base.covariance_matrix[0]
    size = exact.diagonal().sqrt()
    assert (exact - torch.diag(size**2)).abs().max() > 0.05, "no correlations to see"
    torch.testing.assert_close(z.T.cov() / size / size[:, None], exact / size / size[:, None], rtol=0, atol=0.02)


def test_full_gaussian_reads_one_dimension_too():
    level = make("full_gaussian", (1,))(features())
    assert torch.isfinite(level.q.log_prob(level.z)).all()


@pytest.mark.parametrize("name", ["laplace", "student_t", "gamma", "fixed_sigma"])
def test_densities_are_scipys(name):
    args = {"student_t": {"df": 3.5}, "fixed_sigma": {"sigma": 0.7}}.get(name, {})
    level = make(name, (2, 2), **args)(features(), (6,))
    base = level.q.base_dist
    exact = {
        "laplace": lambda: scipy.stats.laplace(base.loc.detach(), base.scale.detach()),
        "student_t": lambda: scipy.stats.t(3.5, base.loc.detach(), base.scale.detach()),
        "gamma": lambda: scipy.stats.gamma(base.concentration.detach(), scale=1 / base.rate.detach()),
        "fixed_sigma": lambda: scipy.stats.norm(base.loc.detach(), 0.7),
    }[name]()
    assert level.q.event_shape == (2, 2)
    expected = torch.as_tensor(exact.logpdf(level.z.detach())).sum((-1, -2))
    torch.testing.assert_close(level.log_posterior(), expected)


def test_fixed_sigma_has_the_scale_that_was_given_and_costs_half_the_square_of_the_mean():
    sampler = make("fixed_sigma", (3,), sigma=0.3)
    h = features()
    level = sampler(h, (50_000,))
    torch.testing.assert_close((level.z - level.mode).std(), torch.tensor(0.3, dtype=torch.float64), rtol=0.01, atol=0)
    assert not list(sampler.parameters())[0].shape[0] > 3, "the head gives a mean and nothing else"
    p = standard(3)
    rest = divergence(Level(level.z, level.q, p)) - 0.5 * level.mode.square().sum(1)
    torch.testing.assert_close(rest, torch.full_like(rest, 3 * (0.5 * 0.09 - 0.5 - math.log(0.3))))


def test_learned_degrees_of_freedom_stay_above_two_and_learn_by_the_kl():
    sampler = make("student_t")
    level = sampler(features())
    divergence(Level(level.z, level.q, standard(3))).sum().backward()
    assert sampler.free.grad != 0
    with torch.no_grad():
        sampler.free.fill_(-1e4)
    level = sampler(features())
    assert (level.q.base_dist.df > 2).all()
    assert torch.isfinite(divergence(Level(level.z, level.q, standard(3)))).all()


# -- divergences ---------------------------------------------------------------------------------------------------


def standard(*shape):
    zeros = torch.zeros(*shape, dtype=torch.float64)
    return Independent(Normal(zeros, zeros + 1), len(shape))


def by_quadrature(q, p, ends):
    def integrand(z):
        at = torch.tensor(z, dtype=torch.float64)
        return float(q.log_prob(at).exp() * (q.log_prob(at) - p.log_prob(at)))

    return quad(integrand, *ends, limit=500)[0]


@pytest.mark.parametrize("name", ["laplace", "student_t", "gamma"])
def test_the_kl_is_the_integral(name):
    sampler = make(name, (1,), **({"df": 7.5} if name == "student_t" else {}))
    with torch.no_grad():
        h = features(3, 2.0)
        level = sampler(h)
        if name == "gamma":
            p = vaekit.prior["gamma"]((1,), concentration=2.5, rate=1.7).double()()
        else:
            p = Independent(Normal(torch.tensor([0.4], dtype=torch.float64), torch.tensor([1.6]).double()), 1)
        closed = divergence(Level(level.z, level.q, p))
        for i in range(3):
            kept = {k: getattr(level.q.base_dist, k)[i, 0] for k in level.q.base_dist.arg_constraints}
            q1 = type(level.q.base_dist)(**kept)
            p1 = type(p.base_dist)(**{k: getattr(p.base_dist, k)[0] for k in p.base_dist.arg_constraints})
            middle = float(q1.mean)
            if name == "gamma":
                ends = [(0, middle), (middle, 60 * middle + 60)]
            else:
                ends = [(middle - 150, middle), (middle, middle + 150)]
            exact = sum(by_quadrature(q1, p1, e) for e in ends)
            assert float(closed[i]) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("latent", [(4,), (2, 2)])
def test_the_kl_of_full_normals_is_torchs_between_two_full_ones(rank, latent):
    level = make("full_gaussian", latent, rank=rank)(features(scale=2.0))
    loc, scale = torch.randn(*latent, dtype=torch.float64), torch.rand(*latent, dtype=torch.float64) + 0.3
    p = Independent(Normal(loc, scale), len(latent))
    full_q = MultivariateNormal(level.q.base.mean, level.q.base.covariance_matrix)
    full_p = MultivariateNormal(loc.flatten(), torch.diag(scale.flatten() ** 2))
    torch.testing.assert_close(divergence(Level(level.z, level.q, p)), kl_divergence(full_q, full_p))
    torch.testing.assert_close(kl_divergence(p, Reshaped(full_q, latent)), kl_divergence(full_p, full_q))
    torch.testing.assert_close(
        kl_divergence(level.q, Reshaped(full_p, latent)), kl_divergence(full_q, full_p), rtol=1e-6, atol=1e-8
    )


def test_the_kl_of_a_full_normal_is_the_mean_over_draws():
    level = make("full_gaussian", (2, 2))(features(2), (200_000,))
    p = standard(2, 2)
    closed = divergence(Level(level.z, level.q, p))
    drawn = (level.q.log_prob(level.z) - p.log_prob(level.z)).mean(0)
    torch.testing.assert_close(drawn, closed, rtol=0.02, atol=0.02)


def test_a_reshaped_density_has_no_closed_kl_to_what_is_no_normal_or_has_another_shape():
    q = make("full_gaussian", (2,))(features()).q
    other = Independent(torch.distributions.Laplace(torch.zeros(2), torch.ones(2)), 1)
    for a, b in ((q, other), (other, q), (q, standard(1, 2))):
        with pytest.raises(NotImplementedError):
            kl_divergence(a, b)


# -- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "args"), [*PARTS, ("gamma", {})], ids=[*IDS, "gamma"])
def test_gradients_through_draws_are_those_of_the_expectation(name, args):
    torch.manual_seed(1)
    sampler = make(name, (2,), **args)
    h = features(1).requires_grad_()
    level = sampler(h, (200_000,))
    square = 0 if name == "student_t" else 1  # its tails are too heavy for second moments of draws
    (drawn,) = torch.autograd.grad((level.z + square * level.z.square()).mean(0).sum(), h, retain_graph=True)
    second = level.q.variance + level.q.mean.square()
    (exact,) = torch.autograd.grad((level.q.mean + square * second).sum(), h)
    torch.testing.assert_close(drawn, exact, rtol=0.05, atol=0.05)


def test_the_point_of_a_gamma_posterior_is_its_mean():
    level = make("gamma")(features())
    torch.testing.assert_close(level.mode, level.q.mean)
    assert (level.mode > 0).all()


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("full_gaussian", {"rank": 0}),
        ("full_gaussian", {"rank": 4}),
        ("student_t", {"df": 2.0}),
        ("student_t", {"df": math.inf}),
        ("fixed_sigma", {"sigma": 0.0}),
        ("fixed_sigma", {"sigma": math.nan}),
        ("gamma", {"smallest": 0.0}),
    ],
)
def test_bad_arguments_are_named(name, args):
    with pytest.raises(ValueError, match=f"{next(iter(args))}: expected"):
        make(name, **args)


@pytest.mark.parametrize("args", [{"concentration": 0.0}, {"rate": -1.0}])
def test_a_gamma_prior_refuses_numbers_that_are_not_positive(args):
    with pytest.raises(ValueError, match=f"{next(iter(args))}: expected a positive"):
        vaekit.prior["gamma"]((2,), **args)


def test_the_gamma_prior_is_scipys_and_fits_its_draws():
    p = vaekit.prior["gamma"]((2,), concentration=2.0, rate=3.0).double()()
    z = p.sample((1000,))
    expected = torch.as_tensor(scipy.stats.gamma(2.0, scale=1 / 3).logpdf(z)).sum(1)
    torch.testing.assert_close(p.log_prob(z), expected)
    assert vaekit.testing.goodness_of_fit(p.sample((10_000,)).float(), p.log_prob) > vaekit.testing.FAILURE_RATE


def test_gamma_latents_and_real_ones_do_not_mix():
    with pytest.raises(vaekit.BuildError, match="positive numbers"):
        vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="gamma", prior="standard")
