"""The laws catch parts that break them: a law that can't fail is no law."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Geometric, Independent, Normal

import vaekit
from vaekit import Level
from vaekit.kinds import (
    Condition,
    Decoder,
    Discriminator,
    Encoder,
    FittedPrior,
    Likelihood,
    Loss,
    Prior,
    Sampler,
    Weight,
)
from vaekit.layers.head import Head
from vaekit.registry import registries
from vaekit.testing import check, goodness_of_fit, laws


@pytest.fixture
def broken():
    """Register a part for one test, and check it."""
    names = []

    def run(kind, cls, law, match="", **args):
        registries()[kind]("broken_part")(cls)
        names.append((kind, "broken_part"))
        try:
            with pytest.raises(AssertionError, match=rf"{kind} 'broken_part' breaks the law '{law}'.*{match}"):
                check(kind, "broken_part", **args)
        finally:
            del registries()[kind]._entries["broken_part"]

    return run


class Linear(Encoder):
    """h = W x."""

    def __init__(self, in_shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(in_shape).numel(), 4))

    def forward(self, x, cond=None):
        return self.layers(x)


def test_undocumented_arguments(broken):
    class Silent(Linear):
        """h = W x."""

        def __init__(self, in_shape, *, secret: int = 3):
            super().__init__(in_shape)

    broken("encoder", Silent, "documents_its_arguments", "'secret' is not documented")


def test_a_parameter_without_gradient(broken):
    class Idle(Linear):
        """h = W x, with a weight that nothing uses."""

        def __init__(self, in_shape):
            super().__init__(in_shape)
            self.idle = nn.Parameter(torch.ones(2))

    broken("encoder", Idle, "works_at_every_rank_that_it_claims", "no gradient reaches encoder.idle")


def test_a_batch_that_leaks(broken):
    class Leaky(Linear):
        """h = W x, minus the batch's mean."""

        def forward(self, x, cond=None):
            h = self.layers(x)
            return h - h.mean(0)

    broken("encoder", Leaky, "treats_examples_alone", "differ by up to")


def test_chance_in_evaluation_mode(broken):
    class Noisy(Linear):
        """h = W x + noise."""

        def forward(self, x, cond=None):
            return self.layers(x) + torch.randn(len(x), 4)

    broken("encoder", Noisy, "treats_examples_alone", "differ by up to")


def test_a_condition_that_is_ignored(broken):
    class Deaf(Linear):
        """h = W x, whatever the condition says."""

        def __init__(self, in_shape, cond_dim=0):
            super().__init__(in_shape)

    broken("encoder", Deaf, "uses_a_condition_where_it_takes_one")


def test_a_decoder_that_looks_at_x(broken):
    seen = []

    class Spying(Linear):
        """h = W x, left where the decoder finds it."""

        def forward(self, x, cond=None):
            seen[:] = [self.layers(x)]
            return seen[0]

    class Cheating(Decoder):
        """y = W z + what the encoder left."""

        ranks = (0,)

        def __init__(self, latent_shape, out_shape):
            super().__init__()
            self.layer = nn.Linear(latent_shape[0], out_shape[0])

        def forward(self, z, cond=None):
            left = seen[0].mean() if seen and not seen[0].is_meta and not z.is_meta else 0.0
            return self.layer(z) + left

    registries()["encoder"]("spying")(Spying)
    try:
        vae = vaekit.build(encoder="spying", decoder=Cheating((2,), (6,)), latent=2, input_shape=(6,))
        x = torch.rand(2, 6, requires_grad=True)
        vae(x)
        assert torch.autograd.grad(vae.predict(torch.randn(3, 2)).mean.sum(), x)[0].any(), "the cheat works"
        model = vaekit.testing.Subject.model
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                vaekit.testing.Subject,
                "model",
                lambda self, shape=(6,), **k: model(self, shape, **{"encoder": "spying", **k}),
            )
            broken("decoder", Cheating, "(treats_examples_alone|decodes_without_seeing_x)")
            subject = None
            registries()["decoder"]("broken_part")(Cheating)
            subject = vaekit.testing.Subject("decoder", "broken_part")
            with pytest.raises(AssertionError, match="y changes with x although z does not"):
                vaekit.testing.decodes_without_seeing_x(subject)
    finally:
        del registries()["encoder"]._entries["spying"]
        registries()["decoder"]._entries.pop("broken_part", None)


