"""Words become arguments as a signature says, and values are those of Hydra's grammar."""

from typing import Any, Literal

import pytest
from archzoo.train.command_line.arguments import call_with, in_words, takes
from archzoo.train.errors import UsageError
from hydra.core.override_parser.overrides_parser import OverridesParser


def told(
    model: str,
    *files: str,
    top: int = 5,
    eps: tuple[float, ...] = (1.0,),
    norm: Literal["l2", "linf"] | None = None,
    fast: bool = False,
    out: Any = None,
    names: list[str] | None = None,
) -> dict[str, Any]:
    return dict(locals())


def changed(*words: str) -> dict[str, Any]:
    """What words change of the defaults."""
    default = told("m")
    return {k: v for k, v in call_with(told, ["m", *words]).items() if v != default[k]}


@pytest.mark.parametrize(
    "text",
    [
        *("0", "1", "-3", "+4", "10_000", "007", "1.", ".5", "-1.5e-3", "1e3", "1E+3", "e3", "."),
        *("07.5", "-0", "00", "1.e2", "true", "False", "TRUE", "null", "Null", "none", "nan"),
        *("-inf", "inf", "abc", "a_1", "a-b", "a.b", "a/b", "[1,2]", "[a,[b,c]]", "{a:1,b:[x]}"),
        *("'a b'", '"1"', "[a.b:2]", "a:b", "*"),
    ],
)
def test_a_value_is_what_hydra_reads(text):
    wanted = OverridesParser.create().parse_override(f"out={text}").value()
    found = call_with(told, ["m", f"out={text}"])["out"]
    assert repr(found) == repr(wanted) and type(found) is type(wanted)


def test_words_without_a_key_are_the_positional_ones_in_their_order():
    assert changed("a.png", "runs/lr=0.1", "./b=2", "top=2") == {
        "files": ("a.png", "runs/lr=0.1", "./b=2"),
        "top": 2,
    }
    assert call_with(told, ["model=x", "top=1"])["model"] == "x"


def test_text_is_taken_as_it_stands():
    for text in ("a,b", "1", "true", "a b", "x=y", "[", "(", ""):
        if text != "[":
            assert call_with(told, [f"model={text}"])["model"] == text
    assert call_with(told, ["model='a b'"])["model"] == "a b"
    assert changed("names=[1.5a,b]") == {"names": ["1.5a", "b"]}


def test_one_value_of_a_list_is_a_list_of_one():
    assert changed("eps=3") == {"eps": [3]} and changed("names=a") == {"names": ["a"]}
    assert changed("names=null") == {}


MISTAKES = {
    "there is no key 'topp'; did you mean 'top'": ["m", "topp=1"],
    "there is no key 'files'": ["m", "files=a"],
    "top must be a whole number, got 2.5": ["m", "top=2.5"],
    "top must be a whole number, got True": ["m", "top=true"],
    r"eps must be a list of numbers, got \['a'\]": ["m", "eps=[a]"],
    "norm must be l2 or linf or null, got 'l3'": ["m", "norm=l3"],
    "fast must be true or false, got 1": ["m", "fast=1"],
    r"top=1,2: several values are written \[a,b\]": ["m", "top=1,2"],
    r"out=\[1: .*; a list is written \[a,b\]": ["m", "out=[1"],
    "top is given twice": ["m", "top=1", "top=2"],
    "model is missing; write model=": ["top=1"],
    "--fast: no such flag; arguments are key=value": ["m", "--fast"],
}


@pytest.mark.parametrize(("message", "words"), MISTAKES.items())
def test_what_does_not_fit_is_named_in_one_line(message, words):
    with pytest.raises(UsageError, match=message) as caught:
        call_with(told, words)
    assert "\n" not in str(caught.value)


def test_a_word_too_many_is_named():
    def one(run: str, *, top: int = 1) -> None: ...

    with pytest.raises(UsageError, match="b: a word too many"):
        call_with(one, ["a", "b"])


def test_a_command_has_the_keys_of_the_schema_that_it_takes():
    @takes(told)
    def command(*, plot: bool = True, **options: Any) -> tuple[bool, dict[str, Any]]:
        return plot, options

    assert call_with(command, ["model=m", "top=3", "plot=false"]) == (
        False,
        {"model": "m", "top": 3},
    )
    with pytest.raises(UsageError, match="no key 'plott'; did you mean 'plot'"):
        call_with(command, ["model=m", "plott=1"])


def test_types_are_written_in_the_words_of_who_types_them():
    assert in_words(int | None) == "a whole number or null"
    assert in_words(tuple[float, ...]) == "a list of numbers"
    assert in_words(Literal["a", "b"] | None) == "a or b or null"
