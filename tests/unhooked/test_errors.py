"""Bad input: each message says where, what came, what was expected and what to do."""

import subprocess
import sys

import pytest
import torch

import vaekit
from vaekit import BuildError, UnknownName, term, use


def refuses(match, **args):
    with pytest.raises(BuildError, match=match):
        vaekit.build(**{"encoder": "mlp", "decoder": "mlp", "input_shape": (1, 4, 4), "latent": 2, **args})


# -- at build ------------------------------------------------------------------------------------------------------------


def test_an_unknown_recipe_or_part_gives_near_names():
    with pytest.raises(UnknownName, match=r"no recipe named 'unet_atn'\. Did you mean 'unet_attn'"):
        vaekit.build("unet_atn")
    with pytest.raises(UnknownName, match=r"^vae\.prior: no prior named 'standart'\. Did you mean 'standard'"):
        vaekit.build("vae", prior="standart")
    with pytest.raises(UnknownName, match=r"^vae\.loss\[1\]: no loss named 'kll'"):
        vaekit.build("vae", loss=["nll", "kll"])


def test_nothing_named_at_all():
    with pytest.raises(
        BuildError, match=r"vae\.encoder: is missing\. Name a recipe \(.*or give encoder=, one of .*mlp"
    ):
        vaekit.build()


def test_an_argument_of_build_that_is_none():
    with pytest.raises(TypeError, match="vaekit.build has no argument 'lattent'"):
        vaekit.build(encoder="mlp", decoder="mlp", lattent=3)


@pytest.mark.parametrize("latent", [0, -1, (), (0, 2, 2), 2.5, "8"])
def test_a_latent_that_is_no_size(latent):
    refuses(r"latent: expected a size of at least 1, or a map", latent=latent)


def test_a_latent_larger_than_the_data():
    refuses(r"latent: 17 is too large: 17 numbers for data of 16", latent=17)


def test_a_map_of_another_rank_than_the_data():
    refuses(
        r"latent: \(2, 4\) is a map with 1 spatial dimensions, and the encoder's features of data \(1, 4, 4\) have 2",
        latent=(2, 4),
    )


def test_a_map_that_halving_does_not_reach_lists_those_it_does():
    for recipe in ("conv", "resnet", "unet_attn"):
        with pytest.raises(
            BuildError, match=r"vae\.encoder: a map latent of 5×5 can't be reached from 28×28.*28×28, 14×14, 7×7"
        ):
            vaekit.build(recipe, latent=(2, 5, 5), input_shape=(1, 28, 28))


def test_a_depth_that_contradicts_the_map():
    with pytest.raises(BuildError, match=r"depth=1 contradicts latent=\(2, 7, 7\), which takes 2 halvings"):
        vaekit.build("conv", latent=(2, 7, 7), input_shape=(1, 28, 28), depth=1)


def test_a_map_of_another_size_than_the_features():
    refuses(
        r"vae\.sampler: expects a map of size \(2, 2\) from the encoder, which gives \(3, 3\)\. Set latent=\(1, 3, 3\)",
        latent=(1, 2, 2), encoder=torch.nn.Conv2d(1, 3, 2),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0, 4), (3, -1, 2), 28, (1, 4.0)])
def test_an_input_shape_that_is_none(shape):
    refuses(r"input_shape: expected positive sizes", input_shape=shape)


def test_a_rank_that_the_part_does_not_take_lists_those_that_do():
    refuses(
        r"vae\.encoder: ConvEncoder takes 1 or 2 or 3 spatial dimensions, .* has 0\. Fitting: mlp",
        encoder="conv",
        input_shape=(9,),
    )
    refuses(r"vae\.encoder: TimmEncoder takes 2 spatial", encoder="timm", input_shape=(3, 30))


def test_heads_that_do_not_divide_the_channels():
    with pytest.raises(BuildError, match=r"vae\.decoder: attention: 10 channels do not divide into heads=4"):
        vaekit.build("unet_attn", width=10)


def test_a_data_range_upside_down_or_unfit_for_the_likelihood():
    refuses(r"data_range: expected \(smallest, largest\) or None", data_range=(1.0, 0.0))
    refuses(r"vae\.likelihood: 'bernoulli' needs data in \(0\.0, 1\.0\), and data_range is \(-1\.0, 1\.0\).*'gaussian'",
            likelihood="bernoulli", data_range=(-1.0, 1.0))  # fmt: skip


