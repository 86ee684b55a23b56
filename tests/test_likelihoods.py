"""Likelihoods beside Bernoulli, Gaussian and Laplace: values, means, modes and draws against independent ones."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

import vaekit
import vaekit.likelihoods.continuous_bernoulli
import vaekit.likelihoods.discretized_logistic
from vaekit import use
from vaekit.likelihoods.continuous_bernoulli import ContinuousBernoulli
from vaekit.testing import Subject, check, laws, trains

MIXTURE, ZINB = "discretized_logistic_mixture", "zero_inflated_negative_binomial"
PARTS = [
    ("continuous_bernoulli", {}),
    ("discretized_logistic", {"bins": 8}),
    (MIXTURE, {"bins": 8, "components": 3}),
    ("categorical", {"levels": 5}),
    ("beta", {}),
    ("poisson", {}),
    ("negative_binomial", {"dispersion": 2}),
    (ZINB, {}),
    ("student_t", {}),
    ("von_mises", {}),
]
AMOUNTS = [
    ("discretized_logistic", "scale"),
    ("beta", "concentration"),
    ("negative_binomial", "dispersion"),
    (ZINB, "dispersion"),
    ("student_t", "scale"),
    ("student_t", "df"),
    ("von_mises", "concentration"),
]
each_part = pytest.mark.parametrize(("name", "args"), PARTS, ids=[name for name, _ in PARTS])
each_amount = pytest.mark.parametrize(("name", "argument"), AMOUNTS)


def make(name, input_shape=(4,), data_range=None, **args):
    """The likelihood in double precision, wired with what it asks for."""
    part = Subject("likelihood", name, args).make(input_shape=input_shape, data_range=data_range)
    return part.double().eval()


def outputs(part, b=6, c=4, spread=1.0):
    return spread * torch.randn(b, part.channels(c), dtype=torch.float64)


def close(found, expected, atol=1e-9, rtol=1e-9):
    expected = expected if isinstance(expected, torch.Tensor) else torch.as_tensor(np.asarray(expected))
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


def table(p, values):
    """P of each value, `(len(values), b, c)`, of a distribution over vectors whose entries are independent."""
    grid = torch.as_tensor(values, dtype=torch.float64)[:, None, None].expand(-1, *p.mean.shape)
    return p.base_dist.log_prob(grid).exp()


# -- laws --------------------------------------------------------------------------------------------------------------


@each_part
def test_likelihoods_obey_the_laws(name, args):
    check("likelihood", name, **args)


@each_amount
@pytest.mark.parametrize("amount", ["learned", "channel", "pixel", 1.5])
def test_every_choice_of_an_amount_obeys_the_laws(name, argument, amount):
    args = {argument: amount} | ({"bins": 8} if name == "discretized_logistic" else {})
    subject = Subject("likelihood", name, args)
    for law in laws("likelihood"):
        if law.__name__ not in ("normalises", "round_trips"):  # chance, and speed
            torch.manual_seed(0)
            law(subject)


@each_part
def test_a_model_of_maps_trains_and_reconstructs(name, args):
    vae = vaekit.build("conv", input_shape=(2, 8, 8), latent=2, width=4, likelihood=use(name, **args))
    trains(vae)


@each_part
def test_half_precision_outputs_give_a_log_density_in_single(name, args):
    part = make(name, (3,), (0.0, 1.0), **args).float()
    y, x = outputs(part, c=3).bfloat16(), torch.rand(6, 3)
    half = part(y).log_prob(x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, part(y.float()).log_prob(x))


# -- what holds for all of them ----------------------------------------------------------------------------------------


@each_part
def test_draws_have_the_mean(name, args):
    part = make(name, **args)
    p = part(outputs(part, b=2))
    draws = p.sample((8_000,))
    assert draws.shape == (8_000, 2, 4) and draws.dtype == torch.float64
    if name == "von_mises":
        found, expected = torch.atan2(draws.sin().mean(0), draws.cos().mean(0)), p.mean
        error = 1.5 / math.sqrt(8_000 * 0.4**2)  # the mean resultant is above 0.4 at κ = 1
        assert (torch.sin((found - expected) / 2).abs() < 5 * error / 2).all()
    else:
        error = draws.std(0) / math.sqrt(8_000)
        assert ((draws.mean(0) - p.mean).abs() < 5 * error + 1e-3 * (name == "beta")).all()


@each_part
def test_nothing_is_more_probable_than_the_mode(name, args):
    part = make(name, **args)
    p = part(outputs(part, b=10, spread=2.0))
    base, mode = p.base_dist, p.mode
    assert mode.shape == (10, 4)
    best = base.log_prob(mode)
    assert (base.log_prob(base.sample((2_000,))) <= best + 1e-9).all()


@each_part
def test_values_are_independent_and_sum_over_the_event(name, args):
    part = make(name, **args)
    y, x = outputs(part), torch.rand(6, 4, dtype=torch.float64).round()
    moved = x.clone()
    moved[:, 1] = 1 - moved[:, 1]
    p = part(y)
    change = (p.base_dist.log_prob(moved) - p.base_dist.log_prob(x)).abs()
    assert (change[:, [0, 2, 3]] == 0).all() and (change[:, 1] > 0).all()
    close(p.log_prob(x), p.base_dist.log_prob(x).sum(1))


@each_amount
def test_an_amount_is_fixed_shared_per_channel_or_read(name, argument):
    shape, b = (3, 2, 2), 5
    fixed = make(name, shape, **{argument: 1.7})
    y, x = torch.randn(b, fixed.channels(3), 2, 2, dtype=torch.float64), torch.rand(b, *shape, dtype=torch.float64)
    expected = fixed(y).log_prob(x)

    for amount in ("learned", "channel", "pixel"):
        part = make(name, shape, **{argument: amount})
        positive = amount_of(part, argument)
        target = 1.7 - (argument == "df")
        low, high = math.exp(positive.low), math.exp(positive.high)
        raw = solve(target, low, high) - positive.start
        given = y
        if amount == "pixel":
            assert part.channels(3) == fixed.channels(3) + 3
            given = torch.cat([y, torch.full((b, 3, 2, 2), raw, dtype=torch.float64)], 1)
        else:
            assert part.channels(3) == fixed.channels(3)
            assert positive.free.numel() == (1 if amount == "learned" else 3)
            with torch.no_grad():
                positive.free.fill_(raw)
        close(part(given).log_prob(x), expected)


def amount_of(part, argument):
    return part.above if argument == "df" else getattr(part, argument)  # ν is kept as ν - 1


def solve(target, low, high):
    """The logarithm that is clipped to log(target), by undoing both soft bounds in plain numbers."""
    x = math.log(math.expm1(math.log(target / low))) + math.log(low)
    return math.log(high) - math.log(math.expm1(math.log(high) - x))


@each_amount
def test_a_trained_amount_comes_back_from_beyond_its_bounds(name, argument):
    part = make(name, **{argument: "learned"})
    free = amount_of(part, argument).free
    with torch.no_grad():
        free.fill_(-14.0)  # below log of the smallest
    x = torch.rand(6, 4, dtype=torch.float64).round()
    (gradient,) = torch.autograd.grad(part(outputs(part)).log_prob(x).sum(), free)
    assert gradient.abs() > 0 and torch.isfinite(gradient)


@pytest.mark.parametrize("amount", ["learned", "pixel"])
@pytest.mark.parametrize(
    ("data_range", "start"), [((0.0, 1.0), 0.25), ((-1.0, 1.0), 0.5), ((0.0, 255.0), 63.75), (None, 1.0)]
)
@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t"])
def test_a_fitted_scale_starts_at_a_quarter_of_the_data_range(name, data_range, start, amount):
    part = make(name, data_range=data_range, scale=amount, smallest=1e-3)
    p = part(torch.zeros(2, part.channels(4), dtype=torch.float64)).base_dist
    close(p.scale.expand(2, 4), np.full((2, 4), start + 1e-3), rtol=0.01)  # a soft bound adds itself


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t"])
def test_a_model_tells_its_likelihood_the_data_range(name):
    vae = vaekit.build("conv", input_shape=(1, 8, 8), latent=2, width=4, data_range=(-1.0, 1.0), likelihood=name)
    p = vae(torch.zeros(1, 1, 8, 8)).p_x.base_dist
    close(p.scale.double().mean(), torch.tensor(0.5 + 1e-3).double(), rtol=0.01)


def test_a_scale_in_levels_starts_at_a_quarter_of_them():
    fixed = make("discretized_logistic", data_range=(0.0, 255.0), scale=0.5 + 1e-3)
    part = make("discretized_logistic", data_range=(0.0, 255.0), scale="learned", smallest=1e-3)
    y, x = outputs(part), torch.randint(0, 256, (6, 4)).double()
    close(part(y).log_prob(x), fixed(y).log_prob(x), rtol=1e-4)


@each_amount
@pytest.mark.parametrize("amount", [0.0, -1.0, math.inf, math.nan])
def test_an_amount_that_is_none_is_refused(name, argument, amount):
    with pytest.raises(ValueError, match=f"{argument}: expected a"):
        make(name, **{argument: amount})


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("discretized_logistic", {"bins": 1}, "bins: expected at least 2 values"),
        ("discretized_logistic", {"smallest": 0.0}, "smallest: expected a value between 0 and 0.5"),
        (MIXTURE, {"components": 0}, "components: expected at least 1"),
        ("categorical", {"levels": 1}, "levels: expected at least 2 values"),
        ("beta", {"eps": 0.5}, "eps: expected a number between 0 and 1/2"),
        ("student_t", {"df": 1.0}, "df: expected a number above 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, args, message):
    with pytest.raises(ValueError, match=message):
        make(name, **args)


# -- the continuous Bernoulli ------------------------------------------------------------------------------------------

NATURAL = [1e-9, 1e-4, 0.1, 0.4999, 0.5, 0.5001, 0.9, 3.0, 25.0]


@pytest.mark.parametrize("y", [0.0, *NATURAL, *(-y for y in NATURAL)])
def test_continuous_bernoulli_agrees_with_quadrature(y):
    p = make("continuous_bernoulli", (1,))(torch.tensor([[y]], dtype=torch.float64))
    nodes, weights = np.polynomial.legendre.leggauss(80)
    nodes, weights = nodes / 2, weights / 2 * np.exp(y * nodes / 2)  # over x - 1/2
    total = weights.sum()
    mean = 0.5 + (weights * nodes).sum() / total
    close(p.mean, [[mean]], atol=1e-10)
    for x in (0.0, 0.3, 1.0):
        close(p.log_prob(torch.tensor([[x]], dtype=torch.float64)), [y * (x - 0.5) - math.log(total)], atol=1e-11)


def test_continuous_bernoulli_is_the_truncated_exponential():
    y = torch.tensor([[0.2, 1.0, 7.0, 300.0]], dtype=torch.float64)
    p, mirrored = (ContinuousBernoulli(v) for v in (-y, y))
    x = torch.rand(50, 4, dtype=torch.float64)
    law = scipy.stats.truncexpon(b=y.numpy(), scale=1 / y.numpy())
    close(p.log_prob(x), law.logpdf(x.numpy()))
    close(mirrored.log_prob(1 - x), law.logpdf(x.numpy()))
    close(p.mean, law.mean())
    for k in range(4):
        one = scipy.stats.truncexpon(b=y[0, k].item(), scale=1 / y[0, k].item())
        for draws in (p.sample((4000,)), 1 - mirrored.sample((4000,))):
            assert scipy.stats.kstest(draws[:, 0, k].numpy(), one.cdf).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_has_the_gradient_x_minus_its_mean_everywhere(dtype):
    size = torch.logspace(-8, 4, 400, dtype=dtype)
    y = torch.cat([-size, torch.zeros(1, dtype=dtype), size]).requires_grad_()
    p, x = ContinuousBernoulli(y), torch.rand(801, dtype=dtype)
    (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), y)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(gradient, x - p.mean, atol=tolerance, rtol=0)
    (slope,) = torch.autograd.grad(p.mean.sum(), y)
    assert torch.isfinite(slope).all() and (slope >= 0).all() and (slope <= 1 / 12 + 1e-6).all()
    if dtype == torch.float32:
        exact = ContinuousBernoulli(y.double())
        torch.testing.assert_close(p.mean.double(), exact.mean, atol=5e-7, rtol=0)
        error = (p.log_prob(x).double() - exact.log_prob(x.double())).abs()
        assert (error < 2e-7 * (1 + y.abs())).all(), "more than the rounding of y x"


# -- levels ------------------------------------------------------------------------------------------------------------


def logistic_masses(loc, scale, bins):
    """By differences of scipy's cumulative distribution, `(bins, …)`, in units where the range is from -1 to 1."""
    half = 1 / (bins - 1)
    x = np.linspace(-1, 1, bins).reshape(-1, *(1,) * loc.ndim)
    upper = np.where(x > 1 - half, 1.0, scipy.stats.logistic.cdf(x + half, loc, scale))
    lower = np.where(x < -1 + half, 0.0, scipy.stats.logistic.cdf(x - half, loc, scale))
    return upper - lower


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), None])
@pytest.mark.parametrize(("bins", "scale"), [(256, 0.3), (256, 2e-3), (2, 0.5), (17, 3.0), (33, 0.05)])
def test_discretized_logistic_agrees_with_scipy_at_every_level(bins, scale, data_range):
    part = make("discretized_logistic", data_range=data_range, bins=bins, scale=scale)
    y = torch.linspace(-1.4, 1.3, 24, dtype=torch.float64).reshape(6, 4)
    p, values = part(y), np.linspace(*(data_range or (0, bins - 1)), bins)
    masses = table(p, values)
    close(masses, logistic_masses(y.numpy(), scale, bins), atol=1e-12)
    close(masses.sum(0), np.ones((6, 4)), atol=1e-12)
    close(p.mean, np.einsum("kbc,k->bc", masses, values), rtol=1e-9)
    best = values[masses.argmax(0).numpy()]
    found = table_at(p, p.mode)
    close(found, masses.amax(0))
    assert ((p.mode - torch.tensor(best)).abs() < 1e-9).float().mean() > 0.9, "ties aside"


