"""Markup escapes every text, and nothing else becomes markup."""

from html.parser import HTMLParser

import pytest
from archzoo.train.report.charts.markup import element, number, shorten

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "&lt;b&gt;",
    "</style><b>",
    "a\0b\ud800c",
]


class Reader(HTMLParser):
    """The tags, attributes and text of a document."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.said, self.given = [], "", {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.given |= dict(attrs)

    def handle_data(self, data):
        self.said += data


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_read_back_as_text(text):
    page = Reader(element("p", element("b", text), text, title=text))
    clean = text.replace("\0", "\ufffd").replace("\ud800", "?")
    assert page.tags == ["p", "b"]
    assert page.said == 2 * clean
    assert page.given == {"title": clean}
    element("p", text).encode()


def test_an_element_in_a_text_is_escaped_as_soon_as_it_is_a_text():
    assert element("i", "a" + element("b", "x")) == "<i>a&lt;b&gt;x&lt;/b&gt;</i>"


def test_children_and_attributes_of_none_are_left_out():
    assert element("g", None, ["a", [1, 2.5]], fill=None, stroke_width=1.0) == (
        '<g stroke-width="1">a12.5</g>'
    )


def test_numbers_are_short_and_labels_keep_both_ends():
    assert [number(v) for v in (1234567.0, 0.123456, 3.0)] == ["1,234,567", "0.1235", "3"]
    assert shorten("hyper_connections_static", 13) == "hyper_…static"
    assert len(shorten("x" * 50, 13)) == 13
