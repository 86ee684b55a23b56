"""The laws of vaekit over the plugin's parts, and what is theirs alone."""

import pytest
import torch

import vaekit
from vaekit.testing import check


@pytest.fixture(autouse=True)
def _seeded():
    """Laws draw data and samples; from a seed they are the same each time."""
    torch.manual_seed(0)


def test_the_encoder_obeys_the_laws():
    check("encoder", "fourier", features=8, width=16)


def test_the_prior_obeys_the_laws():
    check("prior", "histogram", bins=16)


def test_fourier_features_approximate_the_gaussian_kernel():
    encoder = vaekit.encoder["fourier"]((3,), features=20_000, scale=0.7)
    x, y = torch.rand(3), torch.rand(3)
    angles = torch.stack([x, y]) @ encoder.frequencies
    features = torch.cat([angles.cos(), angles.sin()], dim=1) / 20_000**0.5
    kernel = torch.exp(-(0.7**2) * (x - y).square().sum() / 2)
    torch.testing.assert_close(features[0] @ features[1], kernel, rtol=0, atol=0.02)


def test_the_density_of_a_histogram_integrates_to_one():
    prior = vaekit.prior["histogram"]((2,), bins=8)
    prior.fit(torch.randn(300, 2) * torch.tensor([0.3, 2.0]))
    (low, high), n = (prior.edges[0], prior.edges[0] + 8 * prior.edges[1]), 400
    middles = (torch.arange(n) + 0.5) / n
    z = low + (high - low) * torch.cartesian_prod(middles, middles)
    total = prior().log_prob(z).exp().sum() * (high - low).prod() / n**2
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-3)
    assert (prior().log_prob(torch.stack([low - 1, high + 1])) == -torch.inf).all()


def test_the_bins_are_drawn_as_often_as_they_weigh():
    prior = vaekit.prior["histogram"]((1,), bins=5)
    prior.fit(torch.rand(500, 1) ** 2)
    z = prior().sample((20_000,))
    drawn = torch.histc((z - prior.edges[0]) / prior.edges[1], 5, 0, 5) / len(z)
    torch.testing.assert_close(drawn, prior.mass[0], rtol=0, atol=0.015)  # 4 standard deviations of a bin of one half


def test_a_histogram_is_fitted_after_training():
    vae = vaekit.build("vae", input_shape=(6,), latent=2, encoder=vaekit.use("fourier", features=8))
    x = torch.rand(500, 6)
    vae.fit_prior("histogram", x, bins=20)
    assert vae.sample(4).shape == (4, 6) and vae.spec.args["prior"].name == "histogram"
    with pytest.raises(ValueError, match="at least two finite latents, got 1"):
        vae.fit_prior("histogram", x[:1])
