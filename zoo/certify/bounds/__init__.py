"""Proved bounds of a recorded graph, and of the rounding of its evaluation."""

from .rounding import evaluation_error as evaluation_error
from .rounding import measured as measured
from .rounding import stepped as stepped
from .stretches import Bounds as Bounds
from .stretches import Row as Row