class Gaussian(Sampler):
    """q(z|x) = N(μ, σ²)."""

    def __init__(self, in_shape, latent_shape):
        super().__init__()
        self.head = Head(in_shape, latent_shape, 2)

    def forward(self, h, sample_shape=(), *, log_joint=None):
        mean, log_variance = self.head(h).unbind(1)
        q = Independent(Normal(mean, (log_variance / 2).clamp(-9, 9).exp()), mean.ndim - 1)
        return Level(q.rsample(sample_shape), q)


def test_the_sampler_that_the_next_ones_break_is_right():
    registries()["sampler"]("broken_part")(Gaussian)
    try:
        check("sampler", "broken_part")
    finally:
        del registries()["sampler"]._entries["broken_part"]


def test_draws_of_another_spread_than_the_density(broken):
    class Wide(Gaussian):
        """q(z|x), drawn too wide."""

        def forward(self, h, sample_shape=(), *, log_joint=None):
            level = super().forward(h, sample_shape)
            return Level(level.q.mean + 1.3 * (level.z - level.q.mean), level.q)

    broken("sampler", Wide, "draws_follow_their_density", "draws do not follow the density")


def test_a_density_that_overflows(broken):
    class Bold(Gaussian):
        """q(z|x) with σ² = exp of anything."""

        def forward(self, h, sample_shape=(), *, log_joint=None):
            mean, log_variance = self.head(h).unbind(1)
            q = Independent(Normal(mean, (log_variance / 2).exp(), validate_args=False), mean.ndim - 1)
            return Level(q.rsample(sample_shape), q)

    broken("sampler", Bold, "survives_extreme_features", "is not finite")


def test_draws_that_ignore_sample_shape(broken):
    class Single(Gaussian):
        """q(z|x), drawn once whatever one asks."""

        def forward(self, h, sample_shape=(), *, log_joint=None):
            return super().forward(h)

    broken("sampler", Single, "draws_of_every_shape")


def test_a_prior_that_is_not_normalised_or_stays_in_single_precision(broken):
    class Doubled(Independent):
        def log_prob(self, value):
            return super().log_prob(value) + 0.5

    class Unnormalised(Prior):
        """p(z), times a half too much."""

        def __init__(self, latent_shape):
            super().__init__()
            self.register_buffer("loc", torch.zeros(*latent_shape), persistent=False)

        def forward(self, cond=None, *, posterior=None):
            return Doubled(Normal(self.loc, torch.ones_like(self.loc)), 1)

    class Single(Prior):
        """p(z) = N(0, I) in single precision."""

        def __init__(self, latent_shape):
            super().__init__()
            self.shape = tuple(latent_shape)

        def forward(self, cond=None, *, posterior=None):
            return Independent(Normal(torch.zeros(self.shape), torch.ones(self.shape)), 1)

    broken("prior", Unnormalised, "samples_follow_log_prob", "do not follow the density")
    broken("prior", Single, "follows_the_model", "stays in single precision")


def test_a_fit_that_does_nothing(broken):
    class Lazy(FittedPrior):
        """p(z) = N(0, I), fitted or not."""

        def __init__(self, latent_shape):
            super().__init__()
            self.register_buffer("loc", torch.zeros(*latent_shape))

        def fit(self, z):
            pass

        def forward(self, cond=None, *, posterior=None):
            return Independent(Normal(self.loc, torch.ones_like(self.loc)), 1)

    broken("prior", Lazy, "fits_better_after_fit")


class Unit(Likelihood):
    """p(x|z) = N(y, 1)."""

    def __init__(self, input_shape):
        super().__init__()
        self.dims = len(input_shape)

    def forward(self, y):
        return Independent(Normal(y, torch.ones_like(y), validate_args=False), self.dims)


