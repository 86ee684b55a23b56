"""Code lengths, against closed forms, an arithmetic of their own, and a coder that sends draws."""

import math

import numpy as np
import pytest
import torch
from scipy.special import zeta
from scipy.stats import norm

import vaekit
from vaekit import use
from vaekit.evaluate import Examples, code_length
from vaekit.evaluate.compression import CodeLength
from vaekit.evaluate.examples import Unavailable

x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", **{"latent": 3, "input_shape": (1, 4, 4), "hidden": (8,), **args}).double().eval()


def found(vae, **options):
    return code_length(vae, Examples(vae, x.double(), batch_size=7), **options)


def test_a_gaussian_costs_its_divergence_from_the_prior():
    vae = model()
    with torch.no_grad():
        q = vae.encode(x.double()).q
    m, s = q.mean.numpy(), q.stddev.numpy()
    nats = (0.5 * (m**2 + s**2 - 1) - np.log(s)).sum(1)
    lengths = found(vae)
    assert np.allclose(lengths.bits, nats / np.log(2)) and not lengths.discrete and math.isnan(lengths.fixed)
    assert np.allclose(lengths.bits_per_dim, nats / np.log(2) / 16)
    assert lengths.bound == pytest.approx(lengths.mean + np.log2(lengths.mean + 1) + 4)


def test_a_divergence_without_a_closed_form_comes_near_with_draws():
    """A mixture of equal components is the standard normal, whose divergence is known."""
    closed = found(model())
    vae = model(prior=use("mixture", components=2))
    with torch.no_grad():
        for name, parameter in vae.prior.named_parameters():
            parameter.zero_()
            assert name
        p = vae.prior()
        scale = float(p.component_distribution.base_dist.scale[0, 0])
        assert torch.allclose(p.mean, torch.zeros(3).double())
        q = vae.encode(x.double()).q
        ratio = (q.stddev / scale) ** 2
        nats = 0.5 * (ratio + (q.mean / scale) ** 2 - 1 - ratio.log()).sum(1)
    drawn = found(vae, draws=4000)
    assert float((drawn.bits - nats / math.log(2)).abs().max()) < 0.2
    assert closed.bits.shape == drawn.bits.shape


def test_codes_cost_their_probability_under_the_prior():
    """log₂ K a position under the even prior; their own entropy under their own frequencies, and never less."""
    vae = model(sampler=use("vq", codebook_size=8), latent=(2, 2, 2), encoder="conv", decoder="conv")
    lengths = found(vae)
    with torch.no_grad():
        codes = vae.encode(x.double()).index
    positions = codes[0].numel()
    assert lengths.discrete and lengths.fixed == 3 * positions
    assert torch.allclose(lengths.bits, torch.full((20,), 3.0 * positions).double())
    vae.fit_prior("categorical", x.double())
    fitted = found(vae)
    with torch.no_grad():
        p = vae.prior()
        wanted = -p.log_prob(codes) / math.log(2)
    assert torch.allclose(fitted.bits, wanted) and fitted.bound == pytest.approx(fitted.mean + 2)
    shares = [torch.bincount(codes.flatten(1)[:, i], minlength=8).double() / 20 for i in range(positions)]
    entropy = sum(-float((s[s > 0] * s[s > 0].log2()).sum()) for s in shares)
    assert fitted.mean >= entropy - 1e-9 and fitted.mean < lengths.mean


def test_the_most_likely_codes_are_sent_where_codes_are_drawn():
    vae = model(sampler=use("gumbel_softmax", categories=4), latent=8)
    one, two = found(vae, seed=0), found(vae, seed=1)
    assert torch.equal(one.bits, two.bits) and one.fixed == 2 * 2


def test_a_coder_that_sends_exact_draws_stays_between_the_mean_and_the_bound():
    """The Poisson functional representation with a Zipf code, run: an oracle for both ends."""
    generator = np.random.default_rng(0)
    for mean, scale in ((1.0, 0.5), (2.0, 0.3), (0.2, 0.9)):
        nats = 0.5 * (mean**2 + scale**2 - 1) - math.log(scale)
        d = nats / math.log(2)
        lengths = CodeLength(torch.tensor([d]).double(), False, torch.ones(1), math.nan)
        trials, candidates = 1000, 2000
        times = generator.exponential(size=(trials, candidates)).cumsum(1)
        z = generator.normal(size=(trials, candidates))
        weight = norm.pdf(z, mean, scale) / norm.pdf(z)
        number = (times / weight).argmin(1)
        sent = z[np.arange(trials), number]
        assert abs(sent.mean() - mean) < 5 * scale / trials**0.5 and abs(sent.std() / scale - 1) < 0.1
        power = 1 + 1 / (d + math.log2(math.e) / math.e + 1)
        spent = float((power * np.log2(number + 1)).mean() + math.log2(zeta(power)))
        assert lengths.mean < spent < lengths.bound, (d, spent, lengths.bound)


def test_latents_without_a_density_have_no_length():
    with pytest.raises(Unavailable, match="needs a posterior with a density"):
        found(model(sampler="dirac", loss=["nll"]))
    with pytest.raises(ValueError, match="draws: expected"):
        found(model(), draws=0)


def test_the_random_state_is_left_alone():
    vae, state = model(prior=use("mixture", components=2)), torch.get_rng_state()
    torch.set_rng_state(state)
    one, two = found(vae), found(vae)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(one.bits, two.bits)
