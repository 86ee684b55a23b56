"""What is done to latents in training, against equivariant maps, distributions and derivatives."""

import math
from collections import Counter

import pytest
import scipy.stats
import torch
import torch.nn.functional as F

import vaekit
from vaekit import use
from vaekit.kinds import Transform

POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CHANCE = 1e-4


def make(name, *args, **kwargs):
    return vaekit.transform[name](*args, **kwargs)


# -- equivariance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [(1,), (2,), (3,), (1, 2, 3)])
def test_an_equivariant_decoders_error_does_not_feel_a_turn(turns):
    """Nearest upsampling turns with its latent; rows taken for columns, or x turned the other way, would show."""
    move = make("equivariance", (3, 4, 6), (3, 8, 18), p=1.0, least=1.0, turns=turns)
    z, x = torch.randn(5, 2, 3, 4, 6), torch.rand(2, 3, 8, 18)

    def error(z, x, scale):
        y = F.interpolate(z.flatten(0, 1), scale_factor=scale, mode="nearest").unflatten(0, (5, 2))
        return (x - y).square().sum((2, 3, 4))

    before, moved = error(z, x, (2, 3)), move(z, x)
    turned = moved[0].shape[-2:] == (6, 4)
    assert not torch.equal(moved[0], z) and (len(turns) > 1 or turned == (turns != (2,)))
    torch.testing.assert_close(error(*moved, (3, 2) if turned else (2, 3)), before)


@pytest.mark.parametrize(
    ("latent", "data"),
    [((2, 12), (2, 36)), ((2, 6, 12), (2, 12, 48)), ((2, 9, 9), (2, 36, 36)), ((1, 4, 6, 8), (1, 8, 12, 16))],
)
def test_z_and_x_move_alike(latent, data):
    """On ramps, means over patches and linear resizing agree to the last digit: E τ x = τ E x for E pooling."""
    rank = len(latent) - 1
    stride = tuple(s // t for s, t in zip(data[1:], latent[1:], strict=True))
    grid = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in data[1:]), indexing="ij")
    slopes = torch.randn(3, data[0], rank).double()
    x = torch.einsum("bcr,r...->bc...", slopes, torch.stack(grid))
    z = POOL[rank](x, stride)
    move = make("equivariance", latent, data, p=1.0, least=0.3)
    for _ in range(12):
        moved_z, moved_x = move(z, x)
        assert max(moved_z.shape[2:]) < max(latent[1:])
        here = tuple(s // t for s, t in zip(moved_x.shape[2:], moved_z.shape[2:], strict=True))
        torch.testing.assert_close(POOL[rank](moved_x, here), moved_z)


def test_sizes_and_turns_are_the_papers_each_as_likely_as_another():
    move = make("equivariance", (1, 32, 32), (1, 64, 64), p=0.5)
    corner = torch.arange(32.0 * 32).reshape(1, 1, 32, 32)
    sizes, turns, kept, n = Counter(), Counter(), 0, 4000
    for _ in range(n):
        z, x = move(corner, corner.new_zeros(1, 1, 64, 64))
        if z is corner:
            kept += 1
            continue
        assert x.shape[2:] == tuple(2 * t for t in z.shape[2:])
        sizes[z.shape[2]] += 1
        turns[int(z[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].argmin())] += 1
    assert scipy.stats.binomtest(kept, n, 0.5).pvalue > CHANCE
    assert sorted(sizes) == list(range(8, 32)) and scipy.stats.chisquare(list(sizes.values())).pvalue > CHANCE
    assert sorted(turns) == [1, 2, 3] and scipy.stats.chisquare(list(turns.values())).pvalue > CHANCE


@pytest.mark.parametrize(
    ("t", "least", "sizes"),
    [(25, 0.28, range(7, 25)), (10, 0.7, range(7, 10)), (4, 0.9, [4]), (8, 1.0, [8]), (1, 0.25, [1])],
)
def test_the_smallest_scale_is_kept(t, least, sizes):
    move = make("equivariance", (1, t), (1, 2 * t), p=1.0, least=least)
    found = {move(torch.zeros(1, 1, t), torch.zeros(1, 1, 2 * t))[0].shape[2] for _ in range(300)}
    assert found == set(sizes)


def test_a_seed_gives_the_same_moves_and_the_same_later_draws():
    z, x = torch.randn(2, 3, 8, 8), torch.rand(2, 1, 16, 16)

    def run(p, seed=3):
        torch.manual_seed(seed)
        move = make("equivariance", (3, 8, 8), (1, 16, 16), p=p)
        moved = [move(z, x) for _ in range(5)]
        return moved, torch.rand(())

    (first, after), (second, again), (_, never) = run(0.5), run(0.5), run(0.0)
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    assert after == again == never, "as many numbers are drawn whatever they say"
    assert len({tuple(z.shape) for z, _ in first}) > 1


def test_the_choice_reads_no_value_from_the_device():
    move = make("equivariance", (3, 8, 8), (1, 16, 16), p=1.0)
    z, x = move(torch.empty(2, 3, 8, 8, device="meta"), torch.empty(2, 1, 16, 16, device="meta"))
    assert z.is_meta and x.shape[2:] == tuple(2 * t for t in z.shape[2:])


def test_maps_of_other_sizes_keep_their_own_stride_and_z_moves_alone():
    move = make("equivariance", (3, 8, 8), (1, 16, 16), p=1.0)
    z, x = move(torch.randn(2, 3, 12, 20), torch.rand(2, 1, 48, 80))
    assert tuple(4 * t for t in z.shape[2:]) == tuple(x.shape[2:])
    assert move(torch.randn(2, 3, 8, 8))[1] is None
    with pytest.raises(
        ValueError, match=r"equivariance: expected data whose sides are multiples .* \(8, 8\), got \(20, 16\)"
    ):
        move(torch.randn(2, 3, 8, 8), torch.rand(2, 1, 20, 16))


def test_gradients_reach_z_and_x():
    z, x = torch.randn(2, 3, 8, 8, requires_grad=True), torch.rand(2, 1, 16, 16, requires_grad=True)
    for moved in make("equivariance", (3, 8, 8), (1, 16, 16), p=1.0, least=0.8)(z, x):
        moved.sum().backward()
    assert z.grad.abs().sum() > 0 and x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("latent", "data", "args", "match"),
    [
        ((4,), (3, 16, 16), {}, r"equivariance: .* a latent that is a map like the data, and \(4,\) .* \(3, 16, 16\)"),
        ((4, 64), (3, 16, 16), {}, r"a map like the data, and \(4, 64\) has"),
        ((2, 4, 4), (3, 13, 16), {}, r"sides are multiples of the latent's \(4, 4\), got \(13, 16\)"),
        ((2, 4, 4), (3, 16, 16), {"p": 1.5}, r"p: expected a probability between 0 and 1, got 1\.5"),
        ((2, 4, 4), (3, 16, 16), {"least": 0.0}, r"least: expected a scale above 0 and up to 1, got 0\.0"),
        ((2, 4, 4), (3, 16, 16), {"turns": ()}, r"turns: expected one or more; got \(\)"),
        ((2, 4), (3, 16), {"turns": (2,)}, r"turns: expected 0, since signals have no plane to turn in; got \(2,\)"),
    ],
)
def test_equivariance_says_what_it_can_not_do(latent, data, args, match):
    with pytest.raises(ValueError, match=match):
        make("equivariance", latent, data, **args)


