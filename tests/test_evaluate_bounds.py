"""Bounds against a model whose log p(x) is known, and against their definitions."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import vaekit
from tests.test_oracles import SCALE, X, linear_gaussian
from vaekit import use
from vaekit.evaluate import Examples, bounds
from vaekit.evaluate.examples import Unavailable


def test_with_the_exact_posterior_every_bound_is_log_p_and_knows_it():
    vae, exact = linear_gaussian()
    x = exact.sample((20,))
    found = bounds(vae, Examples(vae, x, batch_size=7), draws=5)
    torch.testing.assert_close(found.iwae, exact.log_prob(x), rtol=0, atol=1e-9)
    assert found.monte_carlo_error < 1e-6
    torch.testing.assert_close(found.effective_draws, torch.full((20,), 5.0, dtype=torch.float64))


def test_rate_and_distortion_are_their_closed_forms_and_add_up_to_the_elbo():
    vae, exact = linear_gaussian(widen=1.3)
    x = exact.sample((6,))
    found = bounds(vae, Examples(vae, x), draws=40_000)
    level = vae.encode(x)
    torch.testing.assert_close(found.rate, kl_divergence(level.q, level.p))
    w, b = vae.decoder.out.weight, vae.decoder.out.bias
    mean, variance = level.q.mean, level.q.variance
    squares = (x - mean @ w.T - b).square().sum(1) + (variance @ w.square().T).sum(1)
    by_hand = 0.5 * squares / SCALE**2 + X * math.log(SCALE * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found.distortion, by_hand.detach(), rtol=0, atol=0.06)
    torch.testing.assert_close(found.elbo, -(found.rate + found.distortion))
    torch.testing.assert_close(found.elbo, vae.elbo(x, n=40_000), rtol=0, atol=0.1)


def test_the_error_of_iwae_is_the_spread_over_other_seeds():
    vae, exact = linear_gaussian(widen=1.3)
    x = exact.sample((5,))
    many = [bounds(vae, Examples(vae, x), draws=200, seed=seed) for seed in range(300)]
    spread = torch.stack([each.iwae for each in many]).std(0)
    told = torch.stack([each.variance for each in many]).mean(0).sqrt()
    torch.testing.assert_close(told, spread, rtol=0.15, atol=0)
    means = torch.tensor([float(each.iwae.mean()) for each in many]).std()
    assert many[0].monte_carlo_error == pytest.approx(float(means), rel=0.25)


def test_bounds_are_in_order_and_iwae_agrees_with_log_prob():
    vae, exact = linear_gaussian(widen=1.3, orthogonal=False)
    x = exact.sample((50,))
    few, many = (bounds(vae, Examples(vae, x), draws=k) for k in (4, 4000))
    log_p = exact.log_prob(x)
    assert many.elbo.mean() < few.iwae.mean() < log_p.mean() + 0.05
    torch.testing.assert_close(many.iwae, log_p, rtol=0, atol=0.1)


def test_bounds_do_not_depend_on_batches_and_chunks_beyond_their_error():
    vae, exact = linear_gaussian(widen=1.2)
    x = exact.sample((30,))
    cut = [(30, None), (7, None), (30, 3), (1, 100)]
    found = [bounds(vae, Examples(vae, x, batch_size=size), draws=500, chunk=chunk) for size, chunk in cut]
    for each in found[1:]:
        torch.testing.assert_close(each.rate, found[0].rate)
        torch.testing.assert_close(each.iwae, found[0].iwae, rtol=0, atol=6 * float(found[0].variance.max()) ** 0.5)
        torch.testing.assert_close(each.distortion, found[0].distortion, rtol=0, atol=1.0)


def test_a_chunk_changes_which_draws_but_all_of_them_count():
    vae, exact = linear_gaussian(widen=1.3)
    x = exact.sample((3,))
    found = bounds(vae, Examples(vae, x), draws=7, chunk=3, seed=5)
    torch.manual_seed(5)
    outs = [vae(x, sample_shape=(k,)) for k in (3, 3, 1)]
    log_w = torch.cat([out.log_weight() for out in outs])
    torch.testing.assert_close(found.iwae, (log_w.logsumexp(0) - math.log(7)).detach())
    w = log_w.exp()
    torch.testing.assert_close(found.variance, (w.var(0) / 7 / w.mean(0) ** 2).detach())
    torch.testing.assert_close(found.effective_draws, (w.sum(0) ** 2 / (w**2).sum(0)).detach())
    distortion = -torch.cat([out.p_x.log_prob(x) for out in outs]).mean(0)
    torch.testing.assert_close(found.distortion, distortion.detach())


def test_bits_of_bytes_do_not_depend_on_the_scale_that_the_bytes_are_brought_to():
    """The same model of 8-bit data, written for [0, 1] and for [-1, 1]."""
    vae, exact = linear_gaussian()
    x = exact.sample((4,))
    found = bounds(vae, Examples(vae, x), draws=1)
    stretched = MultivariateNormal(2 * exact.mean - 1, 4 * exact.covariance_matrix).log_prob(2 * x - 1)
    one = found.bits_per_dim(bin_width=1 / 255)
    torch.testing.assert_close(one, found.bits_per_dim(stretched, bin_width=2 / 255))
    np.testing.assert_allclose(one, -(exact.log_prob(x) / math.log(2) - X * math.log2(255)) / X)
    torch.testing.assert_close(found.bits_per_dim(), -exact.log_prob(x) / X / math.log(2))


@pytest.mark.parametrize("sampler", ["dirac"])
def test_a_model_without_a_density_says_so(sampler):
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(3,), sampler=sampler, loss=["nll"])
    with pytest.raises(Unavailable, match="posterior with a density"):
        bounds(vae, Examples(vae, torch.rand(3, 4)))


def test_a_hamiltonian_model_which_needs_gradients_has_bounds_too():
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(3,), sampler=use("hamiltonian", steps=1))
    assert torch.isfinite(bounds(vae, Examples(vae, torch.rand(3, 4)), draws=3).iwae).all()


def test_neither_the_mode_nor_the_random_state_of_the_process_is_changed():
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(3,)).train()
    before = torch.get_rng_state()
    first, second = (bounds(vae, Examples(vae, torch.rand(3, 4, generator=None).mul(0)), draws=3) for _ in range(2))
    torch.manual_seed(0)
    assert vae.training and torch.equal(first.iwae, second.iwae)
    torch.set_rng_state(before)
    state = torch.get_rng_state()
    bounds(vae, Examples(vae, torch.zeros(3, 4)), draws=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_forms_of_data_are_the_same_data():
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(3,))
    x, labels = torch.randint(256, (10, 4), dtype=torch.uint8), torch.arange(10)
    scaled = x.float() / 255
    dataset = torch.utils.data.TensorDataset(scaled, labels)
    forms = [x, scaled, scaled.numpy(), (scaled, labels), dataset, torch.utils.data.DataLoader(dataset, 3)]
    forms += [[scaled[:4], scaled[4:]], [(scaled[:4], labels[:4]), (scaled[4:], labels[4:])]]
    for form in forms:
        for _ in range(2):
            torch.testing.assert_close(torch.cat([b for b, _ in Examples(vae, form, batch_size=3)]), scaled)
    for form in forms[3:6] + forms[7:]:
        assert torch.equal(Examples(vae, form).all_labels(), labels)
    two = (torch.rand(2, 4), torch.rand(5, 4))  # batches, not data and labels
    assert [len(b) for b, _ in Examples(vae, two)] == [2, 5]


def test_data_that_can_be_used_once_or_do_not_fit_are_refused():
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), hidden=(3,))
    x = torch.rand(5, 4)
    for bad in (iter([x]), (b for b in [x]), "folder", 3):
        with pytest.raises(TypeError, match="data: expected"):
            Examples(vae, bad)
    for bad, labels in ((x[:0], None), (x, torch.arange(4)), ((x, torch.arange(5)), torch.arange(5))):
        with pytest.raises(ValueError, match=r"(data|labels): "):
            Examples(vae, bad, labels)
    for number in (4, 6):
        with pytest.raises(ValueError, match="labels: "):
            list(Examples(vae, [x[:3], x[3:]], torch.arange(number)))
    with pytest.raises(ValueError, match="data: is empty"):
        list(Examples(vae, []))
