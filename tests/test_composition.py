"""Free composition: random combinations over all slots build and take a training step; what can't go together says why."""

import random

import pytest
import torch

import vaekit
from tests.laws.test_laws import SMALL
from vaekit import BuildError, use
from vaekit.kinds import CriticLoss, FittedPrior

SHAPES = [(10,), (2, 12), (1, 8, 8), (3, 9, 7), (1, 6, 6, 6)]
# beside the range that a likelihood asks for, where it asks for one
RANGES = [(0.0, 1.0), (-1.0, 1.0), None]
SLOW = {
    ("encoder", "timm"),
    *(("loss", name) for name in ("perceptual", "style", "lpips", "dists")),
}  # fetch or hold large networks; the laws try them


def small(kind, name, **args):
    return use(name, **{**SMALL.get((kind, name), {}), **args})


def choices(kind, fits=lambda part: True):
    registry = vaekit.registry.registries()[kind]
    return [n for n in registry.names() if (kind, n) not in SLOW and fits(registry[n])]


def combination(seed):
    """A random choice for every slot; parts are chosen among those that say they fit."""
    pick = random.Random(seed)
    shape = pick.choice(SHAPES)
    rank = len(shape) - 1
    likelihood = pick.choice(choices("likelihood"))
    support = vaekit.likelihood[likelihood].support
    sampler = pick.choice(choices("sampler"))
    space = vaekit.sampler[sampler].space
    priors = choices("prior", lambda p: space in p.spaces and (not issubclass(p, FittedPrior) or p in LEARNED))
    terms = ["nll", *pick.sample(choices("loss"), pick.randint(0, 3))]
    return {
        "input_shape": shape,
        "data_range": support if support is not None else pick.choice(RANGES),
        "latent": pick.choice([4, 6]),
        "encoder": small("encoder", pick.choice(choices("encoder", lambda e: rank in e.ranks))),
        "decoder": small("decoder", pick.choice(choices("decoder", lambda d: rank in d.ranks))),
        "sampler": small("sampler", sampler),
        "prior": small("prior", pick.choice(priors)),
        "likelihood": small("likelihood", likelihood),
        "loss": [vaekit.term(small("loss", t)) for t in dict.fromkeys(terms)],
        "condition": pick.choice([None, None, small("condition", pick.choice(choices("condition")))]),
        "objective": pick.choice([use("weighted_sum", samples=2), "weighted_sum", use("importance_weighted", k=2)]),
    }


LEARNED = tuple(vaekit.prior[n] for n in ("flow", "categorical", "autoregressive"))


def step(args):
    vae = vaekit.build(**args)
    low, high = vae.data_range or (0.0, 3.0)
    x = low + (high - low) * torch.rand(4, *vae.input_shape)
    cond = None if vae.condition is None else vae.condition.example(4)
    players = [{"params": p} for p in vae.players().values()]
    optimizer = torch.optim.SGD(players, lr=1e-4)
    report = vae.loss(x, cond)
    assert torch.isfinite(report.total), report
    report.total.backward()
    optimizer.step()
    assert vae.eval().sample(4, cond).shape == x.shape
    assert vaekit.Spec.from_json(vae.spec.to_json()) == vae.spec
    return vae


def test_two_hundred_random_combinations_take_a_training_step():
    torch.manual_seed(0)
    built, refused, used = 0, {}, set()
    for seed in range(2000):
        args = combination(seed)
        try:
            vae = step(args)
        except BuildError as error:
            # a refusal names the slot, and says what to do
            assert str(error).startswith(("vae.", "latent", "vae:")) and len(str(error)) > 40, str(error)
            refused[str(error).split(":")[0]] = str(error)
            continue
        built += 1
        used |= {(k, s.name) for k, s in vae.spec.args.items() if hasattr(s, "name")}
        used |= {("loss", t.name) for t in vae.spec.args["loss"]}
        if built == 200:
            break
    assert built == 200, f"{built} of {seed + 1}; refused: {refused}"
    samplers = {name for kind, name in used if kind == "sampler"}
    assert len(samplers) >= 0.8 * len(choices("sampler")), set(choices("sampler")) - samplers
    assert len({name for kind, name in used if kind == "loss"}) >= 0.7 * len(choices("loss"))


