"""One call for all that can be said of a model on a data set."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vaekit.evaluate.disentanglement as factors_
from vaekit.build import load
from vaekit.evaluate.bounds import bounds
from vaekit.evaluate.examples import Examples, Unavailable
from vaekit.evaluate.extractors import extractor as make_extractor
from vaekit.evaluate.fid import (
    Moments,
    features_of,
    frechet,
    kernel_distance,
    originals,
    precision_recall,
    reconstructions,
    samples,
)
from vaekit.evaluate.images import score, scores
from vaekit.evaluate.latents import (
    Latents,
    active_units,
    clustering,
    code_usage,
    information,
    latents,
    linear_probe,
)
from vaekit.optional import MissingPackage, require
from vaekit.runs import saved_model
from vaekit.saving import write_atomically
from vaekit.vae import VAE

GROUPS = ("bounds", "reconstruction", "latents", "labels", "disentanglement", "samples")
"""What `metrics` chooses from, in the order of the table."""


@dataclass(frozen=True)
class Metric:
    """A number of the report.

    Args:
        group: one of `GROUPS`.
        value: the number.
        error: its standard error, None where none is known.
        unit: "nats", "bits", "dB"; empty for numbers without one.
        better: "higher", "lower" or "", where neither is.
    """

    group: str
    value: float
    error: float | None = None
    unit: str = ""
    better: str = ""


@dataclass
class EvaluationReport:
    """Numbers by name, and why others are missing.

    Args:
        metrics: name → `Metric`.
        missing: name → why it can't be had, or was not asked for.
        about: what was evaluated, and how: numbers of examples and draws, the seed.

    Example:
        >>> report = EvaluationReport({"mse": Metric("reconstruction", 0.25, better="lower")})
        >>> report["mse"]
        0.25
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """A metric's value.

        Raises:
            KeyError: where it is missing, saying why.
        """
        if name not in self.metrics:
            why = self.missing.get(name) or f"there is none of this name. There are: {', '.join(self.metrics)}"
            raise KeyError(f"{name}: {why}.")
        return self.metrics[name].value

    def __contains__(self, name: object) -> bool:
        return name in self.metrics

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __str__(self) -> str:
        rows = [(name, _shown(m), m.unit, m.better and f"{m.better} is better") for name, m in self.metrics.items()]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        lines, last = [", ".join(f"{key} {value}" for key, value in self.about.items())], ""
        for m, row in zip(self.metrics.values(), rows, strict=True):
            if m.group != last:
                lines += ["", m.group]
                last = m.group
            lines.append("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if self.missing:
            width = max(map(len, self.missing))
            lines += ["", "not here", *(f"  {name:<{width}}  {why}" for name, why in self.missing.items())]
        return "\n".join(lines).strip()

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, whole or not at all; NaN and infinities as the strings Python gives them."""
        content = {"about": self.about, "metrics": {k: asdict(m) for k, m in self.metrics.items()}}
        text = json.dumps({**_finite(content), "missing": self.missing}, indent=1, allow_nan=False)
        write_atomically(Path(path), lambda beside: Path(beside).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> "EvaluationReport":
        """The report that `save` wrote."""
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        metrics = {name: Metric(**_numbers(each)) for name, each in read["metrics"].items()}
        return cls(metrics, read["missing"], read["about"])

    def plot(self, path: str | Path | None = None) -> Any:
        """A panel for what can be compared: one group, unit and direction; a point with its error for each metric.

        Args:
            path: a picture to write, its format by its ending; None writes none.

        Returns:
            matplotlib's Figure.

        Raises:
            ValueError: where there is no finite number.
            MissingPackage: where matplotlib is missing.
        """
        figure_: Any = require("matplotlib.figure", user="EvaluationReport.plot", extra="train")
        panels: dict[tuple[str, str, str], list[tuple[str, Metric]]] = {}
        for name, m in self.metrics.items():
            if math.isfinite(m.value):
                panels.setdefault((m.group, m.unit, m.better), []).append((name, m))
        if not panels:
            raise ValueError("plot: there is no finite number in the report.")
        sizes = [len(each) + 1.5 for each in panels.values()]
        figure = figure_.Figure(figsize=(7, 0.45 * sum(sizes)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
        for axis, ((group, unit, better), each) in zip(axes, panels.items(), strict=True):
            values, errors = [m.value for _, m in each], [m.error or 0.0 for _, m in each]
            axis.errorbar(values, range(len(each)), xerr=errors, fmt="o", capsize=3)
            axis.set_yticks(range(len(each)), [name for name, _ in each])
            axis.set_ylim(len(each) - 0.5, -0.5)
            title = (f"{group} ({unit})" if unit else group) + (better and f", {better} is better")
            axis.set_title(title, loc="left", fontsize="medium")
            axis.grid(axis="x", alpha=0.4)
            axis.margins(x=0.1)
        if path is not None:
            figure.savefig(path)
        return figure


def evaluate(
    vae: VAE,
    data: Any,
    *,
    labels: Any = None,
    factors: Any = None,
    metrics: Sequence[str] = GROUPS,
    extractor: Any = None,
    extractor_weights: str | Path | None = None,
    lpips: str | None = None,
    draws: int = 64,
    bin_width: float | None = None,
    categorical: Sequence[int] = (),
    batch_size: int = 256,
    seed: int = 0,
) -> EvaluationReport:
    """All that can be said of a model on a data set; what can't is listed with its reason.

    Missing packages are such a reason, too; files and networks that were asked for by name are not.

    The model is in evaluation mode meanwhile, and the global random state is left as it was. Numbers without draws do
    not depend on `batch_size`, nor do the latents' where q(z|x) is a product of normals; others move inside their
    errors.

    Args:
        vae: the model.
        data: a tensor or array `(n, *input_shape)`, bytes scaled to the data range; a pair (data, labels); a dataset, a
            loader or a list of batches.
        labels: classes (n,), for the group "labels", and for models with a condition.
        factors: what the data were made of, whole numbers `(n, f)`, for the group "disentanglement".
        metrics: groups out of `GROUPS`.
        extractor: for FID, KID, precision and recall: "inception", "timm:NAME", a module or function images →
            `(b, d)`, or an `Extractor`; None leaves them out.
        extractor_weights: the extractor's file, see `vaekit.evaluate.extractor`.
        lpips: "pretrained", AlexNet's file, or "random"; None leaves LPIPS out.
        draws: k of IWAE-k, draws of z per example.
        bin_width: see `Bounds.bits_per_dim`.
        categorical: numbers of the factors without an order.
        batch_size: examples in a batch; a loader has its own.
        seed: what all draws are made from.

    Raises:
        ValueError: where a group is unknown, data are empty or do not fit the model, or labels or factors differ in
            number from the data.
        TypeError: where the data can't be gone through more than once.
        FileNotFoundError: where weights that were asked for can't be had.
        MissingPackage: where the extractor's package is missing.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> report = evaluate(vae, torch.rand(20, 1, 4, 4), metrics=("bounds", "reconstruction"), draws=4)
        >>> list(report)
        ['elbo', 'log_prob[4]', 'bits_per_dim', 'rate', 'distortion', 'mse', 'psnr']
        >>> report.missing["ssim"]
        'its window has 11 positions a side, and the data have 4'
    """
    if isinstance(metrics, str) or not metrics or not set(metrics) <= set(GROUPS):
        raise ValueError(f"metrics: expected some of {', '.join(GROUPS)}, got {metrics!r}.")
    examples = Examples(vae, data, labels, batch_size=batch_size)
    report = EvaluationReport()
    writer = _Writer(report, vae, examples, seed)
    count = sum(len(vae.check(x)) for x, _ in examples.conditioned())
    report.about.update(model=_name(vae), examples=count, draws=draws, seed=seed)
    factors = None if factors is None else torch.as_tensor(factors)
    if factors is not None and len(factors) != count:
        raise ValueError(f"factors: expected one row for each of {count} examples, got {len(factors)}.")
    if "bounds" in metrics:
        writer.bounds(draws, bin_width)
    if "reconstruction" in metrics:
        writer.reconstruction(lpips)
    if {"latents", "labels", "disentanglement"} & set(metrics):
        found = latents(vae, examples, seed=seed)
        if "latents" in metrics:
            writer.latents(found)
        if "labels" in metrics:
            writer.labels(found)
        if "disentanglement" in metrics:
            writer.disentanglement(found, factors, categorical)
    if "samples" in metrics:
        writer.samples(extractor, extractor_weights)
    return report


def main(
    folder: str | Path,
    data: Any,
    *,
    out: str | Path | None = None,
    plot: str | Path | None = None,
    device: str | torch.device = "cpu",
    show: Callable[[str], Any] = print,
    **options: Any,
) -> EvaluationReport:
    """Evaluate a saved model, or a run, print the report and keep it: what `vaekit evaluate` does.

    Args:
        folder: a run with a model in `best/` or `last/`, the first that is there, or a saved model.
        data: see `evaluate`.
        out: the report's file; None: `evaluation.json` in `folder`.
        plot: a picture to write; None writes none.
        device: where the model goes.
        show: what is called with the table.
        options: those of `evaluate`.

    Raises:
        CheckpointError: where there is no saved model, besides what `evaluate` raises.
    """
    folder, saved = Path(folder), saved_model(folder)
    report = evaluate(load(saved, device=device), data, **options)
    report.about["folder"] = str(saved)
    report.save(folder / "evaluation.json" if out is None else out)
    if plot is not None:
        report.plot(plot)
    show(str(report))
    return report


class _Writer:
    """Fills a report, group by group."""

    def __init__(self, report: EvaluationReport, vae: VAE, data: Examples, seed: int) -> None:
        self.report, self.vae, self.data, self.seed = report, vae, data, seed

    def bounds(self, draws: int, bin_width: float | None) -> None:
        iwae = f"log_prob[{draws}]"
        with self._or_missing("elbo", iwae, "bits_per_dim", "rate", "distortion"):
            found = bounds(self.vae, self.data, draws=draws, seed=self.seed)
            write = self._adder("bounds")
            write("elbo", found.elbo, "nats", "higher")
            write(iwae, found.iwae, "nats", "higher")
            write("bits_per_dim", found.bits_per_dim(bin_width=bin_width), "bits", "lower")
            write("rate", found.rate, "nats")
            write("distortion", found.distortion, "nats")

    def reconstruction(self, lpips: str | None) -> None:
        wanted, why = scores(self.vae.input_shape, self.vae.data_range, lpips=lpips)
        for name, each in score(self.vae, self.data, wanted).items():
            higher = not name.startswith(("mse", "lpips"))
            self._adder("reconstruction")(name, each, "dB" if name == "psnr" else "", "higher" if higher else "lower")
        self.report.missing.update(why)

    def latents(self, found: Latents) -> None:
        write = self._adder("latents")
        if found.index is None:
            with self._or_missing("active_units"):
                write("active_units", float(active_units(found).sum()))
        else:
            self.report.missing["active_units"] = "the latent has codes, not dimensions"
        with self._or_missing("mutual_information", "aggregate_gap"):
            about = information(found)
            write("mutual_information", about.mutual, "nats")
            write("aggregate_gap", about.gap, "nats", "lower")
        with self._or_missing("code_usage", "perplexity"):
            usage = code_usage(found, self.vae.sampler.codebook_size)  # pyright: ignore[reportArgumentType]
            write("code_usage", float(usage.used.mean()), "", "higher")
            write("perplexity", float(usage.perplexity.mean()), "codes", "higher")

    def labels(self, found: Latents) -> None:
        names = ("probe_accuracy", "kmeans_nmi", "kmeans_ari")
        labels = self.data.all_labels()
        if labels is None:
            self.report.missing.update(dict.fromkeys(names, "there are no labels: give labels="))
            return
        with self._or_missing(*names):
            write = self._adder("labels")
            nmi, ari = clustering(found.center, labels, seed=self.seed)
            write("probe_accuracy", linear_probe(found.center, labels, seed=self.seed), "", "higher")
            write("kmeans_nmi", nmi, "", "higher")
            write("kmeans_ari", ari, "", "higher")

    def samples(self, what: Any, weights: str | Path | None) -> None:
        kinds = ("fid", "kid", "precision", "recall", "rfid")
        if what is None:
            told = "it compares features: give extractor="
            self.report.missing.update({f"{kind}[…]": told for kind in kinds})
            return
        extract = make_extractor(what, self.vae.data_range, weights=weights, device=self.vae.device)
        write, of = self._adder("samples"), {kind: f"{kind}[{extract.name}]" for kind in kinds}
        real = features_of(extract, originals(self.data))
        copied = features_of(extract, reconstructions(self.vae, self.data))
        with self._or_missing(of["rfid"]):
            write(of["rfid"], frechet(_moments(real), _moments(copied)), "", "lower")
        with self._or_missing(*(of[kind] for kind in kinds[:-1])):
            made = features_of(extract, samples(self.vae, self.data, seed=self.seed))
            write(of["fid"], frechet(_moments(real), _moments(made)), "", "lower")
            distance, error = kernel_distance(real, made)
            self.report.metrics[of["kid"]] = Metric("samples", distance, error, "", "lower")
            precision, recall = precision_recall(real, made)
            write(of["precision"], precision, "", "higher")
            write(of["recall"], recall, "", "higher")

    def disentanglement(self, found: Latents, factors: Tensor | None, categorical: Sequence[int]) -> None:
        write, codes = self._adder("disentanglement"), found.center
        single = {
            "mig": lambda v: factors_.mig(codes, v),
            "sap": lambda v: factors_.sap(codes, v, categorical=categorical),
            "factor_vae": lambda v: factors_.factor_vae_score(codes, v, seed=self.seed),
            "modularity": lambda v: factors_.modularity(codes, v),
            "explicitness": lambda v: factors_.explicitness(codes, v, seed=self.seed),
        }
        parts = ("disentanglement", "completeness", "informativeness")
        if factors is None:
            names = (*single, *(f"dci_{part}" for part in parts))
            self.report.missing.update(dict.fromkeys(names, "the data's factors are unknown: give factors="))
            return
        for name, of in single.items():
            with self._or_missing(name):
                write(name, of(factors), "", "higher")
        with self._or_missing(*(f"dci_{part}" for part in parts)):
            trees = factors_.dci(codes, factors, seed=self.seed)
            for part in parts:
                write(f"dci_{part}", getattr(trees, part), "", "higher")

    def _adder(self, group: str) -> Callable[..., None]:
        def add(name: str, value: Tensor | float, unit: str = "", better: str = "") -> None:
            error = None
            if isinstance(value, Tensor):
                spread = float(value.std()) if len(value) > 1 else math.nan
                error = spread / math.sqrt(len(value)) if math.isfinite(spread) else None
                value = float(value.mean())
            self.report.metrics[name] = Metric(group, value, error, unit, better)

        return add

    @contextmanager
    def _or_missing(self, *names: str) -> Iterator[None]:
        """What the block could not compute is listed with the error's words."""
        try:
            yield
        except (Unavailable, MissingPackage) as error:
            left = (name for name in names if name not in self.report.metrics)
            self.report.missing.update(dict.fromkeys(left, str(error).rstrip(".")))


def _moments(features: Tensor) -> Moments:
    found = Moments()
    for part in features.split(1024):
        found.add(part)
    return found


def _name(vae: VAE) -> str:
    return type(vae).__name__ if vae.spec is None else str(vae.spec.name)


def _shown(m: Metric) -> str:
    return f"{m.value:.4g}" if m.error is None else f"{m.value:.4g} ± {m.error:.2g}"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinities."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {k: float(v) if k in ("value", "error") and isinstance(v, str) else v for k, v in row.items()}
