"""The trainer as a module, which `torchrun` can start: `python -m archzoo.train`."""

import sys

from .commands.__main__ import main as archzoo

__all__ = ["main"]


def main() -> None:
    """Call `archzoo train` with the arguments of this process."""
    archzoo(["train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
