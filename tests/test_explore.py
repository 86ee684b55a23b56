"""What the page shows is what the model makes, without a page; and, slowly, with one in a browser."""

import io
import shutil
import sys
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit import use
from vaekit.explore import SLIDERS, Explorer, page
from vaekit.optional import MissingPackage

x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", **{"latent": 20, "input_shape": (1, 8, 8), "hidden": (16,), **args}).eval()


def maps(**args):
    return model(encoder="conv", decoder="conv", latent=(3, 2, 2), **args)


def image(x):
    """An example as PIL's picture, in its own size; and as the model sees it, in bytes."""
    bytes_ = (x * 255).round().byte()
    array = bytes_[0] if len(x) == 1 else bytes_.movedim(0, -1)
    return Image.fromarray(array.numpy()), bytes_.float()[None] / 255


def shown(x):
    """An example's pixels as the page shows them, each 280 / 8 = 35 pixels wide."""
    picture = (x.detach().clamp(0, 1) * 255).round().byte().expand(3, -1, -1).movedim(0, -1).numpy()
    return picture.repeat(35, 0).repeat(35, 1)


def test_coordinates_of_a_vector_are_its_dimensions():
    vae = model()
    explorer = Explorer(vae)
    place = torch.randn(20).tolist()
    with torch.no_grad():
        assert (explorer.decode(place) == shown(vae.decode(torch.tensor([place]))[0])).all()
    assert (explorer.size, explorer.pages) == (20, 2) and explorer.names(0)[-1] == f"z{SLIDERS - 1}"


def test_an_image_has_the_place_of_its_latent_and_decodes_to_its_reconstruction():
    for vae in (model(), maps(), model(latent=2), model(sampler=use("vq", codebook_size=5), latent=4)):
        explorer = Explorer(vae, x)
        picture, seen = image(x[3])
        place, rest = explorer.encode(picture)
        again = shown(vae.reconstruct(seen)[0])
        assert np.abs(explorer.decode(place, rest).astype(int) - again).max() <= 1
        as_seen, made = explorer.reconstruct(picture)
        assert (as_seen == shown(seen[0])).all() and (made == again).all()
    assert torch.allclose(torch.tensor(Explorer(vae := model()).encode(picture)[0]), vae.latents(seen)[0], atol=1e-5)


def test_coordinates_of_a_map_are_principal_components_of_the_datas_latents():
    """Against scikit-learn: unit deviation along each, in falling order, and uncorrelated."""
    from sklearn.decomposition import PCA

    vae = maps()
    explorer = Explorer(vae, x, most=5)
    z = vae.latents(x).flatten(1)
    pca = PCA(5).fit(z.numpy())
    assert explorer.names(0) == [f"component {i}" for i in range(5)] and explorer.pages == 1
    for step, direction, variance in zip(explorer.steps, pca.components_, pca.explained_variance_, strict=True):
        assert float(step.norm()) == pytest.approx(variance**0.5, rel=1e-3)
        assert abs(float(step @ torch.from_numpy(direction).float())) == pytest.approx(variance**0.5, rel=1e-3)
    places = torch.tensor([explorer.encode(image(each)[0])[0] for each in x])
    assert torch.allclose(places.mean(0), torch.zeros(5), atol=0.02)
    assert torch.allclose(places.T.cov(), torch.eye(5), atol=0.05)
    with torch.no_grad():
        mean = z.mean(0).reshape(1, 3, 2, 2)
        assert np.abs(explorer.decode([0.0] * 5).astype(int) - shown(vae.decode(mean)[0])).max() <= 1


def test_draws_are_the_priors():
    vae = model(prior="normal")
    with torch.no_grad():
        vae.prior.loc.fill_(2.0)
    explorer = Explorer(vae)
    places = torch.tensor([explorer.draw(seed)[0] for seed in range(40)])
    assert float(places.mean()) == pytest.approx(2.0, abs=0.2) and explorer.draw(3)[0] == places[3].tolist()
    for other in (maps(), model(sampler=use("vq", codebook_size=5), latent=4), model(sampler="von_mises_fisher")):
        place, rest = Explorer(other).draw(0)
        assert Explorer(other).decode(place, rest).shape == (280, 280, 3)


def test_an_interpolation_starts_and_ends_at_the_reconstructions():
    vae = model()
    (first, a), (second, b) = image(x[0]), image(x[1])
    row = Explorer(vae).interpolate(first, second, 4)
    wide = Explorer(vae).enlarge // 3
    tiles = row[::wide, ::wide].reshape(10, 4, 10, 3).swapaxes(0, 1)[:, 1:-1, 1:-1]
    for tile, end in ((tiles[0], a), (tiles[-1], b)):
        assert (tile == (vae.reconstruct(end)[0, 0, :, :, None] * 255).round().byte().numpy()).all()


