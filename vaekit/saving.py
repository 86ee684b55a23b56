"""A model on disk: `model.safetensors`, which holds the weights and the spec, and `spec.json`, the spec to read.

No pickle anywhere. Files are written beside their place and moved there whole, so that a crash leaves the old model or
the new one. A digest over all tensors tells a damaged file.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vaekit.cite import cite
from vaekit.layers.download import unanswered_by_hub
from vaekit.layers.misfits import misfits
from vaekit.spec import Spec
from vaekit.version import __version__

WEIGHTS, SPEC = "model.safetensors", "spec.json"


class CheckpointError(RuntimeError):
    """A saved model that can't be read or written; the message says which file, why and what to do."""


def write_model(model: nn.Module, spec: Spec, folder: str | Path) -> None:
    """Write a model's weights and spec into `folder`, which is made where it is missing.

    Raises:
        NotSerializable: where the spec holds what names can't say.
        CheckpointError: where the folder can't be written.
    """
    text = json.dumps(spec.to_dict(), indent=2, ensure_ascii=False) + "\n"
    state, tied = _separate(model.state_dict())
    metadata = {"format": "pt", "vaekit": __version__, "spec": text, "digest": digest(model.state_dict()), **tied}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / WEIGHTS, lambda path: save_file(state, path, metadata))
        write_atomically(folder / SPEC, lambda path: Path(path).write_text(text, encoding="utf-8"))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: can't be written ({error}). What was there before is untouched.") from error


def push(model: nn.Module, spec: Spec, repo_id: str, *, private: bool, token: str | None) -> str:
    """Upload a model and a card that says how to load it; returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        write_model(model, spec, folder)
        Path(folder, "README.md").write_text(_card(model, spec, repo_id), encoding="utf-8")
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a vaekit model"))


def fetch(repo_id: str) -> Path:
    """The folder of a model on the Hugging Face hub, downloaded once; that of the cache where the hub does not answer.

    Raises:
        CheckpointError: where it can't be had.
    """
    from huggingface_hub import snapshot_download

    reason = unanswered_by_hub()
    try:
        found = snapshot_download(repo_id, allow_patterns=[WEIGHTS, SPEC], local_files_only=reason is not None)
    except Exception as error:  # the hub's client has many, and some come from below it
        told = str(error).split("\n")[0] if reason is None else f"{reason}, and its cache does not have it"
        raise CheckpointError(
            f"{repo_id}: is no folder here, and can't be had from the hub ({told}). Give a folder that save_pretrained "
            "wrote, or load it once where the hub can be reached."
        ) from error
    return Path(found)


def _card(model: Any, spec: Spec, repo_id: str) -> str:
    values = "of any size" if model.data_range is None else "in [{:g}, {:g}]".format(*model.data_range)
    shape, cond = ", ".join(map(str, model.input_shape)), "" if model.condition is None else ", cond"
    return _CARD.format(
        repo_id=repo_id,
        shape=shape,
        values=values,
        cond=cond,
        by_name=cond and ", cond=cond",
        drawing=model,
        papers=cite(spec),
    )


_CARD = """---
library_name: vaekit
tags: [vaekit, vae]
---

A variational autoencoder made with vaekit, for data of shape `({shape})` with values {values}.

```bash
pip install vaekit
```

```python
import vaekit

vae = vaekit.load("{repo_id}")
z = vae.encode(x{by_name}).mode
x_again = vae.decode(z{cond})
x_new = vae.sample(8{cond})
```

```text
{drawing}
```

The papers behind its parts:

```bibtex
{papers}
```
"""


def write_atomically(path: Path, write: Callable[[str], Any]) -> None:
    """Let `write` fill a file beside `path`, put it on the disk, and only then move it there."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        write(beside)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def read_spec(folder: Path) -> Spec:
    """The spec of a saved model, from the weights' file, checked against `spec.json`.

    Raises:
        CheckpointError: where the weights are missing or damaged, or the two specs differ.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: not found. A saved model is a folder with {WEIGHTS} and {SPEC}.")
    try:
        with safe_open(path, "pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged or no safetensors file ({error}). Copy or save it again.") from error
    if "spec" not in metadata:
        raise CheckpointError(f"{path}: holds no vaekit spec. It was not written by vae.save_pretrained.")
    beside = folder / SPEC
    if beside.is_file() and beside.read_text(encoding="utf-8") != metadata["spec"]:
        raise CheckpointError(
            f"{beside}: differs from the spec inside {WEIGHTS}: it was edited, or a save was cut short. Delete it to "
            "load what the weights were saved with; for another architecture, vaekit.build a new model."
        )
    try:
        return Spec.from_json(metadata["spec"])
    except ValueError as error:
        raise CheckpointError(f"{path}: its spec can't be read ({error}).") from error


def read_weights(model: nn.Module, folder: Path) -> None:
    """Fill a model with saved weights, all of them or none.

    Raises:
        CheckpointError: where names or shapes differ from the model's, or the tensors from their digest.
    """
    path = folder / WEIGHTS
    with safe_open(path, "pt") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
        saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 — safe_open is no mapping
    state = model.state_dict()
    shared = {key: metadata[key] for key in state if key in metadata and key not in saved}  # tied tensors, saved once
    saved |= {key: saved[name] for key, name in shared.items() if name in saved}
    if told := misfits(saved, state):
        raise CheckpointError(f"{path}: does not fit the model. {told}. Nothing was loaded.")
    if digest(saved) != metadata.get("digest"):
        raise CheckpointError(f"{path}: its tensors were changed since they were saved. Copy or save it again.")
    model.load_state_dict(saved, assign=False)


def digest(state: Mapping[str, Tensor]) -> str:
    """A checksum over names, types, shapes and bytes of all tensors."""
    total = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().to("cpu").contiguous()
        total.update(f"{key}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return total.hexdigest()


def _separate(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous tensors that share no memory, and which names of tied ones stand for which of them."""
    first: dict[Any, str] = {}
    tied, kept = {}, {}
    for key, tensor in state.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else key
        if place in first:
            tied[key] = first[place]
            continue
        first[place] = key
        kept[key] = tensor.contiguous()
        if kept[key].untyped_storage().nbytes() != kept[key].nbytes:  # a view into a larger tensor
            kept[key] = kept[key].clone()
    return kept, tied


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
