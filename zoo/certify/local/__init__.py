"""Certificates around a sample: linear relaxation of a recorded graph."""

from .backward import Ball as Ball
from .backward import Walk as Walk
from .radius import local_radii as local_radii
from .radius import margins as margins
from .radius import with_local_radii as with_local_radii
