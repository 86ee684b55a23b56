"""Pictures hold what they say they hold, pixel by pixel, and leave nothing behind."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from sklearn.decomposition import PCA

import vaekit
from vaekit import plot, use
from vaekit.optional import MissingPackage
from vaekit.train import History, LatentScatter, ReconstructionGrid, Trainer

x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
y = torch.tensor([0, 1, 2, 0, 1, 2])


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", **{"latent": 2, "input_shape": (1, 8, 8), "hidden": (16,), **args})


def pixels(figure):
    """The picture of the figure's only axes, as numbers."""
    (axes,) = figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def tiles(figure, rows, columns, height, width):
    """The grid's images `(rows, columns, h, w, 3)` without the white pixel around each."""
    whole = pixels(figure).reshape(rows, height + 2, columns, width + 2, 3).swapaxes(1, 2)
    assert (whole[:, :, [0, -1]] == 255).all() and (whole[:, :, :, [0, -1]] == 255).all()
    return whole[:, :, 1:-1, 1:-1]


def shades(images, low=0.0, high=1.0):
    """What a screen shows of images (n, c, h, w): bytes (n, h, w, 3), grey or coloured."""
    scaled = ((images - low) / (high - low) * 255).round().clamp(0, 255).byte()
    return scaled.expand(-1, 3, -1, -1).movedim(1, -1).numpy()


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_the_pixels_are_those_of_the_data_and_the_reconstructions(channels, data_range):
    low, high = data_range
    vae = model(input_shape=(channels, 8, 5), data_range=data_range, likelihood="gaussian")
    data = low + (high - low) * torch.rand(4, channels, 8, 5)
    found = tiles(plot.reconstructions(vae, data), 2, 4, 8, 5)
    assert (found[0] == shades(data, low, high)).all()
    assert (found[1] == shades(vae.reconstruct(data), low, high)).all()
    assert (found[0] != found[1]).any()


def test_unbounded_data_are_shown_in_their_own_range():
    vae = model(data_range=None, likelihood="gaussian")
    data = torch.randn(3, 1, 8, 8)
    whole = torch.cat([data, vae.reconstruct(data)])
    found = tiles(plot.reconstructions(vae, data), 2, 3, 8, 8)
    assert (found.reshape(6, 8, 8, 3) == shades(whole, float(whole.min()), float(whole.max()))).all()


def test_rows_that_are_not_full_end_in_white():
    found = tiles(plot.reconstructions(model(), x, columns=4), 4, 4, 8, 8)
    assert (found[2, :2] == shades(x[4:])).all() and (found[2:, 2:] == 255).all()
    names = [label.get_text() for label in plot.reconstructions(model(), x, columns=4).axes[0].get_yticklabels()]
    assert names == ["x", "again"] * 2


def test_samples_are_the_models_and_those_of_the_seed():
    vae = model()
    drawn = vae.sample(6, generator=torch.Generator().manual_seed(3))
    found = tiles(plot.samples(vae, 6, columns=3, seed=3), 2, 3, 8, 8).reshape(6, 8, 8, 3)
    assert (found == shades(drawn)).all()
    assert (pixels(plot.samples(vae, 6, columns=3, seed=4)) != pixels(plot.samples(vae, 6, columns=3, seed=3))).any()


@pytest.mark.parametrize("line", ["linear", "slerp"])
def test_an_interpolation_goes_from_the_one_to_the_other(line):
    vae = model(latent=5)
    found = tiles(plot.interpolations(vae, x[:2], x[2:4], 4, line=line), 2, 6, 8, 8)
    between = vae.interpolate(x[:2], x[2:4], 4, path=line)
    for row in range(2):
        assert (found[row, 0] == shades(x[row : row + 1])[0]).all()
        assert (found[row, -1] == shades(x[2 + row : 3 + row])[0]).all()
        assert (found[row, 1:-1] == shades(between[:, row])).all()
        assert (found[row, 1] == shades(vae.reconstruct(x[row : row + 1]))[0]).all(), "the ends are reconstructions"


