"""Losses in classification networks: their values, their gradients, and where their networks come from."""

import copy
import gc
import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributions import Independent, Normal
from torchvision.models import vgg as vgg_layers

import vaekit
from vaekit import build, term
from vaekit.layers import conv_stack, download, fixed, torchvision_weights
from vaekit.layers.torchvision_weights import filled
from vaekit.losses import lpips as lpips_file
from vaekit.optional import MissingPackage
from vaekit.records import Output
from vaekit.testing import check

SMALL = {
    "perceptual": {"layers": ("relu1_2", "relu2_1")},
    "style": {"layers": ("relu1_2", "relu2_1")},
    "lpips": {"net": "squeeze"},
    "dists": {"calibration": "equal"},
}
REAL = os.environ.get("VAEKIT_WEIGHTS")
needs_real = pytest.mark.skipif(not REAL, reason="set VAEKIT_WEIGHTS to a folder of torchvision's weights")


def made(name, shape=(3, 17, 17), data_range=(0.0, 1.0), **args):
    return vaekit.loss[name](shape, data_range, **{"weights": "random", **SMALL[name], **args})


def outcome(x, y):
    """An Output whose p(x|z) has the mean y."""
    return Output(x, y, Independent(Normal(y, 1.0), x.ndim - 1), ())


def images(*shape, n=2, dtype=torch.float32):
    x = torch.rand(n, *shape, dtype=dtype)
    return x, (x + 0.2 * torch.randn_like(x)).clamp(0, 1)