@pytest.mark.parametrize(
    ("sampler", "prior", "message"),
    [
        ("power_spherical", "standard", r"'standard' covers latents that are real vectors, and those of PowerSphericalSampler are points on the unit sphere\. Fitting priors: uniform_sphere"),
        ("vq", "flow", r"'flow' covers latents that are real vectors, and those of VQSampler are codes\. Fitting priors: autoregressive, .*categorical, .*uniform"),
        ("wrapped_normal", "vamp", r"are points in the Poincaré ball\. Fitting priors: .*wrapped_normal"),
        ("gaussian", "categorical", r"'categorical' covers latents that are codes, and those of GaussianSampler are real vectors"),
        ("gamma", "standard", r"are positive numbers\. Fitting priors: gamma"),
        (use("joint", categories=2), "standard", r"are numbers and codes together\. Fitting priors: joint"),
    ],
)  # fmt: skip
def test_a_prior_over_another_space_is_refused_with_what_fits(sampler, prior, message):
    with pytest.raises(BuildError, match=rf"^vae\.prior: .*{message}"):
        vaekit.build("mlp", latent=4, input_shape=(8,), sampler=sampler, prior=prior)
    vae = vaekit.build("mlp", latent=4, input_shape=(8,), sampler=sampler, loss=["nll"])
    with pytest.raises(BuildError, match="^fit_prior: "):
        vae.fit_prior("gmm" if vae.space != "real" else "categorical", torch.rand(50, 8))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"sampler": "dirac"}, r"vae\.loss\.kl: kl needs a posterior with a density"),
        ({"loss": ["nll", "commitment"]}, r"vae\.loss\.commitment: commitment needs the distance"),
        ({"sampler": use("vq", codebook_size=4), "loss": ["nll", "code_entropy"]}, r"vae\.loss\.code_entropy: .*entropy=True"),
        ({"loss": ["nll", "cross_entropy"]}, r"vae\.loss\.cross_entropy: .*'joint'"),
        ({"loss": [vaekit.term("capacity", part="codes")]}, r"vae\.loss\.capacity: the latent has no codes of its own"),
        ({"sampler": "dirac", "loss": ["nll"], "objective": "importance_weighted"}, r"vae\.objective: importance_weighted: the bound is made of the terms nll and kl"),
        ({"sampler": "planar", "objective": use("importance_weighted", estimator="stl")}, r"vae\.objective: the estimator 'stl'"),
        ({"sampler": use("gumbel_softmax", categories=2), "objective": use("importance_weighted", estimator="score")}, r"draws that are codes.*hard=True"),
        ({"prior": "empirical"}, r"kl needs a prior with a density, and empirical can only be drawn from"),
        ({"prior": "conditional_normal"}, r"vae\.prior: .*condition"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_says_why(args, message):
    with pytest.raises(BuildError, match=message):
        vaekit.build("mlp", latent=4, input_shape=(8,), **args)


def test_a_named_sampler_brings_the_prior_of_its_space():
    for sampler, prior in (
        ("vq", "uniform"),
        ("power_spherical", "uniform_sphere"),
        ("gamma", "gamma"),
        ("gaussian", "standard"),
    ):
        assert (
            vaekit.build("mlp", latent=4, input_shape=(8,), sampler=sampler, loss=["nll"]).spec.args["prior"].name
            == prior
        )


def test_a_named_quantizer_brings_its_terms_unless_the_user_names_some():
    def terms(**args):
        vae = vaekit.build("mlp", latent=4, input_shape=(8,), **args)
        assert vaekit.build(vae.spec).spec == vae.spec
        return [(t.name, t.args["weight"]) for t in vae.spec.args["loss"]]

    assert terms(sampler="vq") == [("nll", 1.0), ("kl", 1.0), ("commitment", 0.25)]
    assert terms(sampler=use("vq", learn="gradient"))[2:] == [("commitment", 0.25), ("codebook", 1.0)]
    assert terms(sampler="lfq")[2:] == [("commitment", 0.25), ("code_entropy", 0.1)]
    assert terms(sampler="vq", loss=["nll"]) == [("nll", 1.0)]
    assert terms(sampler=use("fsq", levels=(5,))) == [("nll", 1.0), ("kl", 1.0)]
    vae = vaekit.build("vq_vae", latent=4, input_shape=(1, 8, 8), sampler=use("vq", codebook_size=8))
    assert [t.name for t in vae.spec.args["loss"]] == ["nll", "commitment"]


def test_every_loss_with_a_critic_is_a_player_of_its_own():
    for name in choices("loss", lambda part: issubclass(part, CriticLoss)):
        vae = vaekit.build("mlp", latent=4, input_shape=(1, 8, 8), loss=["nll", name])
        assert list(vae.players()) == ["vae", name]
