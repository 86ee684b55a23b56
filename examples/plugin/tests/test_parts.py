"""The laws of vaekit over the plugin's parts, and what is theirs alone."""

import pytest
import torch

import vaekit
from vaekit.testing import check


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


def test_a_histogram_is_fitted_after_training():
    vae = vaekit.build("vae", input_shape=(6,), latent=2, encoder=vaekit.use("fourier", features=8))
    x = torch.rand(500, 6)
    vae.fit_prior("histogram", x, bins=20)
    assert vae.sample(4).shape == (4, 6) and vae.spec.args["prior"].name == "histogram"
    with pytest.raises(ValueError, match="at least two finite latents, got 1"):
        vae.fit_prior("histogram", x[:1])