def test_a_likelihood_of_no_scale():
    for scale in (0.0, -1.0, "lerned", float("nan")):
        refuses(r"vae\.likelihood: scale: expected a positive number", likelihood=use("gaussian", scale=scale))


def test_a_prior_over_another_space_than_the_sampler_draws_from():
    class OnSphere(vaekit.sampler["gaussian"]):
        space = "sphere"

    refuses(
        r"vae\.prior: 'standard' covers latents that are real vectors, and those of OnSphere are points on the unit sphere\. Fitting",
        sampler=OnSphere((400,), (2,)), prior="standard",
    )  # fmt: skip


def test_a_prior_of_another_shape_than_the_latent():
    refuses(r"vae\.prior: the event should have the shape \(2,\), and has \(3,\)", prior=vaekit.prior["standard"]((3,)))


def test_a_loss_that_does_not_fit_the_sampler_or_the_likelihood():
    refuses(r"vae\.loss\.kl: kl needs a posterior with a density, and this sampler gives a point", sampler="dirac")
    refuses(r"vae\.loss\.bce: bce needs a likelihood whose mean lies between 0 and 1", loss={"bce": 1.0})


def test_a_weight_that_is_no_number():
    for weight in ("1", float("nan"), True):
        refuses(r"vae\.loss\[0\]\.weight: expected a finite number or a schedule \(constant\(…\), cyclical\(…\)",
                loss=[term("nll", weight)])  # fmt: skip
    refuses("loss: expected a list of terms", loss=3)


def test_a_likelihood_or_a_divergence_of_negative_weight_is_refused_before_it_is_made_as_large_as_it_can():
    refuses(r"vae\.loss\[1\]\.weight: expected at least 0 for 'kl', got -0\.5", loss={"nll": 1.0, "kl": -0.5})
    refuses(r"vae\.loss\[0\]\.weight: expected at least 0 for 'nll', got -1", loss=[term("nll", -1), term("kl")])
    with pytest.raises(BuildError, match="expected at least 0 for 'kl', got -4"):
        vaekit.build("beta_vae", latent=2, input_shape=(1, 4, 4), beta=-4.0)


def test_a_dict_that_changes_nothing():
    refuses(r"vae\.condition: .* changes a part that is not there\. Add 'name'", condition={"classes": 3})
    refuses(r"vae\.encoder: expected a name, use\(…\), a dict, a class or a module; got 3", encoder=3)


def test_a_module_that_fails_or_gives_something_else():
    refuses(r"vae\.encoder: Conv2d fails on a tensor of shape \(b, 1, 4, 4\)", encoder=torch.nn.Conv2d(3, 4, 3))
    refuses(r"vae\.encoder: expected features \(b, k\) or \(b, k, \*t\), got shape \(\)", encoder=Sum())
    refuses(r"vae\.decoder: y should have the shape \(2, 1, 4, 4\), and has \(2, 3\)", decoder=torch.nn.Linear(2, 3))


class Sum(torch.nn.Module):
    def forward(self, x):
        return x.sum()


def test_a_dotted_name_that_leads_nowhere():
    refuses(r"vae\.encoder: 'no_such_package:Net' can't be imported", encoder="no_such_package:Net")
    refuses(r"vae\.encoder: 'math:pi' gives|vae\.encoder: .*", encoder="math:Net")


def test_bad_schedules():
    for weight, match in [
        (vaekit.ramp(0, 1, steps=0), "ramp steps: expected at least 1"),
        (vaekit.cyclical(0, 1, period=4, climb=0), r"cyclical climb: expected a part of the cycle in \(0, 1\]"),
        (vaekit.geco(1.0, momentum=1.0), r"geco momentum: expected a number in \[0, 1\)"),
        (vaekit.geco(1.0, start=0.0), "geco: expected 0 < low ≤ start ≤ high"),
    ]:
        refuses(rf"vae\.loss\[0\]\.weight: {match}", loss=[term("nll", weight)])


