"""Data → latents on disk, a shard at a time, so that a kill costs at most one."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.cache.read import FORMAT, INDEX, CachedLatents, file_digest, read_index, write_index
from vaekit.modes import evaluating, seeded
from vaekit.records import Level
from vaekit.saving import CheckpointError, digest, write_atomically
from vaekit.train.data import Batches, batches, on_device
from vaekit.train.lock import locked
from vaekit.train.rng import mix
from vaekit.vae import VAE
from vaekit.version import __version__

What: TypeAlias = Literal["mode", "sample", "moments", "codes"]
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@torch.no_grad()
def encode_dataset(
    vae: VAE,
    data: Any,
    folder: str | Path,
    *,
    what: What = "mode",
    batch_size: int = 256,
    shard_size: int = 16384,
    dtype: str = "float32",
    num_workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    show: Any = None,
) -> CachedLatents:
    """Write the latents of a data set into `folder`, or go on with that; they are read back from what is returned.

        "mode"      z, what stands for q(z|x)
        "sample"    z, one draw of q(z|x)
        "moments"   mean and standard deviation of q(z|x), to draw anew each time z is read
        "codes"     the integers of a discrete latent

    Latents are normalised where the model has a normalizer, as in `vae.latents`; `vae.decode_latents` takes them back.

    Args:
        vae: the model, on the device where it is to run.
        data: what the Trainer takes: tensors, arrays, (data, labels), datasets, loaders, a folder of images; bytes are
            scaled to the data range. Images that can't be read are left out, with a warning; the index names
            them.
        folder: where they go.
        what: see above.
        batch_size: examples encoded at a time; a loader has its own.
        shard_size: examples in a file: so many, and what completes a batch.
        dtype: "float32", "float16" or "bfloat16", on disk.
        num_workers: processes that load a dataset.
        seed: what "sample" draws from.
        overwrite: whether to begin anew where there are other latents.
        show: called with the number of examples after each shard.

    Raises:
        ValueError: where the model has no such latents, or the data do not fit it.
        TypeError: where the data are none of the above, or can be gone through but once.
        CheckpointError: where the folder holds latents of another model or other data, another process writes there,
            or it can't be written.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae = vaekit.build("mlp", latent=3, input_shape=(1, 4, 4))
        >>> x = torch.rand(10, 1, 4, 4)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     cached = encode_dataset(vae, x, out, batch_size=4, shard_size=8)
        ...     len(cached), cached[9].shape, torch.allclose(cached[9], vae.latents(x)[9])
        (10, torch.Size([3]), True)
    """
    _check(what, batch_size, shard_size, dtype)
    if isinstance(data, Iterator):
        raise TypeError(
            "data: an iterator can be gone through once, so that nothing could go on from the middle. Give a list."
        )
    held = batches(data, batch_size, shuffle=False, seed=0, num_workers=num_workers, name="data", shape=vae.input_shape)
    folder = Path(folder)
    made = {
        **{"spec": vae._written().to_dict(), "weights": digest(vae.state_dict()), "what": what, "dtype": dtype},
        **{"batch_size": batch_size, "shard_size": shard_size, "seed": seed if what == "sample" else None},
        "data": {**held.identity, "first": _first(held)},
    }
    made = json.loads(json.dumps(made))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            index = _begun(folder, made, overwrite)
            if not index["finished"]:
                _write(vae, held, folder, index, show)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: can't be written ({error}). Whole shards stay: make room, and run it again."
        ) from error
    return CachedLatents(folder)


def shard_at(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.safetensors"


def _write(vae: VAE, data: Batches, folder: Path, index: dict[str, Any], show: Any) -> None:
    """The shards that are missing, the index after each."""
    made, shards = index["made"], index["shards"]
    start = sum(shard["batches"] for shard in shards)
    parts: list[dict[str, Tensor]] = []
    examples = count = 0
    with evaluating(vae):
        for i, (x, label) in enumerate(data.epoch(0, start), start):
            count += 1
            if len(x):
                parts.append(_encoded(vae, x, label, made, mix(made["seed"] or 0, i)))
                examples += len(x)
            if examples >= made["shard_size"]:
                index["unreadable"].update(data.unreadable)
                _add(folder, index, parts, count)
                parts, examples, count = [], 0, 0
                if show is not None:
                    show(sum(shard["examples"] for shard in shards))
    if parts:
        _add(folder, index, parts, count)
    if not shards:
        raise ValueError("encode_dataset: data hold no example that can be read.")
    index["finished"] = True
    index["unreadable"].update(data.unreadable)
    write_index(folder, index)
    if left := index["unreadable"]:
        warnings.warn(f"{len(left)} images can't be read, and were left out: {next(iter(left))} first.", stacklevel=3)
    if show is not None:
        show(sum(shard["examples"] for shard in shards))


def _encoded(vae: VAE, x: Tensor, label: Tensor | None, made: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """What is kept of a batch, on the CPU."""
    device, what, dtype = vae.device, made["what"], TYPES[made["dtype"]]
    x, label = on_device((x, label), device, vae.data_range)
    if vae.condition is not None and label is None:
        raise ValueError("encode_dataset: the model has a condition. Give data as (data, labels).")
    with seeded(seed, device):
        level = vae.encode(x, cond=label if vae.condition is not None else None)
    normalizer: Any = vae.normalizer
    normal = torch.nn.Identity() if normalizer is None else normalizer
    if what == "codes":
        if level.index is None:
            raise ValueError("what='codes': the latent is continuous. Use 'mode', 'sample' or 'moments'.")
        found = {"codes": level.index.to(_integers(int(vae.sampler.codebook_size)))}  # pyright: ignore[reportArgumentType]
    elif what == "moments":
        mean, std = _moments(level)
        found = {"mean": normal(mean).to(dtype), "std": _scaled(normal, mean, std).to(dtype)}
    else:
        found = {"z": normal(level.z if what == "sample" else level.mode).to(dtype)}
    return {k: v.cpu() for k, v in (found if label is None else {**found, "label": label}).items()}


def _moments(level: Level) -> tuple[Tensor, Tensor]:
    q = level.q
    base = q.base_dist if isinstance(q, Independent) else q
    if level.log_q is not None or level.index is not None or type(base) is not Normal:
        raise ValueError(
            "what='moments': q(z|x) is no product of normals, so that mean and deviation do not say what z is. Use "
            "'sample' or 'mode'."
        )
    return base.loc, base.scale


def _scaled(normal: Any, mean: Tensor, std: Tensor) -> Tensor:
    """The deviation of normalised z: normalizers scale and shift."""
    once, twice = normal(mean + std) - normal(mean), normal(mean + 2 * std) - normal(mean)
    if not torch.allclose(2 * once, twice, rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"what='moments': {type(normal).__name__} does more than scale and shift, so that a normal z is none "
            "afterwards. Use 'sample' or 'mode'."
        )
    return once.abs()


def _integers(size: int) -> torch.dtype:
    """The smallest type that holds the codes."""
    kinds = ((torch.uint8, 2**8), (torch.int16, 2**15), (torch.int32, 2**31))
    return next((kind for kind, most in kinds if size <= most), torch.int64)


def _add(folder: Path, index: dict[str, Any], parts: list[dict[str, Tensor]], count: int) -> None:
    """Write a shard, and then its name into the index."""
    shapes = {tuple(each.shape[1:]) for part in parts for name, each in part.items() if name != "label"}
    if len(shapes) > 1:
        raise ValueError(f"encode_dataset: latents of several sizes {sorted(shapes)}. Bring the data to one size.")
    tensors = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
    path = shard_at(folder, len(index["shards"]))
    # one key: safetensors writes more of them in no order, and the digests would differ from run to run
    write_atomically(path, lambda beside: save_file(tensors, beside, {"format": "pt"}))
    size = len(next(iter(tensors.values())))
    told = {"file": path.name, "examples": size, "batches": count}
    index["shards"].append({**told, "bytes": path.stat().st_size, "sha256": file_digest(path)})
    index["latent_shape"] = list(next(iter(shapes)))
    write_index(folder, index)


def _begun(folder: Path, made: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """The index to go on with: that of the folder without shards that are not whole, or an empty one."""
    for path in folder.glob(".*.part"):  # of a process that was killed while it wrote
        path.unlink()
    fresh = {"format": FORMAT, "vaekit": __version__, "made": made, "finished": False, "unreadable": {}, "shards": []}
    if overwrite:
        (folder / INDEX).unlink(missing_ok=True)
        for path in folder.glob("shard-*.safetensors"):
            path.unlink()
    if not (folder / INDEX).is_file():
        return fresh
    index = read_index(folder)
    _compare(folder, index["made"], made)
    for i, shard in enumerate(index["shards"]):
        path = folder / shard["file"]
        if not path.is_file() or path.stat().st_size != shard["bytes"] or file_digest(path) != shard["sha256"]:
            return {**fresh, "shards": index["shards"][:i]}  # damaged since: encoded again from here on
    return index


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    names = {"spec": "the model's parts differ", "weights": "the model's weights differ"}
    told = [
        names.get(key, f"{key} was {before.get(key)!r}, and is {now[key]!r}")
        for key in now
        if before.get(key) != now[key]
    ]
    if told:
        raise CheckpointError(
            f"{folder}: already holds latents that were made otherwise: {'; '.join(told)}. Use what they were begun "
            "with, another folder, or overwrite=True (--force on the command line)."
        )


def _first(data: Batches) -> str:
    """A digest of the first batch: other data of the same size are told apart."""
    x, _ = next(iter(data.epoch(0)), (torch.empty(0), None))
    return digest({"x": x})


def _check(what: str, batch_size: int, shard_size: int, dtype: str) -> None:
    if what not in ("mode", "sample", "moments", "codes"):
        raise ValueError(f"what: expected 'mode', 'sample', 'moments' or 'codes', got {what!r}.")
    if dtype not in TYPES:
        raise ValueError(f"dtype: expected {', '.join(TYPES)}, got {dtype!r}.")
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}.")
