"""What is known of operations and layers: a rule for each, in a file for each kind."""

from . import affine as affine
from . import joint as joint
from . import moves as moves
from . import slopes as slopes
from . import spectral as spectral
from .layers import layer as layer
from .registry import Call as Call
from .registry import operation as operation
