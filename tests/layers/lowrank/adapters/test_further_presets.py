"""Laws of presets with a gate, a transform of the inputs, or a gradient of their own."""

import itertools

import pytest
import torch
from archzoo.layers.lowrank import Factors, merge
from archzoo.layers.lowrank.adapters.adapter import adapt
from archzoo.layers.lowrank.adapters.allora import ALLoRA, RowScaledFactors
from archzoo.layers.lowrank.adapters.lora import LoRA
from archzoo.layers.lowrank.adapters.scheduled.remix import (
    DrawnGate,
    ReMix,
    leave_one_out,
    sequence_log_probability,
)
from archzoo.layers.lowrank.adapters.scheduled.smora import RankGate, SMoRA
from archzoo.layers.lowrank.adapters.tlora import RingTransform, ring_matrix, two_factors
from archzoo.layers.lowrank.weights.structure import FrozenDense

from .adapter_networks import network

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gated(rank=6, active=2, seed=0):
    gate = RankGate(5, rank, active, drawn(1))
    with torch.no_grad():
        gate.router.copy_(drawn(rank, 5, seed=seed))
    return gate


@pytest.mark.parametrize("active", [1, 2, 6])
def test_as_many_gates_as_are_active_differ_from_zero_and_add_up_to_that_number(active):
    gates = gated(active=active)(drawn(9, 4, 5, seed=1))
    assert ((gates != 0).sum(-1) == active).all()
    torch.testing.assert_close(gates.sum(-1), torch.full((9, 4), float(active)).double(), **CLOSE)


def test_all_components_and_a_router_of_zeros_are_lora():
    weight, x = drawn(7, 5), drawn(3, 5, seed=1)
    given = {"rank": 4, "alpha": 3.0}
    plain, mixed = LoRA(**given), SMoRA(**given, active=4)
    one, two = (p.structure("w", weight, torch.Generator().manual_seed(0)) for p in (plain, mixed))
    with torch.no_grad():
        one.left.copy_(drawn(7, 4, seed=2))
        two.left.copy_(one.left)
    assert torch.equal(one.right, two.right)
    torch.testing.assert_close(two.linear(x, None), one.linear(x, None), **CLOSE)


def test_gates_that_come_in_blocks_are_a_mixture_of_adapters():
    weight, x = drawn(7, 5), drawn(1, 5, seed=1)
    left, right = drawn(7, 6, seed=2), drawn(6, 5, seed=3)
    gate = gated(active=2)
    with torch.no_grad():
        gate.router.copy_(drawn(3, 5, seed=4).repeat_interleave(2, 0))
    structure = Factors(left, right, extra=FrozenDense(weight), gate=gate)
    block = int((x @ gate.router.T).argmax()) // 2
    cut = slice(2 * block, 2 * block + 2)
    expected = x @ (weight + left[:, cut] @ right[cut]).T
    torch.testing.assert_close(structure.linear(x, None), expected, **CLOSE)


def test_the_bias_evens_out_the_load_of_a_skewed_router_and_is_no_part_of_a_gate():
    gate = gated(active=1)
    x = drawn(200, 5, seed=1) + 1.0

    def spread():
        gate.counts.zero_()
        gate(x)
        return float(gate.counts.std())

    before, values = spread(), gate(x[:1]).max()
    gate.counts.zero_()
    for _ in range(60):
        gate(x)
        gate.balance(0.02)
    assert spread() < 0.3 * before
    assert values == gate(x[:1]).max() == 1.0


def test_evaluation_uses_the_bias_and_never_moves_it():
    gate = gated().eval()
    gate.bias.copy_(torch.tensor([9.0, 9, 0, 0, 0, 0]))
    gates = gate(drawn(8, 5, seed=1))
    assert (gates[:, :2] > 0).all() and not gate.counts.any()
    gate.balance(0.1)
    assert gate.bias.tolist() == [9, 9, 0, 0, 0, 0]


