"""Distributions over the sphere: densities, draws, gradients and divergences against independent ones."""

import math

import mpmath
import pytest
import scipy.stats
import torch
from torch.distributions import MixtureSameFamily, kl_divergence

import vaekit
from vaekit.layers.inverse_cdf import draw, log_integral
from vaekit.layers.sphere import PowerSpherical, SphereHead, UniformSphere, VonMisesFisher, log_bessel
from vaekit.testing import FAILURE_RATE, check, goodness_of_fit

FAMILIES = [VonMisesFisher, PowerSpherical]
NAMES = ["von_mises_fisher", "power_spherical"]
both = pytest.mark.parametrize("family", FAMILIES)


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def log_area(d):
    """Of S^(d-1), by mpmath."""
    return float(mpmath.log(2 * mpmath.pi ** (mpmath.mpf(d) / 2) / mpmath.gamma(mpmath.mpf(d) / 2)))


def along(q, angle):
    """Points at angles (m,) from q's mode, in a random direction: (m, d)."""
    other = torch.randn(q.d, dtype=torch.float64)
    other = torch.nn.functional.normalize(other - (other @ q.loc) * q.loc, dim=-1)
    return angle.cos()[:, None] * q.loc + angle.sin()[:, None] * other


def angles(d, kappa, n=40_000):
    """Midpoints over the bulk of the angles, and the log-area that belongs to each."""
    high = min(math.pi, 14 * math.sqrt((d + 1) / kappa)) if kappa > 0 else math.pi
    width = high / n
    angle = (torch.arange(n, dtype=torch.float64) + 0.5) * width
    return angle, math.log(width) + log_area(d - 1) + (d - 2) * angle.sin().log()


def reference_log_density(family, d, kappa, angle):
    """log of the angle's density but for its constant, written out once more."""
    weight = kappa * (angle.cos() - 1) if family is VonMisesFisher else kappa * ((1 + angle.cos()) / 2).log()
    return weight + (d - 2) * angle.sin().log()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("args", [{}, {"smallest": 0.01, "largest": 50.0}])
def test_spherical_samplers_obey_the_laws(name, args):
    check("sampler", name, **args)


def test_the_uniform_prior_obeys_the_laws():
    check("prior", "uniform_sphere")


# -- densities ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 5, 20, 128, 1024, 2048])
@pytest.mark.parametrize("x", [1e-6, 1e-2, 1.0, 10.0, 300.0, 1e4, 1e6])
def test_bessel_functions_are_those_of_mpmath(d, x):
    order, at = d / 2 - 1, torch.tensor(x, dtype=torch.float64, requires_grad=True)
    log_i, ratio = log_bessel(order, at)
    (slope,) = torch.autograd.grad(log_i, at, retain_graph=True)
    (curve,) = torch.autograd.grad(ratio, at)
    with mpmath.workdps(50):
        i, above, big = mpmath.besseli(order, x), mpmath.besseli(order + 1, x), mpmath.mpf(x)
        r = above / i
        expected = [mpmath.log(i) - big - order * mpmath.log(big), r, r - 1, 1 - r * r - (2 * order + 1) / big * r]
        log_expected, *rest = map(float, expected)
    torch.testing.assert_close(log_i.detach(), real(log_expected)[0], rtol=1e-13, atol=1e-11)
    for found, wanted, tolerance in zip((ratio, slope, curve), rest, (1e-11, 1e-11, 1e-7), strict=True):
        torch.testing.assert_close(found.detach(), real(wanted)[0], rtol=tolerance, atol=1e-12)


def test_bessel_functions_are_finite_at_zero():
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    log_i, ratio = log_bessel(0.0, x)
    assert abs(float(log_i.detach())) < 1e-14 and float(ratio.detach()) == 0  # I_0(0) = 1
    assert abs(float(torch.autograd.grad(log_i, x)[0]) + 1) < 1e-12


@pytest.mark.parametrize("d", [2, 3, 7, 40])
@pytest.mark.parametrize("kappa", [0.05, 3.0, 400.0])
def test_von_mises_fisher_is_that_of_scipy(d, kappa):
    loc, z = unit(d), unit(50, d)
    q, reference = VonMisesFisher(loc, real(kappa)[0]), scipy.stats.vonmises_fisher(loc.numpy(), kappa)
    torch.testing.assert_close(q.log_prob(z), torch.as_tensor(reference.logpdf(z.numpy())), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.entropy(), torch.as_tensor(reference.entropy()).double(), rtol=1e-8, atol=1e-8)


