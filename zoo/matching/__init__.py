"""Two networks of one architecture: permutations of units, matching, and the way between."""

from .aligned_directions import singular_alignment as singular_alignment
from .interpolation import Barrier as Barrier
from .interpolation import barrier as barrier
from .interpolation import interpolate as interpolate
from .permutation_spec import PermutationSpec as PermutationSpec
from .permutation_spec import permutation_spec as permutation_spec
from .permutation_spec import permute as permute
from .plot_barriers import plot_barriers as plot_barriers
from .weight_matching import Matching as Matching
from .weight_matching import match as match

__all__ = [
    "Barrier",
    "Matching",
    "PermutationSpec",
    "barrier",
    "interpolate",
    "match",
    "permutation_spec",
    "permute",
    "plot_barriers",
    "singular_alignment",
]