def test_likelihoods_that_are_wrong(broken):
    class Shifted(Unit):
        """Draws from one density, evaluates another."""

        def forward(self, y):
            p = super().forward(y)
            p.sample = lambda shape=(): y + 0.3 + torch.randn(*shape, *y.shape)
            return p

    class Stopped(Unit):
        """A gradient that is half of what it should be."""

        def forward(self, y):
            return super().forward(0.5 * y + 0.5 * y.detach())

    class Steep(Unit):
        """Overflows where y is large."""

        def forward(self, y):
            return super().forward(y.exp())

    class Summed(Unit):
        """Forgets that sample dimensions are separate."""

        def forward(self, y):
            return super().forward(y - y.mean(0, keepdim=True)) if y.ndim > 4 else super().forward(y)

    broken("likelihood", Shifted, "normalises")
    broken("likelihood", Stopped, "has_the_gradient_of_its_values")
    broken("likelihood", Steep, "survives_extreme_outputs")
    broken("likelihood", Summed, "treats_draws_alone")


def test_losses_that_are_wrong(broken):
    class Mean(Loss):
        """One number for the whole batch."""

        def forward(self, out):
            return out.x.mean()

    class Mixing(Loss):
        """A number that depends on the batch."""

        def forward(self, out):
            return (out.x - out.x.mean(0)).square().flatten(1).sum(1)

    class Adding(Loss):
        """Adds draws up in place of averaging them."""

        def forward(self, out):
            error = (out.x - out.p_x.mean).square().flatten(-(out.x.ndim - 1)).sum(-1)
            return error.flatten(0, -2).sum(0) if error.ndim > 1 else error

    class Keeping(Loss):
        """Leaves the draws as they are."""

        def forward(self, out):
            return (out.x - out.p_x.mean).square().flatten(-(out.x.ndim - 1)).sum(-1)

    broken("loss", Mean, "gives_a_number_per_example", "expected")
    broken("loss", Mixing, "gives_a_number_per_example", "two batches")
    broken("loss", Adding, "averages_over_draws", "four equal ones")
    broken("loss", Keeping, "averages_over_draws", "shapes")


def test_conditions_discriminators_and_weights_that_are_wrong(broken):
    class Flat(Condition):
        """Tokens without a token dimension."""

        dim = 4

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 4)

        def example(self, batch):
            return torch.arange(batch) % 3

        def forward(self, given, batch):
            return self.table(given)

    class OneTensor(Discriminator):
        """Logits, but no list of them."""

        def __init__(self, in_channels):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 1, 3)

        def forward(self, x):
            return self.conv(x)

        def features(self, x):
            return [self.conv(x)]

    class Exploding(Weight):
        """Grows without bound."""

        def forward(self, value):
            return torch.tensor(1e30) ** (self.step + 1)

    broken("condition", Flat, "gives_tokens")
    broken("discriminator", OneTensor, "gives_logits_and_features")
    broken("weight", Exploding, "is_a_finite_weight")


def test_goodness_of_fit_tells_right_from_wrong():
    for d in (1, 2):
        p = Independent(Normal(torch.zeros(d), torch.ones(d)), 1)
        x = p.sample((10_000,))
        for wrong in (1.1 * x, x + 0.1, x.abs()):
            assert goodness_of_fit(wrong, p.log_prob) < 1e-4
        for shift in (0.1, -0.1):
            assert goodness_of_fit(x, lambda z, p=p, shift=shift: p.log_prob(z) + shift) < 1e-4
    coin = Independent(Bernoulli(torch.tensor([0.3, 0.8])), 1)
    x = coin.sample((10_000,))
    assert goodness_of_fit(x, coin.log_prob) > 1e-3
    assert goodness_of_fit(x, Independent(Bernoulli(torch.tensor([0.33, 0.8])), 1).log_prob) < 1e-4
    with pytest.raises(ValueError, match="expected one or two dimensions, got 3"):
        goodness_of_fit(torch.randn(100, 3), coin.log_prob)


def test_goodness_of_fit_is_calibrated():
    """Of right samples, about one in ten looks worse than nine in ten do."""
    normal = Independent(Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.3, 2.0])), 1)
    counts = Independent(Geometric(torch.tensor([0.2, 0.6])), 1)  # with values too rare to be drawn at all
    for p in (normal, counts):
        chances = torch.tensor([goodness_of_fit(p.sample((10_000,)), p.log_prob) for _ in range(60)])
        assert 0.3 < chances.median() < 0.7 and (chances < 0.1).float().mean() < 0.25 and chances.min() > 1e-4


def test_every_kind_has_laws():
    assert all(len(laws(kind)) >= 2 for kind in registries())
    with pytest.raises(ValueError, match="kind: expected one of encoder, .*; got 'encodr'"):
        laws("encodr")
