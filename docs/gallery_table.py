"""The gallery's tables, made from what `examples/gallery.py` wrote when it drew the sheets."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "gallery"


def table(group: str) -> str:
    """Recipes of a group: the call, steps and seconds of its training, and the prior that its samples come from."""
    found = json.loads((FOLDER / "recipes.json").read_text(encoding="utf-8"))
    rows = [(name, told) for name, told in found.items() if told["group"] == group]
    lines = ["| recipe | built by | steps | seconds | samples from |", "|---|---|---|---|---|"]
    for name, told in rows:
        short = told["call"].removeprefix("vaekit.")
        link = f"[`{name}`](../recipes/#{name})"
        lines.append(f"| {link} | `{short}` | {told['steps']} | {told['seconds']:.0f} | {told['prior']} |")
    return "\n".join(lines)


def groups() -> list[str]:
    """Titles of the sheets, in the order in which they were drawn."""
    found = json.loads((FOLDER / "recipes.json").read_text(encoding="utf-8"))
    return list(dict.fromkeys(told["group"] for told in found.values()))


def page() -> str:
    """A section for each sheet: the picture, and the table folded away."""
    sections = []
    for group in groups():
        inner = "\n".join(f"    {line}" for line in table(group).splitlines())
        picture = f"![Reconstructions and samples of the recipes: {group}]({group.replace(' ', '-')}.png)"
        sections.append(f"## {group.capitalize()}\n\n{picture}{{ loading=lazy }}\n")
        sections.append(f'??? note "Calls and times"\n\n{inner}\n')
    return "\n".join(sections)
