"""Scores of images against their formulas, torchmetrics, and loops; distances of sets against closed forms."""

import math
import pickle
import sys

import numpy as np
import pytest
import torch
import torchmetrics.functional.image as reference
from scipy import linalg
from torch import nn
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

import vaekit
from vaekit.evaluate import (
    Examples,
    Extractor,
    Moments,
    extractor,
    features_of,
    frechet,
    kernel_distance,
    moments_of,
    originals,
    precision_recall,
    reconstruction,
    reconstructions,
    samples,
)
from vaekit.evaluate.examples import Unavailable
from vaekit.evaluate.images import scores


def model(shape, **args):
    return vaekit.build("mlp", latent=2, input_shape=shape, hidden=(8,), **args).eval()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_scores_are_those_of_torchmetrics_image_by_image_at_any_batch_size(channels, data_range):
    low, high = data_range
    vae = model((channels, 16, 16), data_range=data_range, likelihood="gaussian")
    x = low + (high - low) * torch.rand(5, channels, 16, 16)
    made = vae.reconstruct(x)
    found = [reconstruction(vae, Examples(vae, x, batch_size=size)) for size in (1, 2, 5)]
    for each in found[1:]:
        for name in each:
            torch.testing.assert_close(each[name], found[0][name], rtol=1e-4, atol=1e-6)
    for i in range(5):
        one, other = made[i : i + 1], x[i : i + 1]
        psnr = reference.peak_signal_noise_ratio(one, other, data_range=high - low)
        assert float(found[0]["psnr"][i]) == pytest.approx(float(psnr), rel=1e-5)
        assert float(found[0]["mse"][i]) == pytest.approx(float(((one - other) ** 2).mean()), rel=1e-5)
        one, other = ((each - low) / (high - low) for each in (one, other))
        ssim = reference.structural_similarity_index_measure(one, other, data_range=(0.0, 1.0))
        assert float(found[0]["ssim"][i]) == pytest.approx(float(ssim), abs=1e-5)


