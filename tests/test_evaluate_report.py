"""One call: what is in the report, what is missing and why, and that it can be printed, saved and plotted."""

import importlib
import json
import math

import numpy as np
import pytest
import torch

import vaekit
from vaekit import use
from vaekit.evaluate import (
    EvaluationReport,
    Examples,
    Extractor,
    Metric,
    Moments,
    bounds,
    evaluate,
    features_of,
    frechet,
    kernel_distance,
    originals,
    precision_recall,
    reconstructions,
    samples,
    sprites,
)
from vaekit.evaluate.latents import linear_probe
from vaekit.evaluate.report import GROUPS, main

IMAGES, FACTORS = sprites(160, size=16, levels=(3, 2, 2, 2, 2))
OPTIONS = {"labels": FACTORS[:, 0], "factors": FACTORS, "draws": 4, "categorical": [0]}


def pixels(x):
    return x.flatten(1)[:, ::8]


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", **{"latent": 3, "input_shape": (1, 16, 16), "hidden": (16,), **args})


def test_everything_is_there_or_has_its_reason():
    report = evaluate(model(), IMAGES, extractor=pixels, lpips="random", **OPTIONS)
    assert {metric.group for metric in report.metrics.values()} == set(GROUPS)
    assert set(report.missing) == {"code_usage", "perplexity", "lpips[alex]"}
    assert {"fid[pixels]", "rfid[pixels]", "kid[pixels]", "precision[pixels]", "recall[pixels]"} <= set(report)
    assert all(math.isfinite(report[name]) for name in report)
    bare = evaluate(model(), IMAGES, draws=4)
    assert set(report) - set(bare) <= set(bare.missing) | {
        f"{k}[pixels]" for k in ("fid", "rfid", "kid", "precision", "recall")
    }
    assert set(bare.metrics) <= set(report.metrics) and not set(bare.metrics) & set(bare.missing)


@pytest.mark.parametrize(
    ("args", "missing"),
    [
        ({"sampler": "dirac", "loss": ["nll"]}, {"elbo": "posterior with a density", "mutual_information": "q(z|x)"}),
        ({"sampler": use("vq", codebook_size=8)}, {"active_units": "codes", "aggregate_gap": "continuous z"}),
        ({"sampler": "iaf"}, {"mutual_information": "evaluated anywhere", "code_usage": "continuous"}),
        ({"data_range": None, "likelihood": "gaussian"}, {"psnr": "data_range"}),
    ],
    ids=["dirac", "vq", "iaf", "unbounded"],
)
def test_what_a_model_can_not_have_is_listed_with_its_reason(args, missing):
    vae = model(**args).eval()
    report = evaluate(vae, IMAGES, draws=2)
    for name, reason in missing.items():
        assert reason in report.missing[name] and name not in report
        with pytest.raises(KeyError, match="."):
            report[name]
        assert f"{name} " in str(report).partition("not here")[2]
    assert "mse" in report


def test_a_report_does_not_depend_on_the_batch_size():
    """Exactly where nothing is drawn, or drawn apart from batches; inside the error elsewhere."""
    vae = model().double()
    reports = [
        evaluate(vae, IMAGES.double(), batch_size=size, extractor=pixels, **{**OPTIONS, "draws": 64})
        for size in (23, 160)
    ]
    drawn = ("elbo", "log_prob", "bits_per_dim", "distortion", "fid", "kid", "precision", "recall")
    for name, metric in reports[0].metrics.items():
        if name.startswith(drawn):
            error = metric.error or 0.1 * abs(metric.value) + 0.1
            assert metric.value == pytest.approx(reports[1][name], abs=4 * error), name
        else:
            assert metric.value == pytest.approx(reports[1][name], rel=1e-6, abs=1e-9), name


