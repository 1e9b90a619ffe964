"""Residual mechanisms: how a branch's output joins the stream. The contract is in `stream`."""

from .add import Add as Add
from .attnres import AttnRes as AttnRes
from .attnres import BlockAttnRes as BlockAttnRes
from .attnres import depth_mix as depth_mix
from .attnres import depth_weights as depth_weights
from .scaled import Scaled as Scaled
from .scaled import layer_scale as layer_scale
from .scaled import rezero as rezero
from .scaled import scale_by_depth as scale_by_depth
from .scaled import skip_init as skip_init
from .stream import Context as Context
from .stream import Past as Past
from .stream import Read as Read
from .stream import Residual as Residual
from .stream import Site as Site
from .stream import State as State
from .stream import frozen_routing as frozen_routing