def test_psnr_is_its_formula_in_the_range_of_the_data():
    (psnr,) = (scores((1, 4, 4), (-1.0, 1.0))[0]["psnr"],)
    x = torch.zeros(2, 1, 4, 4)
    made = x + torch.tensor([0.1, 0.2]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(psnr(made, x), 10 * torch.log10(4 / torch.tensor([0.01, 0.04])))


def test_scores_do_not_depend_on_the_range_that_the_same_picture_is_written_in():
    x, made = torch.rand(2, 3, 1, 24, 24)
    unit, wide = (scores((1, 24, 24), r)[0] for r in ((0.0, 1.0), (-1.0, 1.0)))
    for name in ("psnr", "ssim", "ms_ssim[2]"):
        torch.testing.assert_close(unit[name](made, x), wide[name](2 * made - 1, 2 * x - 1), rtol=1e-3, atol=1e-5)


def test_ms_ssim_has_the_papers_five_scales_where_they_fit_and_says_how_many_otherwise():
    x = torch.rand(1, 1, 176, 176)
    made = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    found, _ = scores((1, 176, 176), (0.0, 1.0))
    whole = reference.multiscale_structural_similarity_index_measure(made, x, data_range=1.0)
    assert float(found["ms_ssim"](made, x)) == pytest.approx(float(whole), rel=1e-5)
    for side in range(12, 180):
        (name,) = (n for n in scores((1, side, side), (0.0, 1.0))[0] if n.startswith("ms_ssim"))
        if side in (12, 43, 44, 98, 99, 175):
            of = scores((1, side, side), (0.0, 1.0))[0][name]
            assert float(of(x[..., :side, :side], x[..., :side, :side])) == pytest.approx(1.0)
    names = {side: [*scores((1, side, side), (0.0, 1.0))[0]][-1] for side in (11, 28, 64, 128, 176)}
    assert names == {11: "ssim", 28: "ms_ssim[2]", 64: "ms_ssim[3]", 128: "ms_ssim[4]", 176: "ms_ssim"}


def test_what_data_have_no_room_for_is_told_with_its_reason():
    found, why = scores((7,), (0.0, 1.0))
    assert list(found) == ["mse", "psnr"] and "windows of images" in why["ssim"] and "lpips='pre" in why["lpips[alex]"]
    found, why = scores((1, 8, 8), (0.0, 1.0))
    assert list(found) == ["mse", "psnr"] and "11 positions" in why["ms_ssim"]
    found, why = scores((1, 28, 28), None)
    assert list(found) == ["mse"] and all("data_range" in told for told in why.values())
    assert "31 " in scores((1, 28, 28), (0.0, 1.0), lpips="random")[1]["lpips[alex]"]


def test_lpips_is_the_loss_of_that_name():
    vae = model((1, 32, 32))
    x = torch.rand(3, 1, 32, 32)
    found = reconstruction(vae, Examples(vae, x, batch_size=2), lpips="random")["lpips[alex]"]
    assert found.shape == (3,) and (found > 0).all()
    of = scores((1, 32, 32), (0.0, 1.0), lpips="random")[0]["lpips[alex]"]
    torch.testing.assert_close(of(x, x), torch.zeros(3))


def test_volumes_have_ssim_and_tables_have_not():
    vae = model((1, 12, 12, 12))
    assert list(reconstruction(vae, Examples(vae, torch.rand(2, 1, 12, 12, 12)))) == [
        "mse",
        "psnr",
        "ssim",
        "ms_ssim[2]",
    ]


# -- sets of features ------------------------------------------------------------------------------------------------


def moments(x, size=7):
    found = Moments()
    for part in x.split(size):
        found.add(part)
    return found


@pytest.mark.parametrize("size", [1, 7, 100])
def test_moments_do_not_depend_on_how_features_are_cut_nor_on_a_large_mean(size):
    x = 1e6 + torch.randn(100, 4, dtype=torch.float64)
    found = moments(x, size)
    np.testing.assert_allclose(found.covariance, np.cov(x.numpy().T), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.mean, x.numpy().mean(0), rtol=1e-14)


def exactly(mean, covariance):
    """Moments as given."""
    found = Moments()
    found.count, found._mean, found._scatter = 2, mean, covariance
    return found


def test_the_frechet_distance_is_that_of_gaussians_whose_covariances_commute():
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    a, b = torch.rand(2, 5, dtype=torch.float64) + 0.1
    mean_a, mean_b = torch.randn(2, 5, dtype=torch.float64)
    one, other = (exactly(m, basis @ s.square().diag() @ basis.T) for m, s in ((mean_a, a), (mean_b, b)))
    by_hand = (mean_a - mean_b).square().sum() + (a - b).square().sum()
    assert frechet(one, other) == pytest.approx(float(by_hand), rel=1e-9)
    assert frechet(one, one) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 6), (12, 30)])
def test_the_frechet_distance_is_scipys_also_with_fewer_examples_than_features(n, d):
    x, y = torch.randn(n, d), 0.5 + 2 * torch.randn(n, d) @ torch.randn(d, d) / d**0.5
    a, b = moments(x), moments(y)
    found = frechet(a, b)
    root = linalg.sqrtm((a.covariance @ b.covariance).numpy())
    trace = float((a.covariance + b.covariance).trace()) - 2 * np.trace(root.real)
    assert found == pytest.approx(float(((a.mean - b.mean) ** 2).sum() + trace), rel=1e-5 if n < d else 1e-9)
    theirs = _compute_fid(a.mean, a.covariance, b.mean, b.covariance)
    assert found == pytest.approx(float(theirs), rel=1e-5)
    assert found == pytest.approx(frechet(b, a), rel=1e-9)


def test_the_frechet_distance_of_a_singular_set_to_itself_is_zero():
    x = torch.randn(10, 64)
    assert frechet(moments(x), moments(x, 3)) < 1e-9


