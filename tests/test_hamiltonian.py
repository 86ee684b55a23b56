"""Hamiltonian samplers and the Riemannian prior: against autograd's Jacobians, closed forms, exact log p, quadrature."""

import math

import pytest
import torch
from sklearn.cluster import KMeans
from torch.distributions import MultivariateNormal, Normal

import vaekit
import vaekit.priors.riemannian
from vaekit import use
from vaekit.layers.leapfrog import Pace, generalized_leapfrog, gradient, leapfrog
from vaekit.priors.riemannian import medoids
from vaekit.samplers.riemannian_hamiltonian import KernelMetric
from vaekit.testing import FAILURE_RATE, check, goodness_of_fit

X, Z, SCALE = 5, 2, 0.7
BOTH = ("hamiltonian", "riemannian_hamiltonian")
SMALL = {"hamiltonian": {"steps": 2}, "riemannian_hamiltonian": {"steps": 2, "centroids": 20}}


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def log_density(z):
    """Not normal, and not a product over dimensions."""
    return -(0.25 * z**4).sum(-1) - 0.5 * (z[..., 0] * z[..., 1]).square() + (z[..., 0] - 0.3 * z[..., 1]).sin()


def force(z):
    return gradient(log_density, z)


def kernel_metric(d=2, k=4, regularization=0.5):
    lower = torch.randn(k, d, d, dtype=torch.float64).tril()
    return KernelMetric(torch.randn(k, d, dtype=torch.float64), lower @ lower.mT, 1.3, regularization)


def energy(z, momentum, metric=None):
    kinetic = 0.5 * momentum.square().sum(-1) if metric is None else kinetic_energy(metric, z, momentum)
    return kinetic - log_density(z)


def kinetic_energy(metric, z, momentum):
    """½ ρᵀ G⁻¹ ρ + ½ log det G, with G⁻¹ summed example by example."""
    inverse = metric.regularization * torch.eye(z.shape[-1], dtype=z.dtype)
    for c, m in zip(metric.centroids, metric.kernels, strict=True):
        inverse = inverse + (-(z - c).square().sum(-1) / metric.temperature**2).exp()[..., None, None] * m
    return 0.5 * torch.einsum("...i,...ij,...j", momentum, inverse, momentum) - 0.5 * torch.logdet(inverse)


def joint(flow):
    """A map of (z, ρ) as one of a vector, for autograd's Jacobian."""

    def flat(state):
        z, momentum = state.chunk(2)
        return torch.cat(flow(z[None], momentum[None]), 1)[0]

    return lambda state: torch.autograd.functional.jacobian(flat, state)


# -- the integrators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.01, 0.1, 0.4, (0.3, 0.05)])
def test_leapfrog_keeps_volume_and_tempering_changes_it_by_the_power_of_beta(size):
    step, state = torch.as_tensor(size, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    plain = joint(lambda z, r: leapfrog(z, r, step, force, torch.ones(3, dtype=torch.float64)))(state)
    assert (plain - torch.eye(4)).abs().max() > 0.01  # it moves
    torch.testing.assert_close(plain.det(), double(1.0)[0], rtol=0, atol=1e-10)
    pace = Pace((2,), 3, 0.1, 0.5, 0.3, True).double()
    tempered = joint(lambda z, r: leapfrog(z, r, step, force, pace.tempering()))(state)
    torch.testing.assert_close(tempered.det(), (pace.beta() ** (2 / 2)).detach(), rtol=0, atol=1e-10)


def test_leapfrog_on_a_quadratic_is_the_matrix_power_of_its_closed_form():
    e, z, r = 0.3, double([0.7, -1.0]), double([0.2, 1.5])
    one = double([1 - e**2 / 2, e], [-e * (1 - e**2 / 4), 1 - e**2 / 2])
    found = leapfrog(z, r, double(e), lambda z: -z, torch.ones(4))
    expected = torch.linalg.matrix_power(one, 4) @ torch.cat([z, r])
    torch.testing.assert_close(torch.cat(found), expected)


@pytest.mark.parametrize("metric", [None, kernel_metric()], ids=["plain", "metric"])
def test_steps_are_reversible_and_their_energy_error_shrinks_as_the_square_of_the_step(metric):
    z, r = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)

    def flow(z, r, step, steps):
        ones = torch.ones(steps, dtype=torch.float64)
        if metric is None:
            return leapfrog(z, r, double(step), force, ones)
        return generalized_leapfrog(z, r, double(step), force, metric.at, ones, 60)

    there = flow(z, r, 0.05, 5)
    back = flow(there[0], -there[1], 0.05, 5)
    torch.testing.assert_close((back[0], -back[1]), (z, r), rtol=0, atol=1e-8)
    errors = [(energy(*flow(z, r, 0.2 / n, n), metric) - energy(z, r, metric)).abs().max().item() for n in (8, 16, 32)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15) and errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_the_generalized_leapfrog_keeps_volume_as_far_as_its_equations_are_solved():
    metric, state = kernel_metric(), torch.randn(4, dtype=torch.float64)
    step, tempering = double(0.1, 0.03), double(1.2, 1.5)

    def excess(iterations):
        def flow(z, r):
            return generalized_leapfrog(z, r, step, force, metric.at, tempering, iterations)

        return abs(joint(flow)(state).det().item() / (1.2 * 1.5) ** 2 - 1)

    found = [excess(iterations) for iterations in (1, 3, 40)]
    assert found[0] > 10 * found[1] > 100 * found[2] and found[2] < 1e-9


