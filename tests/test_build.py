"""From what a user writes to a wired model: every way to fill a slot, every shape."""

import subprocess
import sys

import pytest
import torch

import vaekit
from tests.networks import FixedEncoder, PlainEncoder, WiredEncoder
from vaekit import Builder, Spec, ramp, term, use

SMALL = {"width": 8, "heads": 2}


def test_the_first_line_of_the_readme():
    vae = vaekit.build("unet_attn", latent=16)
    assert vae.input_shape == (3, 64, 64) and vae.latent_shape == (16,)
    with torch.no_grad():
        assert vae(torch.rand(1, 3, 64, 64)).y.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("recipe", ["unet_attn", "resnet", "conv"])
@pytest.mark.parametrize(
    ("input_shape", "latent"),
    [
        ((1, 28, 28), 2), ((3, 128, 128), (4, 16, 16)), ((3, 25, 37), 16), ((3, 25, 37), (4, 7, 10)), ((4, 64), 8),
        ((4, 64), (2, 16)), ((1, 16, 16, 16), 8), ((1, 16, 16, 16), (2, 4, 4, 4)), ((2, 1, 9), 3),
    ],
)  # fmt: skip
def test_any_rank_and_size_comes_back_exactly(recipe, input_shape, latent):
    vae = vaekit.build(recipe, input_shape=input_shape, latent=latent, width=8)
    x = torch.rand(2, *input_shape)
    assert vae.reconstruct(x).shape == x.shape and vae.sample(3).shape == (3, *input_shape)
    assert torch.isfinite(vae.loss(x).total)


@pytest.mark.parametrize("shape", [(7,), (2, 5), (1, 4, 4), (1, 2, 3, 4)])
def test_mlp_takes_every_rank(shape):
    assert vaekit.build("mlp", input_shape=shape, latent=2).sample(3).shape == (3, *shape)


def test_the_mlp_recipe_is_784_400_20():
    vae = vaekit.build("mlp")
    linears = [tuple(m.weight.shape) for m in vae.modules() if isinstance(m, torch.nn.Linear)]
    assert linears == [(400, 784), (40, 400), (400, 20), (784, 400)]


def parts_of(vae):
    return {slot: vae.spec.args[slot] for slot in ("encoder", "prior", "decoder", "sampler")}


def test_a_slot_takes_a_name_a_use_a_dict_or_a_class():
    same = [
        vaekit.build("vae", encoder="mlp"),
        vaekit.build("vae", encoder=use("mlp")),
        vaekit.build("vae", encoder={"name": "mlp"}),
        vaekit.build("vae", encoder={"@encoder": "mlp"}),
        vaekit.build("vae", encoder=vaekit.encoder["mlp"]),
    ]
    assert all(vae.spec == same[0].spec for vae in same)


def test_a_dict_without_a_name_changes_the_recipes_part():
    vae = vaekit.build("unet_attn", latent=4, **{k: v for k, v in SMALL.items()}, encoder={"blocks": 1})
    assert vae.spec.args["encoder"].args["blocks"] == 1 and vae.spec.args["encoder"].args["width"] == 8
    assert vae.spec.args["decoder"].args["blocks"] == 2


def test_a_dict_for_a_default_slot_changes_the_default():
    vae = vaekit.build("vae", sampler={"log_variance": (-5.0, 5.0)})
    assert (vae.sampler.low, vae.sampler.high) == (-5.0, 5.0)


@pytest.mark.parametrize("make", [PlainEncoder, FixedEncoder, lambda: WiredEncoder(1, width=3)])
def test_a_slot_takes_any_module(make):
    encoder = make()
    vae = vaekit.build("vae", latent=4, input_shape=(1, 6, 6), encoder=encoder)
    assert vae.encoder is encoder
    vae.loss(torch.rand(2, 1, 6, 6)).total.backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_class_that_nobody_registered_is_wired_by_its_argument_names():
    vae = vaekit.build("vae", latent=4, input_shape=(3, 8, 8), encoder=use("tests.networks:WiredEncoder", width=5))
    assert vae.encoder.conv.weight.shape == (5, 3, 3, 3) and vae.shapes["h"] == (5, 3, 3)