def test_a_report_is_the_same_each_time_and_changes_nothing():
    vae, state = model().train(), torch.get_rng_state()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    torch.set_rng_state(state)
    one, two = (evaluate(vae, IMAGES, extractor=pixels, **OPTIONS) for _ in range(2))
    assert one.metrics == two.metrics and torch.equal(torch.get_rng_state(), state)
    assert vae.training and all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert one.metrics != evaluate(vae, IMAGES, extractor=pixels, seed=1, **OPTIONS).metrics


def test_numbers_are_the_means_of_their_parts_and_errors_their_standard_errors():
    vae = model()
    report = evaluate(vae, IMAGES, metrics=("bounds", "labels"), **OPTIONS)
    found = bounds(vae, Examples(vae, IMAGES), draws=4)
    assert report["log_prob[4]"] == pytest.approx(float(found.iwae.mean()))
    assert report.metrics["elbo"].error == pytest.approx(float(found.elbo.std()) / 160**0.5)
    assert report["elbo"] == pytest.approx(-report["rate"] - report["distortion"])
    assert report["bits_per_dim"] == pytest.approx(-report["log_prob[4]"] / 256 / math.log(2))
    with torch.no_grad():
        assert report["probe_accuracy"] == linear_probe(vae.eval().encode(IMAGES).q.mean, FACTORS[:, 0])
    assert {metric.group for metric in report.metrics.values()} == {"bounds", "labels"}


def test_distances_of_sets_are_between_the_sets_that_their_names_say():
    vae, data = model(), Examples(model(), IMAGES)
    report = evaluate(vae, IMAGES, metrics=("samples",), extractor=pixels)
    extract = Extractor("pixels", pixels)
    real = features_of(extract, originals(data))
    copies, made = features_of(extract, reconstructions(vae, data)), features_of(extract, samples(vae, data))
    moments = [Moments() for _ in range(3)]
    for found, features in zip(moments, (real, copies, made), strict=True):
        found.add(features)
    assert report["rfid[pixels]"] == pytest.approx(frechet(moments[0], moments[1]))
    assert report["fid[pixels]"] == pytest.approx(frechet(moments[0], moments[2]))
    kid = report.metrics["kid[pixels]"]
    assert (kid.value, kid.error) == pytest.approx(kernel_distance(real, made))
    assert (report["precision[pixels]"], report["recall[pixels]"]) == precision_recall(real, made)


def test_labels_condition_a_conditional_model():
    vae = model(condition=use("class", classes=3))
    report = evaluate(vae, (IMAGES, FACTORS[:, 0]), draws=2, extractor=pixels)
    assert "fid[pixels]" in report and "probe_accuracy" in report
    with pytest.raises(ValueError, match="model has a condition"):
        evaluate(vae, IMAGES)