def test_the_generalized_leapfrog_is_the_plain_one_under_a_constant_metric():
    z, r, step = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64), double(0.2, 0.1)
    metric = KernelMetric(torch.zeros(1, 2).double(), torch.zeros(1, 2, 2).double(), 1.0, 1.0)
    tempering = double(1.1, 1.3)
    found = generalized_leapfrog(z, r, step, force, metric.at, tempering, 1)
    torch.testing.assert_close(found, leapfrog(z, r, step, force, tempering))


def test_the_metric_is_its_sum_its_slope_that_of_autograd_and_its_noise_has_covariance_g():
    metric = kernel_metric(d=3, k=5)
    z, r = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 4, 3, dtype=torch.float64)
    place, rho = metric.at(z), r.clone().requires_grad_()
    slope, velocity = torch.autograd.grad(kinetic_energy(metric, z, rho).sum(), (z, rho))
    torch.testing.assert_close(place.slope(r), slope)
    torch.testing.assert_close(place.velocity(r), velocity)
    whole = kinetic_energy(metric, z, r)
    torch.testing.assert_close(0.5 * place.whiten(r).square().sum(-1) - place.log_root, whole)
    columns = torch.stack([place.color(each.expand_as(r)) for each in torch.eye(3, dtype=torch.float64)], -1)
    torch.testing.assert_close(columns @ columns.mT, place.inverse.inverse())
    torch.testing.assert_close(place.whiten(place.color(r)), r)


@pytest.mark.parametrize("learn", [True, False])
def test_tempering_is_quadratic_and_ends_at_one(learn):
    pace = Pace((2,), 4, 0.1, 0.5, 0.3, learn).double()
    inverse_roots = [(1 - 1 / math.sqrt(0.3)) * (k / 4) ** 2 + 1 / math.sqrt(0.3) for k in range(5)]
    beta = [1 / each**2 for each in inverse_roots]
    expected = double(*[math.sqrt(a / b) for a, b in zip(beta, beta[1:], strict=False)])
    torch.testing.assert_close(pace.tempering().detach(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(pace.step(), double(0.1, 0.1), rtol=1e-6, atol=0, check_dtype=False)
    assert beta[0] == pytest.approx(0.3) and beta[-1] == 1


def test_the_gradient_of_a_density_has_a_graph_only_where_gradients_are_on():
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    found = gradient(lambda z: -(z**4).sum(-1), z)
    torch.testing.assert_close(found, -4 * z**3)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), z)[0], -12 * z.detach() ** 2)
    with torch.no_grad():
        quiet = gradient(lambda z: -(z**4).sum(-1), 1.0 * z)
    assert not quiet.requires_grad and torch.equal(quiet, found)
    with torch.inference_mode(), pytest.raises(ValueError, match="torch.no_grad"):
        gradient(log_density, z)


# -- the samplers in a model whose log p(x) is known -------------------------------------------------------------------


