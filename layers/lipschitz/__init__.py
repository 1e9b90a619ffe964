"""Layers that are Lipschitz by construction, and the inequality that decides whether they are."""

from .lmi import LMIBlock as LMIBlock
from .lmi import lmi_matrix as lmi_matrix
from .protocol import ConvWeight as ConvWeight
from .protocol import FrequencyWeight as FrequencyWeight
from .protocol import LinearWeight as LinearWeight
from .protocol import LipschitzLayer as LipschitzLayer
from .protocol import ShearWeight as ShearWeight
