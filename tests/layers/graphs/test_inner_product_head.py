"""Odds of links from inner products, and the two forms of a sample."""

import pytest
import torch
from archzoo.layers.graphs import InnerProductHead, LinkHead

X = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]]])


def test_the_odds_are_a_line_of_the_inner_product():
    head = InnerProductHead()
    torch.testing.assert_close(head(X), torch.tensor([[11.0, 0.0]]))
    with torch.no_grad():
        head.log_scale.fill_(2.0)
        head.bias.fill_(-3.0)
    torch.testing.assert_close(head(X), torch.tensor([[11.0, 0.0]]) * torch.tensor(2.0).exp() - 3)
    head(X).sum().backward()
    assert all(p.grad.abs() > 0 for p in head.parameters())


@pytest.mark.parametrize("head", [InnerProductHead(), LinkHead()], ids=["inner", "distance"])
def test_a_node_with_candidates_is_as_many_pairs(head):
    pairs = torch.stack([X[:, :1].expand(-1, 2, -1), X[:, 1:]], 2)
    assert torch.equal(head(pairs), head(X))
