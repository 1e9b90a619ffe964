"""Log-odds of links against the probability of the papers."""

import pytest
import torch
from archzoo.layers.graphs import LinkHead, link_logits


def test_the_probability_is_that_of_fermi_and_dirac():
    d = torch.linspace(0, 4, 9, dtype=torch.float64)
    radius, temperature = torch.tensor(2.0).double(), torch.tensor(0.7).double()
    ours = link_logits(d.square(), radius, temperature.log()).sigmoid()
    theirs = 1 / (((d.square() - radius) / temperature).exp() + 1)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-15)


def test_a_far_pair_still_has_a_gradient():
    squared = torch.tensor(400.0, requires_grad=True)
    logit = link_logits(squared, torch.tensor(2.0), torch.tensor(0.0))
    torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.ones(())).backward()
    assert float(squared.grad) == pytest.approx(1.0)


def test_the_head_reads_a_node_and_its_candidates():
    head = LinkHead(radius=3.0, temperature=2.0)
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]]])
    torch.testing.assert_close(head(x), torch.tensor([[(3 - 25) / 2, (3 - 1) / 2]]))
    head(x).sum().backward()
    assert all(p.grad.abs() > 0 for p in head.parameters())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number, got"):
        LinkHead(temperature=temperature)
