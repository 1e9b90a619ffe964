"""Graphs: neighbourhoods of nodes, convolutions over them, and the odds of a link."""

from .adjacency import Neighbours as Neighbours
from .adjacency import Normalise as Normalise
from .adjacency import neighbours_of as neighbours_of
from .fastrp import fastrp as fastrp
from .fastrp import fastrp_table as fastrp_table
from .fastrp import very_sparse_projection as very_sparse_projection
from .graph_convolution import GraphConvolution as GraphConvolution
from .inner_product_head import InnerProductHead as InnerProductHead
from .kept_neighbours import KeptNeighbours as KeptNeighbours
from .link_head import LinkHead as LinkHead
from .link_head import link_logits as link_logits
from .mobius_linear import MobiusLinear as MobiusLinear
from .mobius_linear import mobius_linear as mobius_linear
from .neighbour_means import midpoints as midpoints
from .neighbour_means import neighbour_mean as neighbour_mean
from .neighbour_means import tangent_means as tangent_means
