"""Bad input to models of images, told from the model's side; what parts refuse by themselves stands in their own tests."""

import re

import pytest
import torch

import vaekit
from vaekit import use
from vaekit.kinds import Condition

SMALL = {"input_shape": (3, 32, 32), "widths": (8, 8, 8, 8), "groups": 4}


@pytest.fixture(scope="module")
def small():
    return vaekit.build("sd1", **SMALL).eval()


class MaskedImage(Condition):
    """A masked image and its mask (b, 4, h, w) → a token for each of 16 places: what an inpainting decoder reads."""

    def __init__(self):
        super().__init__()
        self.dim = 4

    def example(self, batch):
        return torch.zeros(batch, 4, 32, 32)

    def forward(self, given, batch):
        if given is None:
            raise ValueError("cond: the decoder fills a mask. Give the masked image and its mask, (b, 4, h, w).")
        return torch.nn.functional.adaptive_avg_pool2d(given, 4).flatten(2).mT


def test_a_decoder_of_masked_images_does_not_sample_without_one():
    vae = vaekit.build("unet_attn", input_shape=(3, 32, 32), latent=4, condition=MaskedImage(), encoder={"width": 8},
                       decoder={"width": 8})  # fmt: skip
    with pytest.raises(ValueError, match="fills a mask. Give the masked image"):
        vae.sample(2)
    with pytest.raises(ValueError, match="fills a mask. Give the masked image"):
        vae.decode(torch.zeros(2, 4))
    assert vae.sample(2, torch.rand(2, 4, 32, 32)).shape == (2, 3, 32, 32)


def test_a_decoder_that_wants_the_encoders_image_is_refused_when_it_is_built():
    class Inpaints(torch.nn.Module):
        def forward(self, z, tokens, image, mask):
            return image * (1 - mask)

    with pytest.raises(vaekit.BuildError, match="decoder"):
        vaekit.build("conv", latent=4, input_shape=(3, 32, 32), decoder=Inpaints())


@pytest.mark.parametrize("shape", [(3, 4, 32), (3, 7, 7), (3, 1, 1)])
def test_an_image_smaller_than_the_stride_is_refused_by_the_model(small, shape):
    with pytest.raises(ValueError, match="expected sides of at least 8"):
        small.encode(torch.zeros(1, *shape))
    with pytest.raises((ValueError, vaekit.BuildError), match="at least 8|latent"):
        vaekit.build("sd1", **{**SMALL, "input_shape": shape})


def test_a_latent_of_other_channels_is_refused(small):
    with pytest.raises(
        ValueError, match=re.escape("vae.decode: expected z of shape (…, b, 4, 4, 4), got (1, 16, 4, 4)")
    ):
        small.decode(torch.zeros(1, 16, 4, 4))


@torch.no_grad()
def test_a_tile_that_its_halo_would_swallow_is_refused(small):
    z, x = torch.zeros(1, 4, 16, 16), torch.zeros(1, 3, 128, 128)
    with pytest.raises(ValueError, match="tile: .*at least 2"):
        small.decode(z, tile=1)
    with pytest.raises(ValueError, match="tile: .*at least 4"):
        small.decode(z, tile=3, exact=False)
    with pytest.raises(ValueError, match="tile: .*at least"):
        small.encode(x, tile=8, exact=False)


def test_pixels_in_another_range_are_refused_with_the_one_that_is_meant(small):
    """[0, 255] given to a model of [-1, 1]; [0, 1] is inside it, and no error can tell."""
    with pytest.raises(ValueError, match=r"from 0 to 255, and the model was built for data in \[-1, 1\]"):
        small.encode(torch.tensor([0.0, 255.0]).repeat(512 * 3).reshape(1, 3, 32, 32))
    bytes_ = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="expected floating-point data"):
        small.encode(bytes_)


def test_a_critic_or_a_perceptual_network_that_images_are_too_small_for_is_told_at_build():
    for loss, said in (
        (use("adversarial", critic=use("patchgan", layers=3)), "layers: 3 with kernels of 4"),
        (use("lpips", net="alex", weights="random"), "needs images of at least 31"),
    ):
        with pytest.raises((ValueError, vaekit.BuildError), match=said):
            vaekit.build("conv", latent=4, input_shape=(3, 16, 16), loss=["l1", loss])
