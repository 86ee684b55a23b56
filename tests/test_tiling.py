"""Tiles give what the whole map gives, within less memory."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vaekit
from vaekit import use
from vaekit.decoders.dc import DCDecoder
from vaekit.decoders.kl_resnet import KLResNetDecoder
from vaekit.decoders.tiny import TinyDecoder
from vaekit.encoders.dc import DCEncoder
from vaekit.encoders.kl_resnet import KLResNetEncoder
from vaekit.encoders.tiny import TinyEncoder
from vaekit.layers.group_norm_silu import group_norm_silu
from vaekit.layers.group_statistics import Moments, group_norm, in_bands, merged, moments, normalised
from vaekit.layers.kl_blocks import laid_out
from vaekit.tiling import Chain, Meter, Stage, chain, memory_plan, run_tiled
from vaekit.tiling.plan import make_plan, sizes
from vaekit.tiling.windows import spans

KL: dict[str, Any] = {"widths": (8, 16, 16), "layers": 1, "groups": 4}
TINY: dict[str, Any] = {"widths": (8, 8, 16), "blocks": (1, 1, 2)}
DC: dict[str, Any] = {
    "widths": (8, 16, 16),
    "blocks": (1, 1, 2),
    "block_types": ("resnet", "resnet", "efficientvit"),
    "qkv_multiscales": ((), (), (5,)),
    "head_dim": 4,
}
DECODERS = {
    "group": lambda: KLResNetDecoder((4, 8, 8), (3, 32, 32), **KL),
    "spatial": lambda: KLResNetDecoder((4, 8, 8), (3, 32, 32), norm="spatial", **KL),
    "rms": lambda: KLResNetDecoder((4, 8, 8), (3, 32, 32), norm="rms", **KL),
    "batch": lambda: KLResNetDecoder((4, 8, 8), (3, 32, 32), norm="batch", **KL),
    "attention": lambda: KLResNetDecoder((4, 8, 8), (3, 32, 32), attention=(2,), post_quant_conv=True, **KL),
    "patch": lambda: KLResNetDecoder((4, 8, 8), (3, 64, 64), patch=2, **KL),
    "tiny": lambda: TinyDecoder((4, 8, 8), (3, 32, 32), **TINY, pool=True),
    "dc": lambda: DCDecoder((4, 8, 8), (3, 32, 32), **DC),
    "dc interpolate": lambda: DCDecoder((4, 8, 8), (3, 32, 32), up_type="interpolate", norms="batch", **DC),
}
ENCODERS = {
    "group": lambda: KLResNetEncoder((3, 32, 32), (4, 8, 8), **KL),
    "down": lambda: KLResNetEncoder((3, 32, 32), (4, 8, 8), odd="down", **KL),
    "rms": lambda: KLResNetEncoder((3, 32, 32), (4, 8, 8), norm="rms", **KL),
    "attention": lambda: KLResNetEncoder((3, 32, 32), (4, 8, 8), attention=(2,), out_channels=8, quant_conv=True, **KL),
    "patch": lambda: KLResNetEncoder((3, 64, 64), (4, 8, 8), patch=2, **KL),
    "tiny": lambda: TinyEncoder((3, 32, 32), (4, 8, 8), (-1.0, 1.0), **TINY, pool=True),
    "tiny stem": lambda: TinyEncoder((3, 64, 64), (4, 8, 8), stem=(8,), **TINY),
    "dc": lambda: DCEncoder((3, 32, 32), (4, 8, 8), **DC, out_channels=4),
    "dc conv": lambda: DCEncoder((3, 32, 32), (4, 8, 8), **DC, down_type="conv"),
}


def random_norms(network: nn.Module) -> nn.Module:
    """Norms that are not the identity, so that a mistake in their weights shows."""
    for module in network.modules():
        if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype
    return float((a - b).double().norm() / b.double().norm())


def least(network: nn.Module, x: torch.Tensor, tile: int) -> int:
    """The least memory that tiles can do with, so that as much as possible is tiled and computed again."""
    of = sizes(network, x)
    plan = make_plan(of, tile // of.factors[0])
    smallest = make_plan(of, tile // of.factors[0], plan.least)
    assert any(step.tiled for step in smallest.steps)
    return plan.least


# -- the law -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tile"), [*((name, 8) for name in DECODERS), ("group", 5)])
def test_tiles_decode_to_what_the_whole_latent_decodes_to(name, tile):
    decoder, z = random_norms(DECODERS[name]()).double(), torch.randn(2, 4, 20, 26, dtype=torch.float64)
    with torch.no_grad():
        wanted = decoder(z)
        assert distance(run_tiled(decoder, z, tile, memory=least(decoder, z, tile)), wanted) < 1e-9


@pytest.mark.parametrize(("name", "size"), [*((name, (83, 107)) for name in ENCODERS), ("group", (90, 64))])
def test_tiles_encode_to_what_the_whole_image_encodes_to(name, size):
    encoder, x = random_norms(ENCODERS[name]()).double(), torch.rand(2, 3, *size, dtype=torch.float64)
    tile = 40
    with torch.no_grad():
        wanted = encoder(x)
        assert distance(run_tiled(encoder, x, tile, memory=least(encoder, x, tile)), wanted) < 1e-9


@pytest.mark.parametrize(("tile", "size"), [(2, (3, 11)), (7, (15, 8)), (13, (20, 26)), (25, (20, 26))])
def test_tiles_and_latents_may_have_any_size(tile, size):
    decoder, z = random_norms(DECODERS["group"]()), torch.randn(2, 4, *size)
    with torch.inference_mode():
        wanted = decoder(z)
        assert distance(run_tiled(decoder, z, tile), wanted) < 2e-5
        assert distance(run_tiled(decoder, z, tile, memory=least(decoder, z, tile)), wanted) < 2e-5


def test_a_result_is_cut_to_the_image_that_the_decoder_was_wired_with():
    decoder, z = KLResNetDecoder((4, 16, 16), (3, 61, 63), **KL).eval(), torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        y, wanted = run_tiled(decoder, z, 6), decoder(z)
    assert y.shape == (1, 3, 61, 63) and y.is_contiguous() and distance(y, wanted) < 2e-5


def test_half_precision_is_tiled_with_statistics_in_single_precision():
    decoder = random_norms(DECODERS["group"]())
    z = torch.randn(1, 4, 20, 26)
    with torch.no_grad():
        exact = decoder(z)
        half = decoder.bfloat16()
        z = z.bfloat16()
        whole, tiled = half(z), run_tiled(half, z, 8, memory=least(half, z, 8))
    assert tiled.dtype == torch.bfloat16
    assert distance(tiled.float(), exact) < 1.5 * distance(whole.float(), exact)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_exact_mode_holds_at_most_40_percent_and_what_was_planned():
    decoder = KLResNetDecoder((4, 8, 8), (3, 64, 64), widths=(16, 32, 64, 64), layers=1, groups=16).eval()
    z = torch.randn(1, 4, 40, 32)
    of = sizes(decoder, z)
    with torch.inference_mode():
        with Meter() as whole:
            wanted = decoder(z)
        assert whole.peak == pytest.approx(of.untiled, rel=0.35)
        with Meter() as meter:
            y = run_tiled(decoder, z, 10)
        assert meter.peak < 0.4 * whole.peak
        assert meter.peak < 1.15 * make_plan(of, 10).peak
        assert distance(y, wanted) < 1e-4


def test_less_memory_costs_more_products():
    decoder, z = KLResNetDecoder((4, 8, 8), (3, 32, 32), **KL), torch.empty(1, 4, 64, 64)
    of = sizes(decoder, z)
    usual = make_plan(of, 8)
    spare, ample = make_plan(of, 8, usual.least), make_plan(of, 8, 10 * of.untiled)
    assert spare.peak < usual.peak < ample.peak and spare.cost > usual.cost > ample.cost
    assert not any(step.tiled for step in ample.steps)
    with pytest.raises(ValueError, match="memory: .* not enough"):
        make_plan(of, 8, usual.least - 1)


def test_the_meter_counts_what_is_alive():
    x = torch.zeros(1000)
    with torch.inference_mode(), Meter() as meter:
        x.add_(1)  # was there before
        a = x + 1
        b = a.view(10, 100)[2:]
        del a
        assert meter.live == 4000  # held by its view
        c = torch.cat([b, b])
        del b, c
        d = torch.empty(10, device="meta")
    assert meter.live == 0 and meter.peak == 4000 + 6400 and d.is_meta


def test_products_are_those_of_torchs_flop_counter():
    from torch.utils.flop_counter import FlopCounterMode

    decoder, z = KLResNetDecoder((4, 8, 8), (3, 32, 32), mid_attention=False, **KL), torch.randn(1, 4, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Meter() as meter:
        decoder(z)
    transposed = sum(level.resample.conv.weight.numel() for level in decoder.levels if level.resample is not None)
    assert transposed and 2 * meter.products == flops.get_total_flops()


@pytest.mark.parametrize("any_size", [True, False])
def test_the_memory_plan_says_what_runs_hold(any_size):
    name = "kl_resnet" if any_size else "conv"
    args = KL if any_size else {}
    vae = vaekit.build(
        encoder=use(name, **args), decoder=use(name, **args), latent=(4, 16, 16), input_shape=(3, 64, 64)
    ).eval()
    shape = (2, 3, 128, 80) if any_size else (2, 3, 64, 64)
    plan, x = memory_plan(vae, shape), torch.rand(shape)
    with torch.no_grad():
        with Meter() as encoding:
            h = vae.encoder(x)
        z = vae.encode(x).z
        with Meter() as decoding:
            vae.decoder(z)
    assert plan.encode == pytest.approx(encoding.peak, rel=0.05) and h.shape
    assert plan.decode == pytest.approx(decoding.peak, rel=0.05)
    assert "held MB" in str(plan) and plan.decode_tile(plan.decode) is None
    if not any_size:
        assert plan.decode_tiles == plan.encode_tiles == ()
        with pytest.raises(ValueError, match="free: decode needs"):
            plan.decode_tile(1000)
        return
    half = plan.decode // 2
    tile = plan.decode_tile(half)
    with torch.no_grad(), Meter() as meter:
        run_tiled(vae.decoder, z, tile, memory=half)
    assert meter.peak < 1.15 * half
    assert {t.tile for t in plan.encode_tiles} == {4 * t.tile for t in plan.decode_tiles}
    assert memory_plan(vae, shape[1:]).decode < plan.decode


def test_the_memory_plan_leaves_the_model_as_it_is():
    vae = vaekit.build(
        encoder=use("kl_resnet", **KL), decoder=use("kl_resnet", **KL), latent=(4, 8, 8), input_shape=(3, 32, 32)
    )
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    memory_plan(vae, (3, 96, 96))
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    with pytest.raises(ValueError, match="shape: expected data of shape"):
        memory_plan(vae, (1, 96, 96))


# -- models ------------------------------------------------------------------------------------------------------------


def test_models_encode_and_decode_in_tiles():
    vae = vaekit.build(
        encoder=use("kl_resnet", **KL), decoder=use("kl_resnet", **KL), latent=(4, 8, 8), input_shape=(3, 32, 32)
    ).double()
    x = torch.rand(2, 3, 54, 66, dtype=torch.float64)
    with torch.no_grad():
        level, wanted = vae.encode(x, n=3, tile=32), vae.encode(x, n=3)
        assert level.z.shape == wanted.z.shape and level.p is not None
        assert distance(level.mode, wanted.mode) < 1e-9
        assert distance(vae.decode(wanted.z, tile=8), vae.decode(wanted.z)) < 1e-9
        with pytest.raises(ValueError, match="vae.decode: expected z"):
            vae.decode(wanted.z[..., 0], tile=5)


# -- the blended mode --------------------------------------------------------------------------------------------------


class Pointwise(nn.Module):
    """x, enlarged: what no tile can get wrong."""

    def forward(self, x):
        return F.interpolate(2 * x, scale_factor=2, mode="nearest")


@chain.register
def _(network: Pointwise) -> Chain:
    return Chain([Stage("double", lambda x, _: 2 * x), Stage("enlarge", lambda x, _: network(x / 2), up=2)])


def test_blending_weights_sum_to_one_everywhere():
    x = torch.randn(2, 3, 23, 40, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(run_tiled(Pointwise(), x, 8, exact=False), Pointwise()(2 * x) / 2)
        encoder = TinyEncoder((3, 32, 32), (4, 8, 8), widths=(4, 4, 4), blocks=(0, 0, 0)).double()
        x = torch.rand(1, 3, 83, 107, dtype=torch.float64)
        assert distance(run_tiled(encoder, x, 48, exact=False), encoder(x)) < 0.3


def test_blending_is_linear_between_two_tiles():
    decoder, z = random_norms(DECODERS["batch"]()), torch.randn(1, 4, 8, 14)
    with torch.no_grad():
        y = run_tiled(decoder, z, 8, exact=False)
        left, right = decoder(z[..., :8]), decoder(z[..., 6:])
        weight = (torch.arange(8) + 0.5) / 8  # 2 latent pixels overlap, which are 8 pixels
        blend = left[..., 24:] * (1 - weight) + right[..., :8] * weight
    torch.testing.assert_close(y, torch.cat([left[..., :24], blend, right[..., 8:]], -1), rtol=1e-4, atol=1e-5)


# -- statistics and places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_statistics_of_tiles_are_those_of_the_map(mean):
    x = laid_out(torch.randn(2, 12, 40, 50)) * torch.rand(12, 1, 1) + mean
    cut = [x[..., :17, :], x[..., 17:, :9], x[..., 17:, 9:]]
    found = merged([moments(part, 3) for part in cut])
    wanted = x.double().unflatten(1, (3, -1)).flatten(2)
    torch.testing.assert_close(found.mean, wanted.mean(2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance, wanted.var(2, correction=0), rtol=1e-5, atol=0)
    assert isinstance(found, Moments) and found.count == 2000


def test_a_large_map_is_normalised_as_in_double_precision():
    norm, x = nn.GroupNorm(4, 8), laid_out(torch.randn(1, 8, 300, 400)) + 10
    with torch.no_grad():
        y = normalised(x, in_bands(x, 4), norm.weight, norm.bias, norm.eps)
        assert torch.equal(group_norm(x, 4, norm.weight, norm.bias, norm.eps), y)
        assert distance(y.double(), norm.double()(x.double())) < 2e-6


def test_a_large_map_is_normalised_as_well_in_training_and_its_gradient_is_that_of_the_formula(monkeypatch):
    norm, x = nn.GroupNorm(4, 8), laid_out(torch.randn(1, 8, 300, 400)) + 10
    nn.init.normal_(norm.weight)
    wanted = F.silu(norm.double()(x.double()))
    y = group_norm_silu(norm.float(), x.requires_grad_())
    assert y.requires_grad and distance(y.detach(), wanted.float().detach()) < 2e-6
    monkeypatch.setattr("vaekit.layers.group_statistics._LARGE", 1)
    norm, small = norm.double(), laid_out(torch.randn(2, 8, 3, 5, dtype=torch.float64)).requires_grad_()

    def normalise(x, weight, bias):
        return torch.func.functional_call(Activated(norm), {"norm.weight": weight, "norm.bias": bias}, (x,))

    given = (small, norm.weight, norm.bias)
    torch.testing.assert_close(normalise(*given), F.silu(norm(small)))
    assert torch.autograd.gradcheck(normalise, given)


class Activated(nn.Module):
    """silu(norm(x)) as a module."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return group_norm_silu(self.norm, x)


