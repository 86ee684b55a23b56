"""Numbers against closed forms, quadrature, autograd and finite differences; none against a stored run."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import vaekit
from vaekit import Level, Output, use
from vaekit.layers.divergence import divergence

X, Z, SCALE = 5, 2, 0.7


def linear_gaussian(*, widen: float = 1.0, orthogonal: bool = True):
    """p(z) = N(0, I), p(x|z) = N(Wz + b, s²), with q(z|x) the exact posterior, widened; and exact log p(x)."""
    vae = vaekit.build(
        input_shape=(X,),
        latent=Z,
        data_range=None,
        encoder=use("mlp", hidden=()),
        decoder=use("mlp", hidden=()),
        likelihood=use("gaussian", scale=SCALE),
    ).double()
    w = torch.randn(X, Z, dtype=torch.float64)
    if orthogonal:  # then the exact posterior has a diagonal covariance
        w = torch.linalg.qr(w).Q * torch.tensor([1.5, 0.8], dtype=torch.float64)
    b = torch.randn(X, dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(Z) + w.T @ w / SCALE**2)
    gain = covariance @ w.T / SCALE**2
    with torch.no_grad():
        vae.decoder.out.weight.copy_(w)
        vae.decoder.out.bias.copy_(b)
        head = vae.sampler.head.project[1]
        head.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        head.bias.copy_(torch.cat([-gain @ b, covariance.diagonal().log() + 2 * math.log(widen)]))
    exact = MultivariateNormal(b, w @ w.T + SCALE**2 * torch.eye(X, dtype=torch.float64))
    return vae.eval(), exact


def test_with_the_exact_posterior_one_draw_gives_log_p_exactly():
    vae, exact = linear_gaussian()
    x = exact.sample((6,))
    torch.testing.assert_close(vae.log_prob(x, n=1), exact.log_prob(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(vae.elbo(x), exact.log_prob(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_elbo_iwae_and_log_p_are_in_order_and_meet(orthogonal):
    vae, exact = linear_gaussian(widen=1.3, orthogonal=orthogonal)
    x = exact.sample((4,))
    log_p = exact.log_prob(x)
    with torch.no_grad():
        elbo = vae.elbo(x, n=20_000)
    few = torch.stack([vae.log_prob(x, n=8) for _ in range(2000)]).mean(0)
    many = vae.log_prob(x, n=5000)
    assert (elbo < few).all() and (few < log_p).all()
    assert (log_p - elbo > 0.05).all(), "the bound is not tight here, so that the order means something"
    torch.testing.assert_close(many, log_p, rtol=0, atol=0.05)


def test_log_prob_does_not_depend_on_the_chunk():
    vae, exact = linear_gaussian(widen=1.2)
    x = exact.sample((3,))
    whole = [vae.log_prob(x, n=4000, chunk=c) for c in (4000, 700)]
    torch.testing.assert_close(whole[0], whole[1], rtol=0, atol=0.05)
    torch.manual_seed(5)
    seven = vae.log_prob(x, n=7, chunk=3)
    torch.manual_seed(5)
    draws = torch.cat([vae(x, sample_shape=(k,)).log_weight() for k in (3, 3, 1)])
    torch.testing.assert_close(seven, draws.logsumexp(0) - math.log(7))


def test_the_elbo_is_minus_the_default_objective():
    vae, exact = linear_gaussian(widen=1.3)
    x = exact.sample((50,))
    with torch.no_grad():
        total = torch.stack([vae.loss(x).total for _ in range(400)]).mean()
        torch.testing.assert_close(total, -vae.elbo(x, n=4000).mean(), rtol=0, atol=0.03)


def normal(mean, scale):
    return Independent(Normal(torch.tensor(mean), torch.tensor(scale)), 1)


def test_kl_is_the_closed_form_and_the_monte_carlo_one():
    q, p = normal([[0.3, -1.0], [2.0, 0.0]], [[0.5, 2.0], [1.0, 1.0]]), normal([0.0, 0.0], [1.0, 1.0])
    mean, variance = q.mean, q.variance
    by_hand = 0.5 * (mean**2 + variance - 1 - variance.log()).sum(1)
    torch.testing.assert_close(divergence(Level(q.mean, q, p)), by_hand)
    z = q.sample((200_000,))
    by_draws = divergence(Level(z, None, p, log_q=q.log_prob(z)))
    torch.testing.assert_close(by_draws, by_hand, rtol=0, atol=0.02)


def test_kl_of_a_pair_unknown_to_torch_is_estimated_by_the_draws():
    torch.manual_seed(0)
    q = normal([[0.3, -1.0]], [[0.5, 2.0]])
    p = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.5, 0.5])),
        normal([[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [2.0, 2.0]]),
    )
    with pytest.raises(NotImplementedError):
        kl_divergence(q, p)
    grid = torch.linspace(-15, 15, 1201)
    points = torch.cartesian_prod(grid, grid)
    log_q = q.log_prob(points)
    quadrature = (log_q.exp() * (log_q - p.log_prob(points))).sum() * (grid[1] - grid[0]) ** 2
    estimate = divergence(Level(q.sample((100_000,)), q, p))
    torch.testing.assert_close(estimate, quadrature[None], rtol=0, atol=0.02)


def test_kl_options_are_what_their_equations_say():
    q, p = normal([[0.1, -1.0], [0.2, 2.0]], [[1.0, 0.5], [1.0, 0.7]]), normal([0.0, 0.0], [1.0, 1.0])
    each = kl_divergence(q.base_dist, p.base_dist)
    out = Output(torch.zeros(2, 1), torch.zeros(2, 1), normal([[0.0], [0.0]], [[1.0], [1.0]]), (Level(q.mean, q, p),))
    kl = vaekit.loss["kl"]
    torch.testing.assert_close(kl()(out), each.sum(1))
    torch.testing.assert_close(kl(reduction="mean")(out), each.mean(1))
    torch.testing.assert_close(kl(capacity=1.0)(out), (each.sum(1) - 1).abs())
    free = 0.5  # the first dimension's batch mean is below it, the second one's above
    assert each.mean(0)[0] < free < each.mean(0)[1]
    torch.testing.assert_close(kl(free_bits=free)(out).mean(), free + each.mean(0)[1])


def test_free_bits_stop_the_gradient_of_dimensions_below_them_only():
    mean = torch.tensor([[0.1, 2.0], [0.2, 1.0]], requires_grad=True)
    q = Independent(Normal(mean, torch.ones(2, 2)), 1)
    out = Output(torch.zeros(2, 1), torch.zeros(2, 1), q, (Level(mean, q, normal([0.0, 0.0], [1.0, 1.0])),))
    vaekit.loss["kl"](free_bits=0.3)(out).mean().backward()
    assert not mean.grad[:, 0].any() and mean.grad[:, 1].all()


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", use("gaussian", scale=0.3), use("laplace", scale="learned")], ids=repr
)
def test_the_gradient_of_the_loss_is_that_of_finite_differences(likelihood):
    vae = vaekit.build(
        "vae", latent=2, input_shape=(4,), encoder=use("mlp", hidden=(3,), act="tanh"), likelihood=likelihood,
        decoder=use("mlp", hidden=(3,), act="tanh"),
    ).double()  # fmt: skip
    x = torch.rand(3, 4, dtype=torch.float64)
    names, values = zip(*vae.named_parameters(), strict=True)

    def loss(*given):
        torch.manual_seed(3)
        return torch.func.functional_call(_Loss(vae), {f"vae.{n}": v for n, v in zip(names, given, strict=True)}, (x,))

    assert torch.autograd.gradcheck(loss, tuple(v.detach().clone().requires_grad_() for v in values), atol=1e-6)


class _Loss(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        return self.vae.loss(x).total


def likelihoods(name, **args):
    return vaekit.likelihood[name]((2,), **args)


def test_likelihoods_are_their_textbook_densities():
    x, y = torch.rand(7, 2), torch.randn(7, 2)
    p = y.sigmoid()
    torch.testing.assert_close(likelihoods("bernoulli")(y).log_prob(x), (x * p.log() + (1 - x) * (1 - p).log()).sum(1))
    gaussian = -0.5 * ((x - y) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(likelihoods("gaussian", scale=0.3)(y).log_prob(x), gaussian.sum(1))
    laplace = -(x - y).abs() / 0.3 - math.log(0.6)
    torch.testing.assert_close(likelihoods("laplace", scale=0.3)(y).log_prob(x), laplace.sum(1))


@pytest.mark.parametrize(("name", "density"), [("gaussian", Normal), ("laplace", torch.distributions.Laplace)])
def test_the_optimal_scale_beats_every_other(name, density):
    x, y = torch.rand(50, 2), torch.randn(50, 2)
    likelihood = likelihoods(name, scale="optimal")
    best = likelihood(y).log_prob(x).sum()
    scales = torch.linspace(0.3, 3, 2000)
    tried = torch.stack([density(y, s).log_prob(x).sum() for s in scales])
    assert best >= tried.max() - 1e-3
    torch.testing.assert_close(best, tried.max(), rtol=1e-5, atol=1e-2)
    running = likelihood.eval()(y).base_dist.scale.unique()
    torch.testing.assert_close(running, scales[tried.argmax()][None], rtol=0, atol=2e-3)


def test_the_loss_of_sigma_vae_is_the_log_of_its_error():
    """σ-VAE: with σ² = MSE the negative log-likelihood is D/2 (log 2π MSE + 1)."""
    x, y = torch.rand(50, 2), torch.rand(50, 2)
    nll = -likelihoods("gaussian", scale="optimal")(y).log_prob(x).mean()
    mse = (x - y).square().mean()
    torch.testing.assert_close(nll, torch.log(2 * math.pi * mse) + 1)


def test_pointwise_losses_are_sums_over_the_data_and_agree_with_nll():
    x = torch.rand(6, 1, 4, 4)
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,))
    out = vae(x)
    torch.testing.assert_close(vaekit.loss["bce"]()(out), vaekit.loss["nll"]()(out))
    flat, mean = x.flatten(1), out.p_x.mean.flatten(1)
    torch.testing.assert_close(vaekit.loss["mse"]()(out), ((flat - mean) ** 2).sum(1))
    torch.testing.assert_close(vaekit.loss["l1"]()(out), (flat - mean).abs().sum(1))
    gaussian = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,), likelihood=use("gaussian", scale=1.0))
    out = gaussian(x)
    half = 0.5 * vaekit.loss["mse"]()(out) + 8 * math.log(2 * math.pi)
    torch.testing.assert_close(vaekit.loss["nll"]()(out), half)


def test_the_gaussian_head_gives_the_mean_first_and_the_clamped_log_variance_second():
    sampler = vaekit.sampler["gaussian"]((3,), (2,), log_variance=(-2.0, 1.0))
    h = torch.randn(5, 3) * 10
    raw = sampler.head.project(h)
    q = sampler(h).q
    torch.testing.assert_close(q.mean, raw[:, :2])
    torch.testing.assert_close(q.variance.log(), raw[:, 2:].clamp(-2, 1))


def test_an_optimal_scale_samples_at_the_running_scale():
    likelihood = likelihoods("gaussian", scale="optimal")
    y = torch.zeros(20_000, 2)
    likelihood(y).log_prob(0.25 * torch.randn(20_000, 2))
    assert likelihood(y).sample().std() == pytest.approx(0.25, rel=0.02)


def test_a_mixture_is_the_weighted_sum_of_its_normals():
    prior = vaekit.prior["mixture"]((2,), components=3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        prior.log_scale.normal_()
    z = torch.randn(7, 2)
    weights = prior.logits.softmax(0)
    parts = torch.stack(
        [normal(m.tolist(), s.exp().tolist()).log_prob(z) for m, s in zip(prior.loc, prior.log_scale, strict=True)]
    )
    torch.testing.assert_close(prior().log_prob(z), (weights[:, None] * parts.exp()).sum(0).log())


def test_the_vamp_prior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs():
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,), prior=use("vamp", components=5))
    u = vae.prior.pseudo_inputs()
    assert u.shape == (5, 1, 4, 4) and u.min() > 0 and u.max() < 1
    z = torch.randn(9, 2)
    by_hand = vae.encode(u).q.log_prob(z[:, None]).logsumexp(1) - math.log(5)
    torch.testing.assert_close(vae.encode(torch.rand(3, 1, 4, 4)).p.log_prob(z), by_hand)


def test_with_one_pseudo_input_at_the_data_the_vamp_kl_is_zero():
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(8,), prior=use("vamp", components=1))
    out = vae(vae.prior.pseudo_inputs().detach())
    torch.testing.assert_close(vaekit.loss["kl"]()(out), torch.zeros(1), atol=1e-5, rtol=0)


def test_a_learned_prior_finds_the_aggregate_posterior():
    torch.manual_seed(0)
    for name in ("normal", "mixture"):
        prior = vaekit.prior[name]((2,))
        optimizer = torch.optim.Adam(prior.parameters(), 0.05)
        target = normal([1.0, -2.0], [0.5, 1.5])
        for _ in range(400):
            optimizer.zero_grad()
            (-prior().log_prob(target.sample((256,))).mean()).backward()
            optimizer.step()
        z = target.sample((20_000,))
        gap = (target.log_prob(z) - prior().log_prob(z)).mean()  # KL(target ‖ prior)
        assert -0.01 < gap < 0.05, name


def test_free_bits_count_the_batch_mean_and_not_each_example():
    q, p = normal([[0.0], [2.0]], [[1.0], [1.0]]), normal([0.0], [1.0])
    each = kl_divergence(q, p)  # 0 and 2 nats, 1 on average
    out = Output(torch.zeros(2, 1), torch.zeros(2, 1), q, (Level(q.mean, q, p),))
    torch.testing.assert_close(vaekit.loss["kl"](free_bits=0.5)(out), each)
    torch.testing.assert_close(vaekit.loss["kl"](free_bits=1.5)(out).mean(), torch.tensor(1.5))


def test_the_running_scale_moves_by_a_hundredth_of_each_batch():
    likelihood, y = likelihoods("gaussian", scale="optimal"), torch.zeros(4, 2)
    for error in (1.0, 3.0):
        likelihood(y).log_prob(y + error)
    expected = math.sqrt(0.99 * 1.0 + 0.01 * 9.0)
    assert likelihood.eval()(y).base_dist.scale.unique().item() == pytest.approx(expected)
