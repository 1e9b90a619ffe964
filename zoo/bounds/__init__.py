"""Lipschitz bounds of networks, a file for each family of layers; `calculus` has the registry."""

from . import chain as chain
from . import elementwise as elementwise
from . import hyperbolic as hyperbolic
from . import lipschitz as lipschitz
from . import lowrank as lowrank
from . import networks as networks
from . import pooling as pooling
from .calculus import Bound as Bound
from .calculus import Row as Row
from .calculus import Seen as Seen
from .calculus import Value as Value
from .calculus import Walk as Walk
from .calculus import rule as rule
from .networks import backbone as backbone
from .networks import body_and_head as body_and_head
from .networks import whole_chain as whole_chain
