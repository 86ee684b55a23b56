"""Tables and pages made from the registries when the site is built, so that they can't age."""

import functools
import inspect
import textwrap
from typing import Any

import vaekit
from vaekit import Spec
from vaekit.build import settled
from vaekit.cite import bibliography
from vaekit.kinds import FittedPrior
from vaekit.registry import About, parameters, registries

_COMMON = ("latent", "input_shape", "data_range")


def own(kind: str) -> list[str]:
    """Names of the parts that vaekit itself has: the site does not tell of plugins that happen to be installed."""
    registry = registries()[kind]
    return [name for name in registry if registry[name].__module__.startswith(registry.home)]


def parts(kind: str) -> str:
    """A table of the parts of a kind: name, law, paper and tags, arguments."""
    registry = registries()[kind]
    if not own(kind):
        return "*vaekit has none of its own yet. Those of plugins register here.*"
    rows = ["| name | what it is | arguments |", "|---|---|---|"]
    for name in own(kind):
        taken = [p for n, p in parameters(registry[name]).items() if n not in registry.wiring]
        fitted = " Fitted after training." if issubclass(registry[name], FittedPrior) else ""
        rows.append(_row(f"[`{name}`](#{name})", _described(registry.about(name), fitted), _arguments(taken)))
    return "\n".join(rows)


def reference(kind: str) -> str:
    """The documentation of every part, each under its name."""
    registry = registries()[kind]
    pages = []
    for name in own(kind):
        target = registry[name]
        options = {"show_root_heading": "false", "show_root_toc_entry": "false", "members": "false"}
        shown = "\n".join(f"      {key}: {value}" for key, value in options.items())
        path = f"{target.__module__}.{target.__qualname__}"
        pages.append(f"### {name}\n\n`{path}`\n\n::: {path}\n    options:\n{shown}\n")
    return "\n".join(pages)


def recipes() -> str:
    """A table of all recipes: paper, the slots that differ from `vae`, and the arguments that not every one has."""
    rows = ["| recipe | what it is | differs from `vae` in | own arguments |", "|---|---|---|---|"]
    for name in own("recipe"):
        taken = [p for n, p in parameters(vaekit.recipe[name]).items() if n not in _COMMON]
        changed = ", ".join(_changed(_spec(name), _spec("vae"))) or "–"
        described = _described(vaekit.recipe.about(name))
        rows.append(_row(f"[`{name}`](#{name})", described, changed, _arguments(taken)))
    return "\n".join(rows)


def all_recipes() -> str:
    """Every recipe, one after the other."""
    return "\n".join(recipe(name) for name in own("recipe"))


def recipe(name: str) -> str:
    """One recipe: what it says of itself, what it changes against `vae`, its code, and its spec as it is saved."""
    spec, plain = _spec(name), _spec("vae")
    document, _, arguments = (inspect.getdoc(vaekit.recipe[name]) or "").partition("\n\nArgs:\n")
    arguments, _, source = arguments.partition("\n\nReferences:\n")
    arguments = arguments.partition("\n\nRaises:\n")[0]
    lines = [f"## {name}", "", document, "", *_bullets(arguments), ""]
    if source:
        lines += [f"From: {' '.join(textwrap.dedent(source).split())}", ""]
    shapes = "" if _large(name) else ", latent=8, input_shape=(1, 28, 28)"
    lines += [f"```python\nvae = vaekit.build({name!r}{shapes})\n```", ""]
    lines += [*_against(spec, plain), ""]
    lines += _fold("The recipe", "python", inspect.getsource(vaekit.recipe[name]))
    lines += _fold("Its spec, as it is saved", "yaml", spec.to_yaml())
    return "\n".join(lines)


@functools.cache
def _spec(name: str) -> Spec:
    """What a recipe asks for, for the same data and latent; for large images, what it is made for."""
    return settled(name) if _large(name) else settled(name, latent=8, input_shape=(1, 28, 28))


def _large(name: str) -> bool:
    return max(parameters(vaekit.recipe[name])["input_shape"].default) > 64


def _changed(spec: Spec, plain: Spec) -> list[str]:
    slots = [s for s in dict.fromkeys((*plain.args, *spec.args)) if s != "recipe"]
    return [s for s in slots if spec.args.get(s) != plain.args.get(s)]


def _against(spec: Spec, plain: Spec) -> list[str]:
    changed = _changed(spec, plain)
    if not changed:
        return ["This is the plain VAE that the other recipes are compared with."]
    rows = [f"| slot | in `vae` | in `{spec.args['recipe']}` |", "|---|---|---|"]
    rows += [_row(s, _shown(plain.args.get(s)), _shown(spec.args.get(s))) for s in changed]
    return ["What it changes, for the same data and latent:", "", *rows]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, tuple) and any(isinstance(each, Spec) for each in value):
        return "<br>".join(_shown(each) for each in value)
    return f"`{value!r}`"


def _bullets(arguments: str) -> list[str]:
    """`name: text` lines of a docstring as a list."""
    found: list[str] = []
    for line in textwrap.dedent(arguments).splitlines():
        if line.startswith(" "):
            found[-1] += f" {line.strip()}"
        else:
            name, _, text = line.partition(": ")
            found.append(f"- `{name}`: {text}")
    return found


def _fold(title: str, language: str, text: str) -> list[str]:
    return [f'??? note "{title}"', "", f"    ```{language}", textwrap.indent(text.rstrip(), "    "), "    ```", ""]


def _row(*cells: str) -> str:
    """A row of a Markdown table; bars inside cells would end them."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _described(about: About, more: str = "") -> str:
    small = [", ".join(about.tags), _papers(about.cite)]
    told = "; ".join(text for text in small if text)
    summary = f"{about.summary}{more}"
    return f"{summary}<br><small>{told}</small>" if told else summary


def _arguments(taken: list[inspect.Parameter]) -> str:
    return "<br>".join(f"`{_short(p)}`" for p in taken) or "–"


def _short(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"


def _papers(keys: tuple[str, ...]) -> str:
    shown = []
    for key in keys:
        if key in bibliography():  # a plugin may cite a whole entry, which has no short form
            url = bibliography()[key].partition("url = {")[2].partition("}")[0]
            shown.append(f"[{key}]({url})" if url else key)
    return ", ".join(shown)