def test_all_of_the_data_are_looked_at_and_what_is_wrong_with_them_is_an_error():
    bad = IMAGES.clone()
    bad[150, 0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate(model(), bad, batch_size=16, metrics=("bounds",))
    for options, match in (
        ({"metrics": ("loss",)}, "metrics: expected"),
        ({"metrics": "bounds"}, "metrics: expected"),
        ({"draws": 0}, "draws: expected"),
        ({"bin_width": -1.0}, "bin_width"),
        ({"factors": FACTORS[:5]}, "factors: expected"),
        ({"labels": FACTORS[:5, 0]}, "labels: expected"),
        ({"extractor": "nothing"}, "extractor: expected"),
        ({"extractor": torch.nn.Identity()}, "expected features"),
        ({"extractor": lambda x: x}, "no name"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate(model(), IMAGES, **{"draws": 2, **options})


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_examples_have_what_few_examples_can(n):
    report = evaluate(model(), IMAGES[:n], labels=FACTORS[:n, 0], draws=2, extractor=pixels)
    assert "mse" in report and "elbo" in report and ("active_units" in report) == (n > 1)
    assert ("fid[pixels]" in report) == (n > 1) and "probe_accuracy" in report.missing


def test_a_missing_package_is_a_reason(monkeypatch):
    from vaekit.optional import MissingPackage

    def absent(module, *, user, extra=None):
        raise MissingPackage(f"{user} needs {module}")

    for name in ("images", "latents"):  # whose second has a function of its name
        monkeypatch.setattr(importlib.import_module(f"vaekit.evaluate.{name}"), "require", absent)
    report = evaluate(model(), IMAGES, labels=FACTORS[:, 0], draws=2)
    assert "torchmetrics" in report.missing["psnr"] and "sklearn" in report.missing["kmeans_nmi"] and "mse" in report


def test_a_report_reads_as_a_table():
    metrics = {
        "elbo": Metric("bounds", -100.25, 0.5, "nats", "higher"),
        "psnr": Metric("reconstruction", math.inf, None, "dB"),
    }
    report = EvaluationReport(metrics, {"ssim": "there is no room"}, {"model": "mlp", "examples": 3})
    assert str(report).splitlines() == [
        "model mlp, examples 3", "",
        "bounds", "  elbo  -100.2 ± 0.5  nats  higher is better", "",
        "reconstruction", "  psnr  inf           dB", "",
        "not here", "  ssim  there is no room",
    ]  # fmt: skip
    assert str(EvaluationReport()) == ""


def test_a_report_survives_saving_also_with_infinite_numbers(tmp_path):
    report = evaluate(model(), IMAGES, draws=2)
    report.metrics["psnr"] = Metric("reconstruction", math.inf, None, "dB", "higher")
    report.metrics["odd"] = Metric("reconstruction", math.nan)
    report.save(tmp_path / "report.json")
    strict = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict["metrics"]["psnr"]["value"] == "inf"
    read = EvaluationReport.load(tmp_path / "report.json")
    assert math.isnan(read.metrics.pop("odd").value) and report.metrics.pop("odd")
    assert read == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_can_not_be_written_leaves_the_old_one(tmp_path):
    EvaluationReport(about={"a": 1}).save(tmp_path / "report.json")
    with pytest.raises(TypeError):
        EvaluationReport(about={"a": object()}).save(tmp_path / "report.json")
    assert EvaluationReport.load(tmp_path / "report.json").about == {"a": 1}


def test_a_plot_has_a_panel_for_each_group_and_unit_and_a_point_for_each_finite_number(tmp_path):
    report = evaluate(model(), IMAGES, draws=2)
    report.metrics["psnr"] = Metric("reconstruction", math.inf, None, "dB", "higher")
    figure = report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    up, down = ", higher is better", ", lower is better"
    assert titles == [
        f"bounds (nats){up}", f"bounds (bits){down}", "bounds (nats)", f"reconstruction{down}", f"reconstruction{up}",
        "latents", "latents (nats)", f"latents (nats){down}",
    ]  # fmt: skip
    names = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]
    assert sorted(names) == sorted(set(report) - {"psnr"})
    drawn = np.concatenate([axis.lines[0].get_xdata() for axis in figure.axes])
    assert sorted(drawn) == pytest.approx(sorted(report[name] for name in names))
    with pytest.raises(ValueError, match="no finite number"):
        EvaluationReport().plot()


def test_the_command_evaluates_a_run_and_keeps_the_report(tmp_path):
    vae, shown = model(), []
    vae.save_pretrained(tmp_path / "run" / "last")
    report = main(tmp_path / "run", IMAGES, draws=2, plot=tmp_path / "report.png", show=shown.append)
    assert EvaluationReport.load(tmp_path / "run" / "evaluation.json") == report
    assert shown == [str(report)] and (tmp_path / "report.png").exists()
    assert report["mse"] == pytest.approx(evaluate(vae, IMAGES, draws=2)["mse"])
    vae.save_pretrained(tmp_path / "model")
    main(tmp_path / "model", IMAGES, draws=2, metrics=("bounds",), out=tmp_path / "elsewhere.json", show=shown.append)
    assert (tmp_path / "elsewhere.json").exists() and not (tmp_path / "model" / "evaluation.json").exists()
    with pytest.raises(vaekit.CheckpointError):
        main(tmp_path / "nothing", IMAGES)
