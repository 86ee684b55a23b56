"""The importance-weighted family against its formulas, exact log p(x), enumeration, and gradients computed apart."""

import itertools
import math

import pytest
import torch

import vaekit
from tests.test_oracles import linear_gaussian
from vaekit import use
from vaekit.objective import ImportanceWeighted
from vaekit.records import Output


def objective(**args):
    terms = {"nll": vaekit.loss["nll"](), "kl": vaekit.loss["kl"]()}
    return ImportanceWeighted(terms, {"nll": 1.0, "kl": 1.0}, **args)


def loss(vae, x, seed=3, **args):
    vae.objective = objective(**args)
    torch.manual_seed(seed)
    return vae.loss(x)


def log_weights(vae, x, m, k, seed=3):
    torch.manual_seed(seed)
    return vae(x, sample_shape=(m, k)).log_weight()


@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 6), (5, 1), (3, 4)])
def test_the_bound_is_the_mean_over_m_of_log_mean_exp_over_k(m, k):
    vae, exact = linear_gaussian(widen=1.3)
    x = exact.sample((7,))
    log_w = log_weights(vae, x, m, k)
    by_hand = -(log_w.exp().mean(1).log()).mean(0).mean()
    torch.testing.assert_close(loss(vae, x, m=m, k=k).total, by_hand)
    if k == 1:  # MIWAE(M, 1) is the ELBO
        torch.testing.assert_close(by_hand, -log_w.mean())


def test_bounds_tighten_in_the_order_of_the_paper():
    torch.manual_seed(0)
    vae, exact = linear_gaussian(widen=1.5)
    x = exact.sample((200,))
    with torch.no_grad():
        # MIWAE with the axes swapped would be (16, 1) in place of (1, 16)
        bounds = [
            torch.stack([-loss(vae, x, seed=s, m=m, k=k).total for s in range(60)]).mean()
            for m, k in ((16, 1), (4, 4), (1, 16))
        ]
    bounds.append(exact.log_prob(x).mean())
    assert all(a + 0.01 < b for a, b in itertools.pairwise(bounds)), bounds


def test_the_reported_total_is_the_bound_and_not_its_surrogate():
    # IWAE's gradient is that of Σ w̃ log w, whose value lies below the bound by log K less the weights' entropy
    vae, exact = linear_gaussian(widen=1.5)
    x = exact.sample((5,))
    report = loss(vae, x, k=8)
    log_w = log_weights(vae, x, 1, 8)[0]
    surrogate = -(log_w.softmax(0) * log_w).sum(0).mean()
    torch.testing.assert_close(report.terms["bound"], -(log_w.logsumexp(0) - math.log(8)).mean())
    assert abs(report.total - surrogate) > 0.05


def test_ciwae_mixes_the_elbo_and_iwae():
    vae, exact = linear_gaussian(widen=1.3)
    x = exact.sample((6,))
    log_w = log_weights(vae, x, 1, 5)[0]
    by_hand = -(0.3 * log_w.mean(0) + 0.7 * (log_w.logsumexp(0) - math.log(5))).mean()
    torch.testing.assert_close(loss(vae, x, k=5, elbo=0.3).total, by_hand)


def test_weights_of_nll_and_kl_anneal_the_weight():
    vae, exact = linear_gaussian(widen=1.3)
    x = exact.sample((6,))
    terms = {"nll": vaekit.loss["nll"](), "kl": vaekit.loss["kl"]()}
    vae.objective = ImportanceWeighted(terms, {"nll": 2.0, "kl": 0.5}, k=4)
    torch.manual_seed(3)
    total = vae.loss(x).total
    torch.manual_seed(3)
    out = vae(x, sample_shape=(1, 4))
    (level,) = out.levels
    log_w = 2 * out.p_x.log_prob(x) + 0.5 * (level.log_prior() - level.log_posterior())
    torch.testing.assert_close(total, -(log_w.exp().mean(1).log()).mean())


# -- gradients ---------------------------------------------------------------------------------------------------------


