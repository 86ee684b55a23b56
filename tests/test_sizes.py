"""Data come back in their own size, whatever the size that the model was built for."""

from typing import Any

import pytest
import torch

import vaekit
from vaekit import use
from vaekit.layers.strided import cut
from vaekit.scoring import score

NETWORKS: dict[str, dict[str, Any]] = {
    "kl_resnet": {"widths": (8, 8, 16), "layers": 1, "groups": 4},
    "kl_resnet patch": {"widths": (8, 16), "layers": 1, "groups": 4, "patch": 2},
    "tiny": {"widths": (8, 8, 16), "blocks": (1, 1, 1)},
    "dc": {
        "widths": (8, 16, 16), "blocks": (1, 1, 1), "block_types": "resnet", "qkv_multiscales": ((), (), ()),
        "head_dim": 4,
    },
    "vit": {"width": 16, "depth": 1, "heads": 2},
}  # fmt: skip
TILED = [name for name in NETWORKS if name != "vit"]  # whose attention sees the whole map


def model(name, built, **args):
    part = use(name.partition(" ")[0], **NETWORKS[name])
    latent = (4, *(-(-side // 4) for side in built))
    return vaekit.build(encoder=part, decoder=part, latent=latent, input_shape=(3, *built), **args).eval()


# a multiple of the stride; odd; odd with the latent's size of what is given, lower at one side and wider at the other
BUILT = [(32, 32), (30, 21), (39, 49)]


@pytest.mark.parametrize("built", BUILT)
@pytest.mark.parametrize("name", NETWORKS)
def test_data_of_odd_sizes_come_back_in_their_size(name, built):
    vae, x = model(name, built), torch.rand(2, 3, 37, 51)
    out = vae(x, sample_shape=(2,))
    assert out.z.shape == (2, 2, 4, 10, 13) and out.y.shape == (2, *x.shape) and out.log_weight().shape == (2, 2)
    assert vae.reconstruct(x).shape == vae.augment(x).shape == x.shape
    assert out.decode(out.z).mean.shape == out.y.shape
    vae.loss(x).total.backward()
    assert vae.decode(out.z, size=(37, 51)).shape == out.y.shape
    assert vae.log_prob(x, n=2).shape == vae.elbo(x).shape == (2,)


@pytest.mark.parametrize("built", BUILT)
@pytest.mark.parametrize("name", TILED)
def test_tiles_of_odd_sizes_are_the_whole(name, built):
    vae, x = model(name, built).double(), torch.rand(1, 3, 37, 51, dtype=torch.float64)
    with torch.no_grad():
        z = vae.encode(x).mode
        torch.testing.assert_close(vae.encode(x, tile=28).mode, z)
        whole = vae.decode(z, size=x.shape[2:])
        torch.testing.assert_close(whole, vae.reconstruct(x))
        torch.testing.assert_close(vae.decode(z, size=x.shape[2:], tile=7), whole)
        assert vae.decode(z, size=x.shape[2:], tile=7, exact=False).shape == x.shape
        torch.testing.assert_close(vae.decode(z, tile=7), vae.decode(z))


def test_what_is_cut_is_the_rest_alone():
    """The rows that are kept are those of the whole image, and the padding says nothing of them."""
    vae, whole = model("tiny", (37, 51)), model("tiny", (40, 52))
    whole.load_state_dict(vae.state_dict())
    z = torch.randn(1, 4, 10, 13)
    torch.testing.assert_close(vae.decode(z), whole.decode(z)[..., :37, :51])
    torch.testing.assert_close(vae.decode(z, size=(40, 50)), whole.decode(z)[..., :50])


def test_scores_walks_and_missing_values_know_the_size():
    vae, x = model("tiny", (32, 32)), torch.rand(2, 3, 37, 51)
    for kind in ("elbo", "reconstruction"):
        assert score(vae, x, kind, n=2).shape == (2,)
    assert vae.interpolate(x, x, steps=2).shape == (2, *x.shape)
    assert vae.traverse(x, dims=[0], steps=2).shape == (1, 2, *x.shape)
    assert vae.impute(x, torch.rand(x.shape) < 0.5, n=2).shape == x.shape
    assert vae.decode_latents(vae.latents(x), size=x.shape[2:]).shape == x.shape


def test_an_encoder_that_drops_a_rest_says_so_in_place_of_giving_another_size():
    part = NETWORKS["kl_resnet"]
    vae = vaekit.build(
        encoder=use("kl_resnet", odd="down", **part), decoder=use("kl_resnet", **part),
        latent=(4, 8, 8), input_shape=(3, 32, 32),
    ).eval()  # fmt: skip
    assert vae.reconstruct(torch.rand(1, 3, 36, 52)).shape == (1, 3, 36, 52)
    with pytest.raises(ValueError, match=r"data of 37×51 come back as 36×48: KLResNetEncoder rounds down a side"):
        vae.reconstruct(torch.rand(1, 3, 37, 51))


def test_a_decoder_that_is_not_told_the_size_is_the_one_that_is_blamed():
    class Crops(torch.nn.Module):
        any_size = True

        def forward(self, z):
            return z[:, :3].repeat_interleave(4, 2).repeat_interleave(4, 3)[..., 1:-1, 1:-1]

    vae = vaekit.build(
        encoder=use("tiny", **NETWORKS["tiny"]), decoder=Crops(), latent=(4, 8, 8), input_shape=(3, 30, 30)
    ).eval()
    assert vae.reconstruct(torch.rand(1, 3, 38, 30)).shape == (1, 3, 38, 30)
    with pytest.raises(ValueError, match=r"37×51 come back as 38×50: that is what Crops makes .* not told the size"):
        vae.reconstruct(torch.rand(1, 3, 37, 51))


@pytest.mark.parametrize("shape", [(3, 10), (2, 9, 14), (1, 6, 7, 5)])
def test_a_vision_transformer_gives_data_of_any_rank_back_in_their_size(shape):
    """Also where the map is that of the size that it was built for, which is another size."""
    latent = (4, *(-(-side // 4) for side in shape[1:]))
    part = use("vit", **NETWORKS["vit"], patch=4)
    vae = vaekit.build(encoder=part, decoder=part, latent=latent, input_shape=shape).eval()
    for more in (-1, 0, 1, 5):
        x = torch.rand(2, shape[0], *(side + more for side in shape[1:]))
        assert vae.reconstruct(x).shape == x.shape


@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (2, 3, 9), (2, 3, 5, 6, 7)])
def test_a_cut_is_a_slice_in_any_number_of_dimensions(shape):
    y, z, own = torch.rand(shape), torch.rand(2, 1, *(-(-side // 4) for side in shape[2:])), (3, *shape[2:])
    assert cut(y, z, own, 4) is not None and torch.equal(cut(y, z, own, 4), y)
    whole = torch.rand(*shape[:2], *(4 * side for side in z.shape[2:]))
    assert torch.equal(cut(whole, z, own, 4), whole[(..., *map(slice, shape[2:]))])
    assert torch.equal(cut(whole, z, own, 4, [4] * len(own[1:])), whole[(..., *[slice(4)] * len(own[1:]))])
    even = (3, *whole.shape[2:])
    assert cut(whole, z, even, 4) is whole
