"""Weights made of factors: their decomposition, and the layers and methods that train them."""

from .movement import Movement as Movement
from .unfolding import SCHEMES as SCHEMES
from .unfolding import Scheme as Scheme
from .unfolding import Unfolding as Unfolding