def test_a_traversal_moves_one_dimension_a_row_and_says_which():
    vae = model(latent=4)
    figure = plot.traversals(vae, x[:1], dims=[3, 1], steps=5, span=2.0)
    found = tiles(figure, 2, 5, 8, 8)
    with torch.no_grad():
        z = vae.eval().encode(x[:1]).mode.clone()
        z[0, 1] = 1.0
        assert (found[1, 3] == shades(vae.decode(z))[0]).all()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["z3", "z1"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["-2", "-1", "0", "1", "2"]
    with pytest.raises(ValueError, match=r"one example, got 6. Use x\[:1\]"):
        plot.traversals(vae, x)


def test_a_manifold_is_even_in_the_priors_probability():
    """Against scipy's normal quantiles; z1 grows to the right, z2 upwards."""
    vae = model()
    found = tiles(plot.manifold(vae, 3, share=0.8), 3, 3, 8, 8)
    places = torch.tensor(norm.ppf([0.1, 0.5, 0.9]), dtype=torch.float32)
    for row in range(3):
        for column in range(3):
            z = torch.stack([places[column], places[2 - row]])[None]
            with torch.no_grad():
                assert (found[row, column] == shades(vae.eval().decode(z))[0]).all(), (row, column)
    shifted = model(prior="normal")
    with torch.no_grad():
        shifted.prior.loc.add_(5.0)
    assert (pixels(plot.manifold(shifted, 3)) != pixels(plot.manifold(model(), 3))).any(), "it is the model's own prior"


def test_a_manifold_of_a_prior_without_an_inverse_is_even_in_z_if_asked():
    vae = model(prior=use("mixture", components=3))
    with pytest.raises(ValueError, match=r"MixturePrior has no inverse cumulative distribution .* Give span=3"):
        plot.manifold(vae, 3)
    found = tiles(plot.manifold(vae, 3, span=2.0), 3, 3, 8, 8)
    with torch.no_grad():
        assert (found[0, 2] == shades(vae.eval().decode(torch.tensor([[2.0, 2.0]])))[0]).all()
    with pytest.raises(ValueError, match="needs a latent of 2 numbers, and this one has the shape"):
        plot.manifold(model(latent=3))


def test_a_conditional_model_is_drawn_under_its_labels():
    vae = model(condition=use("class", classes=3))
    found = tiles(plot.reconstructions(vae, x, y), 2, 6, 8, 8)
    assert (found[1] == shades(vae.reconstruct(x, y))).all()
    one = tiles(plot.manifold(vae, 2, torch.tensor([1])), 2, 2, 8, 8)
    assert (one != tiles(plot.manifold(vae, 2, torch.tensor([2])), 2, 2, 8, 8)).any()


# -- other data --------------------------------------------------------------------------------------------------------


def test_signals_are_lines_one_for_each_channel_in_one_scale():
    vae = model(input_shape=(2, 16))
    data = torch.rand(3, 2, 16)
    figure = plot.reconstructions(vae, data)
    assert len(figure.axes) == 6
    for i, axes in enumerate(figure.axes):
        drawn = np.stack([line.get_ydata() for line in axes.lines])
        assert np.array_equal(drawn, (data if i < 3 else vae.reconstruct(data))[i % 3].numpy())
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert len(plot.reconstructions(vae, data, columns=2).axes) == 8


@pytest.mark.parametrize(
    ("shape", "why"),
    [((7,), "rows of 7 numbers are no picture"), ((4, 8, 8), "1 or 3 channels"), ((1, 4, 4, 4), "volumes")],
)
def test_what_can_t_be_drawn_is_refused_with_the_reason(shape, why):
    vae, data = model(input_shape=shape), torch.rand(2, *shape)
    for draw in (
        lambda: plot.reconstructions(vae, data),
        lambda: plot.samples(vae, 2),
        lambda: plot.interpolations(vae, data, data),
        lambda: plot.traversals(vae, data[:1]),
        lambda: plot.manifold(vae),
    ):
        with pytest.raises(ValueError, match=why):
            draw()
    assert plot.latents(vae, data).axes


# -- latents -----------------------------------------------------------------------------------------------------------


def points(axes):
    return np.concatenate([np.asarray(each.get_offsets()) for each in axes.collections])


def test_two_dimensions_are_drawn_as_they_are_with_a_colour_a_class():
    vae = model()
    axes = plot.latents(vae, x, y).axes[0]
    with torch.no_grad():
        z = vae.eval().encode(x).q.mean
    for one, drawn in enumerate(axes.collections):
        assert np.allclose(drawn.get_offsets(), z[y == one], atol=1e-6)
    assert len({tuple(each.get_facecolor()[0]) for each in axes.collections}) == 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "1", "2"]
    assert plot.latents(vae, x, limit=4.0).axes[0].get_xlim() == (-4.0, 4.0)