@both
@pytest.mark.parametrize("d", [2, 3, 10, 300])
@pytest.mark.parametrize("kappa", [0.0, 0.7, 30.0, 5e4])
def test_constant_mean_entropy_and_kl_are_those_of_quadrature(family, d, kappa):
    q = family(unit(d), real(kappa)[0])
    angle, area = angles(d, kappa)
    log_q = q.log_prob(along(q, angle))
    mass = (log_q + area).exp()
    entropy, cosine = -(mass * log_q).sum(), (mass * angle.cos()).sum()
    assert abs(mass.sum() - 1) < 2e-7
    assert abs(q.entropy() - entropy) < 1e-4 * (1 + abs(entropy))
    torch.testing.assert_close(q.mean, cosine * q.loc, rtol=1e-6, atol=1e-6)
    expected = log_area(d) - entropy
    assert abs(kl_divergence(q, UniformSphere(d)) - expected) < 1e-6 * (1 + abs(expected)) + 1e-6 * abs(entropy)


def test_the_uniform_density_is_one_over_the_area():
    for d in (2, 3, 50, 2000):
        p = UniformSphere(d, torch.float64)
        torch.testing.assert_close(p.log_prob(unit(4, d)), torch.full((4,), -log_area(d), dtype=torch.float64))
        torch.testing.assert_close(float(p.entropy()), log_area(d))


@both
@pytest.mark.parametrize("d", [2, 3, 64])
def test_without_concentration_q_is_uniform(family, d):
    q, p = family(unit(d), torch.zeros((), dtype=torch.float64)), UniformSphere(d, torch.float64)
    z = unit(5, d)
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z))
    assert abs(kl_divergence(q, p)) < 1e-10
    assert q.mean.abs().max() < 1e-12


@both
def test_the_kl_has_the_gradient_of_its_values(family):
    loc = unit(4)
    for kappa in (0.3, 5.0, 200.0):
        at = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda k: kl_divergence(family(loc, k), UniformSphere(4)), (at,))


# -- draws -------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("kappa", [0.2, 4.0, 3e3])
@pytest.mark.parametrize("degrees", [20, 100, 230, 350])
def test_draws_on_the_circle_follow_log_prob(family, kappa, degrees):
    turn = math.radians(degrees)
    q = family(real(math.cos(turn), math.sin(turn)), real(kappa)[0])
    z = q.sample((10_000,))
    offset = torch.remainder(torch.atan2(z[:, 1], z[:, 0]) - turn + math.pi, 2 * math.pi) - math.pi

    def log_prob(x):
        at = x[:, 0].double() + turn
        inside = x[:, 0].abs() < math.pi
        return torch.where(inside, q.log_prob(torch.stack([at.cos(), at.sin()], -1)), -math.inf)

    assert goodness_of_fit(offset[:, None], log_prob) > FAILURE_RATE


@both
@pytest.mark.parametrize("kappa", [0.2, 4.0, 3e3])
def test_draws_on_the_two_sphere_follow_log_prob(family, kappa):
    q = family(unit(3), real(kappa)[0])
    frame = torch.linalg.qr(torch.cat([q.loc[:, None], torch.randn(3, 2).double()], 1))[0]
    frame[:, 0] = q.loc  # qr may turn its sign
    z = q.sample((10_000,)) @ frame  # coordinates in a frame of which the mode is the first axis
    polar = torch.stack([torch.atan2(z[:, 1:].norm(dim=-1), z[:, 0]), torch.atan2(z[:, 2], z[:, 1])], 1)

    def log_prob(x):
        angle, around = x.double().unbind(1)
        point = torch.stack([angle.cos(), angle.sin() * around.cos(), angle.sin() * around.sin()], -1) @ frame.T
        inside = (angle > 0) & (angle < math.pi) & (around.abs() < math.pi)
        return torch.where(inside, q.log_prob(point) + angle.sin().clamp_min(1e-300).log(), -math.inf)

    assert goodness_of_fit(polar, log_prob) > FAILURE_RATE


@both
@pytest.mark.parametrize("d", [4, 33, 1024])
@pytest.mark.parametrize("kappa", [0.2, 60.0, 1e5])
def test_the_angle_follows_log_prob_in_many_dimensions(family, d, kappa):
    q = family(unit(d), real(kappa)[0])
    angle = 2 * torch.asin((q.sample((10_000,)) - q.loc).norm(dim=-1) / 2)

    def log_prob(x):
        theta = x[:, 0].double()
        log_measure = log_area(d - 1) + (d - 2) * theta.sin().clamp_min(1e-300).log()
        return q.log_prob(along(q, theta)) + log_measure

    assert goodness_of_fit(angle[:, None], log_prob) > FAILURE_RATE


