"""Graphs: neighbourhoods of nodes, convolutions over them, and the odds of a link."""

from .adjacency import Neighbours as Neighbours
from .adjacency import Normalise as Normalise
from .adjacency import neighbour_mean as neighbour_mean
from .adjacency import neighbours_of as neighbours_of
from .fastrp import fastrp as fastrp
from .fastrp import fastrp_table as fastrp_table
from .fastrp import very_sparse_projection as very_sparse_projection
from .graph_convolution import GraphConvolution as GraphConvolution
from .inner_product_head import InnerProductHead as InnerProductHead
from .link_head import LinkHead as LinkHead
from .link_head import link_logits as link_logits
