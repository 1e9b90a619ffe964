"""Lipschitz bounds of networks: one file for each family of layers; the registry is in `rule`."""

from . import chain as chain
from . import elementwise as elementwise
from . import hyperbolic as hyperbolic
from . import lipschitz as lipschitz
from . import networks as networks
from . import pooling as pooling
from .networks import backbone as backbone
from .networks import body_and_head as body_and_head
from .networks import whole_chain as whole_chain
from .rule import Bound as Bound
from .rule import Row as Row
from .rule import Seen as Seen
from .rule import Value as Value
from .rule import Walk as Walk
from .rule import rule as rule
