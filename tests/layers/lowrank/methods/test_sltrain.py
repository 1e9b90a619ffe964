"""Laws of SLTrain: a support drawn without favour, and gradients without a W that is kept."""

import copy
import math
from collections import Counter

import pytest
import torch
from archzoo.layers.lowrank import FactoredLinear, SLTrain, merge, reparametrize
from archzoo.layers.lowrank._fast.sparse_linear import (
    ApartLinear,
    SparseLinear,
    sparse_linear,
    sparse_plus_low_rank,
)
from archzoo.layers.lowrank.methods.sltrain import SparseFactors, random_support
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from ..lowrank_runs import begin, differing, network, run, take_step


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def layer(rows: int = 64, columns: int = 96, **settings: float) -> FactoredLinear:
    """Return a linear layer in float64 whose left factor has left zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(columns, rows)).double()
    reparametrize(model, SLTrain(**{"rank": 8, **settings}), ["0"])  # type: ignore[arg-type]
    made = model[0]
    assert isinstance(made, FactoredLinear)
    with torch.no_grad():
        parts(made).left.normal_()
    return made


def parts(made: FactoredLinear) -> SparseFactors:
    assert isinstance(made.structure, SparseFactors)
    return made.structure


def case(rows: int, columns: int, rank: int, count: int, *batch: int) -> tuple[Tensor, ...]:
    """Return x, left, right, values, index and bias."""
    g = generator()
    shapes = [(5, columns), (rows, rank), (rank, columns), (count,), (rows,)]
    x, left, right, values, bias = (
        torch.randn(*batch, *shape, generator=g, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    )
    return x, left, right, values, random_support(rows * columns, count, g), bias


@pytest.mark.parametrize(("total", "count"), [(1, 0), (1, 1), (9, 4), (10, 7), (1000, 30), (7, 7)])
def test_a_support_has_its_size_without_repetition_in_order(total: int, count: int) -> None:
    support = random_support(total, count, generator())
    assert support.dtype == torch.int32
    assert support.tolist() == sorted(set(support.tolist()))
    assert len(support) == count
    assert all(0 <= position < total for position in support.tolist())


def test_a_support_beyond_the_range_of_int32_is_int64() -> None:
    support = random_support(2**31, 3, generator())
    assert support.dtype == torch.int64
    assert (support.diff() > 0).all()


@pytest.mark.parametrize("count", [2, 3])
def test_every_subset_is_as_likely_as_any_other(count: int) -> None:
    g, draws = generator(), 4000
    counts = Counter(tuple(random_support(6, count, g).tolist()) for _ in range(draws))
    subsets = math.comb(6, count)
    expected = draws / subsets
    statistic = sum((n - expected) ** 2 / expected for n in counts.values())
    assert len(counts) == subsets
    # χ² with df degrees of freedom has mean df and variance 2 df.
    assert statistic < subsets - 1 + 4 * math.sqrt(2 * (subsets - 1))


def test_it_starts_as_the_sparse_term_alone_at_its_share_of_a_dense_variance() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300, bias=False))
    reparametrize(model, SLTrain(rank=4, density=0.03), ["0"])
    structure = model[0].structure
    assert isinstance(structure, SparseFactors)
    bound = 400**-0.5
    assert not structure.left.any()
    for drawn in (structure.right, structure.sparse.values):
        assert 0.9 * bound < drawn.abs().max() <= bound
    assert structure.sparse.values.numel() == int(0.03 * 300 * 400)
    assert torch.count_nonzero(structure.dense()) == int(0.03 * 300 * 400)
    variance = model(torch.randn(2000, 400)).var()
    # A fresh dense layer has 1/3; the sample's relative error is far below a tenth.
    torch.testing.assert_close(variance, torch.tensor(0.03 / 3), rtol=0.1, atol=0)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_whole_matrix(
    shape: tuple[int, ...], bias: bool
) -> None:
    made = layer()
    structure, given = parts(made), made.bias if bias else None
    x = torch.randn(*shape, 96, dtype=torch.float64, requires_grad=True)
    y = structure.linear(x, given)
    dense = structure.scale * structure.left @ structure.right
    sparse = structure.sparse
    dense = dense.flatten().index_add(0, sparse.index, sparse.values.squeeze(-1))
    expected = F.linear(x, dense.view(64, 96), given)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    trained = [x, structure.left, structure.right, structure.sparse.values]
    trained += [given] if given is not None else []
    seed = torch.randn_like(y)
    found = torch.autograd.grad(y, trained, seed)
    torch.testing.assert_close(
        found, torch.autograd.grad(expected, trained, seed), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("way", [SparseLinear, ApartLinear])
def test_first_and_second_derivatives_are_those_of_finite_differences(
    way: type[torch.autograd.Function],
) -> None:
    x, left, right, values, index, bias = case(4, 3, 2, 5)

    def apply(*given: Tensor) -> Tensor:
        x, left, right, values, bias = given
        return way.apply(x, left, right, values, index, bias, 0.3)  # type: ignore

    assert gradcheck(apply, (x, left, right, values, bias))
    assert gradgradcheck(apply, (x, left, right, values, bias))


@pytest.mark.parametrize("wide", [10**9, 1])
def test_the_backward_pass_keeps_x_and_the_parts_and_never_w(
    wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = layer()
    monkeypatch.setattr("archzoo.layers.lowrank._fast.sparse_linear.WIDE", wide)
    monkeypatch.setattr("archzoo.layers.lowrank._fast.sparse_linear.FEW", 1.0)
    x = torch.randn(64, 96, dtype=torch.float64, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = made(x)
    assert ("Apart" in str(y.grad_fn)) == (wide == 1)
    count = int(0.03 * 64 * 96)
    numbers = x.numel() + 8 * (64 + 96) + count
    assert sum(kept.values()) == 8 * numbers + 4 * count  # float64, and indices in int32
    assert numbers + count == 7792


def test_the_layer_is_bit_by_bit_the_dense_one_that_it_merges_into() -> None:
    made = layer()
    x = torch.randn(7, 96, dtype=torch.float64)
    assert torch.equal(made.to_dense()(x), made(x))


WAYS = {True: "ApartLinearBackward", False: "SparseLinearBackward"}


def way(rows: int, columns: int, width: int, density: float, dtype: torch.dtype) -> str:
    """Return the name of the function that a layer of `width` outputs sends x through."""
    count = int(density * width * columns)
    x, left, right, values, index, bias = (
        t.to(dtype) if t.is_floating_point() else t for t in case(width, columns, 2, count)
    )
    return str(sparse_linear(x[:1].expand(rows, -1), left, right, values, index, bias, 0.3).grad_fn)


@pytest.mark.parametrize(
    ("apart", "given"),
    [
        (True, (256, 512, 640, 0.03, torch.float32)),
        (True, (1, 512, 512, 0.03, torch.float64)),
        (False, (257, 512, 640, 0.03, torch.float32)),
        (False, (8, 511, 640, 0.03, torch.float32)),
        (False, (8, 640, 512, 0.06, torch.float32)),
        (False, (8, 512, 512, 0.03, torch.bfloat16)),
    ],
)
def test_only_few_rows_of_a_wide_layer_with_a_small_support_are_multiplied_apart(
    apart: bool, given: tuple[int, int, int, float, torch.dtype]
) -> None:
    assert WAYS[apart] in way(*given)


def test_without_a_gradient_or_under_a_transform_the_definition_runs() -> None:
    given = [t.detach() for t in case(512, 512, 2, 7000)]
    inside: list[str] = []
    whole = SparseLinear.apply(*given, 0.3)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(whole, sparse_linear(*given, 0.3))  # type: ignore[arg-type]

    def loss(x: Tensor) -> Tensor:
        y = sparse_linear(x, *given[1:], 0.3)  # type: ignore[arg-type]
        inside.append(str(y.grad_fn))
        return y.square().sum()

    found = vmap(grad(loss))(given[0])
    assert "Apart" not in inside[0]
    x = given[0].requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(loss(x), x)[0], found, rtol=1e-12, atol=1e-10)
    assert "Apart" in inside[1]


@pytest.mark.parametrize(
    ("rows", "columns", "count"), [(7, 5, 12), (5, 7, 1), (1, 9, 9), (6, 6, 0), (40, 30, 90)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_apart_gives_the_numbers_of_the_whole_matrix(
    rows: int, columns: int, count: int, bias: bool
) -> None:
    *given, offset = case(rows, columns, 3, count)
    offset = offset if bias else None
    x = given[0].detach().view(5, 1, columns).expand(5, 2, columns).clone().requires_grad_()
    given[0] = x
    trained = [t for t in (*given, offset) if t is not None and t.requires_grad]
    apart = ApartLinear.apply(*given, offset, 0.3)  # type: ignore[arg-type]
    whole = SparseLinear.apply(*given, offset, 0.3)  # type: ignore[arg-type]
    torch.testing.assert_close(apart, whole, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(whole)
    torch.testing.assert_close(
        torch.autograd.grad(apart, trained, seed),
        torch.autograd.grad(whole, trained, seed),
        rtol=1e-12,
        atol=1e-12,
    )


def test_w_has_full_rank_and_its_product_has_not() -> None:
    structure = parts(layer(64, 80, rank=4, density=0.1))
    assert torch.linalg.matrix_rank(structure.left @ structure.right) == 4
    assert torch.linalg.matrix_rank(structure.dense()) == 64


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_equals_the_one_with_its_kernel_and_all_parts_learn(groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)).double()
    reparametrize(model, SLTrain(rank=2, density=0.1), ["0"])
    conv = model[0]
    with torch.no_grad():
        conv.structure.left.normal_()  # type: ignore[union-attr]
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    expected = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1, groups=groups)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-13)
    product = 0.25 * conv.structure.left @ conv.structure.right  # type: ignore[union-attr]
    assert torch.count_nonzero(conv.structure.dense() - product) == int(0.1 * 8 * 36 / groups)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_the_support_outlives_training_and_goes_into_the_state() -> None:
    model, controller, optimizer = begin(SLTrain(rank=2, density=0.1), adamw)
    before = {key: value.clone() for key, value in model.state_dict().items() if "index" in key}
    assert len(before) == 2
    for step in range(5):
        take_step(model, optimizer, step)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    counts = [structure.parameter_count() for _, structure in controller.structures()]
    assert counts == [2 * (8 + 18) + 14, 2 * (12 + 72) + 86]  # int(0.1 · 144) and int(0.1 · 864)


def test_another_seed_draws_another_support_and_the_same_seed_the_same() -> None:
    def support(seed: int) -> Tensor:
        model = network()
        reparametrize(model, SLTrain(rank=2), ["3"], seed=seed)
        return model[3].structure.sparse.index

    assert torch.equal(support(0), support(0)) and not torch.equal(support(0), support(1))


def test_with_values_held_at_zero_it_is_plain_low_rank() -> None:
    made = layer()
    structure = parts(made)
    with torch.no_grad():
        structure.sparse.values.zero_()
    x = torch.randn(7, 96, dtype=torch.float64)
    expected = F.linear(F.linear(x, structure.right), 0.25 * structure.left, made.bias)
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-12)


def test_gradients_of_single_examples_and_several_networks_at_once() -> None:
    made = layer(12, 10, rank=2, density=0.1)
    parameters = dict(made.named_parameters())
    x = torch.randn(4, 10, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(made, parameters, (x,)).square().sum()

    single = vmap(grad(loss), (None, 0))(parameters, x)
    for i in range(4):
        torch.testing.assert_close(
            {k: v[i] for k, v in single.items()}, grad(loss)(parameters, x[i])
        )
    several = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
    values = vmap(loss, (0, None))(several, x)
    torch.testing.assert_close(values[1], loss({k: v[1] for k, v in several.items()}, x))


@pytest.mark.compiles
def test_it_compiles_to_one_graph() -> None:
    made = layer(12, 10, rank=2, density=0.1)
    compiled = torch.compile(copy.deepcopy(made), backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 10, dtype=torch.float64)
    for each in (made, compiled):
        each(x).square().sum().backward()
    torch.testing.assert_close(compiled(x), made(x), rtol=0, atol=1e-13)
    for (name, p), q in zip(made.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12, msg=name)


def test_under_autocast_the_output_is_half_and_gradients_are_whole() -> None:
    made = layer(12, 10, rank=2, density=0.1).float()
    x = torch.randn(4, 10)
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
        dense = F.linear(x, made.weight, made.bias)
    assert y.dtype == dense.dtype == torch.bfloat16
    # bfloat16 has 8 bits, and both sum ten products.
    torch.testing.assert_close(y, dense, rtol=0.02, atol=0.02)
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())


def test_a_convolution_works_under_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    reparametrize(model, SLTrain(rank=2, density=0.1), ["0"])
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(2, 2, 5, 5))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_definition_takes_a_batch_of_matrices() -> None:
    _, left, right, values, index, _ = case(4, 3, 2, 5)
    single = sparse_plus_low_rank(left, right, values, index, 0.5)
    both = sparse_plus_low_rank(
        left.expand(2, 4, 2),
        right.expand(2, 2, 3),
        values.repeat(2),
        torch.cat([index, index + 12]),
        0.5,
    )
    torch.testing.assert_close(both, single.expand(2, 4, 3), rtol=0, atol=1e-15)


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_goes_on_from_its_files_equals_one_that_never_stopped(step: int) -> None:
    def method() -> SLTrain:
        return SLTrain(rank=2, density=0.1)

    assert not differing(run(method, adamw, 8)[0], run(method, adamw, 8, step)[0])


def test_merging_gives_the_outputs() -> None:
    model, _, optimizer = begin(SLTrain(rank=2, density=0.1), adamw)
    for step in range(4):
        take_step(model, optimizer, step)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    before = model(x)
    merge(model)
    assert model.state_dict().keys() == network().state_dict().keys()
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-13)


def test_a_weight_that_would_not_become_smaller_is_left_out() -> None:
    # 12 x 72: two factors of rank 7 have 588 of 864 numbers; with 0.4 of the entries it is more.
    assert "3" in reparametrize(network(), SLTrain(rank=7, density=0.1)).targets
    controller = reparametrize(network(), SLTrain(rank=3, density=0.7), excluded=("5",))
    assert "3" in controller.targets
    with pytest.raises(ValueError, match="with 345 numbers beside them are not smaller than 12x72"):
        reparametrize(network(), SLTrain(rank=7, density=0.4), excluded=("0", "5"))


BAD = {
    "rank must be": {"rank": 0},
    "scale must be above 0": {"scale": 0.0},
    "density must lie in": {"density": 0.0},
    r"density must lie in \(0, 1\)": {"density": 1.0},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items())
def test_bad_settings_are_refused(message: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=message):
        SLTrain(**settings)
