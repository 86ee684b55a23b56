"""A command: its words and what they do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One word after `vaekit`.

    Args:
        parser: of its own words, jsonargparse's.
        help: what it does, in a line.
        run: takes what was parsed by name, and returns the exit code.
    """

    parser: Any
    help: str
    run: Callable[..., int]
