"""Tables and pages made from the registries when the site is built, so that they can't age."""

import inspect

import vaekit
from vaekit.cite import bibliography
from vaekit.registry import parameters, registries


def parts(kind: str) -> str:
    """A table of the parts of a kind: name, law, arguments, tags, papers."""
    registry = registries()[kind]
    if not len(registry):
        return "*vaekit has none of its own yet; parts of other packages register here.*"
    rows = ["| name | what it is | arguments | tags | paper |", "|---|---|---|---|---|"]
    for name in registry:
        about = registry.about(name)
        arguments = ", ".join(
            f"`{_short(p)}`" for n, p in parameters(registry[name]).items() if n not in registry.wiring
        )
        link = f"[`{name}`](#{_anchor(kind, name)})"
        tags = ", ".join(about.tags)
        rows.append(_row(link, about.summary, arguments or "–", tags or "–", _papers(about.cite) or "–"))
    return "\n".join(rows)


def _row(*cells: str) -> str:
    """A row of a Markdown table; bars inside cells would end them."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _anchor(kind: str, name: str) -> str:
    target = registries()[kind][name]
    return f"{target.__module__}.{target.__qualname__}"


def _short(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"


def _papers(keys: tuple[str, ...]) -> str:
    shown = []
    for key in keys:
        entry = bibliography()[key]
        url = entry.partition("url = {")[2].partition("}")[0]
        shown.append(f"[{key}]({url})")
    return ", ".join(shown)


def recipes() -> str:
    """A table of all recipes."""
    rows = ["| recipe | what it is | arguments | paper |", "|---|---|---|---|"]
    for name in vaekit.recipe:
        about = vaekit.recipe.about(name)
        arguments = ", ".join(f"`{_short(p)}`" for p in parameters(vaekit.recipe[name]).values())
        rows.append(_row(f"[`{name}`](#{name})", about.summary, arguments, _papers(about.cite) or "–"))
    return "\n".join(rows)


def recipe(name: str) -> str:
    """One recipe: what it says of itself, its spec, and what it changes against `vae`."""
    spec = vaekit.build(name, latent=8, input_shape=(1, 28, 28)).spec
    plain = vaekit.build("vae", latent=8, input_shape=(1, 28, 28)).spec
    assert spec is not None and plain is not None
    lines = [f"## {name}", "", inspect.getdoc(vaekit.recipe[name]).split("\n\nArgs:")[0], ""]
    changed = [slot for slot in (*plain.args, *spec.args) if spec.args.get(slot) != plain.args.get(slot)]
    shown = [f"`{slot}` {spec.args.get(slot)!r}" for slot in dict.fromkeys(changed) if slot != "recipe"]
    lines += [f"Against `vae`: {'; '.join(shown)}." if shown else "The plain VAE that the others differ from.", ""]
    lines += [f"```python\nvaekit.build({name!r}, latent=8, input_shape=(1, 28, 28))\n```", ""]
    lines += ['??? note "Its spec, as it is saved"', "", "    ```yaml"]
    lines += [f"    {line}" for line in spec.to_yaml().splitlines()]
    return "\n".join([*lines, "    ```", ""])


def all_recipes() -> str:
    """Every recipe, one after the other."""
    return "\n".join(recipe(name) for name in vaekit.recipe)
