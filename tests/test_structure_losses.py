"""Losses of frequencies, wavelets and edges against numpy, PyWavelets and conservation laws."""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

import vaekit
from vaekit import Level, Output
from vaekit.layers.haar import haar
from vaekit.layers.wavelets import FILTERS, mirrored, split
from vaekit.testing import check

DATA = [(2, 11), (2, 12), (3, 9, 14), (1, 8, 12), (2, 5, 6, 7)]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("focal_frequency", {}),
        ("focal_frequency", {"alpha": 2.0, "log": True}),
        ("wavelet", {}),
        ("wavelet", {"wavelet": "db2", "levels": 1, "weights": (1.0, 0.0)}),
        ("gradient", {}),
        ("gradient", {"p": 2.0, "signed": False}),
    ],
)
def test_the_public_laws_hold(name, args):
    check("loss", name, **args)


@pytest.mark.parametrize("name", ["focal_frequency", "wavelet", "gradient"])
def test_data_without_places_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name}: .* the data \(6,\) have no\s+spatial dimensions"):
        vaekit.loss[name]((6,))


@pytest.mark.parametrize("name", ["focal_frequency", "wavelet", "gradient"])
def test_half_precision_gives_single_precision_sums(name):
    x, made = torch.rand(2, 3, 8, 8).bfloat16(), torch.rand(2, 3, 8, 8).bfloat16()
    got = vaekit.loss[name]((3, 8, 8))(output(x, made))
    torch.testing.assert_close(got, vaekit.loss[name]((3, 8, 8))(output(x.float(), made.float())))


def output(x, made):
    """An Output whose p(x|z) has the mean given."""
    lead = made.shape[: made.ndim - x.ndim + 1]
    return Output(x, made, Independent(Normal(made, 1.0), x.ndim - 1), (Level(torch.zeros(*lead, 1)),))


def pairs(shape, draws=2, batch=3):
    x, made = torch.rand(batch, *shape).double(), torch.rand(draws, batch, *shape).double()
    return output(x, made), (x - made).numpy()


# -- frequencies -------------------------------------------------------------------------------------------------------


def weighted_spectrum(error, alpha, log, patches):
    """The loss of one channel of one draw and its derivative in x̂, from whole spectra, patch by patch."""
    total, slope = 0.0, np.zeros_like(error)
    sides = [np.array_split(np.arange(s), patches) for s in error.shape]
    for places in itertools.product(*sides):
        spectrum = np.fft.fftn(error[np.ix_(*places)], norm="ortho")
        weight = np.abs(spectrum) ** alpha
        weight = np.log(1 + weight) if log else weight
        weight = weight / weight.max()
        total += (weight * np.abs(spectrum) ** 2).sum()
        slope[np.ix_(*places)] = -2 * np.fft.ifftn(weight * spectrum, norm="ortho").real
    return total, slope


@pytest.mark.parametrize("shape", DATA)
@pytest.mark.parametrize(("alpha", "log"), [(1.0, False), (0.5, False), (2.0, True)])
def test_focal_frequency_and_its_gradient_are_numpys(shape, alpha, log):
    out, error = pairs(shape)
    out.y.requires_grad_()
    whole = weighted_spectrum_of_each(error, alpha, log, 1)
    got = vaekit.loss["focal_frequency"](shape, alpha=alpha, log=log)(output(out.x, out.y))
    torch.testing.assert_close(got, torch.from_numpy(whole[0]))
    got.sum().backward()
    torch.testing.assert_close(out.y.grad, torch.from_numpy(whole[1]))


def weighted_spectrum_of_each(error, alpha, log, patches):
    draws, batch, channels = error.shape[:3]
    total, slope = np.zeros(batch), np.zeros_like(error)
    for n, b, c in itertools.product(range(draws), range(batch), range(channels)):
        one, slope[n, b, c] = weighted_spectrum(error[n, b, c], alpha, log, patches)
        total[b] += one / draws
    return total, slope / draws