def table_at(p, x):
    return p.base_dist.log_prob(x).exp()


@pytest.mark.parametrize("data_range", [(0.0, 1.0), None])
def test_the_mixture_agrees_with_scipy_at_every_level(data_range):
    part = make(MIXTURE, (2, 3), data_range, components=4, bins=40)
    y = torch.randn(5, part.channels(2), 3, dtype=torch.float64)
    p, values = part(y), np.linspace(*(data_range or (0, 39)), 40)
    logits, loc, raw = y.unflatten(1, (3, 2, 4)).unbind(1)  # (b, c, K, s)
    scale = part.scale.number(raw)
    each = torch.tensor(logistic_masses(loc.numpy(), scale.numpy(), 40))
    expected = (each * logits.softmax(2)).sum(3)
    grid = torch.tensor(values)[:, None, None, None].expand(-1, 5, 2, 3)
    masses = p.base_dist.log_prob(grid).exp()
    close(masses, expected, atol=1e-12)
    close(masses.sum(0), np.ones((5, 2, 3)), atol=1e-12)
    close(p.mean, torch.einsum("kbcs,k->bcs", masses, torch.tensor(values)))
    close(table_at(p, p.mode), masses.amax(0))


def test_a_mixture_of_equal_components_is_one_logistic():
    mixture, one = make(MIXTURE, components=3), make("discretized_logistic", scale="pixel")
    y = outputs(one)
    loc, raw = (part.repeat_interleave(3, 1) for part in y.chunk(2, 1))
    x = torch.randint(256, (6, 4)).double()
    close(mixture(torch.cat([torch.randn(6, 12).double(), loc, raw], 1)).log_prob(x), one(y).log_prob(x))


