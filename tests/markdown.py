"""Code blocks of Markdown files."""

import pathlib
import re
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[1]
_BLOCK = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what stands behind it, its text and its line."""

    language: str
    options: str
    text: str
    line: int


def blocks(path: pathlib.Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        indent, language, options, body = match.groups()
        lines = [line[len(indent) :] for line in body.splitlines()]
        found.append(Block(language, options.strip(), "\n".join(lines) + "\n", text[: match.start()].count("\n") + 1))
    return found
