"""The tiny and the deep compression autoencoder: what is theirs beside the laws of every part."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vaekit
from vaekit.layers import dc_blocks, tiny_blocks
from vaekit.layers.recompute import recomputed
from vaekit.layers.strided import strided
from vaekit.spec import use
from vaekit.testing import Subject, check, trains
from vaekit.wiring import BuildError

TINY: dict[str, Any] = {"widths": (8, 8, 8), "blocks": (1, 2, 1)}
DC: dict[str, Any] = {
    "widths": (8, 16, 16),
    "blocks": (1, 1, 2),
    "block_types": ("resnet", "efficientvit", "efficientvit"),
    "qkv_multiscales": ((), (), (3, 5)),
    "head_dim": 4,
}
BATCHED: dict[str, Any] = {"norms": ("batch", "batch", "rms"), "acts": ("relu", "silu", "silu")}


def model(name: str, channels: int = 4, input_shape: tuple[int, ...] = (3, 24, 16), **slots: Any) -> vaekit.VAE:
    args = TINY if name == "tiny" else DC
    own = {key: slots.pop(key) for key in ("checkpoint", "up", "down") if key in slots}
    spare = {"checkpoint": own.get("checkpoint", False)}
    return vaekit.build(
        input_shape=input_shape,
        latent=(channels, *strided(input_shape[1:], 4)),
        **{
            "encoder": use(name, **{**args, **spare, "out_channels": channels, **own.get("down", {})}),
            "decoder": use(name, **{**args, **spare, **own.get("up", {})}),
            "sampler": use("dirac", head="none"),
            "likelihood": use("laplace", scale=1.0),
            "loss": {"l1": 1.0},
            "data_range": (-1.0, 1.0),
            **slots,
        },
    )


def gradients(vae: vaekit.VAE, x: torch.Tensor) -> dict[str, torch.Tensor]:
    vae.zero_grad()
    vae.loss(x).total.backward()
    assert all(p.grad is not None for p in vae.parameters())
    return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("kind", "name", "args"),
    [
        ("encoder", "tiny", {**TINY, "widths": (8, 12, 8), "pool": True, "checkpoint": True}),
        ("encoder", "tiny", {"widths": (8, 8), "blocks": (1, 1), "stem": (4, 8)}),
        ("decoder", "tiny", {**TINY, "widths": (8, 12, 8), "pool": True, "checkpoint": True}),
        ("encoder", "dc", {**DC, "checkpoint": True}),
        ("encoder", "dc", {**DC, "down_type": "conv", "blocks": (0, 1, 1)}),
        ("decoder", "dc", {**DC, **BATCHED, "checkpoint": True}),
        ("decoder", "dc", {**DC, "up_type": "interpolate", "blocks": (0, 1, 1)}),
    ],
)
def test_every_setting_obeys_the_laws(kind, name, args):
    check(kind, name, **args)


@pytest.mark.parametrize("name", ["tiny", "dc"])
def test_a_gradient_reaches_every_parameter_of_encoder_and_decoder(name):
    """diffusers' AutoencoderTiny.forward rounds latents to bytes, so that its encoder learns nothing."""
    vae = model(name)
    trains(vae)
    found = gradients(vae, torch.rand(2, 3, 24, 16) * 2 - 1)
    assert all(g.any() for g in found.values())