def linear_gaussian(sampler, *, widen=1.3, shift=0.0, **args):
    """p(z) = N(0, I), p(x|z) = N(Wz + b, s²), and q0 the exact posterior's normal, shifted and widened."""
    vae = vaekit.build(
        input_shape=(X,),
        latent=Z,
        data_range=None,
        encoder=use("mlp", hidden=()),
        decoder=use("mlp", hidden=()),
        likelihood=use("gaussian", scale=SCALE),
        sampler=use(sampler, **args),
    ).double()
    w = torch.linalg.qr(torch.randn(X, Z, dtype=torch.float64)).Q * double(1.5, 0.8)
    b = torch.randn(X, dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(Z) + w.T @ w / SCALE**2)
    gain = covariance @ w.T / SCALE**2
    with torch.no_grad():
        vae.decoder.out.weight.copy_(w)
        vae.decoder.out.bias.copy_(b)
        head = vae.sampler.head.project[1]
        head.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        head.bias.copy_(torch.cat([shift - gain @ b, covariance.diagonal().log() + 2 * math.log(widen)]))
    exact = MultivariateNormal(b, w @ w.T + SCALE**2 * torch.eye(X, dtype=torch.float64))
    if sampler == "riemannian_hamiltonian":
        vae(exact.sample((10,)))  # the first pass in training fills the metric
        assert vae.sampler.kernels.any()
    return vae.eval(), exact


def log_weights(vae, x, n):
    with torch.no_grad():
        return vae(x, sample_shape=(n,)).log_weight()


BOLD = {
    "hamiltonian": {"steps": 4, "step_size": 0.3, "max_step": 1.0, "beta": 0.5},
    "riemannian_hamiltonian": {
        "steps": 3,
        "step_size": 0.08,
        "max_step": 0.2,
        "beta": 0.5,
        "centroids": 10,
        "fixed_point": 12,
    },
}
"""Steps so long that a wrong map shows."""


@pytest.mark.parametrize("name", BOTH)
def test_the_weights_average_to_p_of_x_and_their_logarithms_stay_below(name):
    vae, exact = linear_gaussian(name, **BOLD[name])
    x = exact.sample((3,))
    weight = log_weights(vae, x, 20_000) - exact.log_prob(x)
    ratio = weight.exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.02).all(), "the estimate is too coarse to tell anything"
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all(), f"E[weight] / p(x) is {ratio.mean(0)} ± {error}"
    slack = 5 * weight.std(0) / math.sqrt(len(weight))
    assert (weight.mean(0) < -slack).all(), "the mean log weight is no lower bound with a margin"


@pytest.mark.parametrize("name", BOTH)
def test_the_bound_is_tighter_than_the_elbo_where_q0_is_bad(name):
    vae, exact = linear_gaussian(name, shift=0.8, **BOLD[name])
    x = exact.sample((3,))
    still = vae.sampler.pace.free_step.detach().clone()
    bound = log_weights(vae, x, 4000).mean(0)
    with torch.no_grad():
        vae.sampler.pace.free_step.fill_(-math.inf)
    elbo = log_weights(vae, x, 4000).mean(0)
    assert still.isfinite().all() and (exact.log_prob(x) > bound).all()
    assert (bound > elbo + 0.2).all(), f"{bound} against {elbo}"


@pytest.mark.parametrize("name", BOTH)
def test_with_steps_of_size_0_it_is_the_gaussian_sampler(name):
    vae, exact = linear_gaussian(name, **SMALL[name])
    with torch.no_grad():
        vae.sampler.pace.free_step.fill_(-math.inf)
        level = vae.encode(exact.sample((4,)), n=3)
    torch.testing.assert_close(level.log_q, level.q.log_prob(level.z))
    gaussian, _ = linear_gaussian("gaussian")
    gaussian.load_state_dict({k: v for k, v in vae.state_dict().items() if k in gaussian.state_dict()})
    x = exact.sample((4,))
    ours, theirs = (log_weights(each, x, 4000) for each in (vae, gaussian))
    slack = 5 * (ours.var(0) + theirs.var(0)).sqrt() / math.sqrt(4000)
    assert ((ours.mean(0) - theirs.mean(0)).abs() < slack).all()


@pytest.mark.parametrize("name", BOTH)
def test_bounds_and_the_kl_loss_take_log_q_as_it_is_given(name):
    vae, exact = linear_gaussian(name, **SMALL[name])
    x = exact.sample((5,))
    torch.manual_seed(3)
    total = vae.loss(x).total
    torch.manual_seed(3)
    torch.testing.assert_close(total, -vae.elbo(x).mean())
    many = vae.log_prob(x, n=4000)
    torch.testing.assert_close(many, exact.log_prob(x), rtol=0, atol=0.1)