def test_bad_arguments_of_parts():
    refuses(r"vae\.encoder: hidden: expected positive widths", encoder=use("mlp", hidden=(0,)))
    refuses(r"vae\.encoder: activation: expected one of relu, .*; got 'rleu'", encoder=use("mlp", act="rleu"))
    refuses(
        r"vae\.sampler: log_variance: expected bounds low < high", sampler=use("gaussian", log_variance=(1.0, -1.0))
    )
    refuses(r"vae\.loss\[0\]: free_bits: expected nats per dimension", loss=[term("kl", free_bits=-1.0)])
    refuses(r"vae\.loss\[0\]: capacity: expected nats", loss=[term("kl", capacity=-1.0)])
    for name in ("mixture", "vamp"):
        refuses(r"vae\.prior: components: expected at least 1, got 0", prior=use(name, components=0))
    refuses(
        r"vae: the parts do not fit together: vamp mixes posteriors, and this sampler gives none",
        prior="vamp",
        sampler="dirac",
    )
    refuses(r"vae\.condition: classes: expected at least 1", condition=use("class", classes=0))
    refuses(r"vae\.condition: dropout: expected a number in", condition=use("class", classes=2, dropout=1.0))
    refuses(r"vae\.encoder: timm has no backbone 'resnet19'\. Near: ", encoder=use("timm", backbone="resnet19"))
    refuses(r"vae\.encoder: timm's 'resnet18' gives maps of .*; the latent asks for 5×5", latent=(1, 5, 5), input_shape=(1, 12, 12),
            encoder="timm")  # fmt: skip


def test_a_missing_package_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"encoder 'timm' needs timm, .* Run: pip install timm"):
        vaekit.build("conv", encoder="timm")


def test_a_missing_extra_is_named():
    from vaekit.optional import require

    with pytest.raises(ImportError, match=r'the Trainer needs no_such_module, .* Run: pip install "vaekit\[train\]"'):
        require("no_such_module", user="the Trainer", extra="train")