@pytest.mark.parametrize("name", ["tiny", "dc"])
@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_recomputing_changes_neither_results_nor_gradients(name, data_range):
    """In diffusers' AutoencoderTiny, checkpointing leaves out the step from [-1, 1] to [0, 1]."""
    plain = model(name, data_range=data_range)
    spare = model(name, checkpoint=True, data_range=data_range)
    spare.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 24, 16) * (data_range[1] - data_range[0]) + data_range[0]
    assert torch.equal(plain(x).y, spare(x).y)
    for (key, a), b in zip(gradients(plain, x).items(), gradients(spare, x).values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def test_recomputing_keeps_fewer_maps():
    def kept(checkpoint: bool) -> int:
        seen: dict[int, int] = {}

        def note(t: torch.Tensor) -> torch.Tensor:
            seen[t.data_ptr()] = t.numel()
            return t

        vae = model("dc", checkpoint=checkpoint)
        weights = {p.data_ptr() for p in vae.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            loss = vae.loss(torch.rand(2, 3, 24, 16)).total
        assert loss.requires_grad
        return sum(count for place, count in seen.items() if place not in weights)

    assert kept(True) < 0.4 * kept(False)


def test_recomputing_counts_a_batch_once_in_batch_norms():
    plain, spare = model("dc", up=BATCHED), model("dc", up=BATCHED, checkpoint=True)
    spare.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 24, 16)
    for _ in range(2):
        a, b = gradients(plain, x), gradients(spare, x)
    for key in a:
        torch.testing.assert_close(a[key], b[key], msg=key)
    buffers = dict(spare.named_buffers())
    assert any("num_batches" in key for key in buffers)
    for key, value in plain.named_buffers():
        torch.testing.assert_close(value, buffers[key], rtol=0, atol=0, msg=key)


def test_a_recomputed_part_sees_the_weights_of_its_first_pass():
    part = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    other = {key: torch.randn_like(p) for key, p in part.named_parameters()}
    x = torch.randn(2, 3, requires_grad=True)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = part

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return recomputed(self.part, x)

    y = torch.func.functional_call(Wrapped(), {f"part.{key}": p for key, p in other.items()}, (x,))
    (found,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(torch.func.functional_call(part, other, (x,)).square().sum(), x)
    torch.testing.assert_close(found, expected)
    assert all(p.grad is None for p in part.parameters())


@pytest.mark.parametrize("name", ["tiny", "dc"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_single(name, dtype):
    """diffusers' AutoencoderTiny.forward fails in bfloat16."""
    # a head whose every query is negative gives 0, and rounding moves the few channels of a small head in and out of that
    wide = {"head_dim": 16} if name == "dc" else {}
    vae = model(name, up=wide, down=wide).eval()
    x = torch.rand(2, 3, 24, 16) * 2 - 1
    with torch.no_grad():
        expected = vae.reconstruct(x)
        half = copy.deepcopy(vae).to(dtype)
        found = half.reconstruct(x)
        z = half.encoder(x.to(dtype))
    assert z.dtype == dtype and torch.isfinite(found).all()
    error = (found.float() - expected).norm() / expected.norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("name", ["tiny", "dc"])
def test_a_model_in_half_precision_trains(name):
    vae = model(name).to(torch.bfloat16)
    report = vae.loss(torch.rand(2, 3, 24, 16))
    report.total.backward()
    assert torch.isfinite(report.total)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())


@pytest.mark.parametrize("name", ["tiny", "dc"])
@pytest.mark.parametrize("channels", [1, 16])
def test_channels_of_data_and_latent_are_free(name, channels):
    """diffusers' AutoencoderTiny takes its stride from the image's channels, and tiles for 4 channels of latent."""
    vae = model(name, channels, (1, 24, 16))
    assert vae.encoder.stride == vae.decoder.stride == 4
    x = torch.rand(2, 1, 24, 16)
    assert vae.encode(x).z.shape == (2, channels, 6, 4)
    assert vae(x).y.shape == x.shape


@pytest.mark.parametrize("name", ["tiny", "dc"])
def test_other_sizes_pass_at_run_time(name):
    vae = model(name).eval()
    for size in ((8, 40), (64, 64), (4, 4)):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            assert vae.encoder(x).shape == (1, 4, size[0] // 4, size[1] // 4)
            assert vae.decoder(vae.encoder(x)).shape == x.shape
    assert vae.encoder(torch.rand(1, 3, 9, 14)).shape == (1, 4, 3, 4)


@pytest.mark.parametrize("name", ["tiny", "dc"])
def test_odd_sizes_come_back_exactly(name):
    vae = model(name, input_shape=(3, 9, 14))
    x = torch.rand(2, 3, 9, 14)
    assert vae.encode(x).z.shape == (2, 4, 3, 4)
    assert vae(x).y.shape == x.shape


def test_the_tiny_networks_see_data_in_zero_to_one():
    data = torch.rand(2, 3, 24, 16)
    signed, unit = model("tiny"), model("tiny", data_range=(0.0, 1.0))
    bytes_, free = model("tiny", data_range=(0.0, 255.0)), model("tiny", data_range=None)
    for each in (unit, bytes_, free):
        each.load_state_dict(signed.state_dict())
    expected = unit(data)
    for vae, scale, shift in ((signed, 2.0, -1.0), (bytes_, 255.0, 0.0), (free, 1.0, 0.0)):
        out = vae(data * scale + shift)
        torch.testing.assert_close(out.z, expected.z, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close((out.y - shift) / scale, expected.y, rtol=1e-4, atol=1e-5)


def test_the_tiny_decoder_bounds_its_latent():
    z = torch.tensor([-100.0, -0.01, 0.0, 0.01, 100.0])
    torch.testing.assert_close(
        tiny_blocks.Bound()(z), torch.tensor([-3.0, -0.01, 0.0, 0.01, 3.0]), rtol=1e-3, atol=1e-6
    )
    decoder = model("tiny").decoder
    far = torch.full((1, 4, 6, 4), 1e4)
    torch.testing.assert_close(decoder(far), decoder(10 * far))


def test_pool_blocks_read_the_whole_map_and_others_their_surroundings():
    x = torch.randn(1, 4, 20, 20, dtype=torch.float64, requires_grad=True)
    for pool, far in ((False, False), (True, True)):
        block = tiny_blocks.TinyBlock(4, "relu", pool=pool).double()
        (g,) = torch.autograd.grad(block(x)[0, :, 0, 0].sum(), x)
        assert bool(g[..., 10:, 10:].any()) == far


def test_pools_are_the_blocks_beside_the_latent():
    vae = model("tiny", up={"pool": True}, down={"pool": True})
    pooled = [key for key in vae.state_dict() if key.endswith("pool.0.weight")]
    assert pooled == ["encoder.layers.6.pool.0.weight", "decoder.layers.2.pool.0.weight"]


def test_linear_attention_equals_the_quadratic_form():
    q, k = (torch.randn(2, 3, 8, 50, dtype=torch.float64).relu() for _ in range(2))
    v = torch.randn(2, 3, 5, 50, dtype=torch.float64)
    scores = torch.einsum("bgdi,bgdj->bgij", q, k)
    weights = scores / (scores.sum(-1, keepdim=True) + 1e-15)
    expected = torch.einsum("bgij,bgej->bgei", weights, v)
    torch.testing.assert_close(dc_blocks.linear_attention(q, k, v), expected, rtol=1e-12, atol=1e-14)


def test_linear_attention_of_a_place_that_meets_no_key_is_zero_with_a_finite_gradient():
    q, k = torch.rand(1, 1, 4, 6), torch.rand(1, 1, 4, 6)
    q[..., 2] = 0
    q.requires_grad_(), k.requires_grad_()
    out = dc_blocks.linear_attention(q.relu(), k, torch.rand(1, 1, 4, 6))
    assert not out[..., 2].any()
    for g in torch.autograd.grad(out.sum(), (q, k)):
        assert torch.isfinite(g).all()


def test_attention_is_in_single_precision_under_autocast_and_in_half():
    """In float16, sums over a hundred places of values around 30 overflow."""
    block = dc_blocks.LinearAttention(8, head_dim=4, scales=(3,), norm="rms")
    with torch.no_grad():
        block.qkv.weight.mul_(60)
    x = torch.randn(1, 8, 16, 16)
    expected = block(x)
    with torch.autocast("cpu", torch.float16):
        cast = block(x)
    half = copy.deepcopy(block).half()(x.half())
    for found in (cast.float(), half.float()):
        assert torch.isfinite(found).all()
        assert (found - expected).norm() < 0.02 * expected.norm()
    seen = []
    plain = dc_blocks.linear_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dc_blocks, "linear_attention", lambda *a: seen.append(plain(*a)) or seen[-1])
        with torch.autocast("cpu", torch.bfloat16):
            block(x)
    assert seen[0].dtype == torch.float32


def test_more_places_cost_more_in_proportion():
    from torch.utils.flop_counter import FlopCounterMode

    block = dc_blocks.LinearAttention(8, head_dim=4, scales=(3,), norm="rms")
    costs = []
    for side in (16, 32):
        with FlopCounterMode(display=False) as counter:
            block(torch.randn(1, 8, side, side))
        costs.append(counter.get_total_flops())
    assert costs[1] == pytest.approx(4 * costs[0], rel=1e-6)


def test_shortcuts_pass_means_down_and_copies_up():
    down = dc_blocks.Down(4, 8, "pixel_unshuffle")
    up = dc_blocks.Up(8, 4, "pixel_shuffle")
    for part in (down.conv, up.conv):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 6, 6)
    h = down(x)
    torch.testing.assert_close(h[:, 2], x[:, 1, ::2].unflatten(2, (3, 2)).mean(3))  # two pixels of a row
    assert torch.equal(up(h)[:, 1, ::2, ::2], h[:, 2])
    torch.testing.assert_close(F.avg_pool2d(up(h), 2), F.avg_pool2d(x, 2))


def test_rms_norm_is_that_of_torch():
    norm = dc_blocks.RMSNorm(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 3, 5)
    expected = F.rms_norm(x.movedim(1, -1), (8,), norm.weight, eps=1e-5) + norm.bias
    torch.testing.assert_close(norm(x), expected.movedim(-1, 1))
    large = norm.half()((300 * x).half())  # whose squares float16 can't hold
    torch.testing.assert_close(large.float(), expected.movedim(-1, 1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("variant", ["sana", "in", "mix"])
def test_the_recipe_of_dc_ae_has_the_published_scale_and_norms(variant):
    spec = vaekit.recipe["dc_ae_f32c32"](variant=variant)
    assert spec.args["latent"] == (32, 8, 8)
    assert spec.args["normalizer"].args["scale"] == {"sana": 0.41407, "in": 0.3189, "mix": 0.4552}[variant]
    assert ("norms" in spec.args["decoder"].args) == (variant != "sana")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("taesd3", {"widths": (8, 8), "blocks": (1, 1)}),
        ("dc_ae_f32c32", {"widths": (12, 12, 12, 12), "variant": "in"}),
    ],
)
def test_the_recipes_obey_the_laws(name, args):
    check("recipe", name, **args)


@pytest.mark.parametrize(
    ("kind", "name", "args", "message"),
    [
        ("encoder", "tiny", {"blocks": (1, 1)}, "blocks: expected 4"),
        ("encoder", "tiny", {"widths": ()}, "widths"),
        ("encoder", "tiny", {"stem": (4,)}, "stem: expected to end in"),
        ("encoder", "tiny", {"out_channels": 0}, "out_channels"),
        ("encoder", "tiny", {"act": "sine"}, "activation"),
        ("encoder", "tiny", {"widths": (8,) * 6, "blocks": (1,) * 6}, "image: expected sides of at least 32"),
        ("decoder", "tiny", {"blocks": (1, 1, 1, 0), "pool": True}, "pool"),
        ("decoder", "tiny", {"widths": (8, 8), "blocks": (1, 1)}, "latent: expected a map of 12×8"),
        ("encoder", "dc", {**DC, "blocks": (1, 0, 1)}, "blocks"),
        ("encoder", "dc", {**DC, "block_types": ("resnet",)}, "block_types: expected one name, or 3"),
        ("encoder", "dc", {**DC, "qkv_multiscales": ((4,), (), ())}, "qkv_multiscales: expected 3 tuples of odd"),
        ("encoder", "dc", {**DC, "out_channels": 3}, "out_channels: out_shortcut averages the last 16"),
        ("encoder", "dc", {**DC, "widths": (8, 12, 16)}, "do not divide"),
        ("encoder", "dc", {**DC, "widths": (8, 10, 20)}, "multiples of 4"),
        ("decoder", "dc", {**DC, "norms": ("rms", "batch")}, "norms: expected one name, or 3"),
        ("decoder", "dc", {**DC, "head_dim": 0}, "head_dim"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(kind, name, args, message):
    wired = {"in_shape": (3, 24, 16), "out_shape": (3, 24, 16), "latent_shape": (4, 3, 2), "data_range": (0.0, 1.0)}
    if name == "dc":
        wired["latent_shape"] = (4, 6, 4)
    with pytest.raises(BuildError, match=message):
        Subject(kind, name, args).make(**wired)


def test_a_latent_that_does_not_divide_the_width_is_refused():
    with pytest.raises(BuildError, match="latent: in_shortcut repeats"):
        Subject("decoder", "dc", DC).make(latent_shape=(3, 6, 4), out_shape=(3, 24, 16))


@pytest.mark.parametrize("name", ["tiny", "dc"])
def test_an_image_smaller_than_the_stride_is_refused_at_run_time(name):
    with pytest.raises(ValueError, match="image: expected sides of at least 4.*got 3×8"):
        model(name).encoder(torch.rand(1, 3, 3, 8))
