"""Gradients through a definition, for functions whose gradients are written by hand."""

import pytest
import torch
from archzoo.layers.fast_path import faster, through_definition
from archzoo.layers.lowrank._fast.sparse_linear import ApartLinear
from torch import Tensor


def number(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def product(x: Tensor, y: Tensor, z: Tensor | float) -> Tensor:
    return x.square() * y.sin() * z


@pytest.mark.parametrize("answer", [None, 0.0, torch.zeros(2)], ids=str)
def test_a_fast_form_is_asked_first_and_the_definition_where_it_says_none(answer):
    asked = []

    def fast(x: float, *, y: float):
        asked.append((x, y))
        return answer

    found = faster(fast, lambda x, *, y: (x, y), 1.0, y=2.0)
    assert found == (1.0, 2.0) if answer is None else found is answer
    assert asked == [(1.0, 2.0)]


@pytest.mark.parametrize("made", ["apart", "of one another", "one tensor"])
def test_each_gradient_is_by_one_argument_alone(made):
    leaf = number(0, 3).requires_grad_()
    x = leaf if made == "apart" else 2 * leaf
    y = {"apart": number(1, 3).requires_grad_(), "of one another": x.exp(), "one tensor": x}[made]
    gradient = number(2, 3).requires_grad_()
    found = through_definition(product, (x, y, 0.7), gradient)
    assert found[2] is None
    torch.testing.assert_close(found[0], gradient * 2 * x * y.sin() * 0.7)
    torch.testing.assert_close(found[1], gradient * x.square() * y.cos() * 0.7)
    # Derivatives of gradients reach the leaves.
    (again,) = torch.autograd.grad(found[0].sum() + found[1].sum(), leaf, retain_graph=True)
    expected = (gradient * (2 * x * y.sin() + x.square() * y.cos()) * 0.7).sum()
    torch.testing.assert_close(again, torch.autograd.grad(expected, leaf)[0])


def test_outputs_that_depend_on_nothing_are_passed_over():
    x = number(0, 3).requires_grad_()
    found = through_definition(lambda x: (x.square(), torch.ones(3)), (x,), (2 * x, x))
    torch.testing.assert_close(found[0], 4 * x.square())
    assert through_definition(lambda x: x.detach(), (x,), x) == [None]


def test_a_sparse_and_low_rank_layer_made_of_one_leaf_gives_one_gradient():
    leaf = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x, left, right, values = (
        number(i, *s) * (1 + leaf) for i, s in enumerate([(5, 4), (3, 2), (2, 4), (5,)])
    )
    index = torch.tensor([0, 3, 6, 7, 11])
    found = []
    for again in (False, True):
        y = ApartLinear.apply(x, left, right, values, index, None, 0.3)
        inputs = (leaf, x, left, right, values)
        found.append(
            torch.autograd.grad(y.sin().sum(), inputs, create_graph=again, retain_graph=True)
        )  # type: ignore[union-attr]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