def test_more_dimensions_are_their_principal_components():
    vae = model(latent=5)
    with torch.no_grad():
        z = vae.eval().encode(x).q.mean.double().numpy()
    axes = plot.latents(vae, (x, y)).axes[0]
    wanted = PCA(2).fit_transform(z)
    for one, drawn in enumerate(axes.collections):
        assert np.allclose(np.abs(drawn.get_offsets()), np.abs(wanted[y.numpy() == one]))
    assert axes.get_xlabel() == "principal component 1"


def test_t_sne_keeps_clusters_together():
    torch.manual_seed(0)
    vae = model(latent=3, encoder=use("mlp", hidden=()), hidden=())
    data = torch.cat([0.02 * torch.rand(15, 1, 8, 8), 1 - 0.02 * torch.rand(15, 1, 8, 8)])
    labels = torch.arange(30) // 15
    axes = plot.latents(vae, data, labels, method="tsne").axes[0]
    first, second = (np.asarray(each.get_offsets()) for each in axes.collections)
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * max(each.std(0).max() for each in (first, second)) and axes.get_xlabel() == "t-SNE 1"
    with pytest.raises(ValueError, match="at least 4 examples"):
        plot.latents(vae, data[:3], method="tsne")


def test_one_dimension_is_a_histogram_and_numbers_have_a_scale():
    axes = plot.latents(model(latent=1), x, y).axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == 6
    numbers = torch.rand(6)
    axes, bar = plot.latents(model(), x, numbers).axes
    assert np.allclose(axes.collections[0].get_array(), numbers) and bar.get_ylabel() == "label"


def test_no_more_examples_are_encoded_than_are_drawn():
    assert len(points(plot.latents(model(), [x[:4], x[4:]], count=5).axes[0])) == 5


# -- codes, curves and films -------------------------------------------------------------------------------------------


def test_the_codebook_shows_the_frequency_of_each_code():
    vae = model(latent=(4, 2, 2), sampler=use("vq", codebook_size=8), encoder="conv", decoder="conv")
    figure = plot.codebook(vae, x)
    with torch.no_grad():
        counts = torch.bincount(vae.eval().encode(x).index.flatten(), minlength=8)
    wanted = counts.sort(descending=True).values.double() / counts.sum()
    line, even = figure.axes[0].lines
    assert np.allclose(line.get_ydata(), wanted[wanted > 0]) and set(even.get_ydata()) == {1 / 8}
    shares = wanted[wanted > 0]
    perplexity = float((-(shares * shares.log()).sum()).exp())
    assert line.get_label() == f"{len(shares) / 8:.0%} used, perplexity {perplexity:.4g}"
    with pytest.raises(ValueError, match="the latent is continuous"):
        plot.codebook(model(), x)


def test_each_group_of_codes_has_its_line():
    vae = model(latent=8, sampler=use("residual_vq", codebook_size=4, depth=3))
    labels = [line.get_label() for line in plot.codebook(vae, x).axes[0].lines]
    assert [label.partition(":")[0] for label in labels] == ["group 0", "group 1", "group 2", "even"]


def test_curves_of_a_run_have_training_and_validation(tmp_path):
    trainer = Trainer(model(), x, x[:3], epochs=3, batch_size=3, device="cpu", output_dir=tmp_path, progress=False)
    history = trainer.fit()
    for given in (history, history.rows, tmp_path, tmp_path / "history.json"):
        panels = {axes.get_title(loc="left"): axes for axes in plot.curves(given).axes}
        assert {"total", "nll", "kl", "lr", "grad_norm"} <= set(panels) and "examples_per_second" not in panels
        lines = {line.get_label(): line.get_ydata() for line in panels["total"].lines}
        assert list(lines["train"]) == history["train/total"] and list(lines["val"]) == history["val/total"]
        assert list(panels["total"].lines[0].get_xdata()) == [1, 2, 3]
    chosen = plot.curves(history, ["kl", "n*"], over="step")
    assert [axes.get_title(loc="left") for axes in chosen.axes] == ["nll", "kl"]
    assert list(chosen.axes[0].lines[0].get_xdata()) == history["step"]


