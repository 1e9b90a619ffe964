"""Every mistake of a list, made in several mechanisms, breaks a law of the contract or a formula.

No formula is written of `Trial`, as of a new file that joins the checkout, so its mistakes are
noticed by the contract alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from archzoo.layers.decay import exclude_from_decay
from archzoo.layers.residual import Site
from torch import nn

from .laws import LAWS
from .laws.given import Make
from .mistakes.changes import with_verbs
from .mistakes.mutants import MUTANTS
from .mistakes.trial import Trial
from .stacks import build
from .test_formulas import a_fresh_parameter_is_where_it_starts, a_stack_is_the_formula

CASES = [(mistake, *mutant) for mistake, mutants in MUTANTS.items() for mutant in mutants]
ORIGINALS = {
    (name, mutant.__mro__[1], tuple(options.items())): options
    for mutants in MUTANTS.values()
    for name, options, mutant in mutants
}


def failed(law: Callable[..., None], *given: Any) -> bool:
    """Whether a law does not hold."""
    try:
        law(*given)
    except (AssertionError, RuntimeError, ValueError):
        return True
    return False


def broken(make: Make, name: str | None, options: dict[str, Any]) -> list[str]:
    """The laws of the contract that a mechanism breaks, and those of its formula."""
    found = [law.__name__ for law in LAWS if failed(law, make)]
    if name is not None and failed(a_stack_is_the_formula, make, name, options):
        found.append("a_stack_is_the_formula")
    if (
        name is not None
        and not options
        and failed(a_fresh_parameter_is_where_it_starts, make, name)
    ):
        found.append("a_fresh_parameter_is_where_it_starts")
    return found


@pytest.mark.parametrize(
    ("name", "base", "options"), [(n, b, o) for (n, b, _), o in ORIGINALS.items()], ids=str
)
def test_a_mechanism_with_no_mistake_breaks_no_law(name, base, options):
    assert broken(functools.partial(build, with_verbs(base), **options), name, options) == []


@pytest.mark.parametrize(("mistake", "name", "options", "mutant"), CASES, ids=str)
def test_a_mistake_breaks_a_law(mistake, name, options, mutant):
    assert broken(functools.partial(build, mutant, **options), name, options) != []


def test_every_mistake_is_made_in_the_trial_and_in_three_mechanisms_more():
    assert len(MUTANTS) == 9
    for mistake, mutants in MUTANTS.items():
        names = {name for name, _, _ in mutants}
        assert None in names and len(names) > 3, mistake


def test_a_wrong_factor_is_noticed_by_a_formula_alone():
    def ages(self, count):
        return [self.gamma ** (age + 1) for age in range(count)]

    assert broken(functools.partial(build, with_verbs(Trial, ages=ages)), None, {}) == []


class OfSources(Trial):
    """The trial with a learned weight for each age, the newest last."""

    def __init__(self, width: int, sites: Sequence[Site], **options: Any) -> None:
        super().__init__(width, sites, **options)
        self.weight = nn.Parameter(torch.empty(len(sites)))
        exclude_from_decay(self, "weight")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "weight"):
            nn.init.constant_(self.weight, 0.5)

    def ages(self, count: int) -> Sequence[Any]:
        return self.weight.flip(0)[:count].unbind()


def test_the_order_of_weights_of_sources_is_free():
    assert broken(functools.partial(build, OfSources), None, {}) == []