def test_discretized_logistic_keeps_its_digits_in_the_far_tails():
    part = make("discretized_logistic", (1,), (0.0, 1.0), scale=0.01)
    y, x = torch.tensor([[-3.0], [3.0], [-0.9], [0.2]]), torch.tensor([[1.0], [0.0], [0.9], [0.6]])
    single = part.float()(y).log_prob(x)
    assert (single < -20).sum() >= 2
    torch.testing.assert_close(single.double(), part.double()(y.double()).log_prob(x.double()), atol=1e-3, rtol=1e-5)
    # far out, the mass is that of an exponential tail: log P = -distance / s + log(1 - e^(-δ/s))
    inner = part.double()(torch.tensor([[-3.0]], dtype=torch.float64)).log_prob(torch.tensor([[0.6]]).double())
    k, width = round(0.6 * 255), 2 / 255
    distance = (k - 0.5) * width - 1 + 3.0
    close(inner, [-distance / 0.01 + math.log(-math.expm1(-width / 0.01))])


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0), None])
def test_categorical_is_a_softmax_over_the_levels(data_range):
    part = make("categorical", (2, 3), data_range, levels=7)
    y = torch.randn(5, 14, 3, dtype=torch.float64)
    p, values = part(y), np.linspace(*(data_range or (0, 6)), 7)
    chance = y.reshape(5, 2, 7, 3).softmax(2)
    found = p.base_dist.log_prob(torch.tensor(values)[:, None, None, None].expand(-1, 5, 2, 3)).exp()
    close(found, chance.movedim(2, 0))
    close(p.mean, (chance * torch.tensor(values)[:, None]).sum(2))
    close(p.mode, torch.tensor(values)[chance.argmax(2)])
    index = torch.randint(7, (5, 2, 3))
    torch_own = torch.distributions.Categorical(logits=y.reshape(5, 2, 7, 3).movedim(2, -1)).log_prob(index)
    close(p.log_prob(torch.tensor(values)[index]), torch_own.sum((1, 2)))


