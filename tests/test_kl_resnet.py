"""The networks of latent diffusion's autoencoders: their blocks, their sizes and their published counts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vaekit import build, use
from vaekit.decoders.kl_resnet import KLResNetDecoder
from vaekit.encoders.kl_resnet import KLResNetEncoder
from vaekit.interop import kl
from vaekit.kinds import recipe
from vaekit.layers.frozen import frozen
from vaekit.layers.group_norm_silu import group_norm_silu
from vaekit.layers.kl_blocks import Attention, Down, Up, laid_out
from vaekit.testing import check, trains

SMALL = {"widths": (8, 16), "layers": 1, "groups": 4}


# -- blocks ------------------------------------------------------------------------------------------------------------


def silu_of_norm(x, weight, bias):
    norm = nn.GroupNorm(2, 6, eps=1e-6, dtype=x.dtype)
    norm._parameters["weight"], norm._parameters["bias"] = weight, bias
    return group_norm_silu(norm, x)


def test_the_norm_with_silu_has_first_and_second_derivatives():
    x = laid_out(torch.randn(2, 6, 3, 5, dtype=torch.float64)).requires_grad_()
    weight, bias = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
    assert silu_of_norm(x, weight, bias).grad_fn.name() == "_GroupNormSiLUBackward"  # the formula is what is tested
    assert torch.autograd.gradcheck(silu_of_norm, (x, weight, bias))
    assert torch.autograd.gradgradcheck(silu_of_norm, (x, weight, bias))


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_the_norm_with_silu_is_torchs(mean):
    norm = nn.GroupNorm(4, 32, eps=1e-6)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = laid_out(torch.randn(2, 32, 16, 16) + mean).requires_grad_()
    g = torch.randn(2, 32, 16, 16)
    wanted = F.silu(norm(x))
    found = group_norm_silu(norm, x)
    torch.testing.assert_close(found, wanted)
    inputs = (x, norm.weight, norm.bias)
    exact = nn.GroupNorm(4, 32, eps=1e-6).double()
    exact.load_state_dict(norm.state_dict())
    y = x.detach().double().requires_grad_()
    best = torch.autograd.grad(F.silu(exact(y)), (y, exact.weight, exact.bias), g.double())
    for ours, theirs, true in zip(
        torch.autograd.grad(found, inputs, g), torch.autograd.grad(wanted, inputs, g), best, strict=True
    ):
        mine, torchs = ((each - true).abs().max() / true.abs().max() for each in (ours, theirs))
        assert mine < max(3 * torchs, 3e-6)


def test_the_norm_with_silu_gives_no_gradient_to_frozen_weights_and_one_through_them():
    norm = nn.GroupNorm(2, 6)
    block = nn.Module()
    block.norm = norm
    block.forward = lambda x: group_norm_silu(block.norm, x)
    x = laid_out(torch.randn(2, 6, 4, 4)).requires_grad_()
    frozen(block, x).square().sum().backward()
    assert norm.weight.grad is None and x.grad.any()


def test_doubling_is_nearest_neighbours_and_a_convolution():
    up, x = Up(5).double(), torch.randn(2, 5, 3, 7, dtype=torch.float64, requires_grad=True)
    wanted = up.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(up(x), wanted, rtol=1e-12, atol=1e-12)
    inputs, g = (x, up.conv.weight, up.conv.bias), torch.randn_like(wanted)
    for a, b in zip(torch.autograd.grad(up(x), inputs, g), torch.autograd.grad(wanted, inputs, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5)])
def test_halving_pads_right_and_below(size):
    x = torch.randn(2, 3, *size)
    for odd in ("up", "down"):
        down = Down(3, odd)
        halves = [-(-s // 2) if odd == "up" else s // 2 for s in size]
        padded = F.pad(x, (0, 4, 0, 4))
        wanted = F.conv2d(padded, down.conv.weight, down.conv.bias, stride=2)[..., : halves[0], : halves[1]]
        torch.testing.assert_close(down(x), wanted)


def test_attention_is_softmax_over_places_with_one_head():
    attention, x = Attention(8, "group", 4).double(), torch.randn(2, 8, 3, 5, dtype=torch.float64)
    tokens = attention.norm(x).flatten(2).mT
    weight, bias = attention.to_qkv.weight.chunk(3), attention.to_qkv.bias.chunk(3)
    q, k, v = (F.linear(tokens, w, b) for w, b in zip(weight, bias, strict=True))
    seen = attention.out(torch.softmax(q @ k.mT / math.sqrt(8), -1) @ v)
    torch.testing.assert_close(attention(x), x + seen.mT.reshape(x.shape))


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("args", [{"norm": "rms", "attention": (0, 1)}, {"patch": 2, "mid_attention": False}])
def test_both_obey_the_laws(kind, args):
    if args.get("patch") == 2:
        args = {**args, "widths": (8,)}
    check(kind, "kl_resnet", **{**SMALL, **args})


@pytest.mark.parametrize("norm", ["group", "rms", "batch", "spatial"])
@pytest.mark.parametrize("patch", [1, 2])
def test_a_gradient_reaches_every_parameter_of_every_variant(norm, patch):
    plain = "group" if norm == "spatial" else norm
    common = {**SMALL, "attention": (1,), "patch": patch}
    trains(
        build(
            input_shape=(3, 20, 12),
            latent=(4, 10 // patch, 6 // patch),
            data_range=(-1.0, 1.0),
            encoder=use("kl_resnet", **common, norm=plain, out_channels=8, quant_conv=6),
            sampler=use("gaussian", head="none"),
            decoder=use("kl_resnet", **common, norm=norm, post_quant_conv=5),
        )
    )


@pytest.mark.parametrize("size", [(16, 16), (21, 34), (9, 4)])
def test_images_of_any_size_come_back_in_their_size(size):
    latent = tuple(-(-s // 4) for s in size)
    args = {"widths": (8, 8, 8), "layers": 1, "groups": 4}
    encoder = use("kl_resnet", **args, out_channels=4)
    vae = build(
        input_shape=(3, *size),
        latent=(2, *latent),
        data_range=(-1.0, 1.0),
        encoder=encoder,
        sampler=use("gaussian", head="none"),
        decoder=use("kl_resnet", **args),
    )
    trains(vae)
    other = torch.rand(2, 3, 12, 40) * 2 - 1
    assert vae.reconstruct(other).shape == other.shape  # a multiple of the stride, at run time
    assert vae.encode(torch.zeros(1, 3, 13, 6)).z.shape == (1, 2, 4, 2)


def test_an_image_smaller_than_the_stride_is_refused():
    encoder = KLResNetEncoder((3, 16, 16), (4, 4, 4), widths=(8, 8, 8), groups=4)
    with pytest.raises(ValueError, match="expected sides of at least 4.*got 3×16.*fewer widths"):
        encoder(torch.zeros(1, 3, 3, 16))
    with pytest.raises(ValueError, match="expected sides of at least 4"):
        KLResNetEncoder((3, 2, 16), (4, 1, 4), widths=(8, 8, 8), groups=4)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"widths": (8, 12)}, "groups: 8 groups do not divide the widths"),
        ({"widths": ()}, "widths: expected at least one"),
        ({"layers": 0}, "layers: expected at least 1"),
        ({"attention": (2,)}, r"attention: expected levels in \[0, 2\)"),
        ({"quant_conv": True}, "quant_conv: follows conv_out"),
        ({"out_channels": 0}, "out_channels: expected at least 1"),
        ({"patch": 3}, "patch: expected a power of 2"),
        ({"odd": "down", "in_shape": (3, 15, 16)}, "odd: 'down' leaves a rest"),
        ({"latent_shape": (4, 4, 4)}, r"latent: expected a map of 8×8.*Set latent=\(4, 8, 8\)"),
    ],
)
def test_settings_that_make_no_network_are_refused(args, said):
    wired = {"in_shape": (3, 16, 16), "latent_shape": (4, 8, 8)}
    with pytest.raises(ValueError, match=said):
        KLResNetEncoder(**{**wired, "widths": (8, 16), "groups": 8, **args})


def test_a_vector_latent_has_no_norm_that_reads_a_map():
    with pytest.raises(ValueError, match="is a vector"):
        KLResNetDecoder((4,), (3, 16, 16), widths=(8, 16), groups=8, norm="spatial")


@pytest.mark.parametrize("norm", ["group", "batch", "spatial"])
def test_checkpointing_changes_no_number(norm):
    def passes(checkpoint):
        torch.manual_seed(0)
        plain = "group" if norm == "spatial" else norm
        args = {"widths": (8, 16), "groups": 4, "attention": (1,), "checkpoint": checkpoint}
        encoder = KLResNetEncoder((3, 16, 16), (4, 8, 8), **args, norm=plain, out_channels=4)
        decoder = KLResNetDecoder((4, 8, 8), (3, 16, 16), **args, norm=norm)
        y = decoder(encoder(torch.rand(2, 3, 16, 16)))
        y.square().mean().backward()
        both = [*encoder.named_parameters(), *decoder.named_parameters()]
        return y, [p.grad for _, p in both], [*encoder.buffers(), *decoder.buffers()]

    for a, b in zip(passes(True), passes(False), strict=True):
        torch.testing.assert_close(a, b)


def test_checkpointing_keeps_a_frozen_network_frozen():
    decoder = KLResNetDecoder((4, 8, 8), (3, 16, 16), **SMALL, checkpoint=True)
    z = torch.randn(2, 4, 8, 8, requires_grad=True)
    frozen(decoder, z).square().sum().backward()
    assert z.grad.any() and all(p.grad is None for p in decoder.parameters())


def test_neither_memory_layout_nor_gradient_mode_changes_the_numbers():
    encoder = KLResNetEncoder((3, 24, 16), (4, 12, 8), **SMALL, attention=(0,), out_channels=8).double()
    decoder = KLResNetDecoder((4, 12, 8), (3, 24, 16), **SMALL, attention=(0,), norm="spatial").double()
    x = torch.rand(2, 3, 24, 16, dtype=torch.float64)
    kept = x.clone()

    def both(x):
        h = encoder(x)
        return h, decoder(h[:, :4])

    with torch.no_grad():
        found = both(x)
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.testing.assert_close(both(x.contiguous(memory_format=layout)), found, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, kept) and all(each.is_contiguous() for each in found)


def test_half_precision_stays_near():
    decoder = KLResNetDecoder((4, 8, 8), (3, 16, 16), widths=(8, 16), groups=4)
    z = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        y = decoder(z)
        half = decoder.bfloat16()(z.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - y).abs().max() < 0.05 * y.abs().max()


# -- recipes -----------------------------------------------------------------------------------------------------------


def networks(name):
    args = recipe[name]().args
    with torch.device("meta"):
        encoder = KLResNetEncoder(args["input_shape"], args["latent"], **args["encoder"].args)
        return encoder, KLResNetDecoder(args["latent"], args["input_shape"], **args["decoder"].args)


@pytest.mark.parametrize(
    ("name", "tensors", "elements"),
    [("sd1", 248, 83_653_863), ("sdxl", 248, 83_653_863), ("sd3", 244, 83_819_683), ("flux1", 244, 83_819_683)],
)
def test_a_preset_has_the_published_number_of_tensors_and_weights(name, tensors, elements):
    encoder, decoder = networks(name)
    state = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    for names in ("diffusers", "ldm"):
        theirs = kl.to_theirs(state, names)
        assert (len(theirs), sum(v.numel() for v in theirs.values())) == (tensors, elements)
    if name == "sd1":
        without = [{k: v for k, v in m.state_dict().items() if "quant" not in k} for m in (encoder, decoder)]
        assert [sum(v.numel() for v in m.values()) for m in without] == [34_163_592, 49_490_179]


@pytest.mark.parametrize(
    ("name", "latent", "levels"),
    [
        ("ldm_kl_f4", (3, 64, 64), ()),
        ("ldm_kl_f8", (4, 32, 32), ()),
        ("ldm_kl_f16", (16, 16, 16), (16,)),
        ("ldm_kl_f32", (64, 8, 8), (16, 8)),
        ("vavae_f16d32", (32, 16, 16), (16,)),
        ("vqgan_f16", (256, 16, 16), (16,)),
    ],
)
def test_a_preset_has_the_published_latent_and_attention(name, latent, levels):
    args = recipe[name]().args
    encoder, decoder = networks(name)
    assert args["latent"] == latent
    assert tuple(256 >> i for i, level in enumerate(encoder.levels) if level.attentions) == levels
    flow = reversed(list(enumerate(reversed(decoder.levels))))
    assert tuple(sorted((256 >> i for i, level in flow if level.attentions), reverse=True)) == levels


def test_the_weights_of_the_terms_are_ldms():
    vae = build("ldm_kl_f8", input_shape=(3, 16, 16), widths=(8, 8), groups=4)
    x = torch.rand(5, 3, 16, 16) * 2 - 1
    torch.manual_seed(3)
    total = vae.loss(x).total
    torch.manual_seed(3)
    out = vae(x)
    mean, variance = out.levels[0].q.mean, out.levels[0].q.variance
    rec = (x - out.y).abs()
    kl_term = 0.5 * (mean**2 + variance - 1 - variance.log()).sum([1, 2, 3])
    torch.testing.assert_close(total, rec.sum() / len(x) + 1e-6 * kl_term.sum() / len(x))


def test_the_weights_of_the_terms_are_vqgans():
    vae = build("vqgan_f16", input_shape=(3, 16, 16), widths=(8, 8), groups=4, latent=6, codebook_size=8)
    x = torch.rand(5, 3, 16, 16) * 2 - 1
    vae.loss(x)  # codes start from the first batch
    out = vae(x)
    z_e, z = vae.encoder(x), out.levels[0].z
    wanted = (x - out.y).abs().mean() + (z - z_e).square().mean() + 0.25 * (z - z_e).square().mean()
    torch.testing.assert_close(vae.loss(x).total, wanted)


@pytest.mark.parametrize(("name", "scale", "shift"), [("sd1", 0.18215, 0.0), ("flux1", 0.3611, 0.1159)])
def test_a_preset_normalizes_as_published(name, scale, shift):
    vae = build(name, input_shape=(3, 16, 16), widths=(8, 8), groups=4, latent=4)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(vae.latents(x), (vae.encode(x).q.mean.detach() - shift) * scale)
    torch.testing.assert_close(vae.decode_latents(vae.latents(x)), vae.reconstruct(x))