def test_a_gate_is_refused_where_there_is_no_single_input_and_where_a_matrix_is_asked_for():
    with pytest.raises(ValueError, match="reads the input of a linear layer"):
        adapt(network("conv"), SMoRA(rank=4, active=2), ["0"])
    with pytest.raises(ValueError, match="the layer needs a matrix"):
        adapt(network("poincare"), SMoRA(rank=4, active=2), ["0:weight"])
    model = network("linear")
    adapt(model, SMoRA(rank=4, active=2), ["0"])
    with pytest.raises(ValueError, match="0 .1 in all. have an activation"):
        merge(model)
    with pytest.raises(ValueError, match=r"active must lie in \[1, 4\], got 5"):
        SMoRA(rank=4, active=5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("rows", "columns"), [(8, 6), (5, 7)])
def test_a_ring_starts_at_the_weight_and_its_contraction_is_its_dense_product(rows, columns, rank):
    weight = drawn(rows, columns)
    structure = RingTransform(weight, rank, torch.Generator().manual_seed(0))
    eye = torch.eye(columns, dtype=torch.float64)
    torch.testing.assert_close(structure.transform().detach(), eye, **CLOSE)
    torch.testing.assert_close(structure.dense().detach(), weight, **CLOSE)
    with torch.no_grad():
        for n, parameter in enumerate(structure.parameters()):
            if parameter.requires_grad:
                parameter += 0.3 * drawn(*parameter.shape, seed=n)
    bias = drawn(rows, seed=8)
    for few_or_many in (2, 40):
        x = drawn(few_or_many, 3, columns, seed=9)
        expected = x @ structure.dense().T + bias
        torch.testing.assert_close(structure.linear(x, bias), expected, **CLOSE)


def test_a_ring_of_one_component_is_a_kronecker_product():
    first, second = drawn(2, 3, 1, 1), drawn(4, 2, 1, 1, seed=1)
    expected = torch.kron(first[:, :, 0, 0], second[:, :, 0, 0])
    torch.testing.assert_close(ring_matrix(first, second), expected, **CLOSE)
    assert [two_factors(n) for n in (1, 7, 12, 64)] == [(1, 1), (1, 7), (3, 4), (8, 8)]


def row_scaled(left_scale, eta=1.3):
    left, right = left_scale * drawn(7, 3), drawn(3, 5, seed=1)
    return RowScaledFactors(left, right, drawn(7, 5, seed=2), eta=eta)


def gradients(structure, x):
    x = x.clone().requires_grad_()
    (structure.linear(x, None) - 1).square().sum().backward()
    return structure.left.grad, structure.right.grad, x.grad


