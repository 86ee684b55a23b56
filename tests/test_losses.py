"""Losses against closed forms, double loops, scipy, numpy, torchmetrics and autograd."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal
from torchmetrics.functional.image import structural_similarity_index_measure

import vaekit
from vaekit import Level, Output, term, use
from vaekit.testing import check

LAWS = {
    "tc": {},
    "mutual_information": {},
    "dip": {},
    "mmd": {},
    "sliced_wasserstein": {"projections": 5},
    "ssim": {},
    "ms_ssim": {},
    "log_cosh": {},
    "charbonnier": {},
    "latent_l2": {},
    "weight_l2": {},
    "decoder_gradient_penalty": {},
}


@pytest.mark.parametrize("name", LAWS)
def test_the_public_laws_hold(name):
    check("loss", name, **LAWS[name])


def latent(z, q=None, p=None):
    """An Output that has a latent, and data that no loss here looks at."""
    event = len(q.event_shape) if q is not None else 1
    lead = z.shape[: z.ndim - event]
    y = z.new_zeros(*lead, 1)
    level = Level(z, q, p if p is not None else standard(z.shape[-event:], z.dtype))
    return Output(z.new_zeros(lead[-1], 1), y, Independent(Normal(y, 1.0), 1), (level,))


def standard(shape, dtype=torch.float32):
    return Independent(Normal(torch.zeros(shape, dtype=dtype), 1.0), len(shape))


def image(x, mean):
    """An Output whose p(x|z) has the mean given."""
    p_x = Independent(Normal(mean, 1.0), x.ndim - 1)
    return Output(x, mean, p_x, (Level(torch.zeros(*mean.shape[: mean.ndim - x.ndim + 1], 1)),))


# -- estimates of the aggregate posterior ------------------------------------------------------------------------------


def correlated(b=2500, rho=0.6, spread=0.3):
    """q(z|x_j) whose aggregate is N(0, [[1, ρ], [ρ, 1]]) for infinitely many j, and one draw of each."""
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]])
    means = MultivariateNormal(torch.zeros(2), covariance - spread * torch.eye(2)).sample((b,))
    q = Independent(Normal(means, math.sqrt(spread)), 1)
    return latent(q.sample(), q)


def test_tc_of_a_correlated_gaussian_is_minus_half_log_of_one_less_rho_squared():
    got = vaekit.loss["tc"]()(correlated()).mean()
    torch.testing.assert_close(got, torch.tensor(-0.5 * math.log(1 - 0.6**2)), rtol=0, atol=0.03)
    nothing = vaekit.loss["tc"]()(correlated(rho=0.0)).mean()
    torch.testing.assert_close(nothing, torch.tensor(0.0), rtol=0, atol=0.03)


def test_mutual_information_of_a_gaussian_channel_is_the_difference_of_entropies():
    got = vaekit.loss["mutual_information"]()(correlated()).mean()
    exact = 0.5 * math.log(1 - 0.6**2) - math.log(0.3)
    torch.testing.assert_close(got, torch.tensor(exact), rtol=0, atol=0.05)


def test_mutual_information_takes_a_posterior_with_correlations():
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.3]])
    means = 2 * torch.randn(2500, 2)
    q = MultivariateNormal(means, covariance)
    got = vaekit.loss["mutual_information"]()(latent(q.sample(), q)).mean()
    exact = 0.5 * torch.logdet(4 * torch.eye(2) + covariance) - 0.5 * torch.logdet(covariance)
    torch.testing.assert_close(got, exact, rtol=0, atol=0.08)


@pytest.mark.parametrize("family", [Normal, Laplace])
@pytest.mark.parametrize("size", [None, 50])
def test_minibatch_weighted_sampling_is_the_papers_double_loop(family, size):
    b, shape, draws = 4, (2, 3), 3
    loc, scale = torch.randn(b, *shape).double(), torch.rand(b, *shape).double() + 0.2
    q = Independent(family(loc, scale), 2)
    z = q.sample((draws,))
    density = {Normal: scipy.stats.norm.logpdf, Laplace: scipy.stats.laplace.logpdf}[family]
    count = b if size is None else size * b
    tc, information = np.zeros(b), np.zeros(b)
    for n, i in itertools.product(range(draws), range(b)):
        each = np.stack([density(z[n, i], loc[j], scale[j]).ravel() for j in range(b)])  # (j, d)
        joint = scipy.special.logsumexp(each.sum(1)) - math.log(count)
        marginals = sum(scipy.special.logsumexp(each[:, d]) - math.log(count) for d in range(6))
        tc[i] += (joint - marginals) / draws
        information[i] += (each[i].sum() - joint) / draws
    for name, wanted in (("tc", tc), ("mutual_information", information)):
        got = vaekit.loss[name](dataset_size=size)(latent(z, q))
        torch.testing.assert_close(got, torch.from_numpy(wanted))


def test_minibatch_stratified_sampling_is_right_on_average_over_all_batches():
    # in pythae and in the paper's code the weight 1/N stands in the first column, not on the diagonal
    data, b = 6, 3
    loc, scale = torch.randn(data, 2).double(), torch.rand(data, 2).double() + 0.5
    z = Normal(loc, scale).sample()[0]
    loss = vaekit.loss["mutual_information"](estimator="mss", dataset_size=data)
    found = []
    for place in range(b):  # of example 0 in its batch
        for others in itertools.permutations(range(1, data), b - 1):
            rows = [*others[:place], 0, *others[place:]]
            q = Independent(Normal(loc[rows], scale[rows]), 1)
            draws = loc[rows].clone()
            draws[place] = z
            information = loss(latent(draws, q))[place]
            found.append((q.log_prob(draws)[place] - information).exp())
    exact = Independent(Normal(loc, scale), 1).log_prob(z).exp().mean()
    torch.testing.assert_close(torch.stack(found).mean(), exact)
    assert torch.stack(found).std() > 0.01 * exact, "batches differ here, so that the mean means something"


@pytest.mark.parametrize("name", ["tc", "mutual_information"])
def test_both_estimators_are_the_plain_mixture_where_the_batch_is_all_data(name):
    out = correlated(b=7)
    plain = vaekit.loss[name]()(out)
    torch.testing.assert_close(vaekit.loss[name](estimator="mss")(out), plain)
    torch.testing.assert_close(vaekit.loss[name](estimator="mss", dataset_size=7)(out), plain)
    assert not torch.allclose(vaekit.loss[name](estimator="mss", dataset_size=70)(out), plain)


def test_the_kl_is_information_and_correlation_and_the_kl_of_each_dimension():
    out = correlated(b=2500)
    (level,) = out.levels
    marginal = vaekit.loss["mutual_information"]()
    each = torch.zeros(())
    for d in range(2):
        q, z = Independent(Normal(level.q.mean[:, d : d + 1], level.q.stddev[:, d : d + 1]), 1), level.z[:, d : d + 1]
        log_q = q.log_prob(z) - marginal(latent(z, q))  # log q(z_d)
        each = each + (log_q - standard((1,)).log_prob(z)).mean()
    terms = sum(vaekit.loss[name]()(out).mean() for name in ("tc", "mutual_information"))
    torch.testing.assert_close(terms + each, vaekit.loss["kl"]()(out).mean(), rtol=0, atol=0.06)


@pytest.mark.parametrize("name", ["tc", "mutual_information", "dip", "mmd"])
def test_a_batch_of_one_is_refused_and_named(name):
    out = correlated(b=1)
    with pytest.raises(ValueError, match=f"{name}: needs a batch of at least 2"):
        vaekit.loss[name]()(out)


@pytest.mark.parametrize(
    ("loss", "sampler"),
    [
        ("tc", "full_gaussian"),
        ("tc", "dirac"),
        ("tc", "iaf"),
        ("tc", use("vq", codebook_size=8)),
        ("mutual_information", "dirac"),
        ("mutual_information", "iaf"),
        ("dip", "dirac"),
        ("dip", "full_gaussian"),
    ],
    ids=str,
)
def test_a_model_without_the_density_that_is_needed_is_refused_at_build(loss, sampler):
    with pytest.raises(vaekit.BuildError, match=f"vae.loss.{loss}: {loss}.* 'gaussian'"):
        vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler=sampler, loss=["nll", loss])


def test_arguments_out_of_range_are_refused():
    for name, args in (
        ("tc", {"dataset_size": 1}),
        ("dip", {"off_diagonal": -1.0}),
        ("mmd", {"scales": ()}),
        ("mmd", {"sigma": 0.0}),
        ("sliced_wasserstein", {"projections": 0}),
        ("sliced_wasserstein", {"p": 0.5}),
        ("log_cosh", {"alpha": 0.0}),
        ("charbonnier", {"epsilon": 0.0}),
        ("decoder_gradient_penalty", {"probes": 0}),
        ("ssim", {"window": 4}),
        ("ms_ssim", {"weights": ()}),
    ):
        with pytest.raises(vaekit.BuildError, match=f"{next(iter(args))}: expected"):
            vaekit.build("mlp", latent=2, input_shape=(1, 12, 12), loss=["nll", term(name, **args)])


# -- covariances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["i", "ii"])
def test_dip_is_the_squared_distance_of_numpys_covariance_from_the_identity(kind):
    mean, scale = torch.randn(9, 2, 2).double(), torch.rand(9, 2, 2).double()
    q = Independent(Normal(mean, scale), 2)
    covariance = np.cov(mean.reshape(9, 4).numpy().T)
    if kind == "ii":
        covariance = covariance + np.diag(scale.square().reshape(9, 4).mean(0).numpy())
    gap = np.square(covariance - np.eye(4))
    wanted = 3 * (gap.sum() - np.trace(gap)) + 7 * np.trace(gap)
    got = vaekit.loss["dip"](kind=kind, off_diagonal=3.0, diagonal=7.0)(latent(q.sample((2,)), q))
    torch.testing.assert_close(got, torch.full((9,), wanted, dtype=torch.float64))


def test_dip_weighs_the_diagonal_as_the_paper_does():
    q = Independent(Normal(torch.randn(9, 3), torch.rand(9, 3)), 1)
    out = latent(q.sample(), q)
    for kind, ratio in (("i", 10), ("ii", 1)):
        got = vaekit.loss["dip"](kind=kind, off_diagonal=2.0)(out)
        torch.testing.assert_close(got, vaekit.loss["dip"](kind=kind, off_diagonal=2.0, diagonal=2.0 * ratio)(out))


# -- distances from the prior ------------------------------------------------------------------------------------------


def seeded(loss, out):
    torch.manual_seed(3)
    return loss(out)


def prior_draws(out):
    torch.manual_seed(3)
    return out.prior_draws()


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_mmd_is_the_u_statistic_of_a_double_loop_averaged_over_draws(kernel):
    n, b, d, sigma, scales = 3, 5, 4, 1.3, (0.5, 2.0)
    z = torch.randn(n, b, d).double()
    out = latent(z)
    u = prior_draws(out)

    def k(a, c):
        distance = float((a - c).square().sum())
        widths = [2 * d * sigma**2 * s for s in scales]
        return sum(w / (w + distance) if kernel == "imq" else math.exp(-distance / w) for w in widths)

    wanted = 0.0
    for i, j in itertools.product(range(b), range(b)):
        for m in range(n):
            if i != j:
                wanted += (k(z[m, i], z[m, j]) + k(u[m, i], u[m, j])) / (b * (b - 1)) / n
            wanted -= 2 * k(z[m, i], u[m, j]) / b**2 / n
    got = seeded(vaekit.loss["mmd"](kernel=kernel, scales=scales, sigma=sigma), out)
    torch.testing.assert_close(got, torch.full((b,), wanted, dtype=torch.float64))


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_the_mean_of_mmd_is_zero_for_equal_laws_and_positive_for_others(kernel):
    loss = vaekit.loss["mmd"](kernel=kernel)
    for move, grow in ((0.0, 1.0), (0.5, 1.0), (0.0, 1.5)):
        found = torch.stack([loss(latent(torch.randn(6, 2) * grow + move))[0] for _ in range(1500)])
        error = found.std() / math.sqrt(len(found))
        if (move, grow) == (0.0, 1.0):
            assert found.mean().abs() < 4 * error and error < 0.02
        else:
            assert found.mean() > 6 * error


def test_mmd_of_a_point_mass_has_a_finite_gradient():
    z = torch.zeros(5, 2, requires_grad=True)
    vaekit.loss["mmd"]()(latent(z)).mean().backward()
    assert torch.isfinite(z.grad).all()


def test_sliced_wasserstein_in_one_dimension_is_scipys():
    z = torch.randn(40, 1).double() * 2 + 1
    out = latent(z)
    u = prior_draws(out)
    wanted = scipy.stats.wasserstein_distance(z[:, 0], u[:, 0])
    got = seeded(vaekit.loss["sliced_wasserstein"](projections=3, p=1), out)
    torch.testing.assert_close(got, torch.full((40,), wanted, dtype=torch.float64))
    cost = np.square(z.numpy() - u.numpy().T)
    wanted = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    got = seeded(vaekit.loss["sliced_wasserstein"](projections=3), out)
    torch.testing.assert_close(got, torch.full((40,), wanted, dtype=torch.float64))


def test_sliced_wasserstein_of_a_shift_is_its_squared_length_over_the_dimensions():
    u = prior_draws(latent(torch.zeros(2, 6, 5)))
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0])
    order = torch.randperm(6)
    got = seeded(vaekit.loss["sliced_wasserstein"](projections=20_000), latent(u[:, order] + shift))
    torch.testing.assert_close(got, (shift.square().sum() / 5).expand(6), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", ["mmd", "sliced_wasserstein"])
@pytest.mark.parametrize("sampler", ["gaussian", "dirac", use("vq", codebook_size=8, learn="gradient")], ids=str)
def test_a_distance_from_the_prior_takes_points_maps_and_codes(name, sampler):
    vae = vaekit.build("conv", latent=(3, 2, 2), input_shape=(1, 8, 8), width=4, sampler=sampler, loss=["mse", name])
    x = torch.rand(4, 1, 8, 8)
    loss = vae.objective.terms[name]
    loss(vae(x)).mean().backward()
    weight = next(vae.encoder.parameters())
    assert weight.grad is not None and torch.isfinite(weight.grad).all() and weight.grad.any()
    assert all(p.grad is None for p in vae.decoder.parameters())
    assert loss(vae(x, sample_shape=(3,))).shape == (4,)


# -- reconstructions ---------------------------------------------------------------------------------------------------


def smoothed(x):
    return scipy.ndimage.gaussian_filter(x, (0, 0, *[1.0] * (x.ndim - 2)))


def pair(*shape, b=3, draws=2):
    """Smooth data in [0, 1], and noisy copies, several for each."""
    x = smoothed(np.random.default_rng(0).random((b, *shape)))
    x = (x - x.min()) / (x.max() - x.min())
    noise = np.random.default_rng(1).normal(size=(draws, b, *shape))
    return torch.from_numpy(x), torch.from_numpy(np.clip(x + 0.2 * noise, 0, 1))


def by_torchmetrics(x, mean, **args):
    return structural_similarity_index_measure(mean, x, data_range=1.0, reduction="none", **args)


@pytest.mark.parametrize("shape", [(3, 16, 21), (1, 11, 12), (1, 12, 13, 14)])
@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 3.0)])
def test_ssim_is_that_of_torchmetrics(shape, data_range):
    x, mean = pair(*shape)
    low, high = data_range
    loss = vaekit.loss["ssim"](shape, data_range).double()
    got = loss(image(x * (high - low) + low, mean * (high - low) + low))
    wanted = torch.stack([1 - by_torchmetrics(x, each) for each in mean]).mean(0)
    assert wanted.min() > 0.05
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def by_scipy(x, mean, window, sigma=1.5):
    """SSIM and its contrast of one example, (c, *s), with scipy's filters."""
    g = np.exp(-0.5 * np.square((np.arange(window) - window // 2) / sigma))

    def blur(v):
        for axis in range(1, v.ndim):
            v = scipy.ndimage.correlate1d(v, g / g.sum(), axis, mode="mirror")
        return v

    x, mean = x.numpy(), mean.numpy()
    a, b = blur(x), blur(mean)
    c = (2 * (blur(x * mean) - a * b) + 9e-4) / (blur(x * x) - a * a + blur(mean * mean) - b * b + 9e-4)
    return ((2 * a * b + 1e-4) / (a * a + b * b + 1e-4) * c).mean(), c.mean()


@pytest.mark.parametrize(
    ("shape", "window"), [((2, 20), 11), ((1, 9), 9), ((1, 8, 8), 7), ((1, 5, 6, 7), 5), ((1, 3, 40), 3)]
)
def test_ssim_of_signals_volumes_and_small_images_is_scipys_with_a_smaller_window(shape, window):
    x, mean = pair(*shape, draws=1)
    for name in ("ssim", "ms_ssim"):
        got = vaekit.loss[name](shape).double()(image(x, mean))
        wanted = torch.tensor([1 - by_scipy(a, b, window)[0] for a, b in zip(x, mean[0], strict=True)])
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_ms_ssim_multiplies_the_contrasts_of_torchmetrics_and_the_last_ssim_image_by_image():
    # in pythae the last scale's SSIM is multiplied in once a scale, and batch means are multiplied
    shape, weights = (3, 46, 51), torch.tensor([0.0448, 0.2856, 0.3001]).double()  # 46, 23, 11: three scales
    x, mean = pair(*shape, b=4)
    mean[:, 0] = x[0] + 0.02 * torch.randn(2, *shape)  # images that differ, so that means of factors are no products
    weights = weights / weights.sum()
    wanted = []
    for made in mean:
        a, b, factors = x, made, []
        for scale in range(3):
            if scale < 2:  # torchmetrics leaves out the edges of the contrast, so they are mirrored before
                padded = [F.pad(t, (5, 5, 5, 5), mode="reflect") for t in (a, b)]
                factors.append(by_torchmetrics(*padded, return_contrast_sensitivity=True)[1])
            else:
                factors.append(by_torchmetrics(a, b))
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        wanted.append(1 - (torch.stack(factors) ** weights[:, None]).prod(0))
    wanted = torch.stack(wanted).mean(0)
    assert wanted.std() > 0.01
    torch.testing.assert_close(vaekit.loss["ms_ssim"](shape).double()(image(x, mean)), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "scales"), [(8, 1), (21, 1), (22, 2), (28, 2), (64, 3), (175, 4), (176, 5), (400, 5)])
def test_ms_ssim_has_as_many_scales_as_the_window_fits(side, scales):
    weights = vaekit.loss["ms_ssim"]((1, side, side + 300)).weights
    assert len(weights) == scales and sum(weights) == pytest.approx(1)


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
def test_similarity_is_best_for_the_same_image_and_finite_for_its_negative(name):
    x, _ = pair(1, 30, 30)
    loss = vaekit.loss[name]((1, 30, 30)).double()
    torch.testing.assert_close(loss(image(x, x)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    made = (1 - x).requires_grad_()
    value = loss(image(x, made))
    value.sum().backward()
    assert (value > 0.9).all() and torch.isfinite(made.grad).all()
    flat = torch.full_like(x, 0.5, requires_grad=True)
    loss(image(flat.detach(), flat)).sum().backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
@pytest.mark.parametrize(
    ("shape", "data_range", "message"),
    [
        ((6,), (0.0, 1.0), "no spatial dim"),
        ((1, 12, 12), None, "needs a data_range"),
        ((1, 2, 9), (0.0, 1.0), "at least 3"),
    ],
)
def test_similarity_refuses_vectors_unbounded_data_and_slivers(name, shape, data_range, message):
    with pytest.raises(vaekit.BuildError, match=f"{name}: .*{message}"):
        vaekit.build(encoder="mlp", decoder="mlp", latent=2, input_shape=shape, data_range=data_range, loss=[name])


def test_similarity_under_autocast_is_that_in_full_precision():
    x, mean = (t.float() for t in pair(1, 24, 24))
    loss = vaekit.loss["ssim"]((1, 24, 24))
    wanted = loss(image(x, mean))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(image(x, mean)), wanted)


def errors():
    x = torch.zeros(2, 3).double()
    return x, torch.tensor([[0.3, -0.01, 0.0], [2.0, -1.0, 0.5]]).double()[None].repeat(2, 1, 1)


def test_log_cosh_is_numpys_and_its_gradient_a_tanh():
    x, mean = errors()
    loss = vaekit.loss["log_cosh"](alpha=4.0)
    wanted = torch.from_numpy(np.log(np.cosh(4.0 * mean[0].numpy())) / 4.0).sum(1)
    torch.testing.assert_close(loss(image(x, mean)), wanted)
    mean = mean[0].requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image(x, mean)).sum(), mean)
    torch.testing.assert_close(gradient, torch.tanh(4.0 * mean))


def test_log_cosh_of_a_large_error_is_the_error_less_a_constant():
    x, mean = torch.zeros(1, 1), torch.full((1, 1), 1e6, requires_grad=True)
    value = vaekit.loss["log_cosh"](alpha=10.0)(image(x, mean))
    (gradient,) = torch.autograd.grad(value.sum(), mean)
    assert float(value.detach()) == pytest.approx(1e6 - math.log(2) / 10) and float(gradient) == 1.0


def test_charbonnier_is_absolute_far_out_and_a_rounded_epsilon_at_zero():
    x, mean = errors()
    torch.testing.assert_close(vaekit.loss["charbonnier"](epsilon=1e-9)(image(x, mean)), mean[0].abs().sum(1))
    at_zero = vaekit.loss["charbonnier"](epsilon=0.1)(image(x, torch.zeros_like(x)))
    torch.testing.assert_close(at_zero, torch.full((2,), 0.3).double())
    small = vaekit.loss["charbonnier"](epsilon=10.0)(image(x, mean)) - 30
    torch.testing.assert_close(small, mean[0].square().sum(1) / 20, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["log_cosh", "charbonnier", "ssim", "ms_ssim"])
def test_gradients_of_errors_are_finite_differences(name):
    x, mean = pair(1, 25, 25, b=1, draws=1) if "ssim" in name else errors()
    loss = vaekit.loss[name](**({"input_shape": (1, 25, 25)} if "ssim" in name else {})).double()
    mean = mean[0].requires_grad_()
    direction = torch.randn_like(mean)
    assert torch.autograd.gradcheck(
        lambda t: loss(image(x, mean + t * direction)), (torch.tensor(0.1).double().requires_grad_(),)
    )


# -- sizes of latents and weights --------------------------------------------------------------------------------------


def test_latent_l2_is_a_standard_normals_negative_log_density_less_its_constant():
    z = torch.randn(3, 5, 4)
    wanted = -standard((4,)).log_prob(z) - 2 * math.log(2 * math.pi)
    torch.testing.assert_close(vaekit.loss["latent_l2"]()(latent(z)), wanted.mean(0))


@pytest.mark.parametrize("stage", ["decoder", "encoder"])
def test_the_gradient_of_weight_l2_is_the_weight_itself_of_that_stage_alone(stage):
    vae = vaekit.build(
        "mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,), loss=["nll", term("weight_l2", stage=stage)]
    )
    loss = vae.objective.terms["weight_l2"]
    values = [loss(vae(torch.rand(n, 1, 4, 4))) for n in (2, 5)]
    assert [v.shape for v in values] == [(2,), (5,)] and (values[1] == values[0][0]).all()
    values[1].mean().backward()
    own = {id(p) for p in getattr(vae, stage).parameters()}
    assert own
    for p in vae.parameters():
        if id(p) in own:
            torch.testing.assert_close(p.grad, p.detach())
        else:
            assert p.grad is None


def test_weight_l2_refuses_a_stage_without_weights():
    with pytest.raises(vaekit.BuildError, match="weight_l2: the model's prior has no trained parameters"):
        vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss=["nll", term("weight_l2", stage="prior")])


