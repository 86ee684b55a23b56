"""Commands that use a trained model: `sample`, `reconstruct`, `evaluate`, `encode` and `explore`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import vaekit
from vaekit.cli.command import Command
from vaekit.device import pick
from vaekit.optional import require
from vaekit.runs import trained

_RUN = "a run's folder, or a saved model's"
_DATA = "digits, mnist, a folder of images, or an .npy file"


def commands(make: Any) -> dict[str, Command]:
    """All of them."""
    sample_ = make(description="Draw images from a trained model, as PNG.")
    sample_.add_argument("run", type=str, help="a run's folder, or a saved model's")
    sample_.add_argument("--number", type=int, default=64, help="how many")
    sample_.add_argument("--out", type=str, default="", help="the picture; samples.png in the folder where left out")
    sample_.add_argument("--seed", type=int, default=0, help="what they are drawn from")
    sample_.add_argument("--temperature", type=float, default=1.0, help="below 1 for typical, above 1 for unusual ones")
    sample_.add_argument("--label", type=int, default=None, help="class, for a conditional model; else all of them")

    reconstruct_ = make(description="Pass images through a trained model: each above what is made of it, as PNG.")
    reconstruct_.add_argument("run", type=str, help="a run's folder, or a saved model's")
    reconstruct_.add_argument("images", type=str, nargs="+", help="files, or folders of them")
    reconstruct_.add_argument(
        "--out", type=str, default="", help="the picture; reconstruct.png in the folder by default"
    )
    reconstruct_.add_argument("--label", type=int, default=None, help="class of the images, for a conditional model")

    evaluate_ = make(description="All that can be said of a trained model on data, as a table and as JSON.")
    evaluate_.add_argument("run", type=str, help=_RUN)
    evaluate_.add_argument("data", type=str, nargs="?", default="", help=f"{_DATA}; else what the run was validated on")
    evaluate_.add_argument("--root", type=str, default="", help="folder of MNIST's IDX files")
    evaluate_.add_argument("--labels", type=str, default="", help="an .npy file of classes, where data has none")
    evaluate_.add_argument("--split", type=str, default="test", choices=("train", "test"), help="of digits and mnist")
    evaluate_.add_argument("--metrics", type=str, nargs="+", default=[], help="groups; all where left out")
    evaluate_.add_argument("--draws", type=int, default=64, help="k of IWAE-k")
    evaluate_.add_argument("--extractor", type=str, default="", help="for FID: inception, or timm:NAME")
    evaluate_.add_argument("--extractor-weights", type=str, default="", help="its file")
    evaluate_.add_argument("--lpips", type=str, default="", help="pretrained, AlexNet's file, or random")
    evaluate_.add_argument("--bin-width", type=float, default=0.0, help="for bits per dimension, such as 0.00392157")
    evaluate_.add_argument("--batch-size", type=int, default=256, help="examples in a batch")
    evaluate_.add_argument("--seed", type=int, default=0, help="what all draws are made from")
    evaluate_.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    evaluate_.add_argument("--out", type=str, default="", help="the report; evaluation.json in the folder by default")
    evaluate_.add_argument("--plot", type=str, default="", help="a picture of the report; none where left out")

    encode_ = make(description="Write the latents of data, for a model that is trained on them. Goes on after a kill.")
    encode_.add_argument("run", type=str, help=_RUN)
    encode_.add_argument("data", type=str, help=_DATA)
    encode_.add_argument("out", type=str, help="folder for the latents; vaekit.cache.CachedLatents reads it")
    encode_.add_argument("--root", type=str, default="", help="folder of MNIST's IDX files")
    encode_.add_argument("--labels", type=str, default="", help="an .npy file of classes, where data has none")
    encode_.add_argument("--split", type=str, default="train", choices=("train", "test"), help="of digits and mnist")
    kinds, types = ("mode", "sample", "moments", "codes"), ("float32", "float16", "bfloat16")
    encode_.add_argument("--what", type=str, default="mode", choices=kinds, help="what is kept")
    encode_.add_argument("--dtype", type=str, default="float32", choices=types, help="on disk")
    encode_.add_argument("--batch-size", type=int, default=256, help="examples encoded at a time")
    encode_.add_argument("--shard-size", type=int, default=16384, help="examples in a file")
    encode_.add_argument("--workers", type=int, default=0, help="processes that read images")
    encode_.add_argument("--seed", type=int, default=0, help="what samples are drawn from")
    encode_.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    encode_.add_argument("--force", action="store_true", help="replace other latents that are there")

    explore_ = make(description="A web page to look around in the latent of a trained model.")
    explore_.add_argument("run", type=str, help=_RUN)
    explore_.add_argument("data", type=str, nargs="?", default="", help=f"{_DATA}, for directions; else the run's own")
    explore_.add_argument("--root", type=str, default="", help="folder of MNIST's IDX files")
    explore_.add_argument("--host", type=str, default="127.0.0.1", help="who may look: 0.0.0.0 for the whole network")
    explore_.add_argument("--port", type=int, default=7860, help="of the page")
    explore_.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    return {
        "sample": Command(sample_, "draw from a trained model", sample),
        "reconstruct": Command(reconstruct_, "pass images through a trained model", reconstruct),
        "evaluate": Command(evaluate_, "all that can be said of a trained model", evaluate),
        "encode": Command(encode_, "write the latents of data", encode),
        "explore": Command(explore_, "look around in the latent, in a browser", explore),
    }


def sample(run: str, number: int, out: str, seed: int, temperature: float, label: int | None) -> int:
    """Write a picture of draws from a trained model."""
    from vaekit.train.frames import save_grid

    vae, folder = trained(run), Path(run)
    _wants_images(vae, "sample")
    if number < 1:
        raise ValueError(f"--number should be at least 1, got {number}.")
    path = Path(out) if out else folder / "samples.png"
    cond = _labels(vae, label, number)
    drawn = vae.sample(number, cond, temperature, torch.Generator().manual_seed(seed))
    save_grid(drawn, min(8, number), vae, path)
    print(path)
    return 0


def reconstruct(run: str, images: list[str], out: str, label: int | None) -> int:
    """Write a picture of images and what a trained model makes of them."""
    from vaekit.train.data import on_device
    from vaekit.train.folder import SUFFIXES, to_bytes
    from vaekit.train.frames import save_pairs

    vae, folder = trained(run), Path(run)
    _wants_images(vae, "reconstruct")
    opens: Any = require("PIL.Image", user="vaekit reconstruct", extra="train")
    found = []
    for given in map(Path, images):
        inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES) if given.is_dir() else [given]
        found += inside
    if not found:
        raise ValueError(f"{', '.join(images)}: no images there ({', '.join(sorted(SUFFIXES))}).")
    try:
        held = [to_bytes(opens.open(path), vae.input_shape) for path in found]
    except OSError as error:  # what PIL raises for a file that is no image
        raise ValueError(f"an image can't be read: {error}") from error
    x, _ = on_device((torch.stack(held), None), torch.device("cpu"), vae.data_range)
    again = vae.reconstruct(x, _labels(vae, label, len(x)))
    path = Path(out) if out else folder / "reconstruct.png"
    save_pairs(x, again, min(8, len(x)), vae, path)
    print(f"{path}: {len(x)} images, mean squared error {(x - again).square().mean().item():.5g}")
    return 0


def evaluate(
    run: str,
    data: str,
    root: str,
    labels: str,
    split: str,
    metrics: list[str],
    draws: int,
    extractor: str,
    extractor_weights: str,
    lpips: str,
    bin_width: float,
    batch_size: int,
    seed: int,
    device: str,
    out: str,
    plot: str,
) -> int:
    """Print the report of a trained model, and keep it."""
    from vaekit.evaluate.report import GROUPS, main

    where = pick(device)
    main(
        run,
        _Again(_data(run, data, root, split, labels), trained(run).input_shape, batch_size),
        metrics=metrics or GROUPS,
        draws=draws,
        extractor=extractor or None,
        extractor_weights=extractor_weights or None,
        lpips=lpips or None,
        bin_width=bin_width or None,
        batch_size=batch_size,
        seed=seed,
        device=where,
        out=out or None,
        plot=plot or None,
    )
    print(f"\n{out or Path(run, 'evaluation.json')}: the report; vaekit.evaluate.EvaluationReport.load reads it")
    return 0


def encode(
    run: str,
    data: str,
    out: str,
    root: str,
    labels: str,
    split: str,
    what: Any,
    dtype: str,
    batch_size: int,
    shard_size: int,
    workers: int,
    seed: int,
    device: str,
    force: bool,
) -> int:
    """Write the latents of data."""
    from vaekit.cache import encode_dataset

    cached = encode_dataset(
        trained(run, pick(device)),
        _data(run, data, root, split, labels),
        out,
        what=what,
        batch_size=batch_size,
        shard_size=shard_size,
        dtype=dtype,
        num_workers=workers,
        seed=seed,
        overwrite=force,
        show=lambda done: print(f"{done:,} examples", flush=True),
    )
    shape = tuple(cached.index["latent_shape"])
    print(f"{out}: {len(cached):,} latents {shape}; vaekit.cache.CachedLatents('{out}') reads them")
    return 0


def explore(run: str, data: str, root: str, host: str, port: int, device: str) -> int:
    """Serve the page until Ctrl-C."""
    from vaekit.explore import Explorer, page

    vae = trained(run, pick(device))
    page(Explorer(vae, _some(run, data, root, vae)), title=run).launch(server_name=host, server_port=port)
    return 0


class _Again:
    """Batches (x, label) of whatever the Trainer takes, which can be gone through again and again."""

    def __init__(self, data: Any, shape: tuple[int, ...], batch_size: int) -> None:
        from vaekit.train.data import batches

        self.held = batches(data, batch_size, shuffle=False, seed=0, num_workers=0, name="data", shape=shape)

    def __iter__(self) -> Iterator[Any]:
        return self.held.epoch(0)


def _data(run: str, word: str, root: str, split: str, labels: str = "") -> Any:
    """What a word of the command line names; without one, what the run was validated on."""
    from vaekit.train import config

    if word:
        train, val = config.data_of({"data": {"train": word, **({"root": root} if root else {})}})
        found = train if split == "train" or val is None else val
    else:
        path = Path(run) / config.NAME
        if not path.is_file():
            raise ValueError(f"{run}: has no {config.NAME} that says its data. Name some: {_DATA}.")
        given = config.read(path)
        train, val = config.data_of({"data": {**given["data"], **({"root": root} if root else {})}})
        found = train if val is None else val
    return (_open(found), _array(labels)) if labels else found


def _open(data: Any) -> Any:
    if isinstance(data, (str, tuple)):
        raise ValueError("--labels: goes with an .npy file. Digits, mnist and folders bring their own.")
    return data


def _array(path: str) -> torch.Tensor:
    import numpy as np

    if not Path(path).is_file():
        raise FileNotFoundError(f"--labels: {path} is not there. Give an .npy file with a class for each example.")
    return torch.from_numpy(np.load(path, allow_pickle=False))


def _some(run: str, word: str, root: str, vae: vaekit.VAE) -> torch.Tensor | None:
    """Some of the data, to find directions in the latent with; None where the run does not say its data."""
    from vaekit.train import config
    from vaekit.train.data import on_device

    if not word and not (Path(run) / config.NAME).is_file():
        return None
    held = _Again(_data(run, word, root, "test"), vae.input_shape, 512)
    return on_device(next(iter(held)), next(vae.parameters()).device, vae.data_range)[0]


def _wants_images(vae: vaekit.VAE, command: str) -> None:
    if len(vae.input_shape) != 3:
        raise ValueError(
            f"vaekit {command}: draws images (c, h, w), and the model's data have the shape {vae.input_shape}. Use "
            "vaekit.load(...) in Python."
        )


def _labels(vae: vaekit.VAE, label: int | None, number: int) -> Any:
    """What a condition on classes takes."""
    if vae.condition is None:
        if label is not None:
            raise ValueError("--label: the model has no condition.")
        return None
    condition: Any = vae.condition
    classes = getattr(condition, "classes", None)
    if classes is None:
        raise ValueError("the model's condition is not a class: use vaekit.load(...) in Python.")
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"--label should be in [0, {classes}), got {label}.")
    return torch.arange(number) % classes if label is None else torch.full((number,), label)
