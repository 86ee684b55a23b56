"""A model as text: what flows where, through which part, with how many parameters."""

from typing import Any

from torch import nn

from vaekit.registry import parameters
from vaekit.spec import Spec

_STAGES = ("condition", "encoder", "sampler", "prior", "transforms", "decoder", "likelihood", "normalizer")


def draw(model: Any) -> str:
    """The data flow of a `VAE`, one stage a line: arguments, parameters, shapes and loss terms."""
    spec: Spec | None = model.spec
    args = spec.args if spec is not None else {}
    shapes: dict[str, tuple[int, ...]] = getattr(model, "shapes", {})
    rows = [(f"VAE {args.get('recipe', '')}".strip(), _count(model) + " parameters", _shape("x", model.input_shape))]
    for stage in _STAGES:
        module = getattr(model, stage)
        if module is None or (isinstance(module, nn.ModuleList) and not module):
            continue
        arrow = {"encoder": "x ─► ", "sampler": "h ─► ", "decoder": "z ─► ", "likelihood": "y ─► "}.get(stage, " " * 5)
        rows.append((f"  {arrow}{stage:<11}{_part(args.get(stage), module)}", _count(module), _gives(stage, shapes)))
    left = max(len(r[0]) for r in rows) + 2
    middle = max(len(r[1]) for r in rows) + 2
    lines = [f"{a:<{left}}{b:<{middle}}{c}".rstrip() for a, b, c in rows]
    return "\n".join([*lines, f"  loss {_terms(model, args)}"])


def _part(spec: Any, module: nn.Module) -> str:
    """The part as `use` would name it, with the arguments that differ from their defaults."""
    if isinstance(spec, tuple) and isinstance(module, nn.ModuleList):
        return ", ".join(map(_part, spec, module))
    if not isinstance(spec, Spec):
        return type(module).__name__
    defaults = {name: p.default for name, p in parameters(type(module)).items()}
    own = {key: value for key, value in spec.args.items() if key not in defaults or value != defaults[key]}
    return repr(Spec(spec.kind, spec.name, own))


def _gives(stage: str, shapes: dict[str, Any]) -> str:
    name = {"encoder": "h", "sampler": "z", "decoder": "y", "condition": "cond"}.get(stage)
    text = _shape(name, shapes[name]) if name in shapes else ""
    distribution = {"sampler": "q", "prior": "p", "likelihood": "p_x"}.get(stage)
    if distribution in shapes:
        text += f" ~ {shapes[distribution]}" if stage == "sampler" else f"{_SYMBOL[stage]} {shapes[distribution]}"
    return text


_SYMBOL = {"prior": "p(z)", "likelihood": "p(x|z)"}


def _terms(model: Any, args: Any) -> str:
    if "loss" not in args:
        return type(model.objective).__name__
    shown = []
    for term in args["loss"]:
        weight, rest = term.args.get("weight", 1.0), {k: v for k, v in term.args.items() if k != "weight"}
        number = f"{weight:g}" if isinstance(weight, (int, float)) else repr(weight)
        shown.append(f"{number} {Spec('', term.name, rest)!r}")
    text = " + ".join(shown)
    objective = args.get("objective")
    return text if objective in (None, Spec("objective", "weighted_sum")) else f"{text}   objective {objective!r}"


def _shape(name: str | None, shape: tuple[int, ...]) -> str:
    return f"{name} (b, {', '.join(map(str, shape))})"


def _count(module: nn.Module) -> str:
    count = sum(p.numel() for p in module.parameters())
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
