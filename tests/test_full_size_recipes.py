"""The recipes of image models in full size, on the meta device: their weights are those of diffusers, one by one."""

import warnings

import pytest
import torch

import vaekit
from vaekit.interop import kl

F4, F8 = (128, 256, 512), (128, 256, 512, 512)
F16, F32 = (128, 128, 256, 256, 512), (128, 128, 256, 256, 512, 512)

# the published networks: widths, latent channels, levels with attention, whether there are quant convs
NETWORKS = {
    "sd1": (F8, 4, (), True),
    "sdxl": (F8, 4, (), True),
    "sd3": (F8, 16, (), False),
    "flux1": (F8, 16, (), False),
    "ldm_kl_f4": (F4, 3, (), True),
    "ldm_kl_f8": (F8, 4, (), True),
    "ldm_kl_f16": (F16, 16, (4,), True),
    "ldm_kl_f32": (F32, 64, (4, 5), True),
    "vavae_f16d32": (F16, 32, (4,), True),
    "vqgan_f16": (F16, 256, (4,), True),
}


def theirs(name):
    """Names and shapes of diffusers' network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("diffusers")
        # loaded now: on the meta device their modules' constants would be there
        vq, kl = peer.VQModel, peer.AutoencoderKL
    widths, channels, attention, quant = NETWORKS[name]
    down = ["AttnDownEncoderBlock2D" if i in attention else "DownEncoderBlock2D" for i in range(len(widths))]
    config = {
        "down_block_types": tuple(down),
        "up_block_types": tuple(b.replace("Down", "Up").replace("Encoder", "Decoder") for b in reversed(down)),
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": channels,
    }
    with torch.device("meta"):
        if name == "vqgan_f16":
            model = vq(**config, num_vq_embeddings=1024)
        else:
            model = kl(**config, use_quant_conv=quant, use_post_quant_conv=quant)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_has_the_weights_of_the_published_network(name):
    with torch.device("meta"):
        vae = vaekit.build(name)
    own = {k: v for k, v in vae.state_dict().items() if k.startswith(("encoder.", "decoder."))}
    found = {key: tuple(value.shape) for key, value in kl.to_theirs(own, "diffusers").items()}
    wanted = theirs(name)
    codes = {key: wanted.pop(key) for key in list(wanted) if key.startswith("quantize.")}
    assert found == wanted
    if codes:
        assert list(codes.values()) == [(vae.sampler.codebook_size, vae.latent_shape[0])]
    stride = 2 ** (len(NETWORKS[name][0]) - 1)
    assert vae.latent_shape == (NETWORKS[name][1], *(side // stride for side in vae.input_shape[1:]))


@pytest.mark.parametrize("latent", [2, 4, 16])
def test_unet_attn_gan_trains_its_critic_and_holds_no_perceptual_network(latent):
    with torch.device("meta"):
        vae, alone = (vaekit.build(name, width=32, latent=latent) for name in ("unet_attn_gan", "unet_attn"))
    assert vae.latent_shape == (latent,) and set(vae.players()) == {"vae", "adversarial"}
    for half in ("encoder", "decoder"):
        own, wanted = (getattr(model, half).state_dict() for model in (vae, alone))
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in wanted.items()}
    assert not any("perceptual" in key for key in vae.state_dict())


def test_photo_vae_encodes_128_pixels_to_16_places():
    with torch.device("meta"):
        vae = vaekit.build("photo_vae")
    assert vae.input_shape == (3, 128, 128) and vae.latent_shape == (16, 16, 16)
    assert sum(p.numel() for p in vae.parameters()) == 12_734_243
    assert not any("lpips" in key for key in vae.state_dict())
