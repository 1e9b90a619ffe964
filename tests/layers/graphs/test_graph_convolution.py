"""The convolution is Kipf and Welling's equation."""

import pytest
import torch
from archzoo.layers.graphs import GraphConvolution, neighbours_of
from torch import nn

from .test_adjacency import EDGES, NODES, dense, features


@pytest.mark.parametrize("normalise", ["row", "symmetric"])
def test_a_layer_maps_averages_and_bends(normalise):
    layer = GraphConvolution(nn.Linear(3, 4), nn.ReLU()).double()
    h, a = features(), dense(EDGES, NODES, normalise)
    found = layer(h, neighbours_of(EDGES, NODES, normalise))
    expected = (a @ (h @ layer.linear.weight.T + layer.linear.bias)).relu()
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)  # weights of Â are float32


def test_dropout_acts_in_training_only():
    layer = GraphConvolution(nn.Linear(3, 64), nn.Identity(), drop_rate=0.5)
    h, neighbours = features(dtype=torch.float32), neighbours_of(EDGES, NODES, "row")
    assert (layer(h, neighbours) == 0).any()
    assert not (layer.eval()(h, neighbours) == 0).any()
