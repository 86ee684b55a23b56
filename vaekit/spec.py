"""A part, or a whole model, by name and arguments: what is written in place of pickles. Standard library only.

Saved, a `Spec` is a plain mapping whose first key says the kind and the name::

    {"@encoder": "unet_attn", "width": 96}

The round trip through JSON and YAML is exact: sequences are tuples in memory and lists on file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vaekit.registry import registries


class NotSerializable(TypeError):
    """A spec holds something that names can't say: a built module, a class of the running script, a function."""


@dataclass(frozen=True)
class Spec:
    """A part by its kind, its name and its arguments.

    Args:
        kind: "encoder", "prior", …; "" until the spec is put into a slot.
        name: a registered name, or "package.module:Class".
        args: keyword arguments, which may hold further specs.

    Example:
        >>> spec = Spec("encoder", "mlp", {"hidden": [400]})
        >>> spec.to_dict()
        {'@encoder': 'mlp', 'hidden': [400]}
        >>> Spec.from_dict(spec.to_dict()) == spec
        True
    """

    kind: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", {key: _frozen(value) for key, value in self.args.items()})

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.args.items())
        return f"{self.name}({inside})" if inside else f"{self.name}"

    def replace(self, **args: Any) -> "Spec":
        """The same part with some arguments changed or added."""
        return Spec(self.kind, self.name, {**self.args, **args})

    def of_kind(self, kind: str) -> "Spec":
        """The same spec put into a slot of `kind`.

        Raises:
            TypeError: where the spec already says another kind.
        """
        if self.kind not in ("", kind):
            raise TypeError(f"{self.name!r} is {_article(self.kind)}, and {_article(kind)} is expected here.")
        return Spec(kind, self.name, self.args)

    def to_dict(self) -> dict[str, Any]:
        """The saved form: `{"@kind": name, **args}`.

        Raises:
            NotSerializable: naming the path of the first thing that can't be written down.
        """
        return _plain(self, self.kind)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Spec":
        """A spec from its saved form.

        Raises:
            ValueError: where the mapping has no single "@kind" key.
        """
        spec = _revive(saved, "spec")
        if not isinstance(spec, Spec):
            raise ValueError(f"spec: expected a mapping with one '@kind' key, such as '@vae'; got {list(saved)}.")
        return spec

    def to_json(self) -> str:
        """The saved form as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """A spec from JSON text."""
        return cls.from_dict(json.loads(text))

    def to_yaml(self) -> str:
        """The saved form as YAML text; needs PyYAML."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> "Spec":
        """A spec from YAML text; needs PyYAML."""
        import yaml

        return cls.from_dict(yaml.safe_load(text))


def use(name: str | type, /, **args: Any) -> Spec:
    """A part by name with arguments, to be put into a slot of `vaekit.build`.

    Args:
        name: a registered name, "package.module:Class", or the class itself.
        args: the part's own arguments; what `build` wires need not be given.

    Example:
        >>> use("resnet", width=96)
        resnet(width=96)
    """
    return Spec("", _named(name) if isinstance(name, type) else name, args)


def term(
    loss: "str | type | Spec | Any", weight: "float | Spec | Any" = 1.0, *, label: str | None = None, **args: Any
) -> Spec:
    """One term of the objective: a loss, its weight and the loss's own arguments.

    Args:
        loss: a registered loss, "package.module:Class", a class, `use(...)` or a built module.
        weight: a number, a schedule (`ramp(...)`, `cyclical(...)`, `geco(...)`) or a built `Weight`.
        label: what the term is called in reports; the loss's name by default.
        args: the loss's own arguments.

    Example:
        >>> term("kl", weight=4.0, free_bits=0.1)
        kl(weight=4.0, free_bits=0.1)
    """
    if isinstance(loss, Spec):
        loss, args = loss.name, {**loss.args, **args}
    given: dict[str, Any] = {"weight": weight}
    if label is not None:
        given["label"] = label
    if not isinstance(loss, (str, type)):
        given["module"], loss = loss, _registered(type(loss)) or type(loss).__name__
    return Spec("term", use(loss).name, {**given, **args})


def _registered(cls: type) -> str | None:
    return next((n for r in registries().values() if (n := r.name_of(cls))), None)


def _named(cls: type) -> str:
    name = _registered(cls) or f"{cls.__module__}:{cls.__qualname__}"
    if ":" in name:
        _handed[name] = cls
    return name


_handed: dict[str, type] = {}  # classes given to `use`: one of a notebook or a function can't be found by its name


def handed(name: str) -> type | None:
    """The class that `use` was given and calls by this dotted name, or None."""
    return _handed.get(name)


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, Mapping):
        return {key: _frozen(v) for key, v in value.items()}
    return value


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Spec):
        return {f"@{value.kind}": value.name, **{k: _plain(v, f"{path}.{k}") for k, v in value.args.items()}}
    if isinstance(value, tuple):
        return [_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, dict):
        return {key: _plain(v, f"{path}.{key}") for key, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise NotSerializable(
        f"{path}: {type(value).__qualname__} can't be written down. Give it by name: use('name', …) for a registered "
        "part, use('package.module:Class', …) for an importable one."
    )


def _revive(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        kinds = [key for key in value if isinstance(key, str) and key.startswith("@")]
        if len(kinds) > 1:
            raise ValueError(f"{path}: expected one '@kind' key, got {kinds}.")
        args = {key: _revive(v, f"{path}.{key}") for key, v in value.items() if key not in kinds}
        if not kinds:
            return args
        name = value[kinds[0]]
        if not isinstance(name, str):
            raise ValueError(f"{path}: '{kinds[0]}' should give a name, got {name!r}.")
        return Spec(kinds[0][1:], name, args)
    if isinstance(value, (list, tuple)):
        return tuple(_revive(v, f"{path}[{i}]") for i, v in enumerate(value))
    return value


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"