def test_pictures_of_any_size_and_mode_are_brought_to_the_models():
    for vae, channels in (
        (model(), 1),
        (model(input_shape=(3, 8, 8)), 3),
        (model(data_range=(-1.0, 1.0), likelihood="gaussian"), 1),
    ):
        explorer = Explorer(vae)
        seen, made = explorer.reconstruct(Image.new("RGBA", (30, 17), (255, 0, 0, 255)))
        assert seen.shape == made.shape == (280, 280, 3)
        assert seen[0, 0].tolist() == ([76, 76, 76] if channels == 1 else [255, 0, 0])


def test_a_class_is_chosen_for_a_conditional_model():
    vae = model(condition=use("class", classes=3))
    explorer = Explorer(vae, x)
    place = [0.5] * 20
    assert explorer.classes == 3 and (explorer.decode(place, None, 1) != explorer.decode(place, None, 2)).any()
    with torch.no_grad():
        assert (explorer.decode(place, None, 2) == shown(vae.decode(torch.tensor([place]), torch.tensor([2]))[0])).all()


def test_what_can_t_be_shown_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"shows images \(c, h, w\) of 1 or 3 channels"):
        Explorer(model(input_shape=(70,)))
    vae = model(condition=use("class", classes=3))
    del vae.condition.classes  # as one on vectors
    with pytest.raises(ValueError, match="condition is not a class"):
        Explorer(vae)


def test_the_random_state_and_the_mode_are_left_alone():
    vae, state = model().train(), torch.get_rng_state()
    explorer = Explorer(vae, x)
    picture, _ = image(x[0])
    torch.set_rng_state(state)
    explorer.encode(picture), explorer.draw(0), explorer.reconstruct(picture), explorer.interpolate(picture, picture)
    assert torch.equal(torch.get_rng_state(), state) and vae.training


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingPackage, match=r"vaekit\[explore\]"):
        page(Explorer(model()))


def test_the_command_says_what_is_missing(tmp_path, capsys, monkeypatch):
    from vaekit.cli import main

    monkeypatch.setitem(sys.modules, "gradio", None)
    model().save_pretrained(tmp_path)
    assert main(["explore", str(tmp_path), "--device", "cpu"]) == 2
    assert 'pip install "vaekit[explore]"' in capsys.readouterr().err


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # gradio's own are not ours
def test_the_page_in_a_headless_browser(browser, tmp_path):
    pytest.importorskip("gradio", reason='needs gradio: pip install "vaekit[explore]"')
    vae = model()
    explorer = Explorer(vae)
    app = page(explorer, title="a run")
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    try:
        tab = browser.new_page(viewport={"width": 1200, "height": 1000})
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(address)

        def picture(name):
            source = tab.locator(f"#{name} img").first.get_attribute("src")
            with urlopen(source) as found:
                return np.asarray(Image.open(io.BytesIO(found.read())).convert("RGB"))

        def until(name, wanted):
            for _ in range(60):
                if tab.locator(f"#{name} img").count() and (picture(name) == wanted).all():
                    return
                tab.wait_for_timeout(250)
            raise AssertionError(f"{name} does not show what the model makes")

        place = [0.0] * 20
        until("decoded", explorer.decode(place))
        number = tab.get_by_label("number input for z3")
        number.fill("2")
        number.press("Enter")
        place[3] = 2.0
        until("decoded", explorer.decode(place))
        tab.get_by_role("button", name="more").click()
        number = tab.get_by_label("number input for z17")
        number.fill("-3")
        number.press("Enter")
        place[17] = -3.0
        until("decoded", explorer.decode(place))
        tab.get_by_role("button", name="fewer").click()
        tab.wait_for_timeout(1000)
        assert tab.get_by_label("number input for z3").input_value() == "2", "the first page is as it was left"
        tab.get_by_role("button", name="Random").click()
        until("decoded", explorer.decode(*explorer.draw(0)))

        for i in range(2):
            image(x[i])[0].save(tmp_path / f"{i}.png")
        tab.get_by_role("tab", name="Reconstruct").click()
        tab.locator("#given input[type=file]").set_input_files(tmp_path / "0.png")
        until("reconstruction", explorer.reconstruct(image(x[0])[0])[1])
        tab.get_by_role("tab", name="Interpolate").click()
        tab.locator("#first input[type=file]").set_input_files(tmp_path / "0.png")
        tab.locator("#second input[type=file]").set_input_files(tmp_path / "1.png")
        until("between", explorer.interpolate(image(x[0])[0], image(x[1])[0], 8))
        tab.screenshot(path=tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as seen:
            assert np.asarray(seen.convert("L")).std() > 10
        assert not errors, errors
    finally:
        app.close()