@both
def test_the_direction_around_the_mode_is_uniform(family):
    q = family(unit(6), torch.tensor(9.0).double())
    z = q.sample((20_000,))
    aside = z - (z @ q.loc)[:, None] * q.loc
    spread = aside.T @ aside / len(z)
    # the covariance of a uniform direction in the five dimensions that are left
    plane = torch.eye(6, dtype=torch.float64) - torch.outer(q.loc, q.loc)
    assert (spread - plane * spread.trace() / 5).abs().max() < 5 * spread.trace() / math.sqrt(len(z))
    assert aside.mean(0).norm() < 5 * (spread.trace() / len(z)).sqrt()


def test_uniform_draws_are_uniform():
    z = UniformSphere(3).sample((10_000,))
    # Archimedes: each coordinate of a uniform point of S² is uniform in [-1, 1]
    for coordinate in z.unbind(1):
        assert scipy.stats.kstest(coordinate.numpy(), scipy.stats.uniform(-1, 2).cdf).pvalue > FAILURE_RATE
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(10_000))


# -- gradients ---------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("d", "kappa"), [(2, 0.3), (2, 8.0), (3, 5.0), (20, 0.5), (20, 90.0), (1024, 3e4)])
def test_the_angle_s_gradient_is_implicit_differentiation(family, d, kappa):
    at = torch.full((40,), kappa, dtype=torch.float64, requires_grad=True)
    angle = family(unit(d), at).angle()
    (found,) = torch.autograd.grad(angle.sum(), at)
    # F(θ; κ) by quadrature, and dθ/dκ = -∂F/∂κ / F'
    grid = angles(d, kappa)[0]
    (k,) = leaf = (torch.tensor(kappa, dtype=torch.float64, requires_grad=True),)
    weight = (lambda w: w - w.detach().amax())(reference_log_density(family, d, k, grid)).exp()
    cdf = weight.cumsum(0) / weight.sum()
    for each, slope in zip(angle.detach(), found, strict=True):
        place = int(torch.searchsorted(grid, each)) - 1
        between = (each - grid[place]) / (grid[1] - grid[0])
        below = torch.lerp(
            cdf[place] - weight[place] / weight.sum() / 2,
            cdf[place + 1] - weight[place + 1] / weight.sum() / 2,
            between,
        )
        (numerator,) = torch.autograd.grad(below, leaf, retain_graph=True)
        pdf = torch.lerp(weight[place], weight[place + 1], between) / weight.sum() / (grid[1] - grid[0])
        expected = -(numerator / pdf).detach()
        assert abs(slope - expected) < 2e-3 * abs(expected) + 1e-5 * float(each) / kappa


@both
@pytest.mark.parametrize(("d", "kappa"), [(2, 1.5), (3, 20.0), (12, 6.0)])
def test_the_gradient_of_an_expectation_in_the_concentration_is_that_of_quadrature(family, d, kappa):
    n, loc, a = 100, unit(d), unit(d)
    at = torch.full((n,), kappa, dtype=torch.float64, requires_grad=True)
    z = family(loc, at).rsample((500,))
    (each,) = torch.autograd.grad((z @ a).exp().mean(0).sum(), at)
    # E[exp(a·z)] around the mode: a·z = a_μ cos θ + a_⊥ sin θ cos φ, where cos φ is a coordinate on S^(d-2)
    k = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    angle, _ = angles(d, kappa, 4000)
    mass = reference_log_density(family, d, k, angle).softmax(0)
    ahead, aside = a @ loc, (1 - (a @ loc) ** 2).sqrt()
    if d == 2:
        around = (aside * angle.sin()).cosh()
    else:
        phi = (torch.arange(2000, dtype=torch.float64) + 0.5) * math.pi / 2000
        share = phi.sin() ** (d - 3) / (phi.sin() ** (d - 3)).sum()
        around = (share * (aside * angle.sin()[:, None] * phi.cos()).exp()).sum(1)
    (expected,) = torch.autograd.grad((mass * (ahead * angle.cos()).exp() * around).sum(), k)
    assert abs(each.mean() - expected) < 5 * each.std() / math.sqrt(n), (each.mean(), expected)
    assert each.std() / math.sqrt(n) < 0.1 * abs(expected)


