"""What every residual mechanism promises to every backbone, as functions that raise where it fails.

A law takes `make`, a partial of `stacks.build`: `make(**options)` is a fresh mechanism in float64.
`test_contract` asks every mechanism of the registry, and `test_mutations` shows what is noticed.
"""

from . import drop_path, sources, verbs
from .given import Law

__all__ = ["LAWS"]

LAWS: list[Law] = [
    getattr(module, name) for module in (verbs, sources, drop_path) for name in module.__all__
]