class Normalised(nn.Module):
    """A large map's own norm, which tiles have to synchronise as they do torch's."""

    def forward(self, x):
        return group_norm(laid_out(x), 2, None, None, 1e-6)


@chain.register
def _(network: Normalised) -> Chain:
    wide = Stage("wide", lambda x, _: x.repeat(1, 32, 1, 1))
    return Chain([wide, Stage("norm", lambda x, _: network(x)), Stage("narrow", lambda x, _: x[:, :4].clone())])


def test_a_large_maps_own_norm_is_synchronised_as_well():
    x = torch.randn(2, 4, 100, 90) * torch.linspace(0.1, 2, 90)
    with torch.no_grad():
        wanted = Normalised()(x.repeat(1, 32, 1, 1))[:, :4]
        assert distance(run_tiled(Normalised(), x, 32, memory=least(Normalised(), x, 32)), wanted) < 1e-6


@pytest.mark.parametrize(("size", "tile", "factor", "rest", "halo", "align"), [
    (20, 8, 1, 0, 2, 1), (26, 5, 4, 0, 6, 4), (21, 4, 4, -3, 9, 4), (21, 4, 4, 3, 9, 4), (7, 8, 2, 0, 3, 2), (9, 1, 8, 0, 8, 2),
])  # fmt: skip
def test_cores_part_the_map_and_windows_hold_their_halos(size, tile, factor, rest, halo, align):
    whole = size * factor + rest
    found = spans(size, tile, factor=factor, size=whole, halo=halo, align=align)
    cores = [s.core(factor, whole) for s in found]
    assert [c[0] for c in cores] + [whole] == [0] + [c[1] for c in cores]
    for span, (a, b) in zip(found, cores, strict=True):
        assert span.start % align == 0 and (span.stop % align == 0 or span.stop == whole)
        assert span.start <= max(0, a - halo) and min(whole, b + halo) <= span.stop <= whole
        assert span.end - span.first <= tile
    assert len({s.stop - s.start for s in found[:-1]}) <= 1  # one batch