LEVELS = [("discretized_logistic", "bins"), (MIXTURE, "bins"), ("categorical", "levels")]


@pytest.mark.parametrize(("name", "count"), LEVELS)
def test_values_between_levels_are_rounded_and_those_outside_impossible(name, count):
    part = make(name, (1,), (-1.0, 1.0), **{count: 5})
    y = torch.randn(1, part.channels(1), dtype=torch.float64)
    p = part(y)

    def at(*x):
        return torch.stack([p.log_prob(torch.tensor([[v]], dtype=torch.float64))[0] for v in x])

    close(at(-0.7, -0.3, 0.24, 1.2, -1.24), at(-0.5, -0.5, 0.0, 1.0, -1.0))
    assert (at(-1.26, 1.26, 7.0) == -math.inf).all()


@pytest.mark.parametrize(("name", "count"), LEVELS)
def test_the_chance_of_a_level_does_not_depend_on_the_data_range(name, count):
    y, k = None, torch.randint(9, (6, 4)).double()
    found = []
    for data_range in ((0.0, 1.0), (-1.0, 1.0), (0.0, 8.0), None):
        part = make(name, data_range=data_range, **{count: 9})
        y = outputs(part) if y is None else y
        low, high = data_range or (0, 8)
        found.append(part(y).log_prob(low + k / 8 * (high - low)))
    for other in found[1:]:
        close(other, found[0])