# -- noise -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "law"), [("gaussian", scipy.stats.norm(0, 0.7)), ("uniform", scipy.stats.uniform(-0.7, 1.4))]
)
def test_fixed_noise_follows_its_law(kind, law):
    z, x = torch.randn(4, 50, 2, 5, 5), torch.rand(50, 3)
    noisy, same = make("latent_noise", (2, 5, 5), scale=0.7, kind=kind, strength="fixed")(z, x)
    assert same is x
    assert scipy.stats.kstest((noisy - z).flatten().double(), law.cdf).pvalue > CHANCE


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_random_noise_has_a_strength_of_its_own_in_each_draw(kind):
    """Uniform between 0 and τ; the same all over an example, which the two halves' spreads show."""
    z = torch.zeros(3, 200, 40, 10, 10)
    noise, _ = make("latent_noise", (40, 10, 10), scale=0.8, kind=kind)(z)
    unit = 1.0 if kind == "gaussian" else 1 / math.sqrt(3)
    strength = noise.flatten(2).std(2) / unit / 0.8
    assert scipy.stats.kstest(strength.flatten(), "uniform").pvalue > CHANCE
    halves = [noise[:, :, half].flatten(2).std(2) / unit / 0.8 for half in (slice(20), slice(20, 40))]
    torch.testing.assert_close(*halves, rtol=0.15, atol=0.01)


def test_interpolated_noise_takes_from_z_what_it_adds():
    noisy, _ = make("latent_noise", (4000,), scale=0.5, interpolate=True)(torch.full((200, 4000), 3.0))
    sigma = 1 - noisy.mean(1) / 3
    torch.testing.assert_close(noisy.std(1), 0.5 * sigma, rtol=0.1, atol=0.02)
    assert scipy.stats.kstest(sigma, "uniform").pvalue > CHANCE


def test_noise_leaves_the_gradient_of_z():
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    make("latent_noise", (3, 4, 4))(z)[0].sum().backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z))


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"scale": 0.0}, r"scale: expected a positive number, got 0\.0"),
        ({"interpolate": True, "strength": "fixed"}, r"interpolate: with strength='fixed' nothing is left of z"),
    ],
)
def test_noise_says_what_it_can_not_do(args, match):
    with pytest.raises(ValueError, match=match):
        make("latent_noise", (2,), **args)


