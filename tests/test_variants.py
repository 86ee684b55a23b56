"""Variants of examples, scores and missing values, against closed forms and distributions."""

from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import vaekit
from vaekit import use
from vaekit.records import Level
from vaekit.scoring import score, statistics
from vaekit.walks import varied

CHANCE = 1e-4


def model(**args):
    return vaekit.build("mlp", latent=4, input_shape=(1, 4, 4), hidden=(8,), **args).double().eval()


def data(n=5):
    return torch.rand(n, 1, 4, 4, dtype=torch.float64)


# -- variants ----------------------------------------------------------------------------------------------------------

SPACES = {
    "gaussian": {}, "gamma": {"sampler": "gamma"}, "power_spherical": {"sampler": "power_spherical"},
    "wrapped_normal": {"sampler": "wrapped_normal"}, "gumbel_softmax": {"sampler": use("gumbel_softmax", categories=2)},
    "relaxed_bernoulli": {"sampler": "relaxed_bernoulli"}, "iaf": {"sampler": "iaf"},
    "joint": {"sampler": use("joint", variables=1, categories=2)},
}  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_variants_of_no_strength_are_reconstructions_and_stay_in_their_space(name):
    vae, x, seen = model(**SPACES[name]), data(), []
    vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    nothing = vae.augment(x, 3, 0.0)
    torch.testing.assert_close(nothing, vae.reconstruct(x).expand(3, *x.shape))
    g = torch.Generator()
    one, same = (vae.augment(x, strength=1.0, generator=g.manual_seed(1)) for _ in range(2))
    assert one.shape == x.shape and torch.equal(one, same) and not torch.allclose(one, nothing[0])
    z = seen[-1]
    for strength in (1.0,) if vae.space in ("codes", "mixed") else (0.5, 1.0, 3.0):
        vae.augment(x, 2, strength)
        z = seen[-1]
        assert torch.isfinite(z).all() and (vae.space != "positive" or (z > 0).all())
        if vae.space == "sphere":
            torch.testing.assert_close(z.norm(dim=-1), torch.ones_like(z[:, 0]))
        if vae.space == "ball":
            assert (z.norm(dim=-1) < 1 / vae.sampler.curvature**0.5).all()
        if vae.space == "codes":
            assert ((z == 0) | (z == 1)).all()


def test_variants_spread_as_strength_says_and_at_one_are_draws_of_the_posterior():
    vae, x, seen = model(), data(1), []
    vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    q = vae.encode(x).q.base_dist
    for strength in (0.5, 1.0, 2.0):
        vae.augment(x, 4000, strength)
        standard = ((seen[-1] - q.loc) / q.scale / strength).flatten().detach().numpy()
        assert scipy.stats.kstest(standard, "norm").pvalue > CHANCE


def test_codes_are_taken_one_by_one_with_the_strength_as_probability():
    sampler = vaekit.sampler["gumbel_softmax"]((6,), (8,), categories=2).eval()
    level = sampler(torch.zeros(1, 6), (4000,))
    part = varied("codes", sampler, level, (4000,), 0.5)
    p = level.q.base_dist.probs[0].detach()  # of each code; the mode's own is taken where the draw agrees
    for i, mode in enumerate(p.argmax(-1)):
        kept = (part.reshape(4000, -1, 2)[:, i].argmax(-1) == mode).sum()
        expected = 0.5 + 0.5 * float(p[i, mode])
        assert scipy.stats.binomtest(int(kept), 4000, expected).pvalue > CHANCE


def test_half_of_a_great_circle_is_half_the_angle_and_of_a_geodesic_half_the_distance():
    from vaekit.layers.poincare import distance

    mode, drawn = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    level = Level(drawn, Normal(mode, 1.0), center=lambda: mode)
    torch.testing.assert_close(varied("sphere", None, level, (), 0.5), torch.full((1, 2), 0.5**0.5))
    torch.testing.assert_close(varied("sphere", None, level, (), 2.0), -mode)
    mode, drawn = torch.tensor([[0.1, 0.3]]), torch.tensor([[-0.4, 0.2]])
    level = Level(drawn, Normal(mode, 1.0), center=lambda: mode)

    class Ball:
        curvature = 1.0

    half = varied("ball", Ball, level, (), 0.5)
    for end in (mode, drawn):
        torch.testing.assert_close(distance(half, end, 1.0), distance(mode, drawn, 1.0) / 2)
    torch.testing.assert_close(varied("positive", None, Level(torch.tensor([[4.0]]), Normal(mode, 1.0), center=lambda: torch.tensor([[1.0]])), (), 0.5), torch.tensor([[2.0]]))  # fmt: skip


def test_variants_keep_their_condition():
    vae = vaekit.build("conditional_vae", latent=2, input_shape=(1, 6, 6), classes=3).eval()
    for weight in vae.parameters():  # what a condition does is nothing at first
        weight.data += 0.1 * torch.randn_like(weight)
    x, cond = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(vae.augment(x, strength=0.0, cond=cond), vae.reconstruct(x, cond))
    assert not torch.allclose(vae.augment(x, strength=0.0, cond=cond), vae.reconstruct(x, cond.flip(0)))


def test_models_without_draws_say_why_they_have_no_variants():
    x = torch.rand(2, 1, 4, 4)
    for name in ("dirac", use("vq", codebook_size=8)):
        vae = vaekit.build("mlp", latent=4, input_shape=(1, 4, 4), hidden=(8,), sampler=name, loss=["nll"])
        with pytest.raises(ValueError, match=r"augment: \w+Sampler gives a point for each example"):
            vae.augment(x)
    with pytest.raises(ValueError, match=r"strength: expected a number of at least 0, got -1"):
        model().augment(x, strength=-1)
    with pytest.raises(ValueError, match=r"nothing lies beyond; got 1\.5"):
        model(sampler="relaxed_bernoulli").augment(x, strength=1.5)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_the_method_gives_the_scores_of_the_module():
    vae, x = model(), data()
    for kind, reference in (("elbo", None), ("reconstruction", None), ("mahalanobis", statistics(vae, data(40)))):
        assert torch.equal(vae.score(x, kind, reference=reference), score(vae, x, kind, reference=reference))


