"""Print what makes a shell complete the commands, keys and names of `archzoo`.

Put the line of your shell into its start file. The names are those of the installed version:

    archzoo completion bash > ~/.local/share/bash-completion/completions/archzoo
    archzoo completion zsh > ~/.archzoo.zsh
    archzoo completion fish > ~/.config/fish/completions/archzoo.fish
"""

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ...zoo.models import models
from ...zoo.share.pretrained import weights_cards
from ..command_line.answer import Answer
from ..command_line.known_commands import command, names, summary
from ..config import RunConfig
from ..override_errors import choices, groups
from ..schemas import register_schemas
from .list import KINDS, PRETRAINED_WEIGHTS

__all__ = ["completion", "words_of"]

# The word that is completed is read off the line, since bash splits words at `=`.
BASH = """\
_archzoo() {{
  local line="${{COMP_LINE:0:$COMP_POINT}}" IFS=$' \\t\\n' word program name rest known
  word="${{line##* }}"
  read -r program name rest <<< "$line"
  case "$line" in
    *" $name "*) ;;
    *) name= ;;
  esac
  case "$name" in
{cases}
    *) known="{names}" ;;
  esac
  COMPREPLY=($(compgen -W "$known" -- "$word"))
  case "$COMP_WORDBREAKS" in
    *=*) case "$word" in
      *=*) COMPREPLY=("${{COMPREPLY[@]#"${{word%%=*}}="}}") ;;
    esac ;;
  esac
  case "${{COMPREPLY[*]}}" in
    *=) compopt -o nospace 2> /dev/null ;;
  esac
}}
complete -o default -F _archzoo archzoo
"""


def completion(shell: Literal["bash", "zsh", "fish"]) -> Answer:
    """Write the completion of every command for a shell.

    Args:
        shell: The shell.
    """
    register_schemas()
    known = {name: words_of(name) for name in names()}
    text = _fish(known) if shell == "fish" else _bash(known)
    if shell == "zsh":
        text = f"autoload -U +X bashcompinit && bashcompinit\n{text}"
    return Answer({"shell": shell, "commands": known}, text.rstrip())


def words_of(name: str) -> list[str]:
    """List what may follow a command: keys that end in `=`, keys with a value, names, flags."""
    if name == "train":
        return [*_train_words(), "-m", "--json", "--help", "--cfg"]
    named = {
        "model": models.names(),
        "name": [*weights_cards(), *(n for registry in KINDS.values() for n in registry.names())],
    }
    words = [*KINDS, PRETRAINED_WEIGHTS] if name == "list" else []
    for parameter in inspect.signature(command(name)).parameters.values():
        values = _values(parameter.annotation)
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            words += named.get(parameter.name, values)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            words += [f"{parameter.name}={value}" for value in values or ("",)]
    return [*words, "--json", "--help"]


def _train_words() -> list[str]:
    """The choices of every group, and the keys that every run has."""
    words = [f"{group}={one}" for group in sorted(groups() - {"hydra"}) for one in choices(group)]
    for field in dataclasses.fields(RunConfig):
        inner = field.default_factory
        if dataclasses.is_dataclass(inner):
            words += [f"{field.name}.{key.name}=" for key in dataclasses.fields(inner)]
        elif field.name not in groups():
            words += [f"{field.name}="]
    return words


def _values(kind: Any) -> Sequence[str]:
    """The values of a switch or of a choice; none where there are too many to name."""
    if kind is bool:
        return ("true", "false")
    if typing.get_origin(kind) is Literal:
        return ["null" if value is None else str(value) for value in typing.get_args(kind)]
    members = [m for m in typing.get_args(kind) if typing.get_origin(m) is Literal]
    return _values(members[0]) if members else ()


def _bash(known: Mapping[str, Sequence[str]]) -> str:
    cases = "\n".join(f'    {name}) known="{" ".join(words)}" ;;' for name, words in known.items())
    return BASH.format(cases=cases, names=" ".join([*known, "--help", "--version"]))


def _fish(known: Mapping[str, Sequence[str]]) -> str:
    lines = []
    for name, words in known.items():
        told = summary(name).replace("'", "\\'")
        lines.append(f"complete -c archzoo -n __fish_use_subcommand -a {name} -d '{told}'")
        chosen = f"'__fish_seen_subcommand_from {name}'"
        lines.append(f"complete -c archzoo -n {chosen} -a '{' '.join(words)}'")
    return "\n".join(lines)
