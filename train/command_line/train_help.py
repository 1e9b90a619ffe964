"""What `archzoo train --help` says. Hydra's own help copies its whole store for every group."""

import textwrap

from ..override_errors import choices, groups

__all__ = ["train_help"]

FLAGS = {
    "-m": "run every point of key=value1,value2 one after another",
    "--json": "print the folder and the result as JSON, and everything else on stderr",
    "--cfg job": "print the composed config, and train nothing",
    "--hydra-help": "Hydra's own flags",
}


def train_help(docstring: str) -> str:
    """A docstring, the choices of every group, and flags."""
    lines = ["archzoo train [key=value …] [-m] [--json]", "", docstring.strip(), ""]
    lines += ["Choices, each with keys of its own (archzoo info, docs/reference.md):"]
    for group in sorted(groups() - {"hydra"}):
        shown = f"{group}={' '.join(choices(group))}"
        lines += textwrap.wrap(shown, 96, initial_indent="  ", subsequent_indent="      ")
    lines += ["", "Keys that every run has, and their defaults: archzoo train --cfg job", ""]
    width = max(map(len, FLAGS))
    return "\n".join([*lines, *(f"  {flag:<{width}}  {said}" for flag, said in FLAGS.items())])
