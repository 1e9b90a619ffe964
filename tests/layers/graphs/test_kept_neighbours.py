"""A graph's table is made once, and again whenever the graph is another."""

import copy
import pickle

import torch
from archzoo.layers.graphs import KeptNeighbours, neighbour_mean, neighbours_of
from torch import nn

from .test_adjacency import EDGES, NODES, features

ASKED = (NODES, "row", torch.float64)


def is_right(neighbours, edges):
    plain = neighbours_of(edges, *ASKED)
    h = features()
    torch.testing.assert_close(neighbour_mean(h, neighbours), neighbour_mean(h, plain))


def test_the_same_graph_is_tabulated_once():
    kept = KeptNeighbours()
    first = kept(EDGES, *ASKED)
    assert kept(EDGES, *ASKED) is first and kept(EDGES.clone(), *ASKED) is first
    assert kept(EDGES, NODES, "symmetric", torch.float64) is not first
    assert kept(EDGES, NODES, "symmetric", torch.float32).weight.dtype == torch.float32


def test_every_way_of_changing_edges_is_seen():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("edges", EDGES.clone())

    holder, kept = Holder(), KeptNeighbours()
    is_right(kept(holder.edges, *ASKED), EDGES)
    other = torch.tensor([[0, 5], [1, 2], [0, 3], [3, 4], [1, 3]])
    holder.load_state_dict({"edges": other})
    is_right(kept(holder.edges, *ASKED), other)
    holder.edges[0, 1] = 4
    is_right(kept(holder.edges, *ASKED), torch.cat([torch.tensor([[0, 4]]), other[1:]]))
    holder.edges.data.copy_(EDGES)
    is_right(kept(holder.edges, *ASKED), EDGES)
    holder.edges = other
    is_right(kept(holder.edges, *ASKED), other)


def test_a_copy_starts_without_a_table():
    kept = KeptNeighbours()
    first = kept(EDGES, *ASKED)
    for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert other(EDGES, *ASKED) is not first
        is_right(other(EDGES, *ASKED), EDGES)


def test_a_table_of_inference_mode_serves_training():
    kept = KeptNeighbours()
    with torch.inference_mode():
        kept(EDGES, *ASKED)
    h = features().requires_grad_()
    neighbours = kept(EDGES, *ASKED)
    neighbour_mean(h, neighbours).sum().backward()
    # The definition keeps the weights themselves.
    neighbour_mean(h, neighbours._replace(cache=None)).sum().backward()
    assert h.grad.isfinite().all()


def test_no_memory_is_needed_for_shapes_alone():
    kept = KeptNeighbours()
    found = kept(EDGES.to("meta"), *ASKED)
    assert neighbour_mean(features().to("meta"), found).shape == (NODES, 3)
