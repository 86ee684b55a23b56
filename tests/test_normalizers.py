"""Scales of latents against numpy and torch.nn.BatchNorm2d, and their way to disk and back."""

import copy

import pytest
import torch
import torch.nn.functional as F

import vaekit

SHAPES = [(5,), (5, 6), (5, 4, 6), (2, 4, 2, 6)]
NAMES = {"scale_shift": {}, "channel_stats": {}, "batchnorm": {}}


def make(name, shape=(5, 4, 6), **args):
    if name == "batchnorm" and len(shape) == 1:
        args.setdefault("patch", 1)
    return vaekit.normalizer[name](**args) if name == "scale_shift" else vaekit.normalizer[name](shape, **args)


def latents(n, shape, offset=3.0):
    """Channels with scales and places of their own."""
    each = (-1, *(1,) * (len(shape) - 1))
    scale, place = torch.rand(shape[0]).reshape(each) + 0.2, offset * torch.randn(shape[0]).reshape(each)
    return place + scale * torch.randn(n, *shape)


def splits(z):
    yield (z,)
    yield z
    yield z.split(1)
    yield z.split([1, 7, 3, len(z) - 11])
    yield (part for part in z.split(9))
    yield [z[:8].reshape(2, 4, *z.shape[1:]), z[8:]]  # with draws


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [3.0, 1e5])
def test_channel_stats_are_those_of_all_latents_however_they_are_split(shape, offset):
    """Far from 0, sums of squares in single precision would leave nothing of the variance."""
    z = latents(20, shape, offset)
    rows = z.double().transpose(0, 1).flatten(1)
    for batches in splits(z):
        normalizer = make("channel_stats", shape).double()
        normalizer.fit(batches)
        torch.testing.assert_close(normalizer.mean, rows.mean(1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(normalizer.std, rows.std(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_scale_shift_finds_one_mean_and_one_standard_deviation(shape):
    z = latents(20, shape)
    for batches in splits(z):
        normalizer = make("scale_shift").double()
        normalizer.fit(batches)
        torch.testing.assert_close(normalizer.shift, z.double().mean())
        torch.testing.assert_close(normalizer.scale, 1 / z.double().std())
    normalised = normalizer(z)
    torch.testing.assert_close(normalised.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.std(), torch.tensor(1.0))


@pytest.mark.parametrize("eps", [1e-4, 0.3])
def test_batchnorm_is_torchs_in_evaluation_after_a_cumulative_pass(eps):
    z, other = latents(20, (5, 4, 6)), latents(3, (5, 8, 10))
    theirs = torch.nn.BatchNorm2d(20, eps=eps, affine=False, momentum=None)
    theirs(F.pixel_unshuffle(z, 2))
    for batches in splits(z):
        normalizer = make("batchnorm", eps=eps)
        normalizer.fit(batches)
        torch.testing.assert_close(normalizer.running_mean, theirs.running_mean)
        torch.testing.assert_close(normalizer.running_var, theirs.running_var)
    theirs.eval()
    for each in (z, other):
        torch.testing.assert_close(normalizer(each), theirs(F.pixel_unshuffle(each, 2)))


def test_the_weights_of_flux2s_batch_norm_fit_by_name():
    theirs = torch.nn.BatchNorm2d(20, eps=1e-4, affine=False)
    for _ in range(5):
        theirs(F.pixel_unshuffle(latents(8, (5, 4, 6)), 2))
    state = {key: value for key, value in theirs.state_dict().items() if key != "num_batches_tracked"}
    normalizer = make("batchnorm")
    normalizer.load_state_dict({**state, "fitted": torch.tensor(True)})
    z = latents(3, (5, 4, 6))
    torch.testing.assert_close(normalizer(z), theirs.eval()(F.pixel_unshuffle(z, 2)))


def test_batchnorm_of_plain_positions_gives_unit_channels():
    z = latents(50, (5, 4, 6))
    normalizer = make("batchnorm", patch=1, eps=0.0)
    normalizer.fit([z])
    rows = normalizer(z).transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.std(1), torch.ones(5))


def test_a_channel_that_never_changes_keeps_its_unit():
    z = latents(20, (3, 4, 4))
    z[:, 1] = 0.7
    normalizer = make("channel_stats", (3, 4, 4))
    normalizer.fit(z.split(6))
    torch.testing.assert_close(normalizer.std[1], torch.tensor(1.0))
    assert torch.isfinite(normalizer(z)).all()


# -- forth and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_inverse_undoes_forward_for_draws_and_other_sizes(name, shape):
    normalizer = make(name, shape)
    normalizer.fit(latents(40, shape).split(7))
    larger = (shape[0], *(2 * t for t in shape[1:]))
    for size in ((3, *shape), (2, 3, *shape), (4, 2, 3, *larger)):
        z = latents(1, size)[0]
        torch.testing.assert_close(normalizer.inverse(normalizer(z)), z, rtol=1e-4, atol=1e-4)
    if name == "batchnorm" and len(shape) > 1:
        c, *t = shape
        assert normalizer(torch.zeros(3, *shape)).shape == (3, c * 2 ** len(t), *(s // 2 for s in t))


def test_scale_shift_is_diffusers_convention():
    z = torch.randn(3, 4, 2, 2)
    normalizer = make("scale_shift", scale=0.3611, shift=0.1159)
    torch.testing.assert_close(normalizer(z), (z - 0.1159) * 0.3611)
    torch.testing.assert_close(normalizer.inverse(z), z / 0.3611 + 0.1159)
    torch.testing.assert_close(make("scale_shift", scale=0.18215)(z), 0.18215 * z)
    torch.testing.assert_close(make("scale_shift", shift=2.0)(z), z - 2)
    with pytest.raises(TypeError, match=r"ScaleShiftNormalizer has nothing to fit: its numbers are arguments"):
        normalizer.fit([z])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_half(name):
    normalizer = make(name)
    normalizer.fit(latents(40, (5, 4, 6)).bfloat16().split(7))
    z = latents(3, (5, 4, 6)).bfloat16()
    assert normalizer(z).dtype == torch.bfloat16 == normalizer.inverse(normalizer(z)).dtype
    torch.testing.assert_close(normalizer(z).float(), normalizer(z.float()), rtol=0.02, atol=0.05)


# -- before and after fitting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_normalised_before_it_is_fitted(name):
    normalizer, z = make(name), latents(9, (5, 4, 6))
    for use in (normalizer, normalizer.inverse):
        with pytest.raises(ValueError, match=rf"{name} is not fitted yet: call vae\.fit_normalizer\(data\)"):
            use(z)
    with pytest.raises(ValueError, match=f"{name}: expected at least two values"):
        normalizer.fit([])
    z[3, 1, 2, 2] = torch.nan
    with pytest.raises(ValueError, match=f"{name}: the latents hold NaN"):
        normalizer.fit(z.split(2))
    with pytest.raises(ValueError, match="not fitted yet"):
        normalizer(z)


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_goes_through_a_state_dict_and_a_copy(name):
    normalizer, z = make(name), latents(9, (5, 4, 6))
    normalizer.fit([z])
    twin = make(name)
    twin.load_state_dict(normalizer.state_dict())
    for other in (twin, copy.deepcopy(normalizer)):
        assert torch.equal(other(z), normalizer(z)) and torch.equal(
            other.inverse(other(z)), normalizer.inverse(normalizer(z))
        )
    twin.load_state_dict(make(name).state_dict())
    with pytest.raises(ValueError, match="not fitted yet"):
        twin(z)


def test_numbers_that_are_arguments_are_not_saved_again():
    normalizer = make("scale_shift", scale=0.5)
    assert not normalizer.state_dict()
    assert normalizer.double().scale.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_a_second_fit_starts_anew(name):
    normalizer, fresh = make(name), make(name)
    normalizer.fit([latents(9, (5, 4, 6))])
    z = latents(9, (5, 4, 6))
    normalizer.fit([z])
    fresh.fit([z])
    assert torch.equal(normalizer(z), fresh(z))


def test_bad_numbers_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"scale: expected a positive number, got 0\.0"):
        make("scale_shift", scale=0.0)
    with pytest.raises(ValueError, match=r"shift: expected a finite number, got nan"):
        make("scale_shift", shift=float("nan"))
    with pytest.raises(ValueError, match=r"scale_shift: the latents are all equal"):
        make("scale_shift").fit([torch.ones(9, 3)])
    with pytest.raises(ValueError, match=r"patch: expected a divisor of the sides of the latent \(5, 4, 7\), got 2"):
        make("batchnorm", (5, 4, 7))
    with pytest.raises(ValueError, match=r"patch: expected a divisor of the sides of the latent \(5,\), got 2"):
        make("batchnorm", (5,), patch=2)
    with pytest.raises(ValueError, match=r"eps: expected a number of at least 0, got -1"):
        make("batchnorm", eps=-1.0)
    with pytest.raises(
        ValueError, match=r"channel_stats: expected latents of 5 channels, got a tensor of shape \(9, 4, 4, 6\)"
    ):
        make("channel_stats").fit([torch.zeros(9, 4, 4, 6)])
    normalizer = make("batchnorm")
    normalizer.fit([latents(9, (5, 4, 6))])
    with pytest.raises(ValueError, match=r"batchnorm: expected sides that are multiples of 2, got \(5, 6\)"):
        normalizer(torch.zeros(2, 5, 5, 6))