NETWORK = use("mlp", hidden=(8,))


def penalised(decoder=NETWORK, shape=(1, 4, 4), likelihood="bernoulli", **args):
    loss = [term("mse"), term("decoder_gradient_penalty", **args)]
    return vaekit.build(
        latent=3,
        input_shape=shape,
        data_range=None if likelihood == "gaussian" else (0.0, 1.0),
        likelihood=likelihood,
        encoder=NETWORK,
        sampler="dirac",
        decoder=decoder,
        loss=loss,
    ).double()


def jacobian_norms(vae, z):
    """‖∂D/∂z‖² of each example by autograd's whole Jacobian."""
    each = [torch.autograd.functional.jacobian(lambda v: vae.decode(v[None])[0], one) for one in z]
    return torch.stack([j.square().sum() for j in each])


@pytest.mark.parametrize("probes", [1, 4])
def test_the_gradient_penalty_is_on_average_the_squared_jacobian_of_the_decoder(probes):
    vae = penalised(probes=probes)
    loss = vae.objective.terms["decoder_gradient_penalty"]
    x = torch.rand(3, 1, 4, 4).double()
    exact = jacobian_norms(vae, vae(x).z)
    assert exact.std() > 1e-3 * exact.mean()
    torch.testing.assert_close(loss(vae(x, sample_shape=(20_000 // probes,))), exact, rtol=0.03, atol=0)


def test_the_gradient_penalty_of_a_linear_decoder_is_its_weights_norm_along_the_probe():
    vae = penalised(use("mlp", hidden=()), (5,), "gaussian")
    loss, x = vae.objective.terms["decoder_gradient_penalty"], torch.randn(4, 5).double()
    out = vae(x)
    got = seeded(loss, out)
    torch.manual_seed(3)
    v = torch.randint(2, (4, 5)).double() * 2 - 1
    weight = vae.decoder.out.weight
    torch.testing.assert_close(got, (v @ weight).square().sum(1))
    many = loss(vae(x, sample_shape=(5000,)))
    torch.testing.assert_close(many, weight.square().sum().expand(4), rtol=0.05, atol=0)


def test_only_the_decoder_feels_the_gradient_penalty_and_its_gradient_is_right():
    # in pythae the penalty is on the gradient in x, through the encoder
    vae = penalised()
    loss, x = vae.objective.terms["decoder_gradient_penalty"], torch.rand(3, 1, 4, 4).double()
    out = vae(x)
    seeded(loss, out).sum().backward()
    assert all(p.grad is None for stage in (vae.encoder, vae.sampler) for p in stage.parameters())
    weight = vae.decoder.out.weight
    assert weight.grad.any()
    step = torch.zeros_like(weight)
    step[2, 1] = 1e-5
    with torch.no_grad():
        found = []
        for sign in (1, -1):
            weight += sign * step
            found.append(seeded(loss, out).sum())
            weight -= sign * step
    torch.testing.assert_close(weight.grad[2, 1], (found[0] - found[1]) / 2e-5, rtol=1e-4, atol=1e-7)


def test_the_gradient_penalty_works_without_gradients_and_leaves_no_graph():
    vae = penalised().eval()
    loss, out = vae.objective.terms["decoder_gradient_penalty"], vae(torch.rand(3, 1, 4, 4).double())
    wanted = seeded(loss, out)
    with torch.no_grad():
        got = seeded(loss, out)
    assert wanted.requires_grad and not got.requires_grad
    torch.testing.assert_close(got, wanted.detach())


@pytest.mark.parametrize("recipe", ["conv", "unet_attn"])
def test_the_gradient_penalty_takes_convolutions_attention_maps_and_conditions(recipe):
    vae = vaekit.build(
        recipe, latent=(2, 4, 4), input_shape=(1, 8, 8), width=8, condition=use("class", classes=3, dim=4),
        loss=["nll", "decoder_gradient_penalty"],
    )  # fmt: skip
    vae.loss(torch.rand(2, 1, 8, 8), torch.tensor([0, 2])).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in vae.decoder.parameters() if p.grad is not None)