def test_any_module_serves_as_decoder_and_prior():
    class Prior(torch.nn.Module):
        def forward(self, cond=None, *, posterior=None):
            return torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(3), torch.ones(3)), 1)

    decoder = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Unflatten(1, (1, 4, 4)))
    vae = vaekit.build("vae", latent=3, input_shape=(1, 4, 4), decoder=decoder, prior=Prior())
    assert vae.sample(5).shape == (5, 1, 4, 4) and torch.isfinite(vae.loss(torch.rand(2, 1, 4, 4)).total)


def test_the_builder_gives_the_same_spec():
    fluent = (
        Builder(input_shape=(1, 12, 12), latent=4).encoder("resnet", width=8).decoder("mlp").prior("standard")
        .likelihood("bernoulli").loss("nll").loss("kl", weight=4.0, free_bits=0.1).build()
    )  # fmt: skip
    direct = vaekit.build(
        input_shape=(1, 12, 12), latent=4, encoder=use("resnet", width=8), decoder="mlp", prior="standard",
        likelihood="bernoulli", loss=[term("nll"), term("kl", weight=4.0, free_bits=0.1)],
    )  # fmt: skip
    assert fluent.spec == direct.spec


def test_the_builder_starts_from_a_recipe_too():
    assert Builder("beta_vae", beta=2.0, latent=3).prior("standard").build().spec.args["loss"][1].args["weight"] == 2.0


def test_losses_are_names_weights_or_terms():
    a = vaekit.build("vae", loss={"nll": 1.0, "kl": 4.0})
    b = vaekit.build("vae", loss=[term("nll"), term("kl", weight=4.0)])
    c = vaekit.build("vae", loss=["nll", term("kl", 4.0)])
    assert a.spec == b.spec == c.spec


def test_the_same_loss_twice_gets_two_labels():
    vae = vaekit.build("vae", loss=["nll", "kl", term("kl", 0.1, free_bits=1.0), term("mse", label="pixels")])
    assert list(vae.loss(torch.rand(2, 1, 28, 28)).terms) == ["nll", "kl", "kl_2", "pixels"]


def test_the_total_is_the_weighted_sum_of_the_terms():
    vae = vaekit.build("vae", loss={"nll": 0.5, "kl": 4.0, "mse": 2.0})
    report = vae.loss(torch.rand(8, 1, 28, 28))
    by_hand = sum(report.weights[k] * v for k, v in report.terms.items())
    torch.testing.assert_close(report.total.detach(), by_hand)
    assert report.weights == {"nll": 0.5, "kl": 4.0, "mse": 2.0}


def test_a_spec_builds_the_same_model_again():
    vae = vaekit.build("conditional_vae", latent=3, loss={"nll": 1.0, "kl": ramp(0, 1, steps=5)})
    again = vaekit.build(vae.spec)
    assert again.spec == vae.spec and str(again) == str(vae)
    assert vaekit.build(vae.spec.to_dict(), latent=5).latent_shape == (5,)


def test_the_constructor_alone_makes_a_model_from_modules():
    source = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
    parts = {k: getattr(source, k) for k in ("encoder", "sampler", "prior", "decoder", "likelihood", "objective")}
    vae = vaekit.VAE(**parts, input_shape=(1, 4, 4), latent_shape=(2,))
    assert torch.isfinite(vae.loss(torch.rand(2, 1, 4, 4)).total) and "encoder" in str(vae)
    with pytest.raises(ValueError, match="made from modules without a spec"):
        vae.save_pretrained("nowhere")


def test_the_drawing_shows_parts_arguments_shapes_and_terms():
    text = str(
        vaekit.build("conditional_vae", latent=4, encoder={"width": 16}, loss={"nll": 1.0, "kl": ramp(0, 2, steps=9)})
    )
    for shown in (
        "VAE conditional_vae", "x (b, 1, 28, 28)", "conv(width=16)", "h (b, 64, 4, 4)", "z (b, 4) ~ Normal", "cond (b, 1, 64)",
        "p(x|z) Bernoulli", "class(classes=10)", "1 nll + ramp(", "k parameters",
    ):  # fmt: skip
        assert shown in text, shown


