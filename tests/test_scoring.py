"""Scores: what they are, that an example's depends on nothing else, and that they tell odd data from usual ones."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch.distributions import Independent, Normal, kl_divergence

import vaekit
from vaekit import use
from vaekit.scoring import KINDS, LatentStatistics, perturb, score, statistics

x = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", latent=3, input_shape=(1, 4, 4), hidden=(8,), **args).double().eval()


def reference(vae, kind):
    if kind == "mahalanobis":
        return statistics(vae, torch.rand(40, 1, 4, 4))
    return model(prior="vamp") if kind == "likelihood_ratio" else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["gaussian", "laplace", "iaf"])
def test_an_examples_score_depends_on_no_other_and_on_no_global_state(kind, sampler):
    vae = model(sampler=sampler)
    given = reference(vae, kind)
    whole = score(vae, x, kind, reference=given, n=4)
    torch.rand(3)
    state = torch.get_rng_state()
    alone = torch.cat([score(vae, each[None], kind, reference=given, n=4) for each in x])
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(score(vae, x.flip(0), kind, reference=given, n=4, chunk=8).flip(0), whole)
    assert whole.shape == (7,) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("sampler", ["gaussian", "laplace"])
def test_the_elbo_is_that_of_the_model(sampler):
    """With many draws both estimates of E_q[log p(x|z)] - KL meet."""
    vae = model(sampler=sampler)
    with torch.no_grad():
        theirs = vae.elbo(x, 20_000)
        spread = vae(x, None, (20_000,)).log_weight().std(0) / 20_000**0.5
    assert (abs(score(vae, x, "elbo", n=20_000) - theirs) < 6 * spread).all()


def test_the_elbo_of_a_gaussian_posterior_with_a_linear_decoder_is_the_closed_form():
    vae = vaekit.build(
        encoder=use("mlp", hidden=()), decoder=use("mlp", hidden=()), likelihood=use("gaussian", scale=1.0),
        input_shape=(5,), latent=2, data_range=None,
    ).double()  # fmt: skip
    data = torch.randn(6, 5, dtype=torch.float64)
    with torch.no_grad():
        level = vae.encode(data)
        z0 = torch.zeros(1, 2, dtype=torch.float64)
        rows = vae.decode(torch.eye(2, dtype=torch.float64)) - vae.decode(z0)  # W of Wz + b
        mean, variance = level.q.mean, level.q.variance
        at_mean = Independent(Normal(vae.decode(mean), 1.0), 1).log_prob(data)
        expected = at_mean - 0.5 * (variance @ rows.square().sum(1)) - kl_divergence(level.q, level.p)
    torch.testing.assert_close(score(vae, data, "elbo", n=40_000), expected, rtol=0, atol=0.05)


def test_the_reconstruction_is_the_log_likelihood_at_the_mode():
    vae = model()
    y = vae.reconstruct(x)
    expected = torch.distributions.ContinuousBernoulli  # another family, to be sure that it is not that one
    bce = -torch.nn.functional.binary_cross_entropy(y, x.double(), reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(score(vae, x, "reconstruction"), bce)
    assert not torch.allclose(expected(y).log_prob(x.double()).flatten(1).sum(1), bce)


def test_the_likelihood_ratio_is_the_difference_of_elbos():
    vae, other = model(), model(prior="vamp")
    ratio = score(vae, x, "likelihood_ratio", reference=other, n=4)
    torch.testing.assert_close(ratio, score(vae, x, n=4) - score(other, x, n=4))
    assert (score(vae, x, "likelihood_ratio", reference=vae) == 0).all()


def test_the_distance_is_mahalanobis_own():
    z = torch.randn(200, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 5
    found = LatentStatistics(3, shrinkage=0.0).fit(z.split(37))(z[:4])
    inverse = np.linalg.inv(np.cov(z.numpy().T, bias=True))
    expected = [-0.5 * mahalanobis(row, z.mean(0).numpy(), inverse) ** 2 for row in z[:4].numpy()]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_statistics_are_saved_and_loaded_and_survive_latents_that_never_move():
    flat = torch.zeros(50, 2)
    flat[:, 0] = torch.randn(50)
    statistics = LatentStatistics(2).fit([flat])
    other = LatentStatistics(2)
    other.load_state_dict(statistics.state_dict())
    far = torch.tensor([[0.0, 1.0]])
    assert torch.isfinite(statistics(far)).all() and torch.equal(other(far), statistics(far)) and statistics(far) < -50


def test_perturbed_data_keep_the_rest_and_what_is_new_is_in_range():
    data = torch.rand(200, 1, 8, 8) * 4 - 2
    new = perturb(data, 0.3, (-2.0, 2.0), torch.Generator().manual_seed(1))
    changed = new != data
    assert abs(changed.float().mean() - 0.3) < 0.02 and new.min() >= -2 and new.max() <= 2
    table = torch.arange(40.0).reshape(20, 2)
    new = perturb(table, 1.0, None)
    assert all(set(new[:, i].tolist()) <= set(table[:, i].tolist()) for i in (0, 1)) and not torch.equal(new, table)
    assert torch.equal(perturb(table, 0.0, None), table)


def test_a_condition_reaches_the_score():
    torch.manual_seed(0)
    vae = vaekit.build("conditional_vae", latent=2, input_shape=(1, 8, 8)).eval()
    for weight in vae.parameters():  # what a condition does is nothing at first
        weight.data += 0.1 * torch.randn_like(weight)
    data = torch.rand(4, 1, 8, 8)
    one, other = (score(vae, data, cond=torch.full((4,), c)) for c in (0, 1))
    assert not torch.allclose(one, other)


def test_a_score_that_the_model_cannot_give_says_what_to_do():
    with pytest.raises(ValueError, match="needs log q"):
        score(vaekit.build("ae", latent=2, input_shape=(1, 8, 8)), torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="LatentStatistics"):
        score(model(), x, "mahalanobis")
    with pytest.raises(ValueError, match="needs reference=, a VAE"):
        score(model(), x, "likelihood_ratio")
    with pytest.raises(ValueError, match="no data"):
        LatentStatistics(2).fit([])
