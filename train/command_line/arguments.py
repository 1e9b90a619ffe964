"""The words of a command line, read into the parameters of a function.

    archzoo certify runs/a eps=[36,72] attack=false

A word `key=value` gives the parameter of that name, and a word without a key the next of those that
the signature has before its `*`, or one of `*names`. A key is a name, so `runs/lr=0.1` is a word
without one. Values are written as for `archzoo train`, in Hydra's grammar; where text is wanted, a
value is taken as it stands. Of a parameter that takes a mapping, `data=tabular data.table=wine` is
`{name: tabular, table: wine}`.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from ...zoo.registry import fits, nearest
from ..errors import UsageError

__all__ = ["call_with", "formerly", "in_words", "read_arguments", "takes", "takes_whole_line"]

Command = TypeVar("Command", bound=Callable[..., Any])
Found = TypeVar("Found")

FORMERLY = "former_names"
NAMED: dict[Any, str] = {
    **{float: "a number", int: "a whole number", str: "text", bool: "true or false"},
    **{types.NoneType: "null", Any: "anything"},
}
"""Types that a word may have."""
WORDS = {"true": True, "false": False, "null": None}
INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
FLOAT = re.compile(
    r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE
)  # what is no INTEGER


def takes(
    schema: Callable[..., Any], only: Collection[str] | None = None
) -> Callable[[Command], Command]:
    """Decorate a command that hands its `**options` to a function or class, whose keys it has.

    It may be said of several, each of which takes some of the options.

    Args:
        schema: Its parameters and the `Args` of its docstring become those of the command.
        only: Names of those parameters that the command has; None is all.
    """

    def decorate(function: Command) -> Command:
        own = inspect.signature(function).parameters.values()
        mine = [p for p in own if p.kind is not p.VAR_KEYWORD]
        theirs = inspect.signature(schema).parameters.values()
        whole = [*(p for p in theirs if only is None or p.name in only), *mine]
        whole.sort(key=lambda parameter: parameter.kind)
        schemas = (schema, *getattr(function, "schemas", ()))
        vars(function).update(schemas=schemas, __signature__=inspect.Signature(whole))
        return function

    return decorate


def formerly(**now: str) -> Callable[[Command], Command]:
    """Decorate a command, or the schema of one, whose keys had other names.

    Args:
        now: For each name that there was, the one that there is.
    """

    def decorate(schema: Command) -> Command:
        setattr(schema, FORMERLY, now)
        return schema

    return decorate


def takes_whole_line(function: Command) -> Command:
    """Decorate a command that reads its words itself, `--help` and `--json` included."""
    vars(function)["whole_line"] = True
    return function


def call_with(function: Callable[..., Found], words: Sequence[str]) -> Found:
    """Call a function with the words of a command line.

    Raises:
        UsageError: see `read_arguments`.
    """
    given, options = read_arguments(function, words)
    return function(*given, **options)


def read_arguments(
    function: Callable[..., Any], words: Sequence[str]
) -> tuple[list[Any], dict[str, Any]]:
    """Read words into positional and keyword arguments of a function.

    Raises:
        UsageError: in one line, a flag, an unknown key, a value of another type, a word too many,
            or a parameter that is missing.
    """
    known = inspect.signature(function).parameters
    rest = next((p for p in known.values() if p.kind is p.VAR_POSITIONAL), None)
    keys = [name for name in known if rest is None or name != rest.name]
    schemas = vars(function).get("schemas", (function,))
    former = {key: now for one in schemas for key, now in getattr(one, FORMERLY, {}).items()}
    found: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    loose: list[str] = []
    for word in words:
        key, given, text = word.partition("=")
        if word.startswith("-") and word != "-":
            raise UsageError(
                f"{word}: no such flag; arguments are key=value, and --help lists them"
            )
        name, _, inner = key.partition(".")
        if given and inner.isidentifier() and name in keys and _holds_keys(known[name]):
            inside.setdefault(name, {})[inner] = _parsed(key, text)
        elif not given or not key.isidentifier():
            loose.append(word)
        elif key not in keys and key in former:
            raise UsageError(f"{key} is now {former[key]}; write {former[key]}={text}")
        elif key not in keys:
            raise UsageError(f"{key}: there is no key {key!r}{nearest(key, keys)}")
        elif key in found:
            raise UsageError(f"{key} is given twice; write it once")
        else:
            found[key] = _read(known[key], text)
    for name, values in inside.items():
        whole = found.get(name) or {}
        found[name] = {**(whole if isinstance(whole, Mapping) else {"name": whole}), **values}
    places = [p for p in known.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for place in places:
        if loose and place.name not in found:
            found[place.name] = _read(place, loose.pop(0))
    if loose and rest is None:
        raise UsageError(
            f"{loose[0]}: a word too many; settings are key=value, and --help lists them"
        )
    for name in keys:
        if name not in found and known[name].default is inspect.Parameter.empty:
            raise UsageError(f"{name} is missing; write {name}=…, and --help says what it is")
    first = [found.pop(place.name) for place in places] if loose else []
    return [*first, *(_read(rest, word) for word in loose if rest is not None)], found


def in_words(kind: Any) -> str:
    """Write the type of a value as someone who types it would."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join("null" if member is None else str(member) for member in members)
    if origin in (typing.Union, types.UnionType):
        # What only a program can give, such as a module, is left out.
        typed = [m for m in members if not isinstance(m, type) or m in NAMED]
        return " or ".join(in_words(member) for member in typed)
    if origin in (tuple, list):
        plural = {float: "numbers", int: "whole numbers", str: "texts", Any: "anything"}
        return f"a list of {plural.get(members[0]) or in_words(members[0])}"
    return NAMED.get(kind) or str(kind)