@pytest.mark.parametrize("name", BOTH)
def test_without_gradients_numbers_are_the_same_and_no_graph_is_left(name):
    vae, exact = linear_gaussian(name, **SMALL[name])
    x = exact.sample((5,))
    torch.manual_seed(1)
    level = vae.encode(x, n=3)
    torch.manual_seed(1)
    with torch.no_grad():
        quiet = vae.encode(x, n=3)
    assert level.z.requires_grad and level.log_q.requires_grad
    assert not quiet.z.requires_grad and not quiet.log_q.requires_grad
    torch.testing.assert_close((quiet.z, quiet.log_q), (level.z, level.log_q))
    assert not vae.log_prob(x, n=5).requires_grad and all(p.grad is None for p in vae.parameters())
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        vae.encode(x)


@pytest.mark.parametrize("name", BOTH)
def test_the_gradient_of_the_bound_is_that_of_finite_differences(name):
    args = {"steps": 2, "step_size": 0.2, "max_step": 0.5, **({"centroids": 3} if name.startswith("r") else {})}
    vae, exact = linear_gaussian(name, **args)
    x = exact.sample((3,))
    names, values = zip(*vae.named_parameters(), strict=True)
    vae.train()  # the metric's own parameters learn in training: each pass puts the three examples into all places

    class Bound(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self, x):
            return vae.elbo(x)

    def bound(*given):
        torch.manual_seed(2)
        state = {f"vae.{n}": v for n, v in zip(names, given, strict=True)}
        return torch.func.functional_call(Bound(), state, (x,))

    given = tuple(v.detach().clone().requires_grad_() for v in values)
    found = dict(zip(names, torch.autograd.grad(bound(*given).sum(), given), strict=True))
    for key in ("sampler.head.project.1.weight", "sampler.pace.free_step", "sampler.pace.free_beta"):
        assert found[key].any(), key
    assert torch.autograd.gradcheck(bound, given, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", BOTH)
def test_a_sampler_alone_makes_no_step(name):
    sampler = vaekit.sampler[name]((7,), (2,), **SMALL[name])
    level = sampler(torch.randn(4, 7), (3,))
    assert level.log_q is None and level.z.shape == (3, 4, 2)
    torch.testing.assert_close(level.mode, level.q.mean)


def test_hamiltonian_steps_take_map_latents_and_each_number_its_own_step():
    vae = vaekit.build("conv", latent=(2, 2, 2), input_shape=(1, 8, 8), width=4, sampler=use("hamiltonian", steps=2))
    level = vae.encode(torch.rand(3, 1, 8, 8), n=4)
    assert level.z.shape == (4, 3, 2, 2, 2) and level.log_q.shape == (4, 3)
    vae.elbo(torch.rand(3, 1, 8, 8)).sum().backward()
    assert vae.sampler.pace.free_step.grad.shape == (2, 2, 2) and vae.sampler.pace.free_step.grad.all()


def test_a_metric_refuses_map_latents():
    with pytest.raises(ValueError, match="latent: expected a vector"):
        vaekit.sampler["riemannian_hamiltonian"]((4, 2, 2), (3, 2, 2))


# -- the metric's examples ---------------------------------------------------------------------------------------------


def riemannian(**args):
    sampler = use("riemannian_hamiltonian", **{"steps": 1, "centroids": 5, **args})
    return vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,), sampler=sampler)


def means_of(vae, x):
    with torch.no_grad():
        return vae.encode(x).q.mean


def test_the_metric_keeps_the_last_examples_of_training_and_those_alone():
    vae, x = riemannian(), torch.rand(8, 1, 4, 4)
    for batch in x.split(3):  # 3 + 3 + 2 examples into 5 places: the last 5 stay
        vae(batch)
    kept = vae.sampler.centroids.clone()
    vae.eval()
    torch.testing.assert_close(kept.sort(0).values, means_of(vae, x[3:]).sort(0).values)
    assert torch.equal(kept, vae.sampler.centroids), "evaluation changes the metric"
    vae.train()(x)  # more than there is room for
    order = vae.sampler.centroids[:, 0].argsort()
    means, lower = means_of(vae.eval(), x[3:]), vae.sampler._lower(vae.encoder(x[3:]))
    expected = means[:, 0].argsort()
    torch.testing.assert_close(vae.sampler.centroids[order], means[expected])
    torch.testing.assert_close(vae.sampler.kernels[order], (lower @ lower.mT)[expected])


