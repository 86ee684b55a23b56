"""Parts that look through a frozen timm network: its features are timm's own, and it stays out of the model."""

import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants

import vaekit
from vaekit.layers import timm_weights
from vaekit.layers.frozen import frozen
from vaekit.layers.spectral import spectral
from vaekit.layers.timm_backbone import Backbone, to_three
from vaekit.records import Level, Output
from vaekit.testing import Subject, check, laws

VIT = {"backbone": "test_vit", "weights": "random"}
RESNET = {"backbone": "test_resnet", "weights": "random"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of three timm networks that are not those of "random", as timm saves them, classifier and all."""
    from safetensors.torch import save_file

    folder, found = tmp_path_factory.mktemp("weights"), {}
    for name in ("test_vit", "test_resnet", "test_convnext"):
        torch.manual_seed(1)
        network = timm.create_model(name)
        with torch.no_grad():
            for p in network.parameters():
                p += 0.05 * torch.randn_like(p)
        found[name] = str(folder / f"{name}.safetensors")
        save_file(network.state_dict(), found[name])
    return found


def reference(name, file, **options):
    """timm's own network with the weights of a file."""
    network = timm.create_model(name, **options)
    timm.models.load_checkpoint(network, file, strict="features_only" not in options)
    return network.eval().requires_grad_(False)


def image(*shape, low=0.0, high=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator) * (high - low) + low


def normalised(x, name):
    config = timm.get_pretrained_cfg(name)
    return (x - torch.tensor(config.mean).reshape(1, 3, 1, 1)) / torch.tensor(config.std).reshape(1, 3, 1, 1)


def output(x, made=None, z=None):
    """What a model would give for x, with the reconstruction `made` and the latent z."""
    p = torch.distributions.Independent(torch.distributions.Normal(x if made is None else made, 1.0), 3)
    return Output(x, p.mean, p, (Level(torch.zeros(len(x), 1) if z is None else z),))


# -- the features are timm's -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_maps_are_those_of_timms_forward_intermediates(files, name):
    x = image(2, 3, 64, 96, low=-1)
    backbone = Backbone(name, files[name], in_shape=(3, 64, 96), data_range=(-1.0, 1.0), layers=(1, -1))
    options = {"dynamic_img_size": True} if name == "test_vit" else {}
    theirs = reference(name, files[name], **options)
    wanted = theirs.forward_intermediates(
        normalised((x + 1) / 2, name), indices=backbone.layers, intermediates_only=True
    )
    found = backbone(x)
    assert len(found) == 2
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert [tuple(f.shape[1:]) for f in found] == backbone.shapes((64, 96))


def test_maps_are_those_of_timms_features_only():
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", features_only=True).eval()
    ours = Backbone("test_resnet", "random", in_shape=(3, 64, 64), data_range=(0.0, 1.0))
    x = image(2, 3, 64, 64, seed=3)
    weights = {k: v for k, v in ours._network.at(x).model.state_dict().items() if k in theirs.state_dict()}
    theirs.load_state_dict(weights)
    for a, b in zip(ours(x), theirs(normalised(x, "test_resnet")), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_images_are_continued_to_the_stride_or_brought_to_a_size():
    x = image(2, 3, 33, 50)
    backbone = Backbone("test_vit", "random", in_shape=(3, 33, 50), data_range=(0.0, 1.0), layers=(0,))
    continued = F.pad(x, (0, 14, 0, 15), mode="replicate")
    torch.testing.assert_close(backbone(x), backbone(continued))
    resized = F.interpolate(x, (32, 48), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(backbone(x, (32, 48)), backbone(resized))
    assert backbone.shapes((33, 50)) == [(64, 3, 4)] and backbone.shapes((33, 50), (32, 48)) == [(64, 2, 3)]


def test_a_network_of_one_size_gets_that_size_and_refuses_others():
    backbone = Backbone("mixer_s32_224", "random", in_shape=(3, 20, 20), data_range=(0.0, 1.0), layers=(0,))
    assert backbone.one_size and backbone.shapes((20, 20)) == [(512, 7, 7)]
    with pytest.raises(ValueError, match=r"takes images of \(224, 224\) only.*vit"):
        backbone.shapes((20, 20), (64, 64))


@pytest.mark.parametrize("c", [1, 2, 3, 4, 7])
def test_any_channels_become_three(c):
    x = image(2, c, 3, 4)
    wanted = [x[:, [j for j in range(max(c, 3)) if j % 3 == i and j < c] or [i % c]].mean(1) for i in range(3)]
    torch.testing.assert_close(to_three(x), torch.stack(wanted, 1))
    backbone = Backbone("test_resnet", "random", in_shape=(c, 32, 32), data_range=(0.0, 1.0), layers=(0,))
    torch.testing.assert_close(backbone(image(1, c, 32, 32)), backbone(to_three(image(1, c, 32, 32))))


def test_the_class_token_is_read_out_to_each_place():
    x = image(2, 3, 32, 32)
    made = Backbone("test_vit", "random", in_shape=(3, 32, 32), data_range=(0.0, 1.0), layers=(2, 5), readout=True)
    found = made(x)
    wanted = made._network.at(x).model.forward_intermediates(
        normalised(x, "test_vit"), indices=[2, 5], return_prefix_tokens=True, intermediates_only=True
    )
    for a, (maps, prefix) in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, maps + prefix[:, 0][:, :, None, None], rtol=1e-4, atol=1e-5)


def test_layers_default_to_all_scales_or_the_quarters_of_a_transformer():
    def chosen(name):
        return Backbone(name, "random", in_shape=(3, 32, 32), data_range=(0.0, 1.0)).layers

    assert chosen("vit_small_patch8_224.dino") == (2, 5, 8, 11)
    assert chosen("test_resnet") == (0, 1, 2, 3, 4) and chosen("vgg16") == (0, 1, 2, 3, 4, 5)


# -- its weights -------------------------------------------------------------------------------------------------------


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    x = image(1, 3, 32, 32)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(Backbone("test_vit", "random", in_shape=(3, 32, 32), data_range=(0.0, 1.0))(x))
        assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert found[0][0].std() > 0.01


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_torch_checkpoint_loads_with_the_prefixes_of_trainers(tmp_path, files, wrapped):
    state = timm.models.load_state_dict(files["test_vit"])
    given = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3} if wrapped else state
    torch.save(given, tmp_path / "last.pt")
    x = image(1, 3, 32, 32)
    made = [
        Backbone("test_vit", str(file), in_shape=(3, 32, 32), data_range=(0.0, 1.0))(x)
        for file in (tmp_path / "last.pt", files["test_vit"])
    ]
    torch.testing.assert_close(*made, rtol=0, atol=0)


def _without(state):
    del state["blocks.1.attn.qkv.weight"]


def _with_more(state):
    state["blocks.9.attn.qkv.weight"] = torch.zeros(2)


def _with_another_shape(state):
    state["norm.weight"] = torch.ones(3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without, r"1 missing \(blocks\.1\.attn\.qkv\.weight\)"),
        (_with_more, r"1 not in the network \(blocks\.9\.attn\.qkv\.weight\)"),
        (_with_another_shape, r"1 of another shape \(norm\.weight: \(3,\) in place of \(64,\)\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_a_report(tmp_path, files, change, told):
    state = timm.models.load_state_dict(files["test_vit"])
    change(state)
    torch.save(state, tmp_path / "x.pt")
    backbone = Backbone("test_vit", str(tmp_path / "x.pt"), in_shape=(3, 32, 32), data_range=(0.0, 1.0))
    with pytest.raises(ValueError, match=f"x.pt does not fit timm's 'test_vit': {told}. Nothing was loaded"):
        backbone(image(1, 3, 32, 32))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_text("hello")
    backbone = Backbone("test_vit", str(tmp_path / "x.safetensors"), in_shape=(3, 32, 32), data_range=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"x\.safetensors can't be read"):
        backbone(image(1, 3, 32, 32))


OFFLINE = """
import time, timm, huggingface_hub, torch
from vaekit.layers.timm_backbone import Backbone
backbone = Backbone("vit_small_patch8_224.dino", in_shape=(3, 32, 32), data_range=(0.0, 1.0))
begin = time.perf_counter()
try:
    backbone(torch.rand(1, 3, 32, 32))
except FileNotFoundError as error:
    print(time.perf_counter() - begin, error)
"""


def test_offline_it_fails_within_two_seconds_and_names_the_file(tmp_path):
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", OFFLINE], env=env, capture_output=True, text=True, check=True)
    seconds, told = run.stdout.split(" ", 1)
    assert float(seconds) < 2 and "HF_HUB_OFFLINE is set" in told
    assert "Get model.safetensors from https://huggingface.co/timm/vit_small_patch8_224.dino" in told
    assert f"into {tmp_path / 'hub'}" in told and "weights='random'" in told


def test_a_host_that_never_answers_is_given_up_within_two_seconds(tmp_path, monkeypatch):
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    backbone = Backbone("test_vit", in_shape=(3, 32, 32), data_range=(0.0, 1.0))
    with socket.socket() as silent:  # it takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.perf_counter()
        with pytest.raises(FileNotFoundError, match=r"(does not answer|timed out).*Get model\.safetensors from https"):
            backbone(image(1, 3, 32, 32))
    assert time.perf_counter() - begin < 2


def cached(folder, monkeypatch, name, file):
    """A hub's cache that holds a network's weights, and a network connection that is not asked."""
    repository = folder / f"models--timm--{name}.r160_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    shutil.copy(file, repository / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))

    def asked():
        raise AssertionError("the network was asked")

    monkeypatch.setattr(timm_weights, "unanswered_by_hub", asked)


def test_a_copy_in_the_cache_is_taken_without_asking_the_network(tmp_path, monkeypatch, files):
    cached(tmp_path, monkeypatch, "test_vit", files["test_vit"])
    x = image(1, 3, 32, 32)
    made = [
        Backbone("test_vit", weights, in_shape=(3, 32, 32), data_range=(0.0, 1.0))(x)
        for weights in ("pretrained", files["test_vit"])
    ]
    torch.testing.assert_close(*made, rtol=0, atol=0)


@pytest.mark.parametrize("latent", [(8,), (8, 4, 4)])
def test_a_pretrained_timm_encoder_takes_the_copy_in_the_cache(tmp_path, monkeypatch, files, latent):
    cached(tmp_path, monkeypatch, "test_resnet", files["test_resnet"])
    encoder = vaekit.encoder["timm"]((1, 32, 32), latent, backbone="test_resnet", pretrained=True)
    own, theirs = encoder.body.state_dict(), timm.create_model("test_resnet", checkpoint_path=files["test_resnet"])
    apart = [key for key, value in own.items() if not torch.equal(value, theirs.state_dict()[key])]
    assert apart == ["conv1.0.weight"], "colours are summed to one channel"


def test_a_pretrained_timm_encoder_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm_weights, "unanswered_by_hub", lambda: "no network")
    with pytest.raises(FileNotFoundError) as caught:
        vaekit.encoder["timm"]((3, 32, 32), (8,), backbone="test_resnet", pretrained=True)
    told = str(caught.value)
    assert "Get model.safetensors from https://huggingface.co/timm/test_resnet" in told and str(tmp_path) in told
    assert "had by pretrained=False" in told and "weights='" not in told


def test_what_can_not_be_is_refused_when_it_is_made():
    def make(name="test_vit", **args):
        return Backbone(name, "random", **{"in_shape": (3, 32, 32), "data_range": (0.0, 1.0), **args})

    for match, wrong in (
        (r"timm has no 'resnett18'.*Near: .*resnet", {"name": "resnett18"}),
        (r"can't make 'test_vit.nothing'", {"name": "test_vit.nothing"}),
        (r"expected images \(c, h, w\), got data of shape \(6,\)", {"in_shape": (6,)}),
        (r"expected a data_range", {"data_range": None}),
        (r"has the layers 0 to 5: expected some of them, got \[6\]", {"layers": [6]}),
        (r"got \[1, -5\]", {"layers": [1, -5]}),
    ):
        with pytest.raises(ValueError, match=match):
            make(**wrong)


# -- it stays out of the model -----------------------------------------------------------------------------------------


def parts():
    """Each part in a model, and how to find its backbone."""
    small = {"latent": (4, 2, 2), "input_shape": (3, 8, 8), "width": 8}
    align, features = vaekit.term("vf_align", **VIT), vaekit.term("timm_features", layers=(0, 1), **RESNET)
    dino = vaekit.term("feature_matching", critic=vaekit.use("dino", layers=(2, 5), **VIT))
    projected = vaekit.term("feature_matching", critic=vaekit.use("projected", width=8, **RESNET))
    frozen_vision = vaekit.use("frozen_vision", **VIT)
    yield "vf_align", vaekit.build("resnet", loss=["nll", "kl", align], **small)
    yield "timm_features", vaekit.build("resnet", loss=["nll", "kl", features], **small)
    yield "dino", vaekit.build("resnet", loss=["nll", "kl", dino], **small)
    yield "projected", vaekit.build("resnet", loss=["nll", "kl", projected], **small)
    small.pop("width")
    yield "frozen_vision", vaekit.build(encoder=frozen_vision, decoder=vaekit.use("resnet", width=8), **small)


def test_the_network_is_no_part_of_the_model_and_learns_nothing():
    for name, vae in parts():
        held = {id(p) for p in vae.parameters()}
        vae.train().loss(image(2, 3, 8, 8)).total.backward()
        backbones = [b for m in vae.modules() for b in vars(m).values() if isinstance(b, Backbone)]
        assert backbones, name
        for backbone in backbones:
            network = backbone._network._made
            assert network is not None and not any(m.training for m in network.modules()), name
            assert all(p.grad is None and not p.requires_grad and id(p) not in held for p in network.parameters())
            state = {v.data_ptr() for v in vae.state_dict().values()}
            assert not state & {v.data_ptr() for v in network.state_dict().values()}, name
        trained = [p for p in vae.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.any() for p in trained), name


def test_the_gradient_reaches_the_image():
    for backbone in ("test_vit", "test_resnet"):
        x = image(2, 1, 20, 20).requires_grad_()
        features = Backbone(backbone, "random", in_shape=(1, 20, 20), data_range=(0.0, 1.0))
        sum(f.square().mean() for f in features(x)).backward()
        assert x.grad.abs().sum() > 0 and torch.isfinite(x.grad).all()


def test_a_network_that_was_first_used_in_inference_mode_still_gives_gradients():
    features = Backbone("test_resnet", "random", in_shape=(3, 32, 32), data_range=(0.0, 1.0), layers=(0,))
    with torch.inference_mode():
        features(image(1, 3, 32, 32))
    x = image(1, 3, 32, 32).requires_grad_()
    features(x)[0].sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize("how", ["half", "autocast"])
def test_it_computes_in_single_precision_where_the_model_does_not(how):
    features = Backbone("test_vit", "random", in_shape=(3, 32, 32), data_range=(0.0, 1.0))
    x = image(2, 3, 32, 32).bfloat16()
    wanted = features(x.float())
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = features(x.float() if how == "autocast" else x)
    assert all(f.dtype == torch.float32 for f in found)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert features(x.double())[0].dtype == torch.float64


def test_a_saved_model_loads_where_the_weights_are_gone_and_says_so_on_first_use(tmp_path, files):
    file = tmp_path / "vit.safetensors"
    shutil.copy(files["test_vit"], file)
    args = {"backbone": "test_vit", "weights": str(file)}
    loss = ["nll", "kl", vaekit.term("vf_align", **args)]
    encoder, decoder = vaekit.use("frozen_vision", **args), vaekit.use("resnet", width=8)
    vae = vaekit.build(encoder=encoder, decoder=decoder, latent=(4, 2, 2), input_shape=(3, 8, 8), loss=loss).eval()
    x = image(2, 3, 8, 8)
    wanted = vae.reconstruct(x)
    vae.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(vaekit.load(tmp_path / "model").eval().reconstruct(x), wanted, rtol=0, atol=0)
    file.unlink()
    loaded = vaekit.load(tmp_path / "model")
    assert loaded.sample(2).shape == (2, 3, 8, 8)  # the decoder needs no vision model
    with pytest.raises(FileNotFoundError, match=r"there is no file .*vit\.safetensors\. Put the weights"):
        loaded.reconstruct(x)


# -- timm_features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_timm_features_is_the_mean_distance_of_timms_maps(distance):
    x, made = image(3, 3, 32, 32), image(2, 3, 3, 32, 32, seed=1)
    loss = vaekit.loss["timm_features"]((3, 32, 32), layers=(0, 2), distance=distance, **RESNET)
    found = loss(output(x, made))
    network = loss.features._network.at(x).model

    def maps(x):
        inside = normalised(x, "test_resnet")
        return [f.numpy() for f in network.forward_intermediates(inside, indices=[0, 2], intermediates_only=True)]

    wanted = np.zeros(3)
    for draw in made:
        for f, g in zip(maps(draw), maps(x), strict=True):
            if distance == "cosine":
                lengths = np.linalg.norm(f, axis=1) * np.linalg.norm(g, axis=1)
                wanted += (1 - (f * g).sum(1) / np.maximum(lengths, 1e-12)).mean((1, 2)) / 2
            else:
                wanted += (abs(f - g) if distance == "l1" else (f - g) ** 2).mean((1, 2, 3)) / 2
    # places where all features are zero have no direction; torch calls them orthogonal
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-3, atol=1e-5)
    assert (found > 0).all()


