"""Another model from a built one: residual, parallel form, fixed ranks, plain layers."""

from .compress import factorize, fixed_ranks, ranks_by
from .costs import METRICS, Metric, costs_of, count_macs, latencies
from .parallel import fuse_parallel, to_parallel, trunks_of
from .plain_layers import plain_layers
from .rank_search import search_ranks, spectrum_ranks
from .residual import with_residual

__all__ = [
    "METRICS",
    "Metric",
    "costs_of",
    "count_macs",
    "factorize",
    "fixed_ranks",
    "fuse_parallel",
    "latencies",
    "plain_layers",
    "ranks_by",
    "search_ranks",
    "spectrum_ranks",
    "to_parallel",
    "trunks_of",
    "with_residual",
]