@pytest.fixture(scope="module")
def photos():
    """Crops of photos and what four kinds of damage make of them, in [0, 1]."""
    found = pytest.importorskip("sklearn.datasets").load_sample_images().images
    crops = [p[i : i + 48, j : j + 48] for p in found for i, j in ((300, 200), (200, 500))]
    x = torch.stack([torch.tensor(np.ascontiguousarray(c)).permute(2, 0, 1) / 255 for c in crops])
    blurred = nn.functional.avg_pool2d(nn.functional.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    damaged = [(x + 0.1 * torch.randn_like(x)).clamp(0, 1), blurred, x**2, x.roll(3, -1)]
    return torch.cat([x] * 4), torch.cat(damaged)


@pytest.fixture
def files(tmp_path):
    """Files of random weights, one for each network, as torchvision names its tensors; they do not stay."""
    written = []

    def write(name):
        state = {f"features.{key}": value for key, value in filled(name, "random").state_dict().items()}
        written.append(tmp_path / f"{name}.safetensors")
        save_file(state, written[-1])
        return str(written[-1])

    yield write
    for path in written:
        path.unlink(missing_ok=True)


# -- values ------------------------------------------------------------------------------------------------------------


def compare_with_the_package(net, name, weights, photos, monkeypatch):
    lpips = pytest.importorskip("lpips")
    network = SimpleNamespace(features=filled(name, weights))
    monkeypatch.setattr(torchvision.models, name, lambda pretrained: network)  # with torchvision's own weights
    theirs = lpips.LPIPS(net=net, verbose=False)
    x, y = photos
    with torch.no_grad():
        expected = theirs(x, y, normalize=True).flatten()
        ours = made("lpips", (3, 48, 48), net=net, weights=weights)(outcome(x, y))
        shifted = made("lpips", (3, 48, 48), (-1.0, 1.0), net=net, weights=weights)(outcome(x * 2 - 1, y * 2 - 1))
    for found in (ours, shifted):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


@needs_real
@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_is_that_of_its_package_on_photos(net, name, photos, monkeypatch):
    compare_with_the_package(net, name, str(Path(REAL, f"{name}_features.safetensors")), photos, monkeypatch)


@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet"), ("squeeze", "squeezenet1_1")])
def test_lpips_in_an_untrained_network_is_that_of_its_package(net, name, photos, monkeypatch):
    compare_with_the_package(net, name, "random", photos, monkeypatch)


def features_by_hooks(network, numbers, x):
    """What torchvision's own layers give, normalised by torchvision's own transform."""
    kept = {}
    hooks = [network[i].register_forward_hook(lambda m, a, h, i=i: kept.__setitem__(i, h.clone())) for i in numbers]
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        network[: max(numbers) + 1](normalise(x))
    for hook in hooks:
        hook.remove()
    return [kept[i] for i in numbers]


@pytest.fixture(scope="module")
def vgg():
    network = vgg_layers.make_layers(vgg_layers.cfgs["D"])[:30].double().eval()
    network.load_state_dict(filled("vgg16", "random")[:30].state_dict())
    return network


def test_perceptual_is_the_error_in_torchvisions_features(vgg):
    x, y = images(3, 18, 21, dtype=torch.float64)
    f, g = (features_by_hooks(vgg, (20, 3), each) for each in (x, y))  # relu4_2 and relu1_2
    for distance, d in (("l2", lambda a, b: (a - b) ** 2), ("l1", lambda a, b: (a - b).abs())):
        loss = made(
            "perceptual", (3, 18, 21), layers=("relu4_2", "relu1_2"), layer_weights=(2.0, 0.5), distance=distance
        )
        expected = 2.0 * d(f[0], g[0]).mean((1, 2, 3)) + 0.5 * d(f[1], g[1]).mean((1, 2, 3))
        torch.testing.assert_close(loss(outcome(x, y)), expected)


def test_style_is_the_error_of_gram_matrices(vgg):
    x, y = images(3, 17, 19, dtype=torch.float64)
    loss = made("style", (3, 17, 19), layers=("relu1_2", "relu3_3"), layer_weights=(3.0, 0.1))
    expected = np.zeros(2)
    for number, weight in ((3, 3.0), (15, 0.1)):
        f, g = (features_by_hooks(vgg, (number,), each)[0].numpy() for each in (x, y))
        for b in range(2):
            gram = [sum(np.outer(v, v) for v in h[b].reshape(h.shape[1], -1).T) / h[b].size for h in (f, g)]
            expected[b] += weight * ((gram[0] - gram[1]) ** 2).sum()
    np.testing.assert_allclose(loss(outcome(x, y)).numpy(), expected, rtol=1e-6)


def test_style_does_not_see_where_things_are():
    x = torch.rand(2, 3, 24, 24)
    y = torch.roll(x, (8, 4), (-2, -1))  # in the first block away from the edges, all features move along
    apart = [
        float(made(name, (3, 24, 24), layers=("relu1_1",))(outcome(x, y)).mean()) for name in ("style", "perceptual")
    ]
    own = [
        float(made(name, (3, 24, 24), layers=("relu1_1",))(outcome(x, torch.rand_like(x) ** 4)).mean())
        for name in ("style", "perceptual")
    ]
    assert apart[0] < 1e-3 * own[0] and apart[1] > 0.1 * own[1]


def dists_by_numpy(network, alpha, beta, x, y):
    """The published equations in numpy and scipy, with torchvision's convolutions."""
    signal = pytest.importorskip("scipy.signal")
    hann = np.hanning(5)[1:-1]
    window = np.outer(hann, hann) / np.outer(hann, hann).sum()

    def pool(h):
        squares = np.stack(
            [[signal.convolve2d(c**2, window, mode="same")[::2, ::2] for c in each] for each in h.numpy()]
        )
        return torch.tensor(np.sqrt(squares + 1e-12))

    def walk(x):
        shift, scale = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        maps, h = [x], (x - shift) / scale
        for i, layer in enumerate(network[:30]):
            h = pool(h) if isinstance(layer, nn.MaxPool2d) else layer(h)
            if i in (3, 8, 15, 22, 29):
                maps.append(h.clone())
        return [m.flatten(2).numpy() for m in maps]

    with torch.no_grad():
        f, g = walk(x), walk(y)
    total, place, c = np.ones(len(x)), 0, 1e-6
    weight = alpha.sum() + beta.sum()
    for a, b in zip(f, g, strict=True):
        for k in range(a.shape[1]):
            for n in range(len(x)):
                u, v = a[n, k], b[n, k]
                texture = (2 * u.mean() * v.mean() + c) / (u.mean() ** 2 + v.mean() ** 2 + c)
                covariance = np.cov(u, v, bias=True)[0, 1] if len(u) > 1 else 0.0
                structure = (2 * covariance + c) / (u.var() + v.var() + c)
                total[n] -= (alpha[place] * texture + beta[place] * structure) / weight
            place += 1
    return total


@pytest.fixture
def calibration(tmp_path):
    alpha, beta = torch.rand(1, 1475, 1, 1), torch.rand(1, 1475, 1, 1)
    torch.save({"alpha": alpha, "beta": beta}, tmp_path / "calibration.pt")
    return str(tmp_path / "calibration.pt"), alpha.flatten().numpy(), beta.flatten().numpy()


def test_dists_is_what_its_equations_say(vgg, calibration):
    path, alpha, beta = calibration
    x, y = images(3, 18, 20, dtype=torch.float64)
    loss = made("dists", (3, 18, 20), calibration=path)
    np.testing.assert_allclose(loss(outcome(x, y)), dists_by_numpy(vgg, alpha, beta, x, y), rtol=1e-5)
    equal = dists_by_numpy(vgg, np.ones(1475), np.ones(1475), x, y)
    np.testing.assert_allclose(made("dists", (3, 18, 20))(outcome(x, y)), equal, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_dists_is_that_of_its_package(photos, monkeypatch):
    package = pytest.importorskip("DISTS_pytorch", reason="pip install DISTS-pytorch, which has the learned numbers")
    network = SimpleNamespace(features=filled("vgg16", "random"))
    monkeypatch.setattr(torchvision.models, "vgg16", lambda pretrained: network)
    theirs = package.DISTS(load_weights=False)
    learned = torch.load(Path(package.__file__).parent / "weights.pt", weights_only=True)
    theirs.alpha.data, theirs.beta.data = learned["alpha"], learned["beta"]
    x, y = (each[::3].double() for each in photos)  # in single precision its covariances lose three digits
    ours = made("dists", (3, 48, 48), calibration="learned")(outcome(x, y))
    torch.testing.assert_close(ours, theirs.double()(x, y), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SMALL)
def test_equal_images_are_at_no_distance(name):
    x, y = images(3, 17, 17)
    loss = made(name)
    assert torch.equal(loss(outcome(x, x.clone())), torch.zeros(2))
    assert (loss(outcome(x, y)) > 0).all()


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("real", "fake"), [(0.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.3)])
def test_flat_images_have_a_finite_gradient(name, real, fake):
    """The lpips package gives NaN there (the latent-diffusion project's issue 176)."""
    x, y = torch.full((2, 3, 32, 32), real), torch.full((2, 3, 32, 32), fake, requires_grad=True)
    for args in ({}, {"net": "vgg"}, {"net": "alex"}) if name == "lpips" else ({},):
        (gradient,) = torch.autograd.grad(made(name, (3, 32, 32), **args)(outcome(x, y)).sum(), y)
        assert torch.isfinite(gradient).all()


def test_roots_have_a_finite_slope_where_all_features_are_zero():
    """Activations hide an infinite slope there, as they are flat at 0; a network without them would not."""
    f = torch.zeros(2, 4, 5, 5, requires_grad=True)
    for root in (lpips_file._unit, conv_stack._L2Pool()):
        (gradient,) = torch.autograd.grad((root(f) - 0.5).square().sum(), f)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_that_of_the_values_and_reaches_the_reconstruction_alone(name):
    loss = made(name)
    x, y = images(3, 17, 17, n=1, dtype=torch.float64)
    x.requires_grad_(), y.requires_grad_()
    along, step = torch.randn_like(y), 1e-8  # short: few activations pass 0 on the way
    gx, gy = torch.autograd.grad(loss(outcome(x, y)).sum(), (x, y), allow_unused=True)
    with torch.no_grad():
        differences = (loss(outcome(x, y + step * along)) - loss(outcome(x, y - step * along))).sum() / (2 * step)
    assert gx is None, "the data's features were computed with a graph"
    torch.testing.assert_close((gy * along).sum(), differences, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", SMALL)
def test_the_network_is_no_part_of_the_model(name):
    loss = made(name)
    x, y = images(3, 17, 17)
    loss(outcome(x, y.requires_grad_())).sum().backward()
    assert not list(loss.parameters()) and not loss.state_dict() and not list(loss.buffers())
    network = loss.features._fixed.at(x)
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters()) and not network.training


# -- inputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_grey_image_is_three_equal_channels_and_others_are_several_grey_images(name):
    x, y = images(1, 17, 17)
    grey = made(name, (1, 17, 17))
    three = made(name)(outcome(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(grey(outcome(x, y)), three)
    for c in (2, 4):
        x, y = images(c, 17, 17)
        alone = torch.stack([grey(outcome(x[:, [i]], y[:, [i]])) for i in range(c)]).mean(0)
        torch.testing.assert_close(made(name, (c, 17, 17))(outcome(x, y)), alone)


@pytest.mark.parametrize("name", SMALL)
def test_draws_are_averaged_and_examples_stay_apart(name):
    x, y = images(2, 17, 17, n=3)
    draws = torch.stack([y, y.flip(0), x])
    loss = made(name, (2, 17, 17))
    expected = torch.stack([loss(outcome(x, each)) for each in draws]).mean(0)
    torch.testing.assert_close(loss(outcome(x, draws)), expected)
    torch.testing.assert_close(loss(outcome(x, draws[:, None])), expected)


@pytest.mark.parametrize("name", SMALL)
def test_the_data_range_does_not_matter(name):
    x, y = images(3, 17, 17)
    moved = made(name, data_range=(-1.0, 3.0))(outcome(4 * x - 1, 4 * y - 1))
    torch.testing.assert_close(moved, made(name)(outcome(x, y)), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_and_autocast_change_nothing_but_the_input(name):
    x, y = images(3, 17, 17)
    x, y = x.bfloat16(), y.bfloat16()
    loss = made(name)
    expected = loss(outcome(x.float(), y.float()))
    torch.testing.assert_close(loss(outcome(x, y)), expected, rtol=1e-5, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(outcome(x.float(), y.float())), expected, rtol=1e-5, atol=0)
    assert loss(outcome(x.double(), y.double())).dtype == torch.float64
    for a, b in ((x, y.double()), (x.double(), y)):
        torch.testing.assert_close(loss(outcome(a, b)).float(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(loss(outcome(x, y)), expected, rtol=1e-5, atol=0)  # and back


@pytest.mark.parametrize("name", SMALL)
def test_pixels_of_mnist_are_enough(name):
    x, y = images(1, 28, 28)
    args = {"layers": ("relu5_3",)} if name in ("perceptual", "style") else {}
    assert (made(name, (1, 28, 28), **args)(outcome(x, y)) > 0).all()


def test_too_small_an_image_is_refused_with_what_fits():
    with pytest.raises(ValueError, match=r"relu5 needs images of at least 31 pixels.*\(28, 28\).*net='vgg'.*size=64"):
        made("lpips", (1, 28, 28), net="alex")
    with pytest.raises(ValueError, match=r"relu5_3 needs images of at least 16 pixels.*\(15, 15\).*size=64"):
        made("lpips", (1, 15, 15), net="vgg")
    with pytest.raises(ValueError, match=r"fire9 needs images of at least 17 pixels"):
        made("lpips", (1, 16, 16))
    with pytest.raises(ValueError, match=r"relu3_3 needs images of at least 4 pixels.*Choose earlier layers"):
        made("perceptual", (3, 3, 3), layers=("relu3_3", "relu1_2"))
    x, y = images(1, 28, 28)
    assert (made("lpips", (1, 28, 28), net="alex", size=64)(outcome(x, y)) > 0).all()


def test_images_are_enlarged_before_the_network():
    x, y = images(3, 12, 12)
    large = [nn.functional.interpolate(each, (24, 24), mode="bilinear") for each in (x, y)]
    for name in ("perceptual", "style"):
        ours = made(name, (3, 12, 12), size=24)(outcome(x, y))
        torch.testing.assert_close(ours, made(name, (3, 24, 24))(outcome(*large)), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", SMALL)
def test_other_sizes_at_run_time(name):
    x, y = images(3, 40, 33)
    torch.testing.assert_close(made(name)(outcome(x, y)), made(name, (3, 40, 33))(outcome(x, y)))


# -- where networks come from ------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine with an empty cache, whose network never answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def hang(*args, **kwargs):
        time.sleep(5)

    monkeypatch.setattr(download, "urlopen", hang)
    return tmp_path / "torch" / "hub" / "checkpoints"


NETS = [
    ("lpips", {"net": "alex"}, "alexnet-owt-7be5be79.pth"),
    ("lpips", {"net": "squeeze"}, "squeezenet1_1-b8a52dc0.pth"),
    ("perceptual", {}, "vgg16-397923af.pth"),
]


@pytest.mark.parametrize(("name", "args", "file"), NETS)
def test_without_file_and_network_it_is_said_soon_which_file_to_put_where(name, args, file, nowhere):
    loss = made(name, (3, 32, 32), weights="pretrained", **args)
    began = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        loss(outcome(*images(3, 32, 32)))
    assert time.monotonic() - began < 2
    for told in (f"https://download.pytorch.org/models/{file}", str(nowhere / file), "weights='path/to", "'random'"):
        assert told in str(caught.value)


@pytest.mark.parametrize(("name", "args", "file"), NETS)
def test_torchvisions_cache_is_looked_at_before_the_network(name, args, file, nowhere):
    network = {"al": "alexnet", "sq": "squeezenet1_1", "vg": "vgg16"}[file[:2]]
    state = {f"features.{key}": value for key, value in filled(network, "random").state_dict().items()}
    nowhere.mkdir(parents=True)
    torch.save({**state, "classifier.1.bias": torch.zeros(3)}, nowhere / file)
    out = outcome(*images(3, 32, 32))
    found = made(name, (3, 32, 32), weights="pretrained", **args)(out)
    torch.testing.assert_close(found, made(name, (3, 32, 32), **args)(out))


def test_a_download_that_breaks_off_says_the_same(nowhere, monkeypatch):
    monkeypatch.setattr(torchvision_weights, "unanswered", lambda url: None)
    weights = torchvision.models.AlexNet_Weights

    def broken(self, *args, **kwargs):
        raise ConnectionResetError("the line went dead")

    monkeypatch.setattr(weights, "get_state_dict", broken)
    with pytest.raises(FileNotFoundError, match="the line went dead.*alexnet-owt"):
        filled("alexnet", "pretrained")


def test_files_that_do_not_fit_are_refused_with_what_differs(tmp_path, files):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.pth.*torchvision's 'vgg16'"):
        filled("vgg16", str(tmp_path / "nothing.pth"))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"broken\.safetensors can't be read"):
        filled("vgg16", str(tmp_path / "broken.safetensors"))
    with pytest.raises(
        ValueError, match=r"alexnet\.safetensors does not fit torchvision's 'vgg16'.*features\.2\.weight"
    ):
        filled("vgg16", files("alexnet"))
    state = load_file(files("alexnet"))
    state["features.0.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"1 of another shape \(features\.0\.bias: \(3,\) in place of \(64,\)\)"):
        filled("alexnet", str(tmp_path / "wrong.pth"))


def test_safetensors_and_checkpoints_give_the_same(files, tmp_path):
    path = files("squeezenet1_1")
    torch.save(load_file(path), tmp_path / "squeeze.pth")
    out = outcome(*images(3, 17, 17))
    assert torch.equal(made("lpips", weights=path)(out), made("lpips", weights=str(tmp_path / "squeeze.pth"))(out))
    state = load_file(path)
    save_file({key: value * 1.1 for key, value in state.items()}, path)  # another file under the same name
    assert not torch.equal(made("lpips", weights=path)(out), made("lpips")(out))


def test_random_weights_are_the_same_everywhere_and_leave_the_random_state_alone():
    state, kept = torch.get_rng_state(), torch.get_default_dtype()
    first = filled("alexnet", "random").state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        second = filled("alexnet", "random").state_dict()
    finally:
        torch.set_default_dtype(kept)
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.set_rng_state(state)
    filled("alexnet", "random")
    assert torch.equal(torch.get_rng_state(), state)


def model(*terms, shape=(1, 17, 17), **args):
    return build("mlp", latent=2, input_shape=shape, loss=["nll", *terms], **args)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_is_loaded_without_the_weights(name, files, tmp_path):
    path = files("squeezenet1_1" if name == "lpips" else "vgg16")
    vae = model(term(name, **{**SMALL[name], "weights": path})).eval()
    x = torch.rand(2, 1, 17, 17)
    expected = vae.loss(x)
    vae.save_pretrained(tmp_path / "saved")
    hidden = Path(path).rename(tmp_path / "hidden")
    loaded = vaekit.load(tmp_path / "saved")
    assert torch.equal(loaded.reconstruct(x), vae.reconstruct(x))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        loaded.loss(x)
    hidden.rename(path)
    torch.manual_seed(0), (again := loaded.loss(x)), torch.manual_seed(0)
    torch.testing.assert_close(again.terms[name], vae.loss(x).terms[name])
    assert torch.isfinite(expected.total)


@pytest.mark.parametrize("name", SMALL)
def test_copies_share_the_network_and_pickles_leave_it_out(name):
    loss, out = made(name), outcome(*images(3, 17, 17))
    expected = loss(out)
    twin = copy.deepcopy(loss)
    assert twin.features._fixed.at(out.y) is loss.features._fixed.at(out.y)
    buffer = io.BytesIO()
    torch.save(loss, buffer)
    assert buffer.tell() < 300_000
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(out), expected)


def test_losses_in_one_network_hold_its_weights_once_and_give_them_back():
    style, perceptual, out = made("style"), made("perceptual"), outcome(*images(3, 17, 17))
    style(out), perceptual(out)
    assert style.features._fixed.at(out.x) is perceptual.features._fixed.at(out.x)
    del style, perceptual, out
    gc.collect()
    assert not len(fixed._SHARED)


# -- one pass for several losses ---------------------------------------------------------------------------------------


@pytest.fixture
def convolutions(monkeypatch):
    """Counts the convolutions that run."""
    count = [0]
    run = nn.Conv2d.forward

    def counted(self, x):
        count[0] += 1
        return run(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counted)
    return count


def test_losses_in_one_network_share_its_passes_and_change_no_number(convolutions):
    x, y = images(3, 17, 17)
    blocks = ("relu1_2", "relu2_2", "relu3_3")
    losses = [made("perceptual", layers=blocks[::-1]), made("style", layers=blocks), made("lpips", net="vgg")]
    made_y, alone = y.clone().requires_grad_(), []
    for loss in losses:
        alone.append(loss(outcome(x, made_y)))
    (expected,) = torch.autograd.grad(torch.stack(alone).sum(), made_y)
    for order in (losses, losses[::-1]):
        convolutions[0] = 0
        out = outcome(x, y.clone().requires_grad_())
        together = torch.stack([loss(out) for loss in order])
        assert convolutions[0] == 2 * 13
        torch.testing.assert_close(together.sum(0), torch.stack(alone).sum(0))
        (gradient,) = torch.autograd.grad(together.sum(), out.y)
        torch.testing.assert_close(gradient, expected)


def test_what_differs_is_not_shared(convolutions):
    x, y = images(3, 17, 17)
    loss, other = (
        made("perceptual", layers=("relu1_1",)),
        made("perceptual", layers=("relu1_1",), data_range=(0.0, 2.0)),
    )
    out = outcome(x, y.requires_grad_())
    with torch.no_grad():
        loss(out)
    assert loss(out).requires_grad, "a pass without a graph was taken for one with it"
    assert not torch.equal(loss(out), other(out))
    elsewhere = Output(x.flip(0), out.y, out.p_x, ())
    assert not torch.equal(loss(out), loss(elsewhere))
    large = made("perceptual", layers=("relu1_1",), size=24)
    assert not torch.equal(loss(out), large(out))
    pooled = made("dists")
    convolutions[0] = 0
    pooled(out)  # its network pools in another way
    assert convolutions[0] == 2 * 13


def test_views_of_one_reconstruction_keep_their_gradients_apart():
    """Terms with balanced weights get views of their own, with the same values and another gradient."""
    x, y = images(3, 17, 17)
    y.requires_grad_()
    doubled = outcome(x, y + (y - y.detach()))  # the same values, twice the gradient
    loss = made("perceptual")
    (one,) = torch.autograd.grad(loss(outcome(x, y)).sum(), y)
    (two,) = torch.autograd.grad(loss(doubled).sum(), y)
    torch.testing.assert_close(two, 2 * one)


def test_a_model_with_several_of_them_trains():
    terms = [term(name, label=name, weights="random", **{**SMALL[name]}) for name in SMALL]
    vae = model(*terms, "kl")
    report = vae.loss(torch.rand(3, 1, 17, 17))
    report.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused():
    for layers in ((), ("relu9_9",), ("relu1_2", "relu1_2"), "relu1_2"):
        with pytest.raises(ValueError, match=r"layers: expected some of image, relu1_1"):
            made("perceptual", layers=layers)
    for weights in ((1.0,), (1.0, -1.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match=r"layer_weights: expected 2 numbers"):
            made("style", layer_weights=weights)
    for name in SMALL:
        with pytest.raises(ValueError, match=r"expected images \(c, h, w\)"):
            made(name, (6,))
        with pytest.raises(ValueError, match=r"expected a data_range"):
            made(name, data_range=None)
        with pytest.raises(ValueError, match=r"size: expected a side"):
            made(name, size=0)


def test_dists_says_where_its_learned_numbers_are(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_weights, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="DISTS_pytorch.*pip install DISTS"):
        model(term("dists", weights="random"), shape=(3, 17, 17))
    with pytest.raises(FileNotFoundError, match="there is no file nowhere.pt"):
        model(term("dists", weights="random", calibration="nowhere.pt"), shape=(3, 17, 17))
    torch.save({"alpha": torch.ones(3), "beta": torch.ones(3)}, tmp_path / "short.pt")
    with pytest.raises(vaekit.BuildError, match=r"expected 1475 numbers.*\(3,\)"):
        model(term("dists", weights="random", calibration=str(tmp_path / "short.pt")), shape=(3, 17, 17))


LAWS = {**SMALL, "lpips": {"net": "squeeze", "size": 17}}


@pytest.mark.parametrize("name", SMALL)
def test_the_laws_of_losses(name):
    check("loss", name, weights="random", **LAWS[name])