# -- dropped channels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8,), (8, 5), (8, 4, 3), (8, 2, 3, 2)])
def test_a_prefix_of_the_channels_is_left(shape):
    z, x = torch.rand(3, 500, *shape) + 0.1, torch.rand(500, 2)
    dropped, same = make("channel_dropout", shape, least=2, step=3)(z, x)
    assert same is x
    kept = (dropped != 0).flatten(3).float() if len(shape) > 1 else (dropped != 0).float()[..., None]
    assert (kept.amin(3) == kept.amax(3)).all(), "a channel is left whole or not at all"
    kept = kept[..., 0]
    assert (kept.diff(dim=2) <= 0).all(), "no channel without those before it"
    torch.testing.assert_close(dropped[dropped != 0], z[dropped != 0])
    assert not torch.equal(kept[0], kept[1]), "each draw has a number of its own"
    counts = Counter(kept.sum(2).int().flatten().tolist())
    assert sorted(counts) == [2, 5, 8] and scipy.stats.chisquare(list(counts.values())).pvalue > CHANCE


def test_an_example_is_cut_with_its_probability():
    z = torch.ones(4000, 10)
    counts = make("channel_dropout", (10,), p=0.3)(z)[0].sum(1)
    assert scipy.stats.binomtest(int((counts < 10).sum()), 4000, 0.3 * 0.9).pvalue > CHANCE
    assert torch.equal(make("channel_dropout", (10,), p=0.0)(z)[0], z)


def test_dropped_channels_have_no_gradient_even_where_they_are_infinite():
    z = torch.tensor([[1.0, math.inf, math.nan]], requires_grad=True)
    dropout = make("channel_dropout", (3,), least=1, step=2)
    found = [torch.autograd.grad(dropout(z)[0][0, 0], z)[0] for _ in range(20)]
    assert all(torch.equal(g, torch.tensor([[1.0, 0.0, 0.0]])) for g in found)
    assert any(torch.isfinite(dropout(z)[0]).all() for _ in range(20))


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"p": -0.1}, r"p: expected a probability"),
        ({"least": 0}, r"least: expected between 1 and the latent's 8 channels, got 0"),
        ({"least": 9}, r"least: expected between 1 and the latent's 8 channels, got 9"),
        (
            {"least": 2, "step": 4},
            r"step: expected at least 1, and to reach 8 channels from 2; got 4\. .* divisor of 6",
        ),
    ],
)
def test_channel_dropout_says_what_it_can_not_do(args, match):
    with pytest.raises(ValueError, match=match):
        make("channel_dropout", (8, 4, 4), **args)


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tanh", "clip"])
def test_bound_keeps_inside_with_the_derivative_it_says(kind):
    bound = make("bound", limit=2.5, kind=kind)
    assert bound.always and bound(torch.zeros(1))[1] is None
    z = torch.linspace(-9, 9, 100, dtype=torch.float64, requires_grad=True)
    y, same = bound(z, z)
    assert same is z and y.abs().max() <= 2.5
    wanted = 1 - (z / 2.5).tanh().square() if kind == "tanh" else (z.abs() < 2.5).double()
    torch.testing.assert_close(torch.autograd.grad(y.sum(), z)[0], wanted.detach())
    near = torch.linspace(-0.01, 0.01, 5)
    torch.testing.assert_close(bound(near)[0], near, rtol=1e-4, atol=0)


def test_bound_needs_a_limit():
    with pytest.raises(ValueError, match=r"limit: expected a positive number, got -1\.0"):
        make("bound", limit=-1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["equivariance", "latent_noise", "channel_dropout", "bound"])
def test_a_transform_keeps_the_type(name, dtype):
    given = {"equivariance": ((4, 8, 8), (1, 16, 16)), "bound": ()}.get(name, ((4, 8, 8),))
    for _ in range(4):
        z, x = make(name, *given)(torch.randn(2, 4, 8, 8, dtype=dtype), torch.rand(2, 1, 16, 16, dtype=dtype))
        assert z.dtype == dtype and x.dtype == dtype


class Halved(Transform):
    """z and x at half their size."""

    def forward(self, z, x=None):
        return F.avg_pool2d(z, 2), None if x is None else F.avg_pool2d(x, 2)


def test_a_size_that_the_decoder_does_not_take_is_refused_where_the_transform_ran():
    x = torch.rand(2, 1, 16, 16)
    vae = vaekit.build("conv", latent=(2, 4, 4), input_shape=(1, 16, 16), width=8, transforms=[Halved()])
    with pytest.raises(
        ValueError, match=r"vae\.transforms: ConvDecoder decodes .* \(2, 4, 4\), .* made them \(2, 2, 2\)"
    ):
        vae.loss(x)
    assert vae.eval().loss(x).total.isfinite(), "evaluation knows no transforms"
    networks = {name: use("kl_resnet", widths=(8, 8, 8), layers=1, groups=4) for name in ("encoder", "decoder")}
    vae = vaekit.build(latent=(2, 4, 4), input_shape=(1, 16, 16), transforms=[Halved()], **networks)
    assert vae.loss(x).total.isfinite() and vae(x).y.shape == (2, 1, 8, 8)
