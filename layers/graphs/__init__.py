"""Graphs: neighbourhoods of nodes, convolutions over them, and the odds of a link."""

from .adjacency import Neighbours as Neighbours
from .adjacency import Normalise as Normalise
from .adjacency import neighbour_mean as neighbour_mean
from .adjacency import neighbours_of as neighbours_of
from .graph_convolution import GraphConvolution as GraphConvolution
from .link_head import LinkHead as LinkHead
from .link_head import link_logits as link_logits