def test_bytes_of_every_level_are_told_apart():
    part = make("categorical", (1,), (0.0, 1.0)).float()
    x = torch.arange(256, dtype=torch.uint8)[:, None].float().mul(1 / 255)
    y = torch.randn(1, 256)
    torch.testing.assert_close(part(y).log_prob(x), y.log_softmax(1)[0])


# -- proportions -------------------------------------------------------------------------------------------------------


def test_beta_agrees_with_scipy_and_moves_the_ends_inside():
    part = make("beta", data_range=(0.0, 1.0), concentration=7.0, eps=0.01)
    y = outputs(part, spread=3.0)
    p, mean = part(y), 0.01 + 0.98 * scipy.special.expit(y.numpy())
    law = scipy.stats.beta(7 * mean, 7 * (1 - mean))
    x = torch.rand(6, 4, dtype=torch.float64).clamp(0.01, 0.99)
    close(p.base_dist.log_prob(x), law.logpdf(x.numpy()))
    close(p.mean, mean)
    close(p.mean, law.mean())
    ends = torch.tensor([0.0, 0.01, 1.0, 0.99], dtype=torch.float64).expand(6, 4)
    close(p.base_dist.log_prob(ends), law.logpdf(ends.clamp(0.01, 0.99).numpy()))


@pytest.mark.parametrize("concentration", [0.7, 1.5, 2.0, 30.0])
def test_the_mode_of_a_beta_is_where_its_density_is_greatest(concentration):
    part = make("beta", (5,), (0.0, 1.0), concentration=concentration)
    p = part(torch.tensor([[-4.0, -1.0, 0.3, 1.0, 4.0]], dtype=torch.float64))
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    density = table(p, x)
    close(table_at(p, p.mode), density.amax(0), rtol=1e-6)


