"""The layer that overflows is named, the first and innermost one, and looking leaves nothing behind."""

import pytest
import torch

import vaekit
from vaekit import use
from vaekit.overflow import LayerOverflow, find_overflow, naming_overflow

KL = {"widths": (8, 16), "layers": 1, "groups": 4}


@pytest.fixture
def vae():
    networks = {name: use("kl_resnet", **KL) for name in ("encoder", "decoder")}
    return vaekit.build(latent=(4, 8, 8), input_shape=(3, 16, 16), **networks)


def test_a_convolution_whose_numbers_leave_half_precision_is_named(vae):
    x = torch.rand(2, 3, 16, 16)
    half = vae.to(torch.float16)
    assert find_overflow(half, x) is None
    half.decoder.levels[0].blocks[1].conv2.weight.data.fill_(3000.0)  # finite in float16: 16 · 9 of them are not
    found = find_overflow(half, x)
    assert found is not None and found.layer == "decoder.levels.0.blocks.1.conv2"
    assert all(told in str(found) for told in ("(Conv2d)", "torch.float16", "65504", "bfloat16"))
    assert find_overflow(half.to(torch.bfloat16), x) is None


def test_what_a_block_does_itself_is_laid_at_its_door(vae):
    """A sum of two finite maps, which no layer of its own makes."""
    half = vae.to(torch.float16).eval()
    block = half.decoder.middle.first
    x = torch.full((1, 16, 4, 4), 60000.0, dtype=torch.float16)
    block.conv2.bias.data.fill_(30000.0)
    with torch.no_grad(), naming_overflow(half.decoder), pytest.raises(LayerOverflow, match=r"^middle\.first \(Res"):
        half.decoder.middle(x)


def test_weights_that_are_not_finite_are_told_apart(vae):
    vae.encoder.levels[1].blocks[0].conv1.weight.data[0, 0, 0, 0] = torch.nan
    with (
        naming_overflow(vae),
        pytest.raises(LayerOverflow, match=r"^encoder\.levels\.1\.blocks\.0\.conv1 .*own weights"),
    ):
        vae.loss(torch.rand(2, 3, 16, 16))


def test_nothing_is_left_on_the_model(vae):
    modes = [m.training for m in vae.modules()]
    find_overflow(vae, torch.rand(2, 3, 16, 16))
    with pytest.raises(RuntimeError, match="elsewhere"), naming_overflow(vae):
        raise RuntimeError("elsewhere")
    assert not any(m._forward_hooks for m in vae.modules()) and modes == [m.training for m in vae.modules()]
