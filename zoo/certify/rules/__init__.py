"""Lipschitz bounds of networks, a file for each family of layers; `calculus` has the registry."""

from . import affine as affine
from . import ball_layers as ball_layers
from . import elementwise as elementwise
from . import joint as joint
from . import linear_chain as linear_chain
from . import lipschitz_layers as lipschitz_layers
from . import moves as moves
from . import pools as pools
from . import slopes as slopes_of_operations
from . import weight_structures as weight_structures
from . import whole_networks as whole_networks
from .calculus import Bound as Bound
from .calculus import Row as Row
from .calculus import Seen as Seen
from .calculus import Value as Value
from .calculus import Walk as Walk
from .calculus import rule as rule
from .whole_networks import backbone as backbone
from .whole_networks import body_and_head as body_and_head
from .whole_networks import whole_chain as whole_chain
