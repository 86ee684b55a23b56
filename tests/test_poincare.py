"""The Poincaré ball: its geometry against other formulas for it, its distributions against quadrature and autograd."""

import math

import mpmath
import pytest
import torch
from torch.distributions import MixtureSameFamily, Normal

import vaekit
from vaekit.layers.poincare import (
    RiemannianNormal,
    WrappedNormal,
    conformal,
    distance,
    exp_map,
    from_normal,
    log_map,
    log_sinhc,
    margin,
    mobius_add,
    project,
    to_normal,
)
from vaekit.losses.kl import divergence
from vaekit.testing import FAILURE_RATE, Subject, check, goodness_of_fit, laws, trains

NAMES = ["wrapped_normal", "riemannian_normal"]
curved = pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
both = pytest.mark.parametrize("kind", ["wrapped", "isotropic", "riemannian"])


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


def points(n, d, c, reach=0.95):
    """Points of the ball, up to a share of its radius from the center."""
    direction = torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1)
    return direction * reach * torch.rand(n, 1, dtype=torch.float64) / math.sqrt(c)


def arcosh_distance(x, y, c):
    """Nickel & Kiela's formula."""
    gaps = (1 - c * x.square().sum(-1)) * (1 - c * y.square().sum(-1))
    return (1 + 2 * c * (x - y).square().sum(-1) / gaps).acosh() / math.sqrt(c)


def make(kind, center, scale, c=1.0):
    """A distribution; scale is one number for each direction in "wrapped", and the first of them elsewhere."""
    if kind == "riemannian":
        return RiemannianNormal(center, scale[..., 0], c)
    return WrappedNormal(center, scale if kind == "wrapped" else scale[..., :1], c)


def plane(c, n=600):
    """A grid over the disc: points (m, 2), and the Riemannian area of each."""
    radius = 1 / math.sqrt(c)
    # polar coordinates, with the distance from the center in place of the radius, so that the rim is reached
    reach, width = 11 / math.sqrt(c), 11 / math.sqrt(c) / n
    r = (torch.arange(n, dtype=torch.float64) + 0.5) * width
    turn = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 * math.pi / n
    assert float(r[-1]) < reach
    r, turn = (each.flatten() for each in torch.meshgrid(r, turn, indexing="ij"))
    euclidean = radius * (math.sqrt(c) * r / 2).tanh()
    z = euclidean[:, None] * torch.stack([turn.cos(), turn.sin()], -1)
    return z, (math.sqrt(c) * r).sinh() / math.sqrt(c) * width * 2 * math.pi / n


@pytest.mark.parametrize("name", NAMES)
def test_samplers_in_the_ball_obey_the_laws(name):
    check("sampler", name)
    subject = Subject("sampler", name, {"curvature": 2.5, "log_variance": (-3.0, 1.0)})
    for law in laws("sampler"):
        law(subject)
    trains(subject.model(prior="riemannian_normal", latent=5))


@pytest.mark.parametrize("name", NAMES)
def test_priors_in_the_ball_obey_the_laws(name):
    check("prior", name, scale=0.7)


# -- geometry ----------------------------------------------------------------------------------------------------------


