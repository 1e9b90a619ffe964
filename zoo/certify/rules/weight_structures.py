"""Layers whose weight is made of factors, where no plain layers stand for them.

A certificate multiplies factors out, or takes them as a chain, before it walks over a network
(`zoo/certify/float64_model.py`). What is left has an activation between its factors and a further
term beside.
"""

from typing import Any

from ....layers.lowrank import FactoredConv2d, FactoredLinear
from .calculus import Bound, Walk, rule


@rule(FactoredLinear, FactoredConv2d)
def factored(walk: Walk, module: Any, name: str) -> Bound:
    """Refuse: the two terms are not bounded together."""
    return walk.refuse(
        name,
        f"{type(module.structure).__name__} has an activation between its factors and a further "
        f"term beside them, which no rule bounds; train without the activation",
    )