def test_timm_features_is_zero_for_a_perfect_reconstruction():
    x = image(2, 3, 32, 32)
    for distance in ("l1", "l2", "cosine"):
        loss = vaekit.loss["timm_features"]((3, 32, 32), layers=(2, 5), distance=distance, **VIT)
        torch.testing.assert_close(loss(output(x)), torch.zeros(2), rtol=0, atol=1e-5)


# -- vf_align ----------------------------------------------------------------------------------------------------------


def aligned(z, f, w, project, m1, m2):
    """VA-VAE's two marginal similarities in numpy, from latents, features and the projection."""
    z, f = z.reshape(*z.shape[:2], -1), f.reshape(*f.shape[:2], -1)  # (b, k, i)
    up = np.einsum("kc,bci->bki", w, z)

    def unit(u):
        return u / np.linalg.norm(u, axis=1, keepdims=True)

    u = unit(up if project else z)
    near = np.maximum(1 - m1 - (unit(up) * unit(f)).sum(1), 0).mean(1)
    grams = np.einsum("bki,bkj->bij", u, u) - np.einsum("bki,bkj->bij", unit(f), unit(f))
    return near, np.maximum(abs(grams) - m2, 0).mean((1, 2))


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("margins", [(0.0, 0.0), (0.5, 0.25)])
def test_vf_align_is_the_two_marginal_similarities_of_va_vae(project, margins):
    loss = vaekit.loss["vf_align"](
        (3, 24, 24),
        (5, 3, 3),
        cosine_margin=margins[0],
        distance_margin=margins[1],
        cosine_weight=2.0,
        distance_weight=3.0,
        project_distances=project,
        **VIT,
    )
    x, z = image(4, 3, 24, 24), torch.randn(2, 4, 5, 3, 3)
    with torch.no_grad():
        found = loss(output(x, z=z))
    seen = F.interpolate(x, (48, 48), mode="bilinear", antialias=True, align_corners=False)
    model = loss.features._network.at(x).model
    tokens = model.forward_features(normalised(seen, "test_vit"))[:, model.num_prefix_tokens :]
    f = tokens.transpose(1, 2).unflatten(2, (3, 3)).numpy()
    w = loss.project.weight.detach().numpy()[:, :, 0, 0]
    both = [aligned(draw.numpy(), f, w, project, *margins) for draw in z]
    wanted = np.mean([2 * near + 3 * alike for near, alike in both], 0)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_vf_align_is_zero_where_latents_are_the_features():
    x = image(2, 3, 32, 32)
    for margins in ({}, {"cosine_margin": 0.0, "distance_margin": 0.0}):
        loss = vaekit.loss["vf_align"]((3, 32, 32), (64, 3, 3), **margins, **VIT)
        with torch.no_grad():
            loss.project.weight.copy_(torch.eye(64)[:, :, None, None])
            (f,) = loss.features(x, (48, 48))
            torch.testing.assert_close(loss(output(x, z=3 * f)), torch.zeros(2), rtol=0, atol=1e-5)
            assert (loss(output(x, z=-f)) > 0.4).all()


