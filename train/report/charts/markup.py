"""Elements of HTML and SVG, in which every text is escaped but what another element made."""

import html
import math
from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Child", "Markup", "element", "number", "shorten"]

# Elements of HTML without an end; in SVG everything may have one.
VOID = ("meta", "br", "hr", "col")


class Markup(str):
    """Text that is markup already; only `element` and constants of this package make it."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"


def element(name: str, *children: Child, **attributes: str | float | None) -> Markup:
    """An element with its children, in order.

    Args:
        name: Of the element.
        children: Elements, or anything else, which is escaped; lists are taken apart, None is left
            out.
        attributes: Escaped; `class_` stands for `class` and `stroke_width` for `stroke-width`.
            Numbers are written with five digits; None leaves an attribute out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{''.join(_texts(children))}</{name}>")


def number(value: float, digits: int = 4) -> str:
    """A number for a reader: thousands apart where it is a count, else a few digits."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def shorten(text: str, most: int) -> str:
    """A text of at most so many characters, cut in its middle: both ends tell runs apart."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def _texts(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, (str, int, float)):
            yield _escaped(str(child))
        else:
            yield from _texts(child)


def _attribute(value: str | float) -> str:
    return _escaped(f"{value:.5g}" if isinstance(value, float) else str(value))


def _escaped(text: str) -> str:
    """Escape, and drop what no document may hold: half a character and the zero byte."""
    return html.escape(text.encode("utf-8", "replace").decode().replace("\0", "�"), quote=True)
