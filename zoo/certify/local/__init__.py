"""Certificates around a sample: linear relaxation of a recorded graph."""

from .backward import LocalBounds as LocalBounds
from .perturbation import Ball as Ball
from .radius import local_radii as local_radii
from .radius import margins as margins
from .radius import with_local_radii as with_local_radii