def test_citing_gives_the_papers_of_the_parts_and_no_others():
    text = vaekit.cite(vaekit.build("beta_vae", latent=2))
    assert "@article{higgins2017" in text and "kingma2014" in text and "rombach2022" not in text
    assert text.index("higgins2017") < text.index("kingma2014"), "the recipe comes first"
    loss = ["nll", "kl", vaekit.term("adversarial", critic="patchgan")]
    text = vaekit.cite(
        vaekit.build(
            "conv", latent=(4, 8, 8), input_shape=(3, 32, 32), transforms=["bound", "channel_dropout"], loss=loss
        )
    )
    assert "rippel2014" in text and "isola2017" in text


def test_every_citation_key_is_in_the_bibliography():
    from vaekit.cite import bibliography
    from vaekit.registry import registries

    keys = {key for r in registries().values() for name in r for key in r.entry(name).cite}
    assert keys and keys <= set(bibliography())


def test_building_draws_no_random_numbers_but_for_weights():
    torch.manual_seed(0)
    a = vaekit.build("conv", latent=2, input_shape=(1, 8, 8), width=4)
    torch.manual_seed(0)
    b = vaekit.build("conv", latent=2, input_shape=(1, 8, 8), width=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_probing_leaves_no_trace_in_batch_norm():
    encoder = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    vaekit.build("vae", latent=2, input_shape=(1, 6, 6), encoder=encoder)
    assert encoder[1].num_batches_tracked == 0 and encoder.training and not encoder[1].running_mean.any()


def test_a_spec_of_a_whole_model_has_no_unknown_slots():
    with pytest.raises(vaekit.BuildError, match="a model has no 'encodr'"):
        vaekit.build(Spec("vae", "flat", {"encodr": "mlp", "encoder": "mlp", "decoder": "mlp"}))


@pytest.mark.parametrize(
    "backbone", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_timm_backbones_take_any_size_and_channel_count(backbone):
    vae = vaekit.build("conv", latent=3, input_shape=(2, 25, 37), encoder=use("timm", backbone=backbone))
    assert vae.reconstruct(torch.rand(1, 2, 25, 37)).shape == (1, 2, 25, 37)


def test_a_map_latent_picks_the_backbones_map_of_its_size():
    vae = vaekit.build("conv", latent=(3, 7, 10), input_shape=(1, 25, 37), encoder=use("timm", backbone="resnet18"))
    assert vae.shapes["h"] == (64, 7, 10)


def test_a_timm_encoder_gives_timms_own_features():
    import timm

    encoder = vaekit.encoder["timm"]((3, 64, 64), (8,), backbone="resnet18").eval()
    twin = timm.create_model("resnet18", features_only=True).eval()
    twin.load_state_dict(encoder.body.state_dict(), strict=False)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(encoder(x), twin(x)[-1])


IN_THREADS = """
import sys, threading
import vaekit

sys.setswitchinterval(1e-5)
given = [("mlp", {}), ("conv", {"width": 8}), ("beta_vae", {}), ("vq_vae", {"latent": (2, 2, 2)}), ("vamp_vae", {}),
         ("mlp", {"prior": "flow"}), ("conv", {"width": 8, "condition": vaekit.use("class", classes=3)}), ("mlp", {})]
start, made, wrong = threading.Barrier(len(given)), {}, []


def build(i):
    recipe, args = given[i]
    try:
        start.wait()
        for _ in range(3):
            made[i] = vaekit.build(recipe, **{"latent": 2, "input_shape": (1, 8, 8), **args})
    except BaseException as error:
        wrong.append(repr(error))


threads = [threading.Thread(target=build, args=(i,)) for i in range(len(given))]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong, wrong
for i, (recipe, args) in enumerate(given):
    alone = vaekit.build(recipe, **{"latent": 2, "input_shape": (1, 8, 8), **args})
    assert alone.spec == made[i].spec and repr(alone) == repr(made[i]), recipe
    assert all(not p.is_meta and p.isfinite().all() for p in made[i].parameters()), recipe
"""


def test_threads_that_build_at_once_from_the_first_import_on_get_what_one_alone_gets():
    ran = subprocess.run([sys.executable, "-c", IN_THREADS], text=True, capture_output=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