@pytest.mark.parametrize(("shape", "patches"), [((2, 12), 3), ((1, 8, 12), 2), ((2, 9, 6), 3), ((1, 4, 6, 8), 2)])
def test_each_patch_has_a_spectrum_of_its_own(shape, patches):
    out, error = pairs(shape)
    got = vaekit.loss["focal_frequency"](shape, patches=patches)(out)
    torch.testing.assert_close(got, torch.from_numpy(weighted_spectrum_of_each(error, 1.0, False, patches)[0]))


@pytest.mark.parametrize("shape", DATA)
def test_without_focus_it_is_the_squared_error_by_parseval(shape):
    out, _ = pairs(shape)
    torch.testing.assert_close(vaekit.loss["focal_frequency"](shape, alpha=0.0)(out), vaekit.loss["mse"]()(out))


def test_one_wave_counts_in_full_and_nothing_is_nothing():
    place = torch.arange(16)
    wave = (2 * torch.pi * 3 * place / 16).cos().expand(1, 1, 16, 16)
    x = torch.zeros(1, 1, 16, 16)
    loss = vaekit.loss["focal_frequency"]((1, 16, 16))
    torch.testing.assert_close(loss(output(x, wave)), wave.square().sum()[None])
    made = x.clone().requires_grad_()
    nothing = loss(output(x, made))
    nothing.sum().backward()
    assert nothing == 0 and (made.grad == 0).all(), "equal images have weights of 0/0"


def test_bad_arguments_of_focal_frequency_are_refused():
    with pytest.raises(ValueError, match=r"alpha: expected a power of at least 0, got -1\.0"):
        vaekit.loss["focal_frequency"]((1, 8, 8), alpha=-1.0)
    with pytest.raises(ValueError, match=r"patches: expected a divisor of the sides \(8, 9\), got 2"):
        vaekit.loss["focal_frequency"]((1, 8, 9), patches=2)


# -- wavelets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_orthonormal_with_as_many_vanishing_moments_as_they_say(name):
    """These laws and the extremal phase leave one filter of each length."""
    low = np.array(FILTERS[name])
    taps = len(low)
    for shift in range(0, taps, 2):
        assert low[shift:] @ low[: taps - shift] == pytest.approx(float(shift == 0), abs=1e-12)
    high = low[::-1] * (-1.0) ** np.arange(taps)
    assert low.sum() == pytest.approx(np.sqrt(2), abs=1e-12)
    for moment in range(taps // 2):
        assert high @ np.arange(taps) ** moment == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("wavelet", FILTERS)
@pytest.mark.parametrize("shape", [(2, 37), (1, 32, 36), (2, 21, 34), (1, 16, 17, 19)])
def test_wavelet_is_the_sum_over_pywavelets_pyramid(wavelet, shape):
    pywt = pytest.importorskip("pywt", reason="needs PyWavelets, the independent transform")
    out, error = pairs(shape, draws=2, batch=2)
    weights = (1.0, 0.3, 2.0)
    wanted = np.zeros(2)
    for n, b, c in itertools.product(range(2), range(2), range(shape[0])):
        low = error[n, b, c]
        for weight in weights[:-1]:
            details = pywt.dwtn(low, wavelet, mode="symmetric")
            low = details.pop("a" * low.ndim)
            wanted[b] += weight * sum(np.abs(band).sum() for band in details.values()) / 2
        wanted[b] += weights[-1] * np.abs(low).sum() / 2
    loss = vaekit.loss["wavelet"](shape, wavelet=wavelet, levels=2, weights=weights)
    torch.testing.assert_close(loss(out), torch.from_numpy(wanted))


@pytest.mark.parametrize("wavelet", FILTERS)
def test_bands_are_filters_over_a_mirrored_signal(wavelet):
    """numpy's pad and correlate, where there is no PyWavelets."""
    low = np.array(FILTERS[wavelet])
    taps = len(low)
    high = low[::-1] * (-1.0) ** np.arange(taps)
    for n in (taps, 13, 14):
        x = np.random.default_rng(n).normal(size=n)
        padded = np.pad(x, (taps - 2, taps - 1), mode="symmetric")
        got = split(torch.from_numpy(x)[None], low.tolist())
        for band, taps_of in zip((got[0][0], got[1][0, 0]), (low, high), strict=True):
            wanted = np.correlate(padded, taps_of, mode="valid")[::2][: (n + taps - 1) // 2]
            np.testing.assert_allclose(band.numpy(), wanted, atol=1e-12)


def test_mirrored_is_numpys_symmetric_padding_also_far_beyond_the_signal():
    x = torch.arange(6.0).reshape(2, 3)
    for before, after in itertools.product((0, 2, 3, 8), (0, 1, 7)):
        got = mirrored(x, 1, before, after).numpy()
        np.testing.assert_array_equal(got, np.pad(x.numpy(), ((0, 0), (before, after)), mode="symmetric"))


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 12), (1, 4, 6, 8)])
def test_haars_wavelet_of_one_level_is_the_haar_transform_of_patches(shape):
    out, error = pairs(shape)
    bands = haar(torch.from_numpy(error).flatten(0, 1)).reshape(2, 3, -1)
    got = vaekit.loss["wavelet"](shape, levels=1)(out)
    torch.testing.assert_close(got, bands.abs().sum(-1).mean(0))


