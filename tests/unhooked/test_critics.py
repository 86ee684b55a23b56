"""Critics and games: messages of bad arguments, and torch.compile."""

import copy
import re

import pytest
import torch

import vaekit
from vaekit.layers.adversarial import LeCam, critic_loss, generator_loss
from vaekit.layers.augment import DiffAugment

IMAGE = (3, 32, 32)
NAMES = ["patchgan", "multiscale_patchgan", "conditional_patchgan", "unet", "vqgan_plus", "stylegan2", "latent_mlp"]


@pytest.mark.parametrize(
    ("name", "shape", "more", "message"),
    [
        *[(n, (6,), {}, "Use 'mlp'") for n in NAMES if n != "latent_mlp"],
        *[(n, IMAGE, {"width": 0}, "at least 1") for n in NAMES if n != "latent_mlp"],
        ("patchgan", (3, 5, 40), {}, "layers: 1 with kernels of 4 leave nothing of a map of 5×40. Use 'conv' or 'mlp'"),
        ("patchgan", (3, 20, 40), {"layers": 3}, "layers: 3 with kernels of 4 leave nothing of a map of 20×40. Set layers to at most 2"),
        ("patchgan", IMAGE, {"layers": 0}, "layers: expected at least 1, got 0"),
        ("patchgan", IMAGE, {"kernel": 1}, "kernel: expected at least 2, got 1"),
        ("patchgan", IMAGE, {"norm": "layer"}, "norm: expected 'batch', 'group', 'instance', 'actnorm' or 'none', got 'layer'"),
        ("conditional_patchgan", IMAGE, {"cond_dim": -1}, "cond_dim: expected at least 0, got -1"),
        ("multiscale_patchgan", IMAGE, {"scales": 0}, "scales: expected at least 1, got 0"),
        ("multiscale_patchgan", IMAGE, {"scales": 5}, "scale 3: layers: 1 with kernels of 4 leave nothing of a map of 4×4"),
        ("unet", IMAGE, {"depth": 6}, "depth: 6 halvings need sides of at least 64, got 32×32. Set it lower"),
        ("vqgan_plus", IMAGE, {"stages": 6}, "stages: 6 need sides of at least 64, got 32×32. Set fewer"),
        ("vqgan_plus", IMAGE, {"taps": 1}, "taps: expected at least 2, got 1"),
        ("vqgan_plus", IMAGE, {"pool": 0}, "pool: expected at least 1, got 0"),
        ("stylegan2", IMAGE, {"group": 1}, "group: expected at least 2 examples, or None, got 1"),
        ("latent_mlp", IMAGE, {"hidden": ()}, "hidden: expected one positive width or more"),
        ("latent_mlp", IMAGE, {"act": "sine"}, "activation: expected one of"),
    ],
)  # fmt: skip
def test_a_critic_says_what_is_wrong_with_its_arguments(name, shape, more, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        vaekit.discriminator[name](shape, **more)


def test_a_critic_of_one_size_names_another_critic():
    critic = vaekit.discriminator["stylegan2"](IMAGE, width=8)
    with pytest.raises(ValueError, match="expected a map of 32×32, got 16×32. Use 'patchgan' for other sizes"):
        critic(torch.rand(2, 3, 16, 32))


def test_tokens_of_another_width_than_wired():
    critic = vaekit.discriminator["conditional_patchgan"](IMAGE, 4, width=8)
    with pytest.raises(ValueError, match="cond: expected tokens of width 4, got 5. Set cond_dim"):
        critic(torch.rand(2, *IMAGE), torch.randn(2, 1, 5))


def test_games_and_regularisers_refuse_what_they_do_not_know():
    logits = [torch.zeros(2, 1)]
    for play in (lambda: critic_loss("hing", logits, logits), lambda: generator_loss("hing", logits)):
        with pytest.raises(ValueError, match="kind: expected one of hinge, .*relativistic; got 'hing'"):
            play()
    with pytest.raises(ValueError, match="real: expected the logits of data"):
        generator_loss("relativistic", logits)
    with pytest.raises(ValueError, match="decay: expected a number from 0 to below 1, got 1"):
        LeCam(decay=1)
    with pytest.raises(ValueError, match="weight: expected at least 0"):
        LeCam(-1)
    with pytest.raises(ValueError, match="augment: expected names of color, translation, cutout; got 'colour'"):
        DiffAugment(("colour",))
    with pytest.raises(ValueError, match="cutout: expected a share of a side from 0 to 1, got 2"):
        DiffAugment(cutout=2)
    with pytest.raises(ValueError, match=r"augment: expected maps, got data of shape \(6,\)"):
        DiffAugment()(torch.rand(2, 6))


@pytest.mark.parametrize("name", NAMES)
def test_a_critic_compiles_whole(name):
    torch._dynamo.reset()
    critic = vaekit.discriminator[name](IMAGE, **({} if name == "latent_mlp" else {"width": 4}))
    x, twin = torch.rand(4, *IMAGE), copy.deepcopy(critic)
    found = torch.compile(critic, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(found, twin(x), rtol=1e-3, atol=1e-4)
    sum(each.square().sum() for each in found).backward()
    assert all(p.grad is not None for p in critic.parameters())
    torch.testing.assert_close(critic.state_dict(), twin.state_dict(), rtol=1e-3, atol=1e-4)


def test_actnorm_compiles_and_is_set_by_the_first_batch():
    torch._dynamo.reset()
    critic = vaekit.discriminator["patchgan"](IMAGE, width=4, norm="actnorm")
    twin = vaekit.discriminator["patchgan"](IMAGE, width=4, norm="actnorm")
    twin.load_state_dict(critic.state_dict())
    compiled, x = torch.compile(critic, fullgraph=True, backend="aot_eager"), torch.rand(4, *IMAGE)
    for given in (x, 2 * x):
        torch.testing.assert_close(compiled(given)[0], twin(given)[0], rtol=1e-4, atol=1e-5)
    assert all(v == 1 for k, v in critic.state_dict().items() if k.endswith("initialized"))


def test_games_and_augmentations_compile_whole():
    torch._dynamo.reset()
    augment, x = DiffAugment(), torch.rand(4, *IMAGE)
    draws = augment.draw(x)
    compiled = torch.compile(augment, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, draws), augment(x, draws))
    lecam = LeCam()
    real, fake = [torch.randn(4, 1)], [torch.randn(4, 1)]
    play = torch.compile(lambda r, f: critic_loss("hinge", r, f) + lecam(r, f), fullgraph=True, backend="aot_eager")
    twin = LeCam()
    for _ in range(2):
        torch.testing.assert_close(play(real, fake), critic_loss("hinge", real, fake) + twin(real, fake))