def test_kid_is_the_double_loop_at_any_block():
    x, y = torch.randn(9, 4).double(), 0.3 + torch.randn(7, 4).double()
    kernel = lambda u, v: (float(u @ v) / 4 + 1) ** 3  # noqa: E731
    within_x = sum(kernel(x[i], x[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8)
    within_y = sum(kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    across = sum(kernel(u, v) for u in x for v in y) / 63
    for block in (1, 4, 100):
        assert kernel_distance(x, y, block=block)[0] == pytest.approx(within_x + within_y - 2 * across, rel=1e-9)
    square = kernel_distance(x[:7], y)[0]
    assert square == pytest.approx(float(poly_mmd(x[:7], y)), rel=1e-6)


def test_kid_is_unbiased_and_its_error_is_the_spread_over_other_sets():
    """Between two distributions; and of one with itself, where the error is told too large, as documented."""
    for shift, least, most in ((0.5, 0.85, 1.2), (0.0, 1.1, 1.9)):
        generator = torch.Generator().manual_seed(0)
        found = []
        for _ in range(300):
            x, y = torch.randn(2, 60, 3, generator=generator, dtype=torch.float64)
            found.append(kernel_distance(x, y + shift))
        values, errors = torch.tensor(found, dtype=torch.float64).T
        assert least < float(errors.square().mean().sqrt() / values.std()) < most
        x, y = torch.randn(2, 4000, 3, generator=generator, dtype=torch.float64)
        many = kernel_distance(x, y + shift)
        assert float(values.mean()) == pytest.approx(many[0], abs=4 * (float(values.std()) / 300**0.5 + many[1]))


def test_precision_and_recall_are_the_loop():
    real, made = torch.randn(30, 2).double(), 1 + 0.5 * torch.randn(25, 2).double()

    def inside(points, manifold):
        radius = [sorted(float((a - b).norm()) for b in manifold)[3] for a in manifold]  # the first is itself
        return sum(any(float((p - a).norm()) <= r for a, r in zip(manifold, radius, strict=True)) for p in points)

    by_hand = (inside(made, real) / 25, inside(real, made) / 30)
    assert 0.2 < by_hand[0] and by_hand[1] < 0.9
    for block in (1, 7, 100):
        assert precision_recall(real, made, block=block) == pytest.approx(by_hand)
    assert precision_recall(1e7 + real, 1e7 + made) == pytest.approx(by_hand), "wherever the features are"


def test_a_point_at_the_very_edge_of_a_ball_is_inside():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])  # the ball around 0 reaches to its third neighbour, 3
    made = torch.tensor([[-3.0], [-3.001], [6.0], [6.001]])
    assert precision_recall(real, made)[0] == 0.5


def test_precision_and_recall_tell_missing_modes_from_wrong_images():
    two = torch.cat([torch.randn(100, 2), 50 + torch.randn(100, 2)])
    precision, recall = precision_recall(two, two[:100].repeat(2, 1) + 1e-3 * torch.randn(200, 2))
    assert precision == 1.0 and recall < 0.6
    assert precision_recall(two, two) == (1.0, 1.0)
    assert precision_recall(two, two + 1000) == (0.0, 0.0)
    far = 1e4 + two  # the manifold is where it is, wherever that is
    assert precision_recall(far, far.flip(0)) == (1.0, 1.0)


def test_sets_that_can_not_be_compared_are_refused():
    with pytest.raises(ValueError, match="expected features"):
        kernel_distance(torch.randn(4, 3), torch.randn(4, 2))
    with pytest.raises(Unavailable, match="at least 4"):
        precision_recall(torch.randn(3, 2), torch.randn(9, 2))
    with pytest.raises(Unavailable, match="2 examples"):
        frechet(moments(torch.randn(1, 2)), moments(torch.randn(5, 2)))


# -- extractors ------------------------------------------------------------------------------------------------------


def pixels(x):
    return x.flatten(1)


def test_the_name_of_an_extractor_is_that_of_its_network():
    assert extractor(pixels).name == "pixels" and extractor(pixels, name="mine").name == "mine"
    assert extractor(nn.Flatten()).name == "Flatten"
    given = Extractor("given", pixels)
    assert extractor(given) is given
    net = nn.Dropout()
    assert extractor(net) and not net.training


def test_an_extractor_that_gives_maps_or_is_none_is_refused():
    with pytest.raises(ValueError, match=r"expected features of shape \(2, d\), got \(2, 1, 3, 3\)"):
        extractor(nn.Identity())(torch.rand(2, 1, 3, 3))
    for bad in ("vgg", "timm:", 3):
        with pytest.raises(ValueError, match="extractor: expected"):
            extractor(bad)
    with pytest.raises(ValueError, match="weights: are for"):
        extractor(pixels, weights="file")
    with pytest.raises(ValueError, match="data_range"):
        extractor("timm:resnet18", None)


def test_inception_without_its_file_says_which_and_where():
    with pytest.raises(FileNotFoundError, match=r"weights-inception-2015-12-05-6726825d.pth.*none was given"):
        extractor("inception")


def test_inception_is_torch_fidelitys_network_on_bytes(tmp_path, monkeypatch):
    """With a stand-in for the package, whose weights are not here."""
    import types

    seen = {}

    class Stand(nn.Module):
        def __init__(self, name, features, path):
            super().__init__()
            seen["path"] = path
            assert features == ["2048"]

        def forward(self, x):
            seen["x"] = x
            return (x.float().mean((2, 3)),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Stand
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    file = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1)}, file)
    found = extractor("inception", (-1.0, 1.0), weights=file)
    assert found.name == "inception" and seen["path"] == str(file)
    x = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    features = found(x)
    assert seen["x"].dtype == torch.uint8 and seen["x"].shape == (1, 3, 16, 16)
    assert torch.equal(seen["x"][0, 0].flatten(), torch.arange(256, dtype=torch.uint8))
    assert features.shape == (1, 3)
    torch.save({"a": Extractor("a", pixels)}, file)  # a class, whose loading runs what it likes
    with pytest.raises(pickle.UnpicklingError):
        extractor("inception", weights=file)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        found(torch.rand(1, 2, 16, 16))


