"""Every encoder × decoder × sampler × likelihood, at a tiny size."""

import itertools

import pytest

import vaekit
from tests.laws.test_laws import SMALL
from vaekit import Spec, use
from vaekit.testing import trains

SCALES = [use(name, scale=s) for name in ("gaussian", "laplace") for s in (0.5, "learned", "pixel", "optimal")]


def small(kind: str, name: str) -> Spec:
    return use(name, **SMALL.get((kind, name), {}))


@pytest.mark.parametrize("likelihood", vaekit.likelihood.names())
@pytest.mark.parametrize("sampler", vaekit.sampler.names())
@pytest.mark.parametrize(
    ("encoder", "decoder"), list(itertools.product(vaekit.encoder.names(), vaekit.decoder.names())), ids=str
)
def test_parts_combine(encoder, decoder, sampler, likelihood):
    vae = vaekit.build(
        input_shape=(3, 8, 9),
        latent=2,
        encoder=small("encoder", encoder),
        decoder=small("decoder", decoder),
        sampler=sampler,
        likelihood=likelihood,
        loss=["nll", "kl"] if sampler != "dirac" else ["nll"],
    )
    trains(vae)
    assert Spec.from_json(vae.spec.to_json()) == vae.spec


@pytest.mark.parametrize("likelihood", SCALES, ids=repr)
@pytest.mark.parametrize("decoder", vaekit.decoder.names())
def test_every_choice_of_scale_trains(decoder, likelihood):
    trains(
        vaekit.build("conv", input_shape=(3, 8, 9), latent=2, decoder=small("decoder", decoder), likelihood=likelihood)
    )
