"""A model's own forward, recorded into a graph of one sample."""

from .guard import check_equal as check_equal
from .guard import graph_of as graph_of
from .plain import ForwardError as ForwardError
from .plain import run_plainly as run_plainly
from .reach import RefusedError as RefusedError
