"""The command `archzoo`, or `python -m archzoo.train.commands`."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ..command_line.answer import exit_with
from ..command_line.help_text import command_help, whole_help
from ..command_line.known_commands import command, names
from ..errors import RunError, UsageError

__all__ = ["main"]

HELP = {"-h", "--help"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a command line, call its command and print the answer.

    Exits with 1 where something failed, was refused or is refuted, with 2 where the command line
    cannot be read, and with 75 where a run was stopped and can go on.

    Args:
        arguments: The words after `archzoo`; None is those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _answer(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as a shell counts


def _answer(words: list[str]) -> None:
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in HELP:
        print(whole_help())
    elif name in ("--version", "-V"):
        print(f"archzoo {_version()}")
    elif name in names():
        _call(name, rest)
    else:
        from ...zoo.registry import nearest

        noun = "flag" if name.startswith("-") else "command"
        known = ["--help", "--version"] if noun == "flag" else names()
        exit_with("archzoo", UsageError(f"no {noun} {name!r}{nearest(name, known)}"))


def _call(name: str, words: list[str]) -> None:
    try:
        function = command(name)
        if hasattr(function, "whole_line"):
            function(*words)
            return
        if HELP & set(words):
            print(command_help(name, function))
            return
        from ..command_line.arguments import call_with

        answer = call_with(function, [word for word in words if word != "--json"])
    except RunError as error:
        exit_with(f"archzoo {name}", error)
    if answer is not None:
        print(answer.as_json() if "--json" in words else answer.text)
        if answer.failed is not None:
            exit_with(f"archzoo {name}", RunError(answer.failed))


def _version() -> str:
    try:
        return version("archzoo")
    except PackageNotFoundError:
        return "of a checkout that is not installed"


if __name__ == "__main__":
    main()
