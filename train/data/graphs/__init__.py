"""Graphs as data: edge lists read from files, and nodes with labels dealt to folds."""

from .edge_list import GraphFiles as GraphFiles
from .edge_list import read_graph as read_graph
from .even_pairs import EvenPairFold as EvenPairFold
from .node_labels import NodeFold as NodeFold
from .node_labels import node_splits as node_splits