def test_the_projection_of_vf_align_learns_with_the_model_and_moves_the_encoder():
    vae = next(vae for name, vae in parts() if name == "vf_align")
    loss = vae.objective.terms["vf_align"]
    assert any(p is loss.project.weight for p in vae.players()["vae"])
    out = vae(image(2, 3, 8, 8))
    loss(out).sum().backward()
    assert loss.project.weight.grad.any()
    assert all(p.grad is None for p in vae.decoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in vae.encoder.parameters())


def test_vf_align_takes_latents_of_another_size():
    loss = vaekit.loss["vf_align"]((3, 32, 32), (5, 4, 4), **VIT)
    assert loss(output(image(2, 3, 48, 32), z=torch.randn(2, 5, 6, 4))).shape == (2,)


def test_vf_align_refuses_vectors_and_negative_margins():
    with pytest.raises(ValueError, match=r"expected a map latent \(c, h, w\), got \(8,\)"):
        vaekit.loss["vf_align"]((3, 32, 32), (8,), **VIT)
    with pytest.raises(ValueError, match="distance_margin: expected at least 0, got -1"):
        vaekit.loss["vf_align"]((3, 32, 32), (8, 2, 2), distance_margin=-1.0, **VIT)


# -- discriminators ----------------------------------------------------------------------------------------------------