def test_without_the_low_band_a_constant_shift_costs_nothing():
    x = torch.rand(2, 1, 16, 16)
    loss = vaekit.loss["wavelet"]((1, 16, 16), levels=2, weights=(1, 1, 0))
    torch.testing.assert_close(loss(output(x, x + 0.3)), torch.zeros(2), rtol=0, atol=1e-3)
    assert (loss(output(x, x.flip(-1))) > 1).all()


def test_levels_fit_the_data():
    assert vaekit.loss["wavelet"]((1, 64, 64)).levels == 3
    assert vaekit.loss["wavelet"]((1, 64, 5)).levels == 2
    with pytest.raises(ValueError, match=r"levels: expected 1 to 2 for 'haar' and this size, got 3"):
        vaekit.loss["wavelet"]((1, 64, 5), levels=3)
    with pytest.raises(ValueError, match=r"wavelet: 'db4' needs sides of at least 8, got \(64, 5\)\. Use 'haar'"):
        vaekit.loss["wavelet"]((1, 64, 5), wavelet="db4")
    with pytest.raises(ValueError, match=r"wavelet: expected one of haar, db2, db3, db4; got 'sym4'"):
        vaekit.loss["wavelet"]((1, 64, 64), wavelet="sym4")
    with pytest.raises(ValueError, match=r"weights: expected 4 numbers of at least 0, for 3 levels"):
        vaekit.loss["wavelet"]((1, 64, 64), weights=(1.0, 1.0))


# -- edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", DATA)
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("signed", [True, False])
def test_gradient_is_numpys_diff(shape, p, signed):
    out, _ = pairs(shape)
    x, made = out.x.numpy()[None], out.y.numpy()
    wanted = np.zeros(3)
    for axis in range(3, x.ndim):
        a, b = np.diff(x, axis=axis), np.diff(made, axis=axis)
        error = np.abs(a - b) if signed else np.abs(np.abs(a) - np.abs(b))
        wanted += (error**p).reshape(2, 3, -1).sum(-1).mean(0)
    torch.testing.assert_close(vaekit.loss["gradient"](shape, p=p, signed=signed)(out), torch.from_numpy(wanted))


def test_gradient_takes_a_side_of_one_and_is_blind_to_a_constant():
    x = torch.rand(2, 1, 1, 8)
    loss = vaekit.loss["gradient"]((1, 1, 8))
    torch.testing.assert_close(loss(output(x, x + 0.25)), torch.zeros(2), rtol=0, atol=1e-5)
    assert (loss(output(x, x.flip(-1))) > 0.1).all()
    with pytest.raises(ValueError, match=r"p: expected a power of at least 1, got 0\.5"):
        vaekit.loss["gradient"]((1, 8, 8), p=0.5)
