"""BibTeX of what a model is made of."""

import re
from functools import cache
from importlib.resources import files
from typing import Any

from torch import nn

from vaekit.kinds import recipe
from vaekit.registry import registries
from vaekit.spec import Spec


def cite(model: Any) -> str:
    """BibTeX entries of the papers behind a model's recipe and parts, and nothing else.

    Args:
        model: a `VAE` that `vaekit.build` made, or its `Spec`.

    Raises:
        ValueError: where the model has no spec.

    Example:
        >>> import vaekit
        >>> print(vaekit.cite(vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))).split(",")[0])
        @article{kingma2014
    """
    spec = model if isinstance(model, Spec) else getattr(model, "spec", None)
    if spec is None:
        raise ValueError("cite: the model has no spec. Make it with vaekit.build.")
    keys = dict.fromkeys(_keys(spec))
    return "\n\n".join(bibliography().get(key, key) for key in keys)


def _keys(value: Any) -> list[str]:
    """Citation keys in a spec, recipe first, in the order of the data flow."""
    if isinstance(value, Spec):
        found: list[str] = []
        if value.kind == "vae" and value.args.get("recipe") in recipe:
            found += recipe.entry(value.args["recipe"]).cite
        registry = registries().get({"term": "loss"}.get(value.kind, value.kind))
        if registry is not None and ":" not in value.name:
            found += registry.entry(value.name).cite
        return found + [key for arg in value.args.values() for key in _keys(arg)]
    if isinstance(value, tuple):
        return [key for each in value for key in _keys(each)]
    if isinstance(value, nn.Module):
        named = ((r, r.name_of(type(value))) for r in registries().values())
        return [key for registry, name in named if name for key in registry.entry(name).cite]
    return []


@cache
def bibliography() -> dict[str, str]:
    """Key → entry of `references.bib`."""
    text = (files("vaekit") / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"@\w+\{.*?\n\}", text, flags=re.DOTALL)
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