def test_spectral_layers_have_norm_one():
    torch.manual_seed(0)
    for layer in (spectral(torch.nn.Conv1d(32, 16, 5)), spectral(torch.nn.Conv2d(8, 32, 3))):
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        torch.testing.assert_close(largest, torch.tensor(1.0), rtol=1e-3, atol=1e-3)


def test_dino_heads_are_convolutions_along_a_ring_of_tokens():
    critic = vaekit.discriminator["dino"]((3, 32, 32), layers=(1, 4), spectral_norm=False, kernel=3, size=64, **VIT)
    x = image(2, 3, 32, 32)
    read = Backbone("test_vit", "random", in_shape=(3, 32, 32), data_range=(0.0, 1.0), layers=(1, 4), readout=True)
    with torch.no_grad():
        found = critic(x)
        for head, out, f, logits in zip(critic.heads, critic.out, read(x, (64, 64)), found, strict=True):

            def act(layer, norm, h):
                ring = torch.cat([h[..., -(layer.kernel_size[0] // 2) :], h, h[..., : layer.kernel_size[0] // 2]], -1)
                ring = h if layer.kernel_size == (1,) else ring
                h = F.conv1d(ring, layer.weight, layer.bias)
                h = F.group_norm(h, norm.num_groups, norm.weight, norm.bias, 1e-6)
                return torch.where(h > 0, h, 0.2 * h)

            h = act(head.first, head.norms[0], f.flatten(2))
            h = (h + act(head.second, head.norms[1], h)) / 2**0.5
            torch.testing.assert_close(logits, F.conv1d(h, out.weight, out.bias)[:, 0], rtol=1e-4, atol=1e-5)
            assert logits.shape == (2, 16)


def test_a_virtual_batch_normalises_its_examples_together():
    critic = vaekit.discriminator["dino"]((3, 32, 32), layers=(1,), virtual_batch=2, spectral_norm=False, **VIT).eval()
    x = image(4, 3, 32, 32)
    with torch.no_grad():
        whole, pair, swapped = critic(x)[0], critic(x[:2])[0], critic(x[[0, 2]])[0]
    torch.testing.assert_close(whole[:2], pair, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pair[0], swapped[0], atol=1e-3)
    h = torch.randn(4, 64, 10)
    normed = critic.heads[0].norms[0](h)
    torch.testing.assert_close(
        normed[2:], F.batch_norm(h[2:], None, None, training=True, eps=1e-5), rtol=1e-4, atol=1e-5
    )


def critics():
    yield vaekit.discriminator["dino"]((3, 32, 32), layers=(2, 5), **VIT)
    yield vaekit.discriminator["projected"]((3, 32, 32), width=8, **RESNET)


def test_a_frozen_critic_moves_the_image_alone_and_a_judging_one_its_heads():
    for critic in critics():
        x = image(2, 3, 32, 32).requires_grad_()
        logits = frozen(critic, x)
        real = sum(t.mean() for t in critic(image(2, 3, 32, 32, seed=1)))  # the other player's pass comes in between
        sum(t.mean() for t in logits).backward()
        assert x.grad.any() and all(p.grad is None for p in critic.parameters())
        real.backward()
        assert all(p.grad is not None and p.grad.any() for p in critic.parameters())


def test_critics_take_the_datas_range():
    for name, args in (("dino", {"layers": (2, 5), **VIT}), ("projected", {"width": 8, **RESNET})):
        x, made = image(2, 3, 32, 32), []
        for low, high in ((0.0, 1.0), (-1.0, 1.0)):
            torch.manual_seed(0)
            critic = vaekit.discriminator[name]((3, 32, 32), (low, high), **args).eval()
            made.append(critic(x * (high - low) + low))
        torch.testing.assert_close(*made, rtol=1e-4, atol=1e-4)


def test_projected_mixes_scales_from_coarse_to_fine_with_fixed_weights():
    torch.manual_seed(0)
    critic = vaekit.discriminator["projected"]((3, 32, 32), width=8, size=64, **RESNET)
    torch.manual_seed(5)
    again = vaekit.discriminator["projected"]((3, 32, 32), width=8, size=64, **RESNET)
    other = vaekit.discriminator["projected"]((3, 32, 32), width=8, size=64, seed=1, **RESNET)
    state = critic.mixing.state_dict()
    assert not list(critic.mixing.parameters()) and len(state) == 8
    assert all(torch.equal(state[k], v) for k, v in again.mixing.state_dict().items())
    assert not any(torch.equal(state[k], v) for k, v in other.mixing.state_dict().items())
    maps = critic.backbone(image(2, 3, 32, 32), (64, 64))
    assert [f.shape[2] for f in maps] == [16, 8, 4, 2]
    found = critic.mixing(maps)
    carried, wanted = 0, []
    for i in (3, 2, 1, 0):
        a, b = (state[f"{k}_{i}"][:, :, 0, 0] for k in ("scales", "channels"))
        h = torch.einsum("oc,bchw->bohw", b, maps[i]) + carried
        h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
        carried = torch.einsum("oc,bchw->bohw", a, h)
        wanted.insert(0, carried)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert [u.shape[1:] for u in found] == [(8, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]


def test_discriminators_refuse_what_they_can_not_do():
    with pytest.raises(ValueError, match="kernel: expected an odd width, got 4"):
        vaekit.discriminator["dino"]((3, 32, 32), kernel=4, **VIT)
    with pytest.raises(ValueError, match="kernel: 9 is too wide for a row of 1 tokens"):
        vaekit.discriminator["dino"]((3, 32, 32), size=16, **VIT)
    with pytest.raises(ValueError, match="width: expected an even number"):
        vaekit.discriminator["projected"]((3, 32, 32), width=3, **RESNET)


# -- frozen_vision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
def test_frozen_vision_gives_the_last_tokens_as_the_latents_map(files, affine):
    args = {"backbone": "test_vit", "weights": files["test_vit"], "norm_affine": affine}
    encoder = vaekit.encoder["frozen_vision"]((3, 40, 60), (8, 2, 3), **args)
    x = image(2, 3, 40, 60)
    found = encoder(x)
    theirs = reference("test_vit", files["test_vit"], dynamic_img_size=True)
    if not affine:
        theirs.norm = torch.nn.LayerNorm(64, eps=theirs.norm.eps, elementwise_affine=False)
    seen = F.interpolate(x, (32, 48), mode="bilinear", antialias=True, align_corners=False)
    tokens = theirs.forward_features(normalised(seen, "test_vit"))[:, theirs.num_prefix_tokens :]
    torch.testing.assert_close(found, tokens.transpose(1, 2).unflatten(2, (2, 3)), rtol=1e-4, atol=1e-4)
    if not affine:
        torch.testing.assert_close(found.mean(1), torch.zeros(2, 2, 3), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.var(1, correction=0), torch.ones(2, 2, 3), rtol=1e-3, atol=1e-3)


def test_frozen_vision_pools_for_vector_latents(files):
    args = {"backbone": "test_vit", "weights": files["test_vit"], "norm_affine": True}
    x = image(2, 3, 160, 160)
    found = vaekit.encoder["frozen_vision"]((3, 160, 160), (8,), **args)(x)
    theirs = reference("test_vit", files["test_vit"])
    wanted = theirs.forward_head(theirs.forward_features(normalised(x, "test_vit")), pre_logits=True)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    maps = vaekit.encoder["frozen_vision"]((3, 160, 160), (8,), pooled=False, **args)(x)
    assert maps.shape == (2, 64, 10, 10)


def test_frozen_vision_follows_images_of_another_size():
    encoder = vaekit.encoder["frozen_vision"]((3, 32, 32), (8, 4, 4), **VIT)
    assert encoder(image(1, 3, 48, 32)).shape == (1, 64, 6, 4)
    assert encoder.half()(image(1, 3, 32, 32).half()).dtype == torch.float16


def test_a_representation_is_the_latent_itself():
    vae = vaekit.build(
        encoder=vaekit.use("frozen_vision", **VIT),
        decoder=vaekit.use("resnet", width=8),
        sampler=vaekit.use("dirac", head="none"),
        latent=(64, 4, 4),
        input_shape=(3, 32, 32),
        loss={"nll": 1.0},
    )
    x = image(2, 3, 32, 32)
    torch.testing.assert_close(vae.encode(x).z, vae.encoder(x))
    assert not list(vae.encoder.parameters()) and not list(vae.sampler.parameters())


# -- laws --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "args"),
    [
        ("encoder", "frozen_vision", VIT),
        ("loss", "timm_features", {"layers": (0, 1), **RESNET}),
        ("discriminator", "dino", {"layers": (2, 5), **VIT}),
        ("discriminator", "projected", {"width": 8, **RESNET}),
    ],
)
def test_a_part_obeys_its_laws(kind, name, args):
    check(kind, name, **args)


class MapSubject(Subject):
    """A loss in a model whose latent is a map."""

    def _surroundings(self, shape, latent):
        yield (3, 16, 16), (2, 3, 3), {"likelihood": vaekit.use("gaussian", scale=1.0)}


@pytest.mark.parametrize("law", laws("loss"), ids=lambda law: law.__name__)
def test_vf_align_obeys_the_laws_of_losses_on_a_map_latent(law):
    law(MapSubject("loss", "vf_align", VIT))