# -- counts ------------------------------------------------------------------------------------------------------------

COUNTS = np.arange(0, 400)


def counted(name, dispersion=None):
    args = {} if dispersion is None else {"dispersion": dispersion}
    part = make(name, **args)
    y = outputs(part)
    mean = np.exp(y.numpy()[:, :4])
    if name == "poisson":
        law = scipy.stats.poisson(mean)
    else:
        law = scipy.stats.nbinom(dispersion, dispersion / (dispersion + mean))
    missed = scipy.special.expit(y.numpy()[:, 4:]) if name == ZINB else np.zeros_like(mean)
    return part(y), law, missed


@pytest.mark.parametrize(
    ("name", "dispersion"), [("poisson", None), ("negative_binomial", 0.8), ("negative_binomial", 50.0), (ZINB, 1.7)]
)
def test_counts_agree_with_scipy(name, dispersion):
    p, law, missed = counted(name, dispersion)
    expected = (1 - missed) * law.pmf(COUNTS[:, None, None]) + missed * (COUNTS == 0)[:, None, None]
    found = table(p, COUNTS)
    close(found, expected, atol=1e-9, rtol=1e-4)  # rates are clipped softly, by one part in 10⁶ at 1
    close(found.sum(0), np.ones((6, 4)), atol=1e-6)
    close(p.mean, (1 - missed) * law.mean(), rtol=1e-4)
    close(p.mean, np.einsum("kbc,k->bc", found, COUNTS), rtol=1e-4)
    best = found.amax(0)
    close(table_at(p, p.mode), best)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", ZINB])
def test_counts_below_zero_are_impossible_and_those_between_are_smooth(name):
    part = make(name)
    p = part(outputs(part))
    x = torch.full((6, 4), 2.0, dtype=torch.float64)
    assert torch.isfinite(p.log_prob(x)).all()
    x[0, 0] = -1.0
    assert p.log_prob(x)[0] == -math.inf and torch.isfinite(p.log_prob(x)[1:]).all()
    near = [p.log_prob(torch.full((6, 4), 2.0 + h, dtype=torch.float64)) for h in (-1e-4, 0.0, 1e-4)]
    torch.testing.assert_close(near[0] + near[2], 2 * near[1], atol=1e-6, rtol=0)


def test_the_log_rate_is_itself_inside_of_its_bounds():
    y = torch.linspace(-8, 8, 9, dtype=torch.float64)[None]
    rate = make("poisson", (9,))(y).mean
    torch.testing.assert_close(rate.log(), y, atol=2e-3, rtol=0)
    far = make("poisson", (2,))(torch.tensor([[-1e4, 1e4]], dtype=torch.float64)).mean.log()
    close(far, [[-15.0, 15.0]], atol=1e-9)