def encoder_gradient(vae, x, seed, **args):
    vae.zero_grad()
    loss(vae, x, seed=seed, **args).total.backward()
    return torch.cat([p.grad.flatten() for p in vae.sampler.parameters()])


def test_sticking_the_landing_has_no_noise_where_the_posterior_is_exact():
    vae, exact = linear_gaussian()
    x = exact.sample((6,))
    still = encoder_gradient(vae, x, 0, k=1, estimator="stl")
    assert still.abs().max() < 1e-10
    assert encoder_gradient(vae, x, 0, k=1).abs().max() > 1e-3, "the plain estimator does have noise"


@pytest.mark.parametrize(
    ("m", "k", "estimator"), [(4, 1, "stl"), (1, 4, "dreg"), (2, 3, "dreg"), (6, 1, "score"), (1, 4, "score")]
)
def test_estimators_agree_in_expectation(m, k, estimator):
    torch.manual_seed(1)
    vae, exact = linear_gaussian(widen=1.4)
    x = exact.sample((4,)).repeat(250, 1)  # as many independent draws of the same examples
    plain = torch.stack([encoder_gradient(vae, x, s, m=m, k=k) for s in range(30)])
    other = torch.stack([encoder_gradient(vae, x, s + 100, m=m, k=k, estimator=estimator) for s in range(30)])
    error = ((plain.var(0) + other.var(0)) / 30).sqrt()
    assert ((plain.mean(0) - other.mean(0)).abs() < 4.5 * error + 1e-9).all()
    assert (plain.mean(0).abs() > 4.5 * error).any(), "the test can tell a gradient from none"


def test_sticking_the_landing_is_biased_for_more_than_one_draw_and_dreg_is_not():
    torch.manual_seed(1)
    vae, exact = linear_gaussian(widen=2.0)
    x = exact.sample((4,)).repeat(500, 1)
    plain, stl = (
        torch.stack([encoder_gradient(vae, x, s, k=8, estimator=e) for s in range(20)]) for e in ("pathwise", "stl")
    )
    error = ((plain.var(0) + stl.var(0)) / 20).sqrt()
    assert ((plain.mean(0) - stl.mean(0)).abs() > 6 * error).any()


def test_doubly_reparameterised_gradients_grow_sharper_with_k():
    torch.manual_seed(1)
    vae, exact = linear_gaussian(widen=1.4)
    x = exact.sample((20,))
    noise = {
        e: torch.stack([encoder_gradient(vae, x, s, k=32, estimator=e) for s in range(60)]).var(0).sum()
        for e in ("pathwise", "dreg")
    }
    assert noise["dreg"] < 0.5 * noise["pathwise"]


@pytest.mark.parametrize(("m", "k"), [(8, 1), (1, 4)])
def test_the_score_estimator_matches_enumeration_of_discrete_latents(m, k):
    torch.manual_seed(0)
    vae = vaekit.build(
        "mlp", latent=2, input_shape=(5,), hidden=(4,), sampler=use("relaxed_bernoulli", hard=True), prior="bernoulli"
    ).double()
    x = torch.rand(1, 5, dtype=torch.float64)
    codes = torch.tensor(list(itertools.product((0, 1), repeat=2)))

    def exact():
        """E over all K-tuples of codes of -log mean w, by enumeration."""
        level = vae.encode(x)
        log_q = torch.stack([level.q.log_prob(c) for c in codes])[:, 0]
        log_p = vae.predict(codes[:, None].double()).log_prob(x)[:, 0] + 2 * math.log(0.5)
        total = 0.0
        for tuple_ in itertools.product(range(4), repeat=k):
            picked = torch.tensor(tuple_)
            bound = (log_p - log_q)[picked].logsumexp(0) - math.log(k)
            total = total - log_q[picked].sum().exp() * bound
        return total

    weights = [p for p in vae.parameters() if p.requires_grad]
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact(), weights)])
    found = []
    batch = x.repeat(2000, 1)
    for seed in range(12):
        vae.zero_grad()
        loss(vae, batch, seed=seed, m=m, k=k, estimator="score").total.backward()
        found.append(torch.cat([p.grad.flatten() for p in weights]))
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(12)
    assert ((mean - wanted).abs() < 6 * error + 1e-6).all()