def test_the_metric_is_the_same_in_training_and_after_it_and_is_saved(tmp_path):
    vae, x = riemannian(), torch.rand(4, 1, 4, 4)
    h = vae.encoder(x)
    trained = vae.sampler.metric(h, means_of(vae.eval(), x))  # in evaluation: empty
    assert not trained.kernels.any()
    vae.train()
    trained = vae.sampler.metric(h, vae.sampler(h).q.mean)
    assert trained.kernels.requires_grad and (torch.linalg.eigvalsh(trained.kernels[:4]) > 0).all()
    after = vae.eval().sampler.metric(h, vae.sampler(h).q.mean)
    torch.testing.assert_close(after.kernels, trained.kernels)
    torch.testing.assert_close(after.centroids, trained.centroids)
    vae.save_pretrained(tmp_path)
    again = vaekit.load(tmp_path).sampler
    assert torch.equal(again.kernels, vae.sampler.kernels) and torch.equal(again.centroids, vae.sampler.centroids)


def test_extreme_features_leave_the_bound_finite():
    vae = riemannian()
    h = 1e4 * torch.randn(6, *vae.shapes["h"])
    level = vae.sampler(h, log_joint=lambda z: Normal(0.0, 1.0).log_prob(z / 1e5).sum(-1))
    assert level.z.isfinite().all() and level.log_q.isfinite().all()


# -- the prior ---------------------------------------------------------------------------------------------------------


def two_clusters(n=400):
    """Nine in ten points on the left, and one in ten, as wide, on the right."""
    right = (torch.arange(n) % 10 == 0)[:, None]
    return torch.randn(n, 2) * torch.tensor([0.4, 0.8]) + torch.where(right, 2.5, -2.5) * torch.tensor([1.0, 0.0])


def fitted(z, **args):
    prior = vaekit.prior["riemannian"](tuple(z.shape[1:]), **{"centroids": 12, "neighbours": 30, **args}).to(z)
    prior.fit(z)
    return prior


def test_the_volume_is_that_of_its_equation():
    prior = fitted(two_clusters().double(), radius=1.2, regularization=0.03, decay=0.2)
    z = 3 * torch.randn(7, 2, dtype=torch.float64)
    for each, found in zip((z - prior.location) / prior.scale, prior.log_volume(z), strict=True):
        g = 0.03 * math.exp(-0.2 * float(each @ each)) * torch.eye(2, dtype=torch.float64)
        for c, p in zip(prior.centroids, prior.precisions, strict=True):
            g = g + p * torch.exp(-(each - c) @ p @ (each - c) / 1.2**2)
        torch.testing.assert_close(found, 0.5 * torch.logdet(g))
    u = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    volume, slope = prior._volume(u)
    torch.testing.assert_close(slope, torch.autograd.grad(volume.sum(), u)[0])


def test_places_without_a_centroid_do_not_count():
    z, far = torch.randn(5, 2), 25 * torch.randn(20, 2)
    few, many = fitted(z, centroids=5), fitted(z, centroids=40)
    assert few.log_volume(far).isfinite().all()
    torch.testing.assert_close(many.log_volume(far), few.log_volume(far))
    still = fitted(z, centroids=40, chain=1, step_size=1e-6)().sample((200,))
    assert torch.cdist(still, z).min(1).values.max() < 1e-3, "a chain starts where no latent is"


def test_draws_have_the_density_of_the_volume():
    prior = fitted(two_clusters(), decay=0.5, chain=40, leaps=4, step_size=1.5)  # long steps, some of them refused
    draws = prior().sample((5000,))
    grid = torch.linspace(-12, 12, 600)
    cell = (grid[1] - grid[0]) ** 2
    mass = prior.log_volume(torch.cartesian_prod(grid, grid)).exp().sum() * cell
    assert goodness_of_fit(draws, lambda z: prior.log_volume(z) - mass.log()) > FAILURE_RATE
    assert not goodness_of_fit(draws + 0.15, lambda z: prior.log_volume(z) - mass.log()) > FAILURE_RATE