@both
@pytest.mark.parametrize("first", [0.9, -0.4, 1.0, -1.0])
def test_the_gradient_of_an_expectation_in_the_mode_is_exact(family, first):
    n, rest = 200, math.sqrt(1 - first**2)
    loc = torch.tensor([first, rest * 0.6, rest * 0.8], dtype=torch.float64)
    at = loc.expand(n, 3).clone().requires_grad_()
    q = family(at, torch.tensor(4.0).double())
    a = real(0.3, -0.5, 1.0)
    (each,) = torch.autograd.grad((q.rsample((300,)) @ a).mean(0).sum(), at)
    # E[z] = A μ, so the gradient of E[a·z] along the sphere is A a less its part along μ
    cosine = (q.mean[0] @ loc).detach()
    tangent = each - (each @ loc)[:, None] * loc
    expected = cosine * (a - (a @ loc) * loc)
    assert ((tangent.mean(0) - expected).abs() < 5 * tangent.std(0) / math.sqrt(n) + 1e-9).all()


# -- shapes, ranges, precision -----------------------------------------------------------------------------------------


@both
def test_distributions_have_torch_s_shapes(family):
    q = family(unit(5, 1, 3), torch.ones(4).double())
    assert (q.batch_shape, q.event_shape) == ((5, 4), (3,))
    assert q.sample((2, 7)).shape == (2, 7, 5, 4, 3) and q.rsample().shape == (5, 4, 3)
    assert q.log_prob(q.sample((2,))).shape == (2, 5, 4) and q.log_prob(unit(3)).shape == (5, 4)
    assert q.mean.shape == q.mode.shape == (5, 4, 3) and q.entropy().shape == (5, 4)
    assert kl_divergence(q, UniformSphere(3)).shape == (5, 4)
    assert bool(q.support.check(q.sample((9,))).all()) and not bool(q.support.check(1.1 * q.loc).any())
    wider = q.expand((2, 5, 4))
    torch.testing.assert_close(wider.log_prob(q.loc), q.log_prob(q.loc).expand(2, 5, 4))
    p = UniformSphere(3)
    assert p.sample((2, 5)).shape == (2, 5, 3) and p.log_prob(unit(6, 2, 3)).shape == (6, 2)
    assert p.mean.norm() == 0 and p.mode.norm() == 1


@both
def test_the_mode_is_the_likeliest_point(family):
    q = family(unit(4, 5), torch.rand(4).double() + 0.1)
    assert (q.log_prob(q.mode) > q.log_prob(unit(1000, 1, 5))).all()


@both
def test_draws_in_the_batch_are_independent_and_their_own(family):
    kappa = real(0.5, 40.0, 4e3)
    loc = unit(3, 8)
    q = family(loc, kappa)
    z = q.sample((20_000,))
    error = 5 / math.sqrt(len(z))
    torch.testing.assert_close(z.mean(0), q.mean, rtol=0, atol=error)
    cosine = (z * loc).sum(-1)
    assert torch.corrcoef(cosine.T).triu(1).abs().max() < error


@both
def test_mixtures_work(family):
    weights = torch.distributions.Categorical(logits=torch.zeros(4, dtype=torch.float64))
    p = MixtureSameFamily(weights, family(unit(4, 3), torch.rand(4).double() * 9), validate_args=False)
    assert p.log_prob(p.sample((6,))).shape == (6,)


@both
@pytest.mark.parametrize("d", [2, 3, 1024])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 1e5])
def test_single_precision_agrees_with_double(family, d, kappa):
    loc = unit(6, d).float().requires_grad_()
    at = torch.full((6,), kappa, requires_grad=True)
    q = family(loc, at)
    z = q.rsample((50,))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(50, 6), rtol=0, atol=2e-6)
    twin = family(loc.detach().double(), at.detach().double())
    error = (q.log_prob(z).detach() - twin.log_prob(z.detach().double())).abs()
    assert (error < 1e-6 * twin.entropy().abs() + 1e-4).all()
    total = q.log_prob(z).sum() + z.sum() + kl_divergence(q, UniformSphere(d)).sum()
    gradients = torch.autograd.grad(total, (loc, at))
    assert all(torch.isfinite(g).all() for g in (total, *gradients))
    # densities of points far off, that of the antipode among them
    assert torch.isfinite(q.log_prob(torch.cat([-loc.detach(), loc.detach()]).unflatten(0, (2, 6)))).all()


