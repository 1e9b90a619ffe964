"""Names for builder functions: a function's name is the name, its signature is the schema.

A registry holds one kind of thing (models, data sets, …). A builder is an ordinary function;
nothing repeats its keywords elsewhere: the checks below, the Hydra schema, the listing on the
command line and the saved `config.json` are all read off its signature.

A builder that changes a few defaults of another says `extends=` and takes `**options`; its
signature is then its own keywords followed by the rest of the other's.
"""

import difflib
import fnmatch
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Entry", "Option", "Registry", "fits", "import_parts", "listed", "nearest", "type_name"]

Build = TypeVar("Build", bound=Callable[..., Any])

SHOWN = 20  # names of a message


@dataclass(frozen=True)
class Option:
    """One keyword of a builder: its name, its type and its default."""

    name: str
    type: Any
    default: Any


@dataclass(frozen=True)
class Entry:
    """What a registry knows of one name.

    Args:
        name: The name, equal to the builder's `__name__`.
        build: The builder.
        source: Where the thing comes from, in words: `arXiv:2603.15031`, `Nesterov (1983)`, the
            address of a page, a licence.
        kind: What goes in or comes out: `image`, `features`, `tokens`, `nodes` or `graph`.
        options: The builder's keywords, in order.
        about: Further facts given at registration.
    """

    name: str
    build: Callable[..., Any]
    source: str
    kind: str
    options: Mapping[str, Option]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse a keyword that the builder does not take, or a value of another type.

        Raises:
            ValueError: naming the keyword, the value and what is taken instead.
        """
        for name, value in values.items():
            if name not in self.options:
                raise ValueError(
                    f"{self.name} takes no keyword {name!r}{nearest(name, self.options)}"
                )
            option = self.options[name]
            if not fits(value, option.type):
                raise ValueError(
                    f"{self.name}: {name} must be {type_name(option.type)}, got {value!r}"
                )


class Registry:
    """Builders of one kind of thing, each under its own name.

    Args:
        noun: What an entry is called in messages, such as `model`.
        given: Parameters that the caller of every builder fills in: not part of any schema.
    """

    def __init__(self, noun: str, given: Iterable[str] = ()) -> None:
        """Start empty."""
        self.noun, self.given = noun, tuple(given)
        self._entries: dict[str, Entry] = {}

    def register(
        self,
        *,
        kind: str | None = None,
        source: str = "",
        name: str | None = None,
        extends: Callable[..., Any] | None = None,
        given: Iterable[str] = (),
        **about: Any,
    ) -> Callable[[Build], Build]:
        """Decorate a builder so that it is known by its name.

        Args:
            kind: What goes in or comes out, such as `image`, `features` or `tokens`; None where
                the registry holds one kind only.
            source: Where the thing comes from: an arXiv number, an author and a year, the address
                of a page, a licence.
            name: Another name than the builder's own, for a class or a Python keyword.
            extends: The class or builder that receives the builder's `**options`.
            given: Further parameters that the caller of this builder fills in.
            about: Further facts to keep beside the name.

        Raises:
            ValueError: the name is taken, or the builder has a keyword without a default.
        """

        def decorate(build: Build) -> Build:
            key = name or build.__name__
            if key in self._entries:
                taken = self._entries[key].build
                raise ValueError(
                    f"the {self.noun} name {key!r} is taken by {taken.__module__}; choose another"
                )
            options = _options(build, extends, (*self.given, *given))
            self._entries[key] = Entry(key, build, source, kind or self.noun, options, about)
            return build

        return decorate

    def __getitem__(self, name: str) -> Entry:
        """Return the entry of a name, or name the nearest ones.

        Raises:
            ValueError: no such name.
        """
        if name not in self:
            raise ValueError(f"no {self.noun} named {name!r}{nearest(str(name), self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        """Whether a name is known."""
        return isinstance(name, str) and name in self._entries

    def names(self, pattern: str = "*") -> list[str]:
        """List the names that match a shell pattern, numbers in natural order."""
        return sorted(fnmatch.filter(self._entries, pattern), key=_natural)

    def build(self, key: str, /, *given: Any, **values: Any) -> Any:
        """Check the keywords and call the builder of a name.

        Args:
            key: The name.
            given: What the registration said that its caller fills in, by position.
            values: The builder's keywords.
        """
        entry = self[key]
        entry.check(values)
        return entry.build(*given, **values)


def import_parts(package: str, path: Iterable[str]) -> None:
    """Import every file of a package by its `__name__` and `__path__`: each registers its parts."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known names closest to a misspelt one, as the tail of a sentence."""
    known = sorted(known, key=_natural)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; known: {listed(known, SHOWN)}"


def listed(names: Sequence[str], shown: int) -> str:
    """Write names as a list, which ends in how many more there are than are shown."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def type_name(kind: Any) -> str:
    """Write a type as a reader of a signature would."""
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _options(
    build: Callable[..., Any], extends: Callable[..., Any] | None, given: tuple[str, ...]
) -> Mapping[str, Option]:
    """Read a builder's keywords, then those of what it extends."""
    options: dict[str, Option] = {}
    for source in (build, extends):
        if source is None:
            continue
        hints = typing.get_type_hints(source.__init__ if isinstance(source, type) else source)
        for name, parameter in inspect.signature(source).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD or name in options or name in given:
                continue
            if parameter.default is parameter.empty:
                raise ValueError(f"{build.__name__}: the keyword {name!r} needs a default")
            annotation = parameter.annotation
            hint = hints.get(name, Any if annotation is parameter.empty else annotation)
            options[name] = Option(name, hint, parameter.default)
    if extends is not None:
        # From here on `inspect`, `help` and a builder that extends this one see the whole truth.
        vars(build)["__signature__"] = inspect.Signature(
            [
                inspect.Parameter(
                    o.name, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=o.type
                )
                for o in options.values()
            ]
        )
    return types.MappingProxyType(options)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; an int passes for a float, a bool for neither."""
    if kind is Any:
        return True
    if kind is None or kind is types.NoneType:
        return value is None
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, k) for k in typing.get_args(kind))
    if origin in (tuple, list):
        inner = typing.get_args(kind)[0]
        return isinstance(value, (tuple, list)) and all(fits(v, inner) for v in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or kind)