# -- what can't be ------------------------------------------------------------------------------------------------------


def test_errors_say_what_to_do():
    decoder, z = DECODERS["group"](), torch.randn(1, 4, 20, 20)
    with pytest.raises(ValueError, match="inference_mode"):
        run_tiled(decoder, z, 8)
    with torch.no_grad():
        for tile in (0, -3, 2.0, True, None):
            with pytest.raises(ValueError, match="whole number of pixels"):
                run_tiled.__wrapped__(decoder, z, tile) if hasattr(run_tiled, "__wrapped__") else run_tiled(
                    decoder, z, tile
                )
        with pytest.raises(ValueError, match="expected at least 2 for this network"):
            run_tiled(decoder, z, 1)
        with pytest.raises(ValueError, match="expected at least 4 .* got 3"):
            run_tiled(decoder, z, 3, exact=False)
        with pytest.raises(ValueError, match="memory: 1,000 bytes"):
            run_tiled(decoder, z, 8, memory=1000)
        with pytest.raises(ValueError, match="image: expected sides of at least 4"):
            run_tiled(ENCODERS["group"](), torch.rand(1, 3, 3, 90), 16)
        with pytest.raises(ValueError, match="ResNetDecoder can't be run in tiles"):
            run_tiled(vaekit.decoder["resnet"]((4, 8, 8), (3, 32, 32), width=8), z, 8)
        with pytest.raises(ValueError, match="vector latent"):
            run_tiled(KLResNetDecoder((4,), (3, 32, 32), **KL), z, 8)
        with pytest.raises(ValueError, match="call vae.eval|Call vae.eval"):
            run_tiled(DECODERS["batch"](), z, 8)


class Attends(nn.Module):
    """A stage that reads the whole map and does not say so."""

    def forward(self, x):
        tokens = x.flatten(2).mT
        return F.scaled_dot_product_attention(tokens, tokens, tokens).mT.reshape(x.shape)


@chain.register
def _(network: Attends) -> Chain:
    wide = Stage("wide", lambda x, _: x.repeat(1, 32, 1, 1))
    return Chain([wide, Stage("attends", lambda x, _: network(x)), Stage("narrow", lambda x, _: x[:, :3].clone())])


def test_a_stage_that_reads_the_whole_map_unsaid_is_refused():
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad(), pytest.raises(ValueError, match="attends reads the whole map by scaled_dot_product"):
        run_tiled(Attends(), x, 8, memory=least(Attends(), x, 8))


def test_a_tile_larger_than_the_map_is_the_plain_pass():
    decoder, z = DECODERS["group"](), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(run_tiled(decoder, z, 8), decoder(z)) and math.prod(z.shape) == 256