def test_a_broken_torchvision_is_told_from_a_missing_one(monkeypatch, tmp_path):
    (tmp_path / "broken_vision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    from vaekit.optional import require

    with pytest.raises(ImportError, match="whose import fails .*nms.*do not match.*force-reinstall torch torchvision"):
        require("broken_vision", user="encoder 'timm'")


# -- at a call -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae():
    return vaekit.build("mlp", latent=2, input_shape=(3, 4, 5), hidden=(4,))


def rejects(vae, x, match, **args):
    for call in (vae, vae.loss, vae.encode, vae.reconstruct, vae.elbo, vae.log_prob):
        with pytest.raises(ValueError, match=match):
            call(x, **args)


def test_values_outside_the_data_range(vae):
    rejects(
        vae,
        torch.rand(2, 3, 4, 5) * 255,
        r"values from .* to 2\d\d.*built for data in \[0, 1\]\. Scale x, or build with the data_range",
    )
    rejects(vae, torch.rand(2, 3, 4, 5) * 2 - 1, r"values from -0\.\d+ to 0\.\d+")


def test_data_without_a_range_may_have_any_value():
    vae = vaekit.build("vae", input_shape=(3,), latent=2, data_range=None)
    assert torch.isfinite(vae.loss(torch.randn(2, 3) * 100).total)


def test_uint8_data(vae):
    rejects(vae, torch.zeros(2, 3, 4, 5, dtype=torch.uint8), r"got torch\.uint8\. Use x\.float\(\) / 255")


def test_nan_and_infinity_name_the_examples(vae):
    x = torch.rand(4, 3, 4, 5)
    x[1, 0, 0, 0], x[3, 0, 0, 0] = float("nan"), float("inf")
    rejects(vae, x, r"NaN or infinite values, in example 1, 3 of the batch")
    unbounded = vaekit.build("vae", input_shape=(3,), latent=2, data_range=None)
    rejects(unbounded, torch.tensor([[0.0, float("inf"), 0.0]]), "in example 0")


def test_a_wrong_channel_count(vae):
    rejects(
        vae,
        torch.rand(2, 1, 4, 5),
        r"expected x of shape \(b, 3, 4, 5\), got \(2, 1, 4, 5\)\. It has 1 channels in place of 3",
    )


def test_a_missing_batch_channels_last_and_another_size(vae):
    rejects(vae, torch.rand(3, 4, 5), r"batch dimension is missing: use x\[None\]")
    rejects(vae, torch.rand(2, 4, 5, 3), r"channels come last: use x\.movedim\(-1, 1\)")
    flat = vaekit.build("mlp", latent=2, input_shape=(1, 4, 5), hidden=(4,))
    rejects(flat, torch.rand(2, 4, 5), r"channel dimension is missing: use x\[:, None\]")
    rejects(vae, torch.rand(0, 3, 4, 5), "the batch is empty")
    rejects(vae, torch.rand(2, 3, 8, 8), r"Resize the data, or build with input_shape=\(3, 8, 8\)")


def test_what_is_no_tensor(vae):
    rejects(vae, [[0.5]], r"expected a tensor, got list\. Give the data alone")
    rejects(vae, torch.rand(2, 3, 4, 5).numpy(), r"got ndarray\. Use torch\.as_tensor\(x\)")


def test_another_device_than_the_models(vae):
    rejects(vae, torch.rand(2, 3, 4, 5, device="meta"), r"x is on meta and the model on cpu\. Use x\.to\('cpu'\)")


def test_a_condition_where_there_is_none_and_none_where_there_is_one(vae):
    rejects(vae, torch.rand(2, 3, 4, 5), "cond was given, but the model has no condition", cond=torch.tensor([0, 1]))
    conditional = vaekit.build("conditional_vae", latent=2, input_shape=(3, 4, 5), classes=3)
    x = torch.rand(2, 3, 4, 5)
    rejects(conditional, x, r"labels are missing\. Give cond=, 2 integers in \[0, 3\)")
    rejects(conditional, x, r"labels from 1 to 3 are outside \[0, 3\)\. Set classes=4", cond=torch.tensor([1, 3]))
    rejects(conditional, x, "labels from -1 to 1 are outside", cond=torch.tensor([-1, 1]))
    rejects(conditional, x, r"expected a tensor of 2 integer labels, got \(3,\)", cond=torch.tensor([0, 1, 2]))
    rejects(conditional, x, r"expected a tensor of 2 integer labels, got \(2,\) of torch\.float32", cond=torch.rand(2))
    with pytest.raises(ValueError, match=r"labels are missing\. Give cond=, 4 integers"):
        conditional.sample(4)


def test_a_point_has_no_bound():
    vae = vaekit.build("ae", latent=2, input_shape=(1, 4, 4))
    with pytest.raises(ValueError, match=r"log q\(z\|x\) does not exist.*'gaussian'"):
        vae.elbo(torch.rand(2, 1, 4, 4))


def test_bad_arguments_of_the_helpers(vae):
    x = torch.rand(2, 3, 4, 5)
    for call in (
        lambda: vae.sample(0), lambda: vae.encode(x, n=0), lambda: vae.elbo(x, n=0), lambda: vae.log_prob(x, n=0),
        lambda: vae.log_prob(x, n=2, chunk=0), lambda: vae.interpolate(x, x, steps=0), lambda: vae.traverse(x, steps=0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected a whole number of at least 1, got 0"):
            call()
    with pytest.raises(ValueError, match=r"traverse: dims \[2\] are not all in \[0, 2\)"):
        vae.traverse(x, dims=[2])
    with pytest.raises(ValueError, match=r"expected z of shape \(…, b, 2\), got \(4, 3\)"):
        vae.decode(torch.randn(4, 3))
    with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
        vae.sample(2, temperature=0.0)
    with pytest.raises(ValueError, match="path: expected 'linear' or 'slerp'"):
        vae.interpolate(x, x, path="straight")  # type: ignore[arg-type]


def test_a_level_from_a_sampler_alone_has_no_prior():
    level = vaekit.sampler["gaussian"]((3,), (2,))(torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"log p\(z\) is not known"):
        level.log_prior()


def test_import_needs_none_of_the_optional_packages():
    code = (
        "import sys\nfor name in ('timm', 'lpips', 'torchvision', 'accelerate', 'matplotlib'): sys.modules[name] = None\n"
        "import torch, vaekit\nvaekit.build('vae', latent=2).loss(torch.rand(2, 1, 28, 28))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- variants ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (use("vq", codebook_size=1), r"vae\.sampler: codebook_size: expected at least 2 codes to choose from, got 1"),
        (use("gumbel_vq", codebook_size=1), r"vae\.sampler: codebook_size: expected at least 2 codes"),
        (use("fsq", levels=(1,)), r"vae\.sampler: levels?.*got"),
        (use("fsq", levels=(8, 5, 5)), r"vae\.sampler: levels: .*divides the latent's 4 channels"),
        (use("gumbel_softmax", categories=3), r"vae\.sampler: categories: 4 latent channels can't be one-hot vectors of 3"),
        (use("gumbel_softmax", categories=1), r"vae\.sampler: categories: expected at least 2, got 1"),
        (use("vq", learn="emma"), r"vae\.sampler: learn: expected 'ema' or 'gradient', got 'emma'"),
        (use("vq", init="zero"), r"vae\.sampler: init: expected 'normal' or 'data', got 'zero'"),
        (use("lfq", diversity="all"), r"vae\.sampler: diversity: expected 'bits' or 'exact', got 'all'"),
        (use("joint", categories=4), r"vae\.sampler: joint: latent=4 has no room"),
        (use("flow", flow="nice", transforms=0), r"vae\.sampler: transforms: expected at least 1, got 0"),
        (use("flow", flow="mafia"), r"vae\.sampler: flow: expected one of maf, .*got 'mafia'"),
        (use("gumbel_softmax", categories=2, temperature=0.0), r"vae\.sampler: temperature: expected positive"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_sampler_with_impossible_arguments(sampler, message):
    refuses(message, latent=4, sampler=sampler, loss=["nll"])


def test_a_sphere_of_one_dimension_and_a_map_where_a_vector_is_needed():
    refuses(r"vae\.sampler: .*latent.*2", latent=1, sampler="power_spherical")
    with pytest.raises(BuildError, match=r"vae\.sampler: .*vector"):
        vaekit.build("conv", latent=(2, 4, 4), input_shape=(1, 8, 8), sampler="von_mises_fisher")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"k": 0}, r"k: expected at least 1, got 0"),
        ({"m": 0}, r"m: expected at least 1, got 0"),
        ({"elbo": 1.5}, r"elbo: expected a part in \[0, 1\], got 1\.5"),
        ({"estimator": "reinforce"}, r"estimator: expected 'pathwise', 'stl', 'dreg' or 'score', got 'reinforce'"),
        ({"k": 1, "estimator": "score"}, r"estimator: 'score' needs baselines from other draws"),
        ({"partial": True, "estimator": "dreg"}, r"estimator: 'dreg' goes neither with elbo nor with partial"),
    ],
    ids=repr,
)
def test_an_importance_weighted_objective_that_makes_no_sense(args, message):
    refuses(rf"vae\.objective: {message}", objective=use("importance_weighted", **args))


def test_a_bound_without_its_terms_or_with_changed_ones():
    refuses(
        r"vae\.objective: .*made of the terms nll and kl, once each; got \['mse', 'kl'\]",
        loss=["mse", "kl"],
        objective="importance_weighted",
    )
    refuses(r"vae\.objective: .*plain KL", loss=["nll", term("kl", free_bits=0.1)], objective="importance_weighted")


def test_info_vae_with_weights_that_would_drive_latents_from_the_prior():
    # pythae's defaults, alpha=0 and lambda=1e-3, give the discrepancy a weight of -0.999
    with pytest.raises(BuildError, match=r"recipe 'info_vae': .*the weight of the discrepancy would be -0\.999"):
        vaekit.build("info_vae", scale=1e-3)


@pytest.mark.parametrize("loss", [n for n in vaekit.loss.names() if vaekit.loss[n].smallest_batch > 1])
def test_a_batch_of_one_is_refused_by_losses_that_need_more(loss):
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), loss=["nll", loss])
    with pytest.raises(ValueError, match="batch of at least 2"):
        vae.loss(torch.rand(1, 6))


