"""Mistakes that other libraries' variants have made, and that ours must not. Those that have a test elsewhere:

- gradients of one player that reach another (VAE-GAN, FactorVAE, PIWAE): test_players, test_bounds
- MIWAE's axes swapped, IWAE's surrogate reported as the bound: test_bounds
- InfoVAE's negative weight, a batch of one for the MMD: unhooked/test_errors, test_train
- commitment summed over the batch: test_quantizers; MS-SSIM averaged over it: test_losses
- stratified weights of β-TCVAE in the wrong column, DIP over the wrong axis, the gradient penalty in x: test_losses
- Hamiltonian steps that do not keep volume, bounds above log p(x), under no_grad: test_hamiltonian
- flows: orders that cancel, no inverse, a biased determinant, one dimension, a loss that grows with the batch: test_flows,
  test_fitted_priors
- a draw of pseudo-inputs that is no mixture, a second stage whose noise is not learned: laws, test_fitted_priors
"""

import math

import pytest
import torch

import vaekit
from vaekit import use


@pytest.mark.parametrize("recipe", ["vae", "hvae", "vq_vae", "svae", "vamp_vae", "iwae", "adversarial_ae"])
def test_binary_data_can_be_reconstructed_as_surely_as_the_decoder_is(recipe):
    # a decoder's sigmoid taken for logits confined probabilities to [0.5, 0.73]
    vae = vaekit.build(recipe, latent=4, input_shape=(1, 8, 8), decoder=use("mlp", hidden=(8,)))
    x = torch.rand(3, 1, 8, 8)
    for bias in (-30.0, 30.0):
        with torch.no_grad():
            vae.decoder.out.bias.fill_(bias)
        made = vae.reconstruct(x)
        assert (made - float(bias > 0)).abs().max() < 1e-6


@pytest.mark.parametrize("recipe", ["svae", "poincare_vae", "vae", "gamma_vae", "vae_iaf"])
def test_training_and_evaluation_have_the_same_posterior(recipe):
    # a concentration of softplus + 1 in training was one of softplus in the estimate of log p(x)
    vae = vaekit.build(recipe, latent=4, input_shape=(12,))
    x = torch.rand(5, 12)
    found = []
    for mode in (True, False):
        vae.train(mode)
        torch.manual_seed(0)
        level = vae.encode(x)
        found.append((level.z, level.log_posterior()))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_any_number_of_samples_comes_out_of_a_prior_over_codes(n, learn):
    # a last batch of another size crashed for EMA codebooks
    sampler = use("vq", codebook_size=8, learn=learn)
    vae = vaekit.build("vq_vae", latent=4, input_shape=(1, 8, 8), sampler=sampler)
    vae.fit_prior("autoregressive", torch.rand(20, 1, 8, 8), network="pixelcnn", width=8, depth=1, epochs=1)
    assert vae.sample(n).shape == (n, 1, 8, 8)


def test_a_prior_is_fitted_to_data_that_do_not_reach_the_end_of_their_range():
    # an assertion the wrong way round refused data in [0, 1) and took 0 … 255
    vae = vaekit.build("vae", latent=2, input_shape=(6,))
    vae.fit_prior("full_gaussian", 0.9 * torch.rand(50, 6))
    with pytest.raises(ValueError, match=r"values from .* built for data in \[0, 1\]"):
        vae.fit_prior("full_gaussian", 255 * torch.rand(50, 6))


def test_log_prob_decodes_as_many_draws_as_it_is_asked_for():
    # draws came in whole batches of 100, so that 1 meant 100 and 250 meant 200
    vae = vaekit.build("mlp", latent=2, input_shape=(6,)).eval()
    counts = []
    hook = vae.decoder.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    x = torch.rand(3, 6)
    for n in (1, 150, 250):
        counts.clear()
        log_p = vae.log_prob(x, n=n, chunk=100)
        assert sum(counts) == 3 * n and (log_p < 0).all(), (
            "log p of bits is negative: a log-likelihood, not its negative"
        )
    hook.remove()


def test_reconstruction_terms_have_one_scale_in_all_recipes():
    # a sum of squares in some models was half of it in others
    x = torch.rand(5, 2, 6)
    unbounded = {"latent": 2, "input_shape": (2, 6), "data_range": None}
    vae, ae = vaekit.build("vae", **unbounded), vaekit.build("ae", **unbounded)
    ae.encoder, ae.decoder = vae.encoder, vae.decoder
    with torch.no_grad():
        ae.sampler.head.project[1].weight.copy_(vae.sampler.head.project[1].weight[:2])
        ae.sampler.head.project[1].bias.copy_(vae.sampler.head.project[1].bias[:2])
        vae.sampler.head.project[1].weight[2:] = 0
        vae.sampler.head.project[1].bias[2:] = -30  # a posterior as sharp as a point
    constant = 0.5 * 12 * math.log(2 * math.pi)
    torch.testing.assert_close(vae.loss(x).terms["nll"] - constant, 0.5 * ae.loss(x).terms["mse"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", ["rae_l2", "rae_gp", "wae_mmd", "swae"])
def test_an_encoder_feels_each_term_once(recipe):
    # two optimizers' losses, both run backward, doubled the encoder's gradient
    vae = vaekit.build(recipe, latent=3, input_shape=(10,))
    x = torch.rand(6, 10)
    torch.manual_seed(0)
    vae.loss(x).total.backward()
    torch.manual_seed(0)
    out = vae(x)
    terms: dict = dict(vae.objective.terms)
    total = sum(vae.objective.numbers[label] * loss(out).mean() for label, loss in terms.items())
    weights = list(vae.encoder.parameters())
    for p, wanted in zip(weights, torch.autograd.grad(total, weights), strict=True):
        torch.testing.assert_close(p.grad, wanted)


def test_the_user_s_tensor_stays_as_it_is():
    # a penalty on the gradient set requires_grad on the data
    x = torch.rand(4, 10)
    kept = x.clone()
    for recipe in ("rae_gp", "hvae", "vq_vae", "vae_gan"):
        vaekit.build(recipe, latent=3, input_shape=(10,)).loss(x)
    assert not x.requires_grad and torch.equal(x, kept)