def test_a_lone_centroid_stands_for_a_normal_of_its_neighbours_covariance():
    z = MultivariateNormal(torch.tensor([3.0, -1.0]), torch.tensor([[2.0, 0.9], [0.9, 1.0]])).sample((300,))
    prior = fitted(z, centroids=1, neighbours=300, regularization=1e-9, chain=30)
    draws, unit = prior().sample((5000,)), (z - z.mean(0)) / z.std(0)
    covariance = torch.cov(unit.T) + 0.1 * torch.eye(2)
    expected = torch.diag(z.std(0)) @ covariance @ torch.diag(z.std(0))
    torch.testing.assert_close(torch.cov(draws.T), expected, rtol=0.08, atol=0.05)


def test_medoids_are_points_and_nearly_as_good_as_those_of_scikit_learn():
    points = torch.randn(500, 3)
    found = medoids(points, 8, torch.Generator().manual_seed(0))
    assert (found[:, None] == points).all(2).any(1).all()
    best = KMeans(8, n_init=5, random_state=0).fit(points.numpy()).inertia_
    assert torch.cdist(points, found).min(1).values.square().sum() < 1.25 * best
    assert torch.cdist(points, points[:8]).min(1).values.square().sum() > 1.25 * best
    rare = torch.arange(-4.0, 5)[:, None] * 100 + torch.randn(9, 3)  # nine lone points, five hundred apart from them
    found = medoids(torch.cat([points, rare]), 12, torch.Generator().manual_seed(0))
    assert torch.cdist(rare, found).min(1).values.max() < 10
    assert torch.equal(medoids(points[:5], 8, torch.Generator()), points[:5])


def test_the_prior_is_fitted_saved_and_drawn_from_with_a_model(tmp_path):
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,))
    vae.fit_prior("riemannian", torch.rand(60, 1, 4, 4), centroids=10, chain=3)
    vae.save_pretrained(tmp_path)
    again = vaekit.load(tmp_path)
    torch.manual_seed(0)
    first = vae.sample(5)
    torch.manual_seed(0)
    torch.testing.assert_close(again.sample(5), first, rtol=0, atol=0)
    with torch.inference_mode():
        assert again.sample(2).isfinite().all()


def test_the_prior_takes_maps_few_points_and_equal_ones():
    assert fitted(torch.randn(40, 2, 3, 3), chain=2)().sample((3, 2)).shape == (3, 2, 2, 3, 3)
    assert fitted(torch.randn(3, 2), chain=2)().sample((50,)).isfinite().all()
    assert fitted(torch.ones(10, 2), chain=2)().sample((50,)).isfinite().all()


def test_the_prior_has_no_density_and_refuses_before_the_fit():
    prior = vaekit.prior["riemannian"]((2,))
    with pytest.raises(ValueError, match="riemannian is not fitted yet"):
        prior()
    for bad in (torch.randn(1, 2), torch.full((9, 2), math.nan)):
        with pytest.raises(ValueError, match="riemannian"):
            prior.fit(bad)
    with pytest.raises(NotImplementedError):
        fitted(torch.randn(9, 2))().log_prob(torch.zeros(2))


# -- laws and arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "args"),
    [*(("sampler", n, SMALL[n]) for n in BOTH), ("prior", "riemannian", {"centroids": 20, "chain": 5})],
)
def test_the_public_laws_hold(kind, name, args):
    check(kind, name, **args)


@pytest.mark.parametrize(
    ("kind", "name", "args"),
    [
        *(("sampler", n, a) for n in BOTH for a in (
            {"steps": 0}, {"max_step": 0.0}, {"step_size": 0.0}, {"step_size": 0.5}, {"beta": 0.0}, {"beta": 1.0},
            {"beta": 1.5, "learn_beta": False},
        )),
        ("sampler", "hamiltonian", {"log_variance": (1.0, 1.0)}),
        *(("sampler", "riemannian_hamiltonian", a) for a in (
            {"centroids": 0}, {"fixed_point": 0}, {"temperature": 0.0}, {"regularization": 0.0},
        )),
        *(("prior", "riemannian", a) for a in (
            {"centroids": 0}, {"neighbours": 1}, {"chain": 0}, {"leaps": 0}, {"radius": 0.0}, {"regularization": 0.0},
            {"decay": 0.0}, {"step_size": 0.0},
        )),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(kind, name, args):
    shapes = ((2,),) if kind == "prior" else ((7,), (2,))
    with pytest.raises(ValueError, match=f"{next(iter(args))}: expected"):
        getattr(vaekit, kind)[name](*shapes, **args)
    if name == "hamiltonian":
        assert vaekit.sampler[name](*shapes, beta=1.0, learn_beta=False).pace.tempering().eq(1).all()