@pytest.mark.parametrize("prior", ["gmm", "full_gaussian", "kde", "empirical"])
def test_a_prior_that_is_not_fitted_yet(prior):
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), prior=prior, loss=["nll"])
    with pytest.raises(ValueError, match=rf"{prior} is not fitted yet: call vae\.fit_prior\('{prior}', data\)"):
        vae.sample(3)
    vae.fit_prior(prior, torch.rand(50, 6), **({"components": 2} if prior == "gmm" else {}))
    assert vae.sample(3).shape == (3, 6)


def test_a_prior_fitted_to_nothing_to_too_little_or_to_nan():
    vae = vaekit.build("mlp", latent=2, input_shape=(6,))
    with pytest.raises(ValueError, match="fit_prior: data is empty"):
        vae.fit_prior("gmm", torch.rand(0, 6))
    with pytest.raises(ValueError, match="full_gaussian: expected at least 2 latents to fit to, got 1"):
        vae.fit_prior("full_gaussian", torch.rand(1, 6))
    with pytest.raises(ValueError, match="gmm: expected at least 10 latents to fit to, got 5"):
        vae.fit_prior("gmm", torch.rand(5, 6), components=10)
    with torch.no_grad():
        vae.sampler.head.project[1].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the latents hold NaN"):
        vae.fit_prior("gmm", torch.rand(50, 6))
    assert vae.spec.args["prior"].name == "standard", "a refused fit changes nothing"