def test_heads_keep_the_concentration_inside_of_its_bounds_and_the_mode_on_the_sphere():
    head = SphereHead((4,), (3,), 0.5, 20.0)
    for scale in (0.0, 1e-8, 1.0, 1e6):
        h = (scale * torch.randn(50, 4)).requires_grad_()
        loc, kappa = head(h)
        torch.testing.assert_close(loc.norm(dim=-1), torch.ones(50))
        assert (kappa >= 0.5).all() and (kappa <= 20).all()
        (gradient,) = torch.autograd.grad(loc.sum() + kappa.sum(), h)
        assert torch.isfinite(gradient).all()


def test_features_without_a_direction_have_a_mode_and_finite_gradients():
    head = SphereHead((4,), (3,), 1.0, 20.0)
    for p in head.parameters():
        torch.nn.init.zeros_(p)
    loc, kappa = head(torch.randn(2, 4))
    torch.testing.assert_close(loc, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3))
    (loc.sum() + kappa.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_s_kl_is_that_of_its_draws(name):
    vae = vaekit.build("mlp", latent=4, input_shape=(1, 4, 4), sampler=name, prior="uniform_sphere").double()
    out = vae(torch.rand(3, 1, 4, 4).double(), sample_shape=(20_000,))
    (level,) = out.levels
    ratio = level.log_posterior() - level.log_prior()
    kl = vaekit.loss["kl"]()(out)
    assert ((kl - ratio.mean(0)).abs() < 5 * ratio.std(0) / math.sqrt(20_000)).all()


def test_what_does_not_fit_is_refused():
    for name in NAMES:
        make = vaekit.sampler[name]
        for latent in ((1,), (2, 3, 3)):
            with pytest.raises(ValueError, match="latent: expected a vector of at least 2 dimensions"):
                make((4,), latent)
        for bounds in ({"smallest": 0.0}, {"smallest": 5.0, "largest": 2.0}, {"largest": 1e9}):
            with pytest.raises(ValueError, match="concentration: expected 0 < smallest < largest"):
                make((4,), (3,), **bounds)
    with pytest.raises(ValueError, match="latent: expected a vector"):
        vaekit.prior["uniform_sphere"]((1,))
    with pytest.raises(ValueError, match="dimension: expected at least 2"):
        UniformSphere(1)
    with pytest.raises(ValueError, match="loc: expected vectors of at least 2"):
        VonMisesFisher(torch.ones(4, 1), torch.ones(4))
    with pytest.raises(ValueError, match="loc"):
        VonMisesFisher(2 * unit(4, 3), torch.ones(4).double(), validate_args=True)


# -- the inverse of a tabulated CDF ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_inverse_cdf_draws_are_those_of_the_density_and_so_are_their_gradients(scale):
    mean = torch.full((20_000,), 0.4 * scale, dtype=torch.float64, requires_grad=True)
    spread = torch.full((20_000,), scale, dtype=torch.float64, requires_grad=True)

    def log_density(x):
        return -0.5 * ((x - mean[:1, None]) / spread[:1, None]).square()

    low, high = real(-9 * scale), real(9 * scale)
    x = draw(log_density, low, high, (20_000,))[:, 0]
    assert scipy.stats.kstest(x.detach().numpy(), scipy.stats.norm(0.4 * scale, scale).cdf).pvalue > FAILURE_RATE
    # a normal draw moves by dm + ε ds
    for each in x[:20]:
        by_mean, by_spread = torch.autograd.grad(each, (mean, spread), retain_graph=True)
        epsilon = (each.detach() - 0.4 * scale) / scale
        torch.testing.assert_close(by_mean[0], real(1.0)[0], rtol=1e-3, atol=0)
        torch.testing.assert_close(by_spread[0], epsilon, rtol=1e-3, atol=1e-3)


def test_inverse_cdf_is_exact_where_the_density_is_linear(monkeypatch):
    u = torch.logspace(-14, 0, 300, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: u)
    found = draw(torch.log, torch.zeros(()).double(), torch.ones(()).double(), (300,))
    torch.testing.assert_close(found, u.sqrt(), rtol=1e-9, atol=0)  # F(x) = x²


def test_log_integrals_are_exact_with_their_gradients():
    scale = real(0.1, 2.0).requires_grad_()
    found = log_integral(lambda x: -0.5 * (x / scale[:, None]).square(), -9 * scale, 9 * scale)
    torch.testing.assert_close(found, scale.log() + 0.5 * math.log(2 * math.pi), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), scale)
    torch.testing.assert_close(gradient, 1 / scale.detach(), rtol=1e-10, atol=0)
