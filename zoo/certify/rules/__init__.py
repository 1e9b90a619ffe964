"""What is known of operations and layers: a rule for each, in a file for each kind."""

from . import affine as affine
from . import grouped as grouped
from . import images as images
from . import moves as moves
from . import slopes as slopes
from . import spectral as spectral
from .call import Call as Call
from .call import operation as operation
from .layers import layer as layer