def test_sampling_a_conditional_prior_without_a_condition():
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), prior="conditional_normal", condition=use("class", classes=3))
    with pytest.raises(ValueError, match="labels are missing"):
        vae.sample(3)
    assert vae.sample(3, torch.tensor([0, 1, 2])).shape == (3, 6)
    refuses(r"vae\.prior: .*condition", prior="conditional_normal")


def test_large_concentrations_and_variances_stay_finite():
    for name in ("von_mises_fisher", "power_spherical"):
        sampler = vaekit.sampler[name]((8,), (512,))
        level = sampler(torch.full((2, 8), 1e6), (3,))
        assert torch.isfinite(level.z).all() and torch.isfinite(level.log_posterior()).all()
    vae = vaekit.build("mlp", latent=4, input_shape=(6,))
    with torch.no_grad():
        vae.sampler.head.project[1].bias.fill_(1e5)  # log σ² far beyond what exp can give
    assert torch.isfinite(vae.encode(torch.rand(2, 6)).q.variance).all()


def test_labels_outside_the_classes_of_a_target():
    vae = vaekit.build("semi_supervised_vae", latent=2, input_shape=(12,), classes=3)
    with pytest.raises(ValueError, match=r"labels from -2 to 3 are outside \[-1, 3\); -1 means none"):
        vae.loss(torch.rand(3, 12), torch.tensor([-2, 0, 3]))


def test_two_data_sets_to_interpolate_between_have_one_shape():
    vae = vaekit.build("mlp", latent=2, input_shape=(6,))
    with pytest.raises(ValueError, match=r"interpolate: expected a and b of one shape, got \(2, 6\) and \(3, 6\)"):
        vae.interpolate(torch.rand(2, 6), torch.rand(3, 6))
    with pytest.raises(ValueError, match=r"traverse: dims should be a sequence, such as \[1\], got 1"):
        vae.traverse(torch.rand(2, 6), dims=1)


def test_a_network_that_does_not_fit_the_codes():
    refuses(
        r"vae\.prior: network: 'pixelcnn' needs a plane of codes", latent=4, loss=["nll"],
        sampler=use("gumbel_softmax", categories=2), prior=use("autoregressive", network="pixelcnn"),
    )  # fmt: skip
    refuses(
        r"vae\.prior: bernoulli: is a prior over bits, and the codes have 8 values", latent=4, loss=["nll"],
        sampler=use("vq", codebook_size=8), prior="bernoulli",
    )  # fmt: skip


def test_counts_below_zero():
    refuses(
        r"vae\.likelihood: 'poisson' needs data of at least 0, and data_range is \(-1\.0, 1\.0\)",
        likelihood="poisson",
        data_range=(-1, 1),
    )
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), likelihood="poisson")
    vae = vaekit.build(vae.spec, data_range=None)
    with pytest.raises(ValueError, match=r"x has values down to -1, and PoissonLikelihood is for data of at least 0"):
        vae.loss(torch.full((2, 6), -1.0))
