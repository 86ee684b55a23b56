"""The command `vaekit`: train from a file, use what was trained, look at what is registered."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import vaekit
from vaekit.cli import about, training, using
from vaekit.cli.command import Command
from vaekit.optional import MissingPackage, require
from vaekit.registry import UnknownArgument, UnknownName
from vaekit.saving import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 2 where the arguments or the machine do not allow it, or 130 after Ctrl-C.

    Args:
        arguments: words after `vaekit`; None takes those of the process.
    """
    try:
        parser, commands = _parser()
        given = parser.parse_args(_switches_first(list(sys.argv[1:] if arguments is None else arguments)))
        command = given.command
        if command is None:
            parser.print_help()
            return 0
        options = given[command]
        return commands[command].run(**vars(options))
    except (MissingPackage, CheckpointError, UnknownName, UnknownArgument, ValueError, FileNotFoundError) as error:
        print(f"vaekit: {error}", file=sys.stderr)
        return 2


def _switches_first(words: list[str]) -> list[str]:
    """`train FILE --force key=value`, with the switch before the file: argparse takes changes only right after it."""
    return [*words[:1], *sorted(words[1:], key=lambda word: word != "--force")] if words[:1] == ["train"] else words


class _Help(argparse.HelpFormatter):
    """Help with the defaults that say something, and without types, which metavars and choices tell."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.option_strings and action.default and action.default != argparse.SUPPRESS
        return (action.help or "") + (" (default: %(default)s)" if shown else "")


def _parser() -> tuple[Any, dict[str, Command]]:
    jsonargparse = require("jsonargparse", user="the command vaekit", extra="cli")
    make: Any = partial(jsonargparse.ArgumentParser, formatter_class=_Help)
    parser = make(prog="vaekit", description="Parts for variational autoencoders.", version=vaekit.__version__)
    words = parser.add_subcommands(required=False, dest="command")
    commands = {**training.commands(make), **using.commands(make), **about.commands(make)}
    for name, command in commands.items():
        words.add_subcommand(name, command.parser, help=command.help)
    return parser, commands