def test_a_network_of_timm_sees_images_as_it_was_trained_to():
    import timm

    found = extractor("timm:test_resnet.r160_in1k", (-1.0, 1.0), weights="random")
    assert found.name == "test_resnet.r160_in1k"
    x = torch.rand(2, 1, 160, 160)
    net = found.network.network
    config = timm.data.resolve_model_data_config(net)
    mean, std = (torch.tensor(config[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    assert tuple(config["input_size"]) == (3, 160, 160)
    torch.testing.assert_close(found(2 * x - 1), net((x.expand(-1, 3, -1, -1) - mean) / std), rtol=1e-3, atol=1e-4)
    assert found(torch.rand(2, 3, 20, 20)).ndim == 2


def test_features_of_a_set_do_not_depend_on_batches_and_samples_follow_the_seed():
    vae = model((1, 6, 6))
    x = torch.rand(11, 1, 6, 6)
    found = extractor(pixels)
    sets = [features_of(found, originals(Examples(vae, x, batch_size=size))) for size in (2, 11)]
    assert torch.equal(*sets) and torch.equal(sets[0], x.flatten(1))
    copies = [features_of(found, reconstructions(vae, Examples(vae, x, batch_size=size))) for size in (2, 11)]
    torch.testing.assert_close(*copies)
    torch.testing.assert_close(copies[0], vae.reconstruct(x).flatten(1))
    drawn = [torch.cat(list(samples(vae, Examples(vae, x, batch_size=4), seed=seed))) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2]) and drawn[0].shape == x.shape
    streamed = moments_of(found, originals(Examples(vae, x, batch_size=2)))
    torch.testing.assert_close(streamed.covariance, x.flatten(1).double().T.cov())


def test_fid_of_a_model_whose_samples_are_gaussian_is_the_closed_form():
    """p(x) mean: Wz + b with z standard normal, against data of another Gaussian."""
    vae = vaekit.build(
        input_shape=(3,), latent=3, data_range=None, likelihood="gaussian",
        encoder=vaekit.use("mlp", hidden=()), decoder=vaekit.use("mlp", hidden=()),
    )  # fmt: skip
    with torch.no_grad():
        vae.decoder.out.weight.copy_(torch.diag(torch.tensor([1.0, 2.0, 0.5])))
        vae.decoder.out.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    data = Examples(vae, torch.randn(20_000, 3), batch_size=3000)
    identity = Extractor("identity", lambda x: x)
    found = frechet(moments_of(identity, originals(data)), moments_of(identity, samples(vae, data)))
    assert found == pytest.approx(1 + 0 + 1 + 0.25, rel=0.05)
    assert math.isfinite(found)
