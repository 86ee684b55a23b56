"""Every encoder × decoder, and every sampler × likelihood, at a tiny size; random ones over all slots: test_composition."""

import pytest
import torch

import vaekit
from tests.laws.test_laws import SMALL
from vaekit import Spec, use
from vaekit.testing import Subject, trains

SCALES = [use(name, scale=s) for name in ("gaussian", "laplace") for s in (0.5, "learned", "pixel", "optimal")]


def small(kind: str, name: str) -> Spec:
    return use(name, **SMALL.get((kind, name), {}))


@pytest.mark.parametrize("decoder", vaekit.decoder.names())
@pytest.mark.parametrize("encoder", vaekit.encoder.names())
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_networks_combine(encoder, decoder, likelihood):
    parts = {"encoder": small("encoder", encoder), "decoder": small("decoder", decoder), "likelihood": likelihood}
    vae = vaekit.build(input_shape=(3, 8, 9), latent=2, **parts)
    trains(vae)
    assert Spec.from_json(vae.spec.to_json()) == vae.spec


@pytest.mark.parametrize("likelihood", vaekit.likelihood.names())
@pytest.mark.parametrize("sampler", vaekit.sampler.names())
def test_samplers_and_likelihoods_combine(sampler, likelihood):
    subject = Subject("sampler", sampler, SMALL.get(("sampler", sampler), {}))
    support = vaekit.likelihood[likelihood].support
    torch.manual_seed(0)
    trains(subject.model((6,), 4, likelihood=small("likelihood", likelihood), data_range=support or (0.0, 1.0)))


@pytest.mark.parametrize("likelihood", SCALES, ids=repr)
@pytest.mark.parametrize("decoder", vaekit.decoder.names())
def test_every_choice_of_scale_trains(decoder, likelihood):
    trains(
        vaekit.build("conv", input_shape=(3, 8, 9), latent=2, decoder=small("decoder", decoder), likelihood=likelihood)
    )