def test_partial_bounds_give_the_encoder_miwae_and_the_decoder_iwae():
    # PIWAE in pythae adds both losses' gradients in the encoder
    vae, exact = linear_gaussian(widen=1.4)
    x = exact.sample((5,))
    sides = {"encoder": [vae.encoder, vae.sampler], "decoder": [vae.decoder]}
    sides = {name: [p for part in parts for p in part.parameters()] for name, parts in sides.items()}
    wanted = {
        "encoder": torch.autograd.grad(loss(vae, x, m=3, k=4).total, sides["encoder"]),
        "decoder": torch.autograd.grad(loss(vae, x, m=1, k=12).total, sides["decoder"]),
    }
    vae.zero_grad()
    report = loss(vae, x, m=3, k=4, partial=True)
    report.total.backward()
    for name, parameters in sides.items():
        for p, gradient in zip(parameters, wanted[name], strict=True):
            torch.testing.assert_close(p.grad, gradient)
    torch.testing.assert_close(report.total, loss(vae, x, m=1, k=12).total)


def test_a_learned_prior_and_scale_learn_under_partial_bounds():
    vae = vaekit.build("piwae", latent=2, input_shape=(6,), prior="normal", likelihood="gaussian", m=2, k=3)
    vae.loss(torch.rand(4, 6)).total.backward()
    for name, p in vae.named_parameters():
        assert p.grad is not None and p.grad.any(), name


def test_partial_bounds_isolate_the_decoder_from_a_sampler_that_looks_at_the_model():
    torch.manual_seed(0)
    vae = vaekit.build("piwae", latent=2, input_shape=(6,), sampler=use("hamiltonian", steps=2), m=2, k=3)
    x = torch.rand(4, 6)
    decoder = list(vae.decoder.parameters())
    torch.manual_seed(1)
    found = torch.autograd.grad(vae.loss(x).total, decoder)
    torch.manual_seed(1)
    out = vae(x, sample_shape=(2, 3))  # the same draws, whose path through the decoder is cut
    log_w = vae.log_joint(out) - out.levels[0].log_posterior().detach()
    wanted = torch.autograd.grad(-log_w.flatten(0, 1).logsumexp(0).mean(), decoder)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("sampler", ["hamiltonian", "riemannian_hamiltonian", "flow", "full_gaussian"])
def test_a_mixture_of_posteriors_goes_with_every_real_one(sampler):
    vae = vaekit.build("vae", latent=2, input_shape=(6,), sampler=sampler, prior=use("vamp", components=3))
    vae.loss(torch.rand(4, 6)).total.backward()
    assert torch.isfinite(vae.elbo(torch.rand(4, 6))).all() and vae.sample(2).shape == (2, 6)


def test_an_objective_is_invariant_to_the_batch_and_to_equal_draws():
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), sampler="gaussian")
    x = torch.rand(4, 6)
    out = vae(x)
    (level,) = out.levels

    def repeated(n):
        z = level.z.expand(*n, *level.z.shape)
        y = out.y.expand(*n, *out.y.shape)
        return Output(x, y, vae.likelihood(y), (vaekit.Level(z, level.q, level.p),), None, None, vae)

    one = objective(k=1)(repeated((1, 1))).total
    torch.testing.assert_close(objective(k=5, m=3)(repeated((3, 5))).total, one)
    twice = torch.cat([x, x])
    vae.objective = objective(k=1)
    torch.manual_seed(0)
    a = torch.stack([vae.loss(x).total for _ in range(300)]).mean()
    b = torch.stack([vae.loss(twice).total for _ in range(150)]).mean()
    torch.testing.assert_close(a, b, rtol=0.02, atol=0)