@curved
def test_the_distance_is_that_of_the_inverse_hyperbolic_cosine(c):
    x, y = points(200, 3, c), points(200, 3, c)
    torch.testing.assert_close(distance(x, y, c), arcosh_distance(x, y, c), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(distance(x, y, c), distance(y, x, c), rtol=1e-14, atol=0)
    assert (distance(x, y, c) <= distance(x, 0 * x, c) + distance(0 * x, y, c) + 1e-12).all()


@pytest.mark.parametrize("short", [1e-3, 1e-9, 1e-14])
def test_short_and_long_distances_keep_their_digits(short):
    with mpmath.workdps(60):
        for at in (0.0, 0.5, 1 - 1e-6):
            x, y = mpmath.mpf(at), mpmath.mpf(at) + mpmath.mpf(short) * (mpmath.mpf(1) - mpmath.mpf(at))
            x, y = mpmath.mpf(float(x)), mpmath.mpf(float(y))
            expected = float(abs(2 * mpmath.atanh((y - x) / (1 - x * y))))
            found = distance(real(float(x)), real(float(y)), 1.0)
            assert abs(found - expected) <= 1e-9 * expected + 1e-100
        ends = 1 - 1e-8
        expected = float(4 * mpmath.atanh(mpmath.mpf(ends)))
        assert abs(distance(real(ends), real(-ends), 1.0) - expected) < 1e-7 * expected


@curved
def test_mobius_addition_is_the_textbook_s(c):
    x, y = points(200, 4, c), points(200, 4, c)
    xy, x2, y2 = ((a * b).sum(-1, keepdim=True) for a, b in ((x, y), (x, x), (y, y)))
    expected = ((1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y) / (1 + 2 * c * xy + c**2 * x2 * y2)
    torch.testing.assert_close(mobius_add(x, y, c), expected, rtol=1e-9, atol=1e-11)


@curved
def test_mobius_addition_cancels_from_the_left_and_moves_without_stretching(c):
    x, y, a = points(200, 4, c, 0.99), points(200, 4, c, 0.99), points(200, 4, c, 0.99)
    torch.testing.assert_close(mobius_add(-a, mobius_add(a, x, c), c), x, rtol=1e-8, atol=1e-10)
    moved = distance(mobius_add(a, x, c), mobius_add(a, y, c), c)
    torch.testing.assert_close(moved, distance(x, y, c), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(mobius_add(a, 0 * a, c), a)
    torch.testing.assert_close(mobius_add(-a, a, c).abs().max(), real(0.0)[0])


@curved
def test_log_undoes_exp_and_exp_undoes_log(c):
    x, y, u = points(200, 3, c), points(200, 3, c), torch.randn(200, 3).double()
    u = u / conformal(x, c)[:, None]
    torch.testing.assert_close(log_map(x, exp_map(x, u, c), c), u, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(exp_map(x, log_map(x, y, c), c), y, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(to_normal(x, from_normal(x, u, c), c), u, rtol=1e-7, atol=1e-9)
    # the geodesic is as long as its velocity, which the metric measures
    torch.testing.assert_close(
        distance(x, exp_map(x, u, c), c), conformal(x, c) * u.norm(dim=-1), rtol=1e-8, atol=1e-10
    )


@curved
def test_exp_from_the_center_is_the_hyperbolic_tangent(c):
    u = torch.randn(50, 3).double()
    length = math.sqrt(c) * u.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(exp_map(0 * u, u, c), length.tanh() * u / length)


@curved
def test_log_is_the_gradient_of_the_squared_distance(c):
    x, y = points(100, 3, c).requires_grad_(), points(100, 3, c)
    (gradient,) = torch.autograd.grad(0.5 * arcosh_distance(x, y, c).square().sum(), x)
    with torch.no_grad():
        expected = -gradient / conformal(x, c).square()[:, None]
        torch.testing.assert_close(log_map(x, y, c), expected, rtol=1e-6, atol=1e-9)


@curved
def test_the_conformal_factor_is_what_short_distances_are_stretched_by(c):
    x = points(100, 3, c)
    step = (
        1e-6
        * torch.nn.functional.normalize(torch.randn(100, 3).double(), dim=-1)
        * (1 - c * x.square().sum(-1, keepdim=True))
    )
    torch.testing.assert_close(distance(x, x + step, c) / step.norm(dim=-1), conformal(x, c), rtol=1e-4, atol=0)


def test_small_curvature_is_flat_space_with_lengths_doubled():
    x, y = torch.randn(50, 3).double(), torch.randn(50, 3).double()
    torch.testing.assert_close(distance(x, y, 1e-8), 2 * (x - y).norm(dim=-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(mobius_add(x, y, 1e-8), x + y, rtol=1e-6, atol=1e-6)


def test_log_sinhc_is_the_logarithm_of_sinh_over_y():
    y2 = torch.logspace(-12, 3, 60, dtype=torch.float64).requires_grad_()
    found = log_sinhc(y2)
    (slope,) = torch.autograd.grad(found.sum(), y2)
    with mpmath.workdps(40):
        y = [mpmath.sqrt(mpmath.mpf(float(each))) for each in y2.detach()]
        expected = real(*(float(mpmath.log(mpmath.sinh(each) / each)) for each in y))
        slopes = real(*(float((mpmath.coth(each) - 1 / each) / (2 * each)) for each in y))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(slope, slopes, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@curved
def test_far_points_stay_inside_with_finite_distances_and_gradients(dtype, c):
    x = (
        torch.cat([1e4 * torch.randn(20, 64), 1e-30 * torch.randn(20, 64), torch.zeros(2, 64)])
        .to(dtype)
        .requires_grad_()
    )
    z = from_normal(torch.zeros_like(x), x, c)
    assert (c * z.square().sum(-1) < 1).all()
    others = project(-z.detach().flip(0), c)
    v = to_normal(z, others, c)
    far = from_normal(z, v + 5, c)
    total = (
        distance(z, others, c).sum() + v.sum() + far.sum() + distance(z, z, c).square().sum() + log_map(z, z, c).sum()
    )
    (gradient,) = torch.autograd.grad(total, x)
    assert torch.isfinite(total) and torch.isfinite(gradient).all()
    assert (far.norm(dim=-1) * math.sqrt(c) <= 1 - margin(dtype) / 2).all()
    torch.testing.assert_close(project(z, c), z)


# -- densities ---------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("c", [0.5, 2.0])
@pytest.mark.parametrize("size", [0.1, 0.6, 1.3])
def test_densities_are_normalised_over_the_volume(kind, c, size):
    z, area = plane(c)
    q = make(kind, real(0.4, -0.3), real(size, 0.6 * size), c)
    assert abs((q.log_prob(z).exp() * area).sum() - 1) < 1e-3


@pytest.mark.parametrize("d", [1, 2, 5])
@curved
def test_wrapped_normals_obey_the_change_of_variables(d, c):
    center, scale = points(1, d, c, 0.8)[0], torch.rand(d).double() + 0.2
    q = WrappedNormal(center, scale, c)
    for v in scale * torch.randn(5, d).double():
        z = from_normal(center, v, c)
        jacobian = torch.autograd.functional.jacobian(lambda v: from_normal(center, v, c), v)
        log_lebesgue = Normal(0.0, scale).log_prob(v).sum() - torch.linalg.slogdet(jacobian)[1]
        expected = log_lebesgue - d * conformal(z, c).log()
        torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("d", [1, 2, 3, 30, 1024])
@pytest.mark.parametrize("scale", [1e-3, 0.04, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_the_riemannian_normaliser_is_that_of_many_digits(d, scale, c):
    at = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    found = RiemannianNormal(torch.zeros(d).double(), at, c).log_normaliser()
    (slope,) = torch.autograd.grad(found, at)

    def log_z(s):
        """The sum of error functions that Mathieu et al. give; its terms alternate, so it wants hundreds of digits."""
        k, root = d - 1, mpmath.sqrt(c)
        terms = []
        for i in range(k + 1):
            a = (k - 2 * i) * root * s
            terms.append((-1) ** i * mpmath.binomial(k, i) * mpmath.exp(a**2 / 2) * mpmath.erfc(-a / mpmath.sqrt(2)))
        half_line = mpmath.sqrt(mpmath.pi / 2) * s * mpmath.fsum(terms) / (2 * root) ** k
        return mpmath.log(2 * mpmath.pi ** (mpmath.mpf(d) / 2) / mpmath.gamma(mpmath.mpf(d) / 2) * half_line)

    if d <= 30:
        with mpmath.workdps(400):
            s = mpmath.mpf(scale)
            expected, step = log_z(s), mpmath.mpf(10) ** -40
            expected_slope = float((log_z(s + step) - log_z(s - step)) / (2 * step))
    else:  # a thousand alternating terms want too many digits: a fine sum over the radius in their place
        y = torch.linspace(0, 1, 400_001, dtype=torch.float64)[1:]
        a = (d - 1) * c * scale**2
        mode = max(a, math.sqrt(a)) / math.sqrt(c) * 1.2 + 12 * scale
        r = mode * y
        log_f = (d - 1) * (r.log() + log_sinhc(c * r.square())) - 0.5 * (r / scale).square()
        log_area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
        expected = log_area + (log_f.logsumexp(0) + math.log(mode / 400_000)).item()
        expected_slope = float((log_f.softmax(0) * r.square()).sum() / scale**3)
    assert abs(float(found.detach()) - float(expected)) < 1e-7 + 1e-12 * abs(float(expected))
    assert abs(slope - expected_slope) < 1e-6 * abs(expected_slope)


@both
def test_small_spreads_are_those_of_a_flat_normal(kind):
    center, scale = real(0.3, 0.1, -0.5), real(1e-4, 1e-4, 1e-4)
    q = make(kind, center, scale)
    z = q.sample((20,))
    v = conformal(center, 1.0) * (z - center)  # lengths around the center are λ times Euclidean ones
    torch.testing.assert_close(q.log_prob(z), Normal(0.0, scale).log_prob(v).sum(-1), rtol=0, atol=1e-2)


@both
def test_the_mean_is_the_point_of_least_squared_distance_and_the_mode_the_likeliest(kind):
    center = points(1, 3, 1.0)[0]
    q = make(kind, center, real(0.8, 0.4, 0.6))
    z = q.sample((20_000,))
    gradient = log_map(q.mean, z, 1.0) * conformal(center, 1.0)  # of the mean squared distance
    assert (gradient.mean(0).abs() < 5 * gradient.std(0) / math.sqrt(len(z))).all()
    assert (q.log_prob(q.mode) >= q.log_prob(z)).all()


# -- draws -------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("c", [0.5, 2.0])
@pytest.mark.parametrize("center", [(0.0, 0.0), (0.35, -0.3)])
@pytest.mark.parametrize("size", [0.15, 0.7])
def test_draws_in_the_disc_follow_log_prob(kind, c, center, size):
    q = make(kind, real(*center), real(size, 0.5 * size), c)

    def log_prob(z):
        z = z.double()
        inside = c * z.square().sum(-1) < 1
        kept = torch.where(inside[:, None], z, 0.0)
        return torch.where(inside, q.log_prob(kept) + 2 * conformal(kept, c).log(), -math.inf)

    assert goodness_of_fit(q.sample((10_000,)), log_prob) > FAILURE_RATE


@pytest.mark.parametrize("d", [1, 3, 12, 300])
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_the_riemannian_radius_follows_log_prob_in_any_dimension(d, c):
    center, scale = points(1, d, c, 0.3)[0], 0.8 / math.sqrt(d)
    q = RiemannianNormal(center, real(scale)[0], c)
    r = distance(q.sample((10_000,)), center, c)
    log_area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    axis = torch.zeros(d).double()
    axis[0] = 1

    def log_prob(x):
        r = x.double().clamp_min(1e-12)
        at = q.log_prob(from_normal(center, r * axis, c))
        log_measure = log_area + (d - 1) * ((math.sqrt(c) * r[:, 0]).sinh() / math.sqrt(c)).log()
        return torch.where(x[:, 0] > 0, at + log_measure, -math.inf)

    assert goodness_of_fit(r[:, None], log_prob) > FAILURE_RATE


def test_a_line_s_riemannian_and_wrapped_normals_are_one():
    center, scale = real(0.4), real(0.7)
    q, twin = RiemannianNormal(center, scale[0], 2.0), WrappedNormal(center, scale, 2.0)
    z = q.sample((20,))
    torch.testing.assert_close(q.log_prob(z), twin.log_prob(z), rtol=0, atol=1e-8)


# -- gradients and divergences -----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_gradients_of_an_expectation_are_those_of_quadrature(kind, c):
    def f(z):
        return (3 * z[..., 0] - z[..., 1]).sin() + z[..., 1].exp()

    center, scale = real(0.3, -0.2).requires_grad_(), real(0.5, 0.8).requires_grad_()
    z, area = plane(c)
    mean = (make(kind, center, scale, c).log_prob(z).exp() * area * f(z)).sum()
    expected = torch.cat(torch.autograd.grad(mean, (center, scale)))
    n, draws = 200, 400
    at = tuple(each.detach().expand(n, 2).clone().requires_grad_() for each in (center, scale))
    drawn = f(make(kind, *at, c).rsample((draws,))).mean(0).sum()
    found = torch.cat(torch.autograd.grad(drawn, at), -1)
    error = found.std(0) / math.sqrt(n)
    assert ((found.mean(0) - expected).abs() < 4.5 * error + 1e-4).all(), (found.mean(0), expected, error)
    assert (error < 0.05).all()


@pytest.mark.parametrize(("d", "scale", "c"), [(1, 0.5, 1.0), (2, 0.3, 1.0), (4, 1.5, 0.5), (50, 0.2, 2.0)])
def test_the_radius_s_gradient_is_implicit_differentiation(d, scale, c):
    at = torch.full((40,), scale, dtype=torch.float64, requires_grad=True)
    radius = RiemannianNormal(torch.zeros(d).double(), at, c).radius()
    (found,) = torch.autograd.grad(radius.sum(), at)

    def log_f(r, s):
        return -0.5 * (r / s) ** 2 + (d - 1) * (r.sinh() if c == 1 else (math.sqrt(c) * r).sinh()).log()

    top = float(radius.detach().max()) + 9 * scale
    r = (torch.arange(100_000, dtype=torch.float64) + 0.5) * top / 100_000
    shift = float(log_f(r, scale).max())
    for each, slope in zip(radius.detach()[:15], found, strict=False):
        s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        weight = (log_f(r, s) - shift).exp()
        # the last cell counts in part
        part = ((each - r) / (top / 100_000) + 0.5).clamp(0, 1)
        cdf = (weight * part).sum() / weight.sum()
        (numerator,) = torch.autograd.grad(cdf, s)
        pdf = (log_f(each, scale) - shift).exp() / weight.detach().sum() / (top / 100_000)
        expected = -numerator / pdf
        assert abs(slope - expected) < 1e-3 * abs(expected) + 1e-4


@pytest.mark.parametrize("q_kind", ["wrapped", "riemannian"])
@pytest.mark.parametrize("p_kind", ["isotropic", "riemannian"])
def test_the_kl_of_draws_is_that_of_quadrature(q_kind, p_kind):
    c = 1.5
    q = make(q_kind, real(0.3, -0.2), real(0.5, 0.8), c)
    p = make(p_kind, real(0.0, 0.0), real(1.0, 1.0), c)
    z, area = plane(c)
    log_q = q.log_prob(z)
    mass = log_q.exp() * area
    expected = (mass * (log_q - p.log_prob(z))).sum()
    drawn = q.sample((20_000, 1))
    level = vaekit.Level(drawn, q.expand((1,)), p)
    ratio = q.log_prob(drawn) - p.log_prob(drawn)
    assert abs(divergence(level) - expected) < 5 * ratio.std() / math.sqrt(20_000) + 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_wired_with_its_curvature(name):
    sampler = vaekit.use(name, curvature=4.0)
    vae = vaekit.build("mlp", latent=3, input_shape=(1, 4, 4), sampler=sampler, prior=vaekit.use(name, scale=0.5))
    assert vae.prior.curvature == vae.sampler.curvature == 4.0
    level = vae(torch.rand(50, 1, 4, 4)).levels[0]
    assert level.q.c == level.p.c == 4.0
    assert level.p.sample((1000,)).norm(dim=-1).max() < 0.5 and level.z.norm(dim=-1).max() < 0.5
    assert level.p.mean.abs().max() == 0
    z, zero, half = level.p.sample((5,)), torch.zeros(3), torch.full((3,), 0.5)
    twin = make("isotropic" if name == "wrapped_normal" else "riemannian", zero, half, 4.0)
    torch.testing.assert_close(level.p.log_prob(z), twin.log_prob(z))
    assert torch.isfinite(vaekit.loss["kl"]()(vae(torch.rand(5, 1, 4, 4)))).all()


@pytest.mark.parametrize("name", NAMES)
def test_samplers_read_the_mean_and_the_scale_of_the_head(name):
    sampler = vaekit.sampler[name]((4,), (3,), curvature=2.0, log_variance=(-1.0, 1.0)).double()
    h = 3 * torch.randn(40, 4).double()
    raw, q = sampler.head(h).flatten(1), sampler(h).q
    torch.testing.assert_close(to_normal(torch.zeros_like(q.mean), q.mean, 2.0), raw[:, :3], rtol=1e-6, atol=1e-8)
    scale = (0.5 * raw[:, 3:].clamp(-1.0, 1.0)).exp()
    torch.testing.assert_close(q.scale, scale if name == "wrapped_normal" else scale[:, 0])


# -- shapes, ranges, precision -----------------------------------------------------------------------------------------


@both
def test_distributions_have_torch_s_shapes(kind):
    q = make(kind, points(5, 3, 1.0)[:, None], torch.rand(4, 3).double() + 0.1)
    assert (q.batch_shape, q.event_shape) == ((5, 4), (3,))
    assert q.sample((2, 7)).shape == (2, 7, 5, 4, 3) and q.rsample().shape == (5, 4, 3)
    assert q.log_prob(q.sample((2,))).shape == (2, 5, 4) and q.log_prob(real(0.1, 0, 0)).shape == (5, 4)
    assert q.mean.shape == q.mode.shape == (5, 4, 3)
    assert bool(q.support.check(q.sample((9,))).all()) and not bool(q.support.check(torch.ones(3)).any())
    wider = q.expand((2, 5, 4))
    torch.testing.assert_close(wider.log_prob(q.mean), q.log_prob(q.mean).expand(2, 5, 4))
    weights = torch.distributions.Categorical(logits=torch.zeros(4, dtype=torch.float64))
    p = MixtureSameFamily(weights, make(kind, points(4, 2, 1.0), torch.ones(4, 2).double()), validate_args=False)
    assert p.log_prob(p.sample((6,))).shape == (6,)


@both
def test_draws_in_the_batch_have_their_own_parameters(kind):
    center, scale = points(3, 2, 1.0, 0.7), real(0.01, 0.2, 1.5)[:, None].expand(3, 2)
    q = make(kind, center, scale)
    z = q.sample((4000,))
    for i in range(3):
        alone = make(kind, center[i], scale[i])
        torch.testing.assert_close(q.log_prob(z)[:, i], alone.log_prob(z[:, i]))
        spread, twin = (distance(x, center[i], 1.0).square().mean() for x in (z[:, i], alone.sample((4000,))))
        assert abs(spread / twin - 1) < 0.15


@both
@pytest.mark.parametrize("d", [2, 64, 1024])
@pytest.mark.parametrize("size", [1e-4, 0.2, 30.0])
def test_single_precision_is_finite_and_near_double(kind, d, size):
    tangent = torch.randn(6, d) * torch.tensor([0.0, 1e-6, 0.01, 0.1, 1.0, 1e4])[:, None]
    center = from_normal(torch.zeros(6, d), tangent, 1.0).requires_grad_()
    scale = torch.full((6, d), size, requires_grad=True)
    q = make(kind, center, scale)
    z = q.rsample((5,))
    assert z.dtype == torch.float32 and (z.norm(dim=-1) < 1).all()
    log_q = q.log_prob(z)
    twin = make(kind, center.detach().double(), scale.detach().double())
    exact = twin.log_prob(z.detach().double())
    torch.testing.assert_close(log_q.detach().double(), exact, rtol=1e-5, atol=1e-3)
    gradients = torch.autograd.grad(log_q.sum() + z.sum(), (center, scale))
    assert all(torch.isfinite(each).all() for each in gradients)
    away = project(torch.cat([-1e3 * center.detach(), torch.randn(1, d) * 1e6]), 1.0)
    assert torch.isfinite(q.log_prob(away[:, None])).all()
    rim = torch.zeros(d)
    rim[0] = 1.0  # on the boundary, where rounding may put a point
    assert torch.isfinite(q.expand(q.batch_shape).log_prob(rim)).all()  # expand drops the check of the support


def test_what_does_not_fit_is_refused():
    for name in NAMES:
        sampler, prior = vaekit.sampler[name], vaekit.prior[name]
        with pytest.raises(ValueError, match="latent: expected a vector"):
            sampler((4,), (2, 3, 3))
        with pytest.raises(ValueError, match="latent: expected a vector"):
            prior((2, 3, 3), 1.0)
        for c in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="curvature: expected a positive number"):
                sampler((4,), (2,), curvature=c)
            with pytest.raises(ValueError, match="curvature: expected a positive number"):
                prior((2,), c)
        with pytest.raises(ValueError, match="scale: expected a positive number"):
            prior((2,), 1.0, scale=0.0)
        with pytest.raises(ValueError, match="log_variance: expected bounds low < high"):
            sampler((4,), (2,), log_variance=(1.0, 1.0))