# -- missing values ----------------------------------------------------------------------------------------------------

W = torch.tensor([[1.5, 0.0], [-1.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, -2.0]], dtype=torch.float64)
B = torch.tensor([0.3, -0.2, 0.1, 0.5, 1.0], dtype=torch.float64)
NOISE = 0.5


class Map(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Posterior(nn.Module):
    """The exact posterior of x = W z + b + noise, or a wider one around the same mean."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, h: Tensor, sample_shape: tuple[int, ...] = (), *, log_joint=None) -> Level:
        variance = 1 / (1 + (W / NOISE).square().sum(0))  # W has orthogonal columns
        mean = variance * ((h - B) @ W) / NOISE**2
        q = Independent(Normal(mean, self.factor * variance.sqrt().expand_as(mean)), 1)
        return Level(q.rsample(sample_shape), q)


def linear(factor=1.0):
    return vaekit.VAE(
        encoder=nn.Identity(), sampler=Posterior(factor), prior=vaekit.prior["standard"]((2,)),
        decoder=Map(lambda z: z @ W.mT + B), likelihood=vaekit.likelihood["gaussian"]((5,), scale=NOISE),
        objective=nn.Identity(), input_shape=(5,), latent_shape=(2,), data_range=None,
    ).double().eval()  # fmt: skip


def conditional(x, known):
    """Mean and covariance of x_missing given x_known, for x ~ N(b, W Wᵀ + σ² I)."""
    cov = W @ W.mT + NOISE**2 * torch.eye(5, dtype=torch.float64)
    gain = cov[~known][:, known] @ torch.linalg.inv(cov[known][:, known])
    return B[~known] + gain @ (x[known] - B[known]), cov[~known][:, ~known] - gain @ cov[known][:, ~known]


MASK = torch.tensor([True, False, True, False, True])


@pytest.mark.parametrize(("kind", "factor", "n"), [("importance", 2.0, 40_000), ("gibbs", 1.0, 6_000)])
def test_missing_values_of_a_linear_model_are_their_conditional_mean(kind, factor, n):
    vae, x = linear(factor), B + torch.randn(3, 5, dtype=torch.float64)
    given = x.where(MASK, torch.nan)
    found = vae.impute(given, MASK, kind, n=n, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found[:, MASK], x[:, MASK])
    expected = torch.stack([conditional(row, MASK)[0] for row in x])
    torch.testing.assert_close(found[:, ~MASK], expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(("kind", "factor", "n"), [("importance", 2.0, 2_000), ("gibbs", 1.0, 60)])
def test_a_draw_of_missing_values_has_their_conditional_distribution(kind, factor, n):
    vae, x = linear(factor), (B + torch.randn(1, 5, dtype=torch.float64)).expand(1500, 5)
    drawn = vae.impute(x, MASK, kind, n=n, sample=True)[:, ~MASK]
    mean, cov = conditional(x[0], MASK)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (drawn - mean).mT, upper=False)
    assert scipy.stats.kstest(white.flatten().numpy(), "norm").pvalue > CHANCE


def test_what_stands_at_missing_places_is_no_part_of_the_answer():
    vae, x = linear(2.0), B + torch.randn(2, 5, dtype=torch.float64)
    runs = [x.where(MASK, fill) for fill in (torch.nan, torch.inf, 0.0)]
    found = [vae.impute(each, MASK, n=500, generator=torch.Generator().manual_seed(0)) for each in runs]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(vae.impute(x, torch.ones(5, dtype=torch.bool), n=1), x)


def test_draws_in_chunks_are_weighed_together():
    """1,500 examples leave room for two draws at a time."""
    vae, x = linear(2.0), (B + torch.randn(1, 5, dtype=torch.float64)).expand(1500, 5)
    found = vae.impute(x, MASK, n=64)[:, ~MASK].mean(0)
    torch.testing.assert_close(found, conditional(x[0], MASK)[0], rtol=0, atol=0.05)


def test_any_model_fills_in_images_and_refuses_what_it_can_not_read():
    x = torch.rand(3, 1, 6, 6)
    mask = torch.rand(6, 6) < 0.6
    for args in ({}, {"sampler": "relaxed_bernoulli"}, {"likelihood": "discretized_logistic_mixture"}):
        vae = vaekit.build("mlp", **{"latent": 2, "input_shape": (1, 6, 6), "hidden": (8,), **args})
        for kind in ("importance", "gibbs"):
            found = vae.impute(x.where(mask, torch.nan), mask, kind, n=4)
            assert torch.equal(found.where(mask, 0), x.where(mask, 0)) and torch.isfinite(found).all() and vae.training
    ae = vaekit.build("ae", latent=2, input_shape=(1, 6, 6))
    assert ae.impute(x, mask, "gibbs", n=3).shape == x.shape
    with pytest.raises(ValueError, match="log q"):
        ae.impute(x, mask)
    with pytest.raises(ValueError, match="holds NaN"):
        vae.impute(x.where(~mask, torch.nan), mask)
    with pytest.raises(ValueError, match=r"mask: expected truth values.*torch\.float32"):
        vae.impute(x, mask.float())
    with pytest.raises(ValueError, match=r"mask: expected a shape that expands to x's \(3, 1, 6, 6\), got \(4, 6\)"):
        vae.impute(x, mask[:4])