def _read(parameter: inspect.Parameter, text: str) -> Any:
    """Read the value of a parameter.

    Raises:
        UsageError: it is of another type, or cannot be read.
    """
    kind = parameter.annotation
    members = typing.get_args(kind) if _is_union(kind) else (kind,)
    value = _as_it_stands(text, members)
    if value is ...:
        value = _parsed(parameter.name, text)
    listed = [m for m in members if typing.get_origin(m) in (tuple, list)]
    if listed and value is not None and not isinstance(value, list) and not fits(value, kind):
        value = [value]
    if not fits(value, kind):
        raise UsageError(f"{parameter.name} must be {in_words(kind)}, got {value!r}")
    return value


def _holds_keys(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes a mapping, so that `data.root=…` is a key inside it."""
    kind = parameter.annotation
    members = typing.get_args(kind) if _is_union(kind) else (kind,)
    return any(typing.get_origin(member) is dict for member in members)


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _as_it_stands(text: str, members: Sequence[Any]) -> Any:
    """Text where text is wanted, unless it is quoted or an allowed `null`; else `...`."""
    if text == "null" and types.NoneType in members:
        return None
    choices = [c for m in members if typing.get_origin(m) is typing.Literal for c in m.__args__]
    wanted = str in members or any(isinstance(choice, str) for choice in choices)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text if wanted and not quoted and text[:1] not in ("[", "{") else ...


def _parsed(key: str, text: str) -> Any:
    """A number, a switch or a bare word; for anything else Hydra's grammar, which takes a while.

    Raises:
        UsageError: it cannot be read, or is several values.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    if re.fullmatch(r"[A-Za-z_]\w*", text) and text.lower() not in ("nan", "inf"):
        return text
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        said = str(error).splitlines()[0]
        raise UsageError(
            f"{key}={text}: {said}; a list is written [a,b], and text with spaces is quoted twice"
        ) from error
    if override.is_sweep_override():
        raise UsageError(f"{key}={text}: several values are written [a,b]")
    return override.value()