def test_allora_scales_gradients_row_by_row_and_leaves_that_of_the_input():
    structure, x = row_scaled(1.0), drawn(6, 5, seed=3)
    plain = Factors(structure.left, structure.right, extra=structure.extra)
    one, two = gradients(structure, x), gradients(plain, x)
    product = structure.left.detach() @ structure.right.detach()
    factors = 1 / (product.norm(dim=1) + 1.3**-2).sqrt()
    torch.testing.assert_close(one[0], factors[:, None] * two[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(one[2], two[2], rtol=0, atol=1e-11)
    outer = 2 * (x @ plain.dense().T - 1).detach().T @ x
    expected = structure.left.detach().T @ (factors[:, None] * outer)
    torch.testing.assert_close(one[1], expected, rtol=0, atol=1e-10)


def test_allora_starts_as_lora_at_a_higher_rate_and_slows_down_where_it_has_moved():
    still = row_scaled(0.0)
    product = (still.left @ still.right).detach()
    torch.testing.assert_close(still.row_factors(product), torch.full((7, 1), 1.3).double())
    sizes = [float(row_scaled(s).row_factors(s * product + s).mean()) for s in (0.5, 1.0, 2.0)]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(ValueError, match="eta2 must be above 0, got 0"):
        ALLoRA(eta2=0)


def all_draws(n, k):
    return torch.tensor(list(itertools.permutations(range(n), k)))


@pytest.mark.parametrize(("n", "k"), [(3, 1), (3, 2), (4, 2), (3, 3)])
def test_draws_without_replacement_have_probabilities_that_add_up_to_one(n, k):
    draws = all_draws(n, k)
    logits = drawn(n).expand(len(draws), n)
    torch.testing.assert_close(
        sequence_log_probability(logits, draws).exp().sum(), torch.tensor(1.0).double(), **CLOSE
    )


def test_the_gradient_of_the_router_is_unbiased_with_the_denominators_and_biased_without():
    logits, draws = drawn(3).requires_grad_(), all_draws(3, 2)
    losses = torch.tensor([2.0, -1, 0, 3, 1, -2], dtype=torch.float64)

    def scores(values):
        return sequence_log_probability(values.expand(len(draws), 3), draws)

    expected = (scores(logits).exp() * losses).sum()
    (exact,) = torch.autograd.grad(expected, logits)

    def estimate(score):
        rows = torch.stack([torch.autograd.grad(s, logits, retain_graph=True)[0] for s in score])
        chances, total = scores(logits).detach().exp(), torch.zeros_like(exact)
        for one, two in itertools.product(range(len(draws)), repeat=2):
            weights = leave_one_out(losses[[one, two]])
            total += chances[one] * chances[two] * (weights[0] * rows[one] + weights[1] * rows[two])
        return total

    torch.testing.assert_close(estimate(scores(logits)), exact, **CLOSE)
    short = logits.log_softmax(-1)[draws].sum(-1)
    assert (estimate(short) - exact).norm() > 0.01


def test_active_adapters_count_alike_and_evaluation_takes_the_likeliest():
    gate = DrawnGate(5, adapters=4, rank=3, active=2, like=drawn(1))
    with torch.no_grad():
        gate.router.copy_(drawn(4, 5))
    torch.manual_seed(0)
    x = drawn(50, 5, seed=1)
    gates = gate(x)
    assert gates.unique().tolist() == [0.0, 1.0]
    blocks = gates.unflatten(-1, (4, 3))
    assert (blocks == blocks[..., :1]).all() and (blocks[..., 0].sum(-1) == 2).all()
    chosen = gate.eval()(x).unflatten(-1, (4, 3))[..., 0].bool()
    likeliest = (x @ gate.router.T).topk(2, -1).indices
    assert chosen.gather(-1, likeliest).all()
    whole = DrawnGate(5, adapters=2, rank=3, active=2, like=drawn(1))
    assert (whole(x) == 1).all()


def test_a_router_learns_which_adapter_serves_and_one_draw_is_refused():
    torch.manual_seed(0)
    model = network("linear")
    controller = adapt(model, ReMix(rank=1, adapters=2, active=1), ["0"])
    structure = model[0].structure
    with torch.no_grad():
        structure.left[:, 1] = 5.0  # the second adapter spoils the outputs
    teacher = network("linear")
    routers = [structure.gate.router]
    optimizer = torch.optim.SGD(routers, lr=0.3)
    controller.attach(optimizer)
    x = example_with_constant()
    before = structure.gate.eval()(x)[:, 0].mean()
    for _ in range(40):
        optimizer.zero_grad()
        for _ in range(4):
            place = torch.randint(len(x), (1,))
            loss = (model.train()(x[place]) - teacher(x[place])).square().sum()
            controller.note_loss(loss)
        optimizer.step()
    chances = (x @ structure.gate.router.T).softmax(-1)[:, 0]
    assert chances.mean() > 0.9 and before <= 1
    controller.note_loss(loss)
    with pytest.raises(ValueError, match=r"there were 1; set trainer.accumulate to 2 or more"):
        optimizer.step()


def example_with_constant():
    x = drawn(30, 10, seed=5)
    x[:, 0] = 2.0
    return x