def test_a_negative_binomial_finds_the_dispersion_of_each_channel():
    true = torch.tensor([0.5, 4.0])
    x = torch.tensor(scipy.stats.nbinom(true, true / (true + 5.0)).rvs((4000, 2), random_state=0)).double()
    part = make("negative_binomial", (2,), dispersion="channel")
    y = torch.full((2,), 1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([y, *part.parameters()], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -part(y.expand(len(x), 2)).log_prob(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = part.dispersion.number(y).detach().float()
    torch.testing.assert_close(found, true, rtol=0.1, atol=0)
    torch.testing.assert_close(y.detach().exp(), x.mean(0), rtol=1e-3, atol=0)


# -- heavy tails and angles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("df", "scale"), [(2.5, 0.3), (30, 2.0)])
def test_student_t_agrees_with_scipy(df, scale):
    part = make("student_t", df=df, scale=scale)
    y, x = outputs(part), 3 * torch.randn(6, 4, dtype=torch.float64)
    law = scipy.stats.t(df, y.numpy(), scale)
    close(part(y).base_dist.log_prob(x), law.logpdf(x.numpy()))
    close(part(y).mean, law.mean())
    close(part(y).mode, y)


def test_student_t_of_many_degrees_of_freedom_is_a_gaussian():
    part, gaussian = make("student_t", df=1e7, scale=0.4), vaekit.likelihood["gaussian"]((4,), scale=0.4).double()
    y, x = outputs(part), torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(part(y).log_prob(x), gaussian(y).log_prob(x), atol=1e-3, rtol=0)


def test_student_t_reads_the_scale_before_the_degrees_of_freedom():
    part = make("student_t", (2,), df="pixel", scale="pixel")
    y, x = outputs(part, c=2), torch.randn(6, 2, dtype=torch.float64)
    loc, scale, df = y.chunk(3, 1)
    law = scipy.stats.t(1 + part.above.number(df).numpy(), loc.numpy(), part.scale.number(scale).numpy())
    close(part(y).base_dist.log_prob(x), law.logpdf(x.numpy()))


@pytest.mark.parametrize("turn", [None, (-math.pi, math.pi), (0.0, 360.0), (0.0, 1.0), (3.0, 27.0)])
@pytest.mark.parametrize("concentration", [0.01, 1.5, 200.0])
def test_von_mises_agrees_with_scipy_and_integrates_to_one_over_a_turn(turn, concentration):
    part = make("von_mises", data_range=turn, concentration=concentration)
    y = outputs(part, spread=3.0)
    low, high = turn or (-math.pi, math.pi)
    radian = (high - low) / (2 * math.pi)
    direction = np.arctan2(y[:, 4:].numpy(), 1 + y[:, :4].numpy())
    p, x = part(y), low + (high - low) * torch.rand(6, 4, dtype=torch.float64)
    angle = (x.numpy() - (low + high) / 2) / radian
    law = scipy.stats.vonmises(concentration, direction)
    close(p.base_dist.log_prob(x), law.logpdf(angle) - math.log(radian), atol=1e-8)
    close(p.mean, (low + high) / 2 + radian * direction)
    assert (p.mean >= low).all() and (p.mean <= high).all()
    points = low + (high - low) * (np.arange(2000) + 0.5) / 2000
    close(table(p, points).mean(0) * (high - low), np.ones((6, 4)), atol=1e-6)
    draws = p.sample((500,))
    assert (draws >= low - 1e-6).all() and (draws <= high + 1e-6).all()


def test_both_ends_of_a_turn_are_the_same_point():
    part = make("von_mises", data_range=(0.0, 24.0), concentration=5.0)
    p = part(outputs(part))
    ends = [p.log_prob(torch.full((6, 4), hour, dtype=torch.float64)) for hour in (0.0, 24.0)]
    close(ends[0], ends[1])


def test_a_direction_of_zero_has_a_finite_gradient():
    part = make("von_mises")
    y = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)  # as decoders give that start at zero
    p = part(y)
    (gradient,) = torch.autograd.grad(p.log_prob(torch.ones(1, 4, dtype=torch.float64)).sum() + p.mean.sum(), y)
    assert torch.isfinite(gradient).all() and (gradient.abs() < 10).all() and (p.mean == 0).all()
