"""Every recipe, made from a latent and a shape alone: it learns the digits, samples, reconstructs, saves and loads."""

import functools
import os
from pathlib import Path

import pytest
import torch

import vaekit
from vaekit import Spec
from vaekit.train.datasets import digits

WEIGHTS = os.environ.get("VAEKIT_WEIGHTS")
OWN = {
    # the weights of VGG are a file where there is one, and random elsewhere
    "dfc_vae": {"weights": str(Path(WEIGHTS) / "vgg16_features.safetensors") if WEIGHTS else "random"},
    # small, for the time that it takes
    "miwae": {"m": 2, "k": 2},
    "piwae": {"m": 2, "k": 2},
    "unet_attn": {"width": 16, "heads": 2},
    "titok": {"width": 64, "depth": 2, "heads": 2, "tokens": 8, "codebook_size": 64, "patch": 2},
    "vit_vae": {"width": 64, "depth": 2, "heads": 2, "patch": 2},
    # room in the code within the test's steps
    "joint_vae": {"steps": 100},
    "disentangled_beta_vae": {"steps": 100},
}

STEPS = {"titok": 800, "vit_vae": 800}  # their tokens tell nothing apart for the first hundreds

# those for images proper, small: they learn to draw few large digits
IMAGES = {
    **dict.fromkeys(
        ("sd1", "sdxl", "sd3", "flux1", "ldm_kl_f4", "ldm_kl_f8", "ldm_kl_f16", "ldm_kl_f32", "vavae_f16d32"),
        {"widths": (16, 16, 16), "groups": 4},
    ),
    "vqgan_f16": {"widths": (16, 16, 16), "groups": 4, "codebook_size": 32},
    "taesd": {"widths": (16, 16), "blocks": (1, 1)},
    "taesd3": {"widths": (16, 16), "blocks": (1, 1)},
    "dc_ae_f32c32": {"widths": (16, 16, 32)},
    "photo_vae": {"widths": (32, 32, 32), "weights": "random"},
    "vq_gan": {"widths": (32, 32, 32), "weights": "random", "codebook_size": 32, "start": 10},
    "unet_attn_gan": {"width": 8, "weights": "random", "start": 10},
}


@functools.cache
def data():
    train, _ = digits()
    return train


def build(name):
    return vaekit.build(name, latent=4, input_shape=(1, 8, 8), **OWN.get(name, {}))


def labels(vae, y):
    """Labels for a model that takes some; of those for losses every other one is hidden."""
    if vae.condition is None:
        return None
    return y if vae.condition.dim else torch.where(torch.arange(len(y)) % 2 == 0, y, -1)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.sample] if name in STEPS else [])
        for name in vaekit.recipe.names()
        if name not in IMAGES
    ],
)
def test_a_recipe_learns_and_survives_a_round_trip(name, tmp_path):
    torch.manual_seed(0)
    x, y = data()
    vae = build(name)
    players = [{"params": p} for p in vae.players().values()]
    optimizer = torch.optim.Adam(players, lr=2e-3, fused=True)
    totals = []
    for step in range(STEPS.get(name, 200)):
        rows = torch.arange(64 * step, 64 * (step + 1)) % len(x)
        optimizer.zero_grad()
        total = vae.loss(x[rows], labels(vae, y[rows])).total
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    first, last = sum(totals[:10]) / 10, sum(totals[-10:]) / 10
    game = len(vae.players()) > 1 or name == "geco_vae"  # where two sides pull, the total need not fall
    assert game or last < first - 0.02 * abs(first), f"the objective went from {first:.4g} to {last:.4g}"

    vae.eval()
    cond = labels(vae, y[:5])
    made = vae.reconstruct(x[:5], cond)
    error, mean = (made - x[:5]).square().mean(), (x.mean(0) - x[:5]).square().mean()
    assert made.shape == (5, 1, 8, 8)
    slack = 1.05 if name == "unet_attn" else 1.0  # so few steps teach it little but the likelihood's scale
    assert error < slack * mean, (
        f"a reconstruction's error of {error:.3g} is no better than the mean image's {mean:.3g}"
    )
    drawn = vae.sample(5, cond)
    assert drawn.shape == (5, 1, 8, 8) and torch.isfinite(drawn).all() and drawn.std(0).any(), (
        "samples are all the same"
    )
    assert Spec.from_json(vae.spec.to_json()) == vae.spec
    vae.save_pretrained(tmp_path)
    torch.testing.assert_close(vaekit.load(tmp_path).reconstruct(x[:5], cond), made, rtol=0, atol=0)


@pytest.mark.parametrize("name", vaekit.recipe.names())
def test_a_recipe_says_its_paper_and_takes_other_data(name):
    about = vaekit.recipe.about(name)
    assert "References:" in (vaekit.recipe[name].__doc__ or "") or name in ("conv",), "no source is given"
    assert about.cite or name in ("conv",)


@pytest.mark.parametrize(
    "name", sorted(set(vaekit.recipe.names()) - {"conv", "resnet", "unet_attn", "dfc_vae", "ms_ssim_vae", *IMAGES})
)
@pytest.mark.parametrize("shape", [(12,), (2, 16), (1, 6, 6, 6)], ids=["vector", "signal", "volume"])
def test_a_recipe_takes_vectors_signals_and_volumes(name, shape):
    if len(shape) == 1 and name in ("titok", "vit_vae"):
        pytest.skip("patches are of data with places")
    torch.manual_seed(0)
    data_range = {} if name == "mlp" else {"data_range": None}
    vae = vaekit.build(name, latent=4, input_shape=shape, **data_range, **OWN.get(name, {}))
    x = torch.rand(6, *shape) * (1 if name == "mlp" else 4)
    cond = None if vae.condition is None else torch.arange(6) % 3
    vae.loss(x, cond).total.backward()
    assert vae.eval().sample(6, cond).shape == x.shape


@pytest.mark.parametrize("name", IMAGES)
def test_a_recipe_for_images_learns_and_survives_a_round_trip(name, tmp_path):
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(data()[0][:4], (32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    vae = vaekit.build(name, latent=4, input_shape=(3, 32, 32), **IMAGES[name])
    x = x if vae.data_range == (0.0, 1.0) else 2 * x - 1
    optimizer = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], lr=2e-3)
    errors = []
    for _ in range(20):
        optimizer.zero_grad()
        vae.loss(x).total.backward()
        optimizer.step()
        errors.append(float((vae(x).p_x.mean - x).detach().square().mean()))
    assert errors[-1] < 0.7 * errors[0], f"the squared error went from {errors[0]:.3g} to {errors[-1]:.3g}"
    vae.eval()
    made = vae.reconstruct(x)
    assert torch.isfinite(vae.sample(2)).all() and vae.latents(x).shape == (4, *vae.latent_shape)
    torch.testing.assert_close(vae.decode_latents(vae.latents(x)), made, rtol=1e-3, atol=1e-4)
    vae.save_pretrained(tmp_path)
    torch.testing.assert_close(vaekit.load(tmp_path).reconstruct(x), made, rtol=0, atol=0)
