"""The five commands that there were before `archzoo`; they go in the next release."""

import argparse
import sys

from ..commands.__main__ import main

__all__ = ["certify", "export", "models", "robustness", "train"]


def train() -> None:
    """`archzoo-train`, which is `archzoo train`."""
    _instead("train")


def certify() -> None:
    """`archzoo-certify`, which is `archzoo certify`."""
    _instead("certify")


def robustness() -> None:
    """`archzoo-robustness`, which is `archzoo robustness`."""
    _instead("robustness")


def export() -> None:
    """`archzoo-export`, which is `archzoo export`."""
    _instead("export")


def models() -> None:
    """`archzoo-models`, which is `archzoo list`, or `archzoo info` with the name of a model."""
    parser = argparse.ArgumentParser(prog="archzoo-models", description=models.__doc__)
    parser.add_argument("pattern", nargs="?", default="*")
    for flag in ("--names", "--residuals", "--lowrank"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--imports", action="append", default=[], metavar="MODULE")
    given = parser.parse_args()
    imports = [f"imports=[{','.join(given.imports)}]"] if given.imports else []
    if given.residuals or given.lowrank:
        words = ["list", "lowrank" if given.lowrank else "residuals", given.pattern]
    elif given.names or any(letter in given.pattern for letter in "*?["):
        words = ["list", "models", given.pattern]
    else:
        words = ["info", given.pattern]
    _say("models", " ".join(words))
    main([*words, *imports])


def _instead(name: str) -> None:
    _say(name, name)
    main([name, *sys.argv[1:]])


def _say(old: str, new: str) -> None:
    print(f"archzoo-{old} is now `archzoo {new}`, and goes in the next release", file=sys.stderr)