def test_curves_know_missing_numbers_and_missing_files(tmp_path):
    rows = [{"epoch": 1, "val/fid": 9.0}, {"epoch": 2}, {"epoch": 3, "val/fid": 7.0}]
    (line,) = plot.curves(History(rows)).axes[0].lines
    assert list(line.get_xdata()) == [1, 3] and list(line.get_ydata()) == [9, 7]
    with pytest.raises(ValueError, match="nothing to draw. There are: fid"):
        plot.curves(rows, ["mse"])
    with pytest.raises(ValueError, match="over: expected one of"):
        plot.curves(rows, over="time")
    with pytest.raises(FileNotFoundError, match="takes a run's folder"):
        plot.curves(tmp_path)
    (tmp_path / "history.json").write_text(json.dumps(rows))
    assert len(plot.curves(str(tmp_path)).axes) == 1


def frames(path):
    with Image.open(path) as film:
        for i in range(film.n_frames):
            film.seek(i)
            yield np.asarray(film.convert("RGB")).astype(int)


def test_a_film_shows_its_figures_in_order(tmp_path):
    vae = model()
    figures = []
    for step in range(3):
        with torch.no_grad():
            vae.decoder.get_parameter(next(n for n, _ in vae.decoder.named_parameters())).add_(step)
        figures.append(plot.reconstructions(vae, x))
    assert plot.film(figures, tmp_path / "film.gif") == tmp_path / "film.gif"
    figures[1].savefig(tmp_path / "still.png", dpi=120)
    shown = list(frames(tmp_path / "film.gif"))
    with Image.open(tmp_path / "still.png") as image:
        still = np.asarray(image.convert("RGB")).astype(int)
    away = [np.abs(frame - still).mean() for frame in shown]
    assert len(shown) == 3 and away[1] < 2 < min(away[0], away[2]), away
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "still.png"]


def test_a_film_of_a_run_is_made_of_its_callbacks_pictures(tmp_path):
    callbacks = [ReconstructionGrid(count=4, gif=False), LatentScatter(gif=False)]
    Trainer(
        model(), (x, y), (x, y), epochs=3, device="cpu", output_dir=tmp_path, callbacks=callbacks, progress=False
    ).fit()
    assert len(list(frames(plot.film(tmp_path, tmp_path / "a.gif")))) == 3
    plot.film(tmp_path, tmp_path / "b.gif", name="latent", longest=2)
    assert len(list(frames(tmp_path / "b.gif"))) == 2
    with pytest.raises(ValueError, match=r"holds no pictures samples-0001.png"):
        plot.film(tmp_path, tmp_path / "c.gif", name="samples")
    with pytest.raises(ValueError, match="ends in .gif, got c.png"):
        plot.film(tmp_path, tmp_path / "c.png")


# -- all of them -------------------------------------------------------------------------------------------------------


def every(vae):
    yield lambda **k: plot.reconstructions(vae, x, **k)
    yield lambda **k: plot.samples(vae, 4, **k)
    yield lambda **k: plot.interpolations(vae, x[:2], x[2:4], 3, **k)
    yield lambda **k: plot.traversals(vae, x[:1], **k)
    yield lambda **k: plot.manifold(vae, 2, **k)
    yield lambda **k: plot.latents(vae, x, **k)
    yield lambda **k: plot.curves([{"train/total": 1.0}], **k)


def test_nothing_global_is_touched():
    import matplotlib
    from matplotlib import pyplot

    vae = model(sampler="laplace").train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    for draw in every(vae):
        draw()
    assert torch.equal(torch.get_rng_state(), state) and dict(matplotlib.rcParams) == settings
    assert vae.training and all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert pyplot.get_fignums() == []


def test_a_figure_is_written_whole_in_the_format_of_its_name(tmp_path):
    for i, draw in enumerate(every(model())):
        figure = draw(path=tmp_path / f"{i}.png")
        with Image.open(tmp_path / f"{i}.png") as image:
            written = np.asarray(image.convert("RGB"))
        figure.canvas.draw()
        assert written.std() > 3 and figure.axes
    plot.samples(model(), 4, path=tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    with pytest.raises(ValueError, match=r"b.docx ends in none of"):
        plot.samples(model(), 4, path=tmp_path / "b.docx")
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".svg"}


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackage, match=r"vaekit\[plot\]"):
        plot.samples(model(), 4)
