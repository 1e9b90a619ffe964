"""Laws of the one factored weight, of swapping it in and out, and of the controller."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import (
    Controller,
    FactoredConv2d,
    FactoredLinear,
    Factors,
    FrozenDense,
    Method,
    merge,
    reparametrize,
    reset_state,
    resize_parameter,
    structures,
    weighted_svd,
)
from torch import Tensor, nn
from torch.nn import functional as F


class Split(Method):
    """Two factors of a rank, by SVD: the simplest method there is."""

    def __init__(self, rank: int = 2, scheme: str = "channel") -> None:
        self.rank, self.scheme = rank, scheme

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        from archzoo.layers.lowrank.method import rank_of

        return rank_of(self.rank, name, shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        left, right = weighted_svd(weight, self.rank_for(name, tuple(weight.shape)))[:2]
        return Factors(left, right)


class Watch(Split):
    """Notes what it is called with."""

    def after_step(self, controller: Controller, optimizer: torch.optim.Optimizer) -> None:
        draw = torch.rand(2, generator=controller.generator("a")).tolist()
        controller.state.setdefault("draws", []).append(draw)

    def learning_rate_factor(self, controller: Controller) -> float:
        return 0.5

    def before_step(self, controller: Controller, optimizer: torch.optim.Optimizer) -> None:
        controller.state["rates"] = [group["lr"] for group in optimizer.param_groups]


def factors(rows: int, columns: int, rank: int, **options: object) -> Factors:
    left, right = torch.randn(rows, rank).double(), torch.randn(rank, columns).double()
    return Factors(left, right, **options)  # type: ignore[arg-type]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 20), nn.ReLU(),
        nn.Linear(20, 4),
    ).double()  # fmt: skip


def image() -> Tensor:
    return torch.randn(5, 3, 4, 4, dtype=torch.float64)


def test_the_product_in_sequence_equals_the_dense_weight() -> None:
    extra = FrozenDense(torch.randn(7, 5).double())
    weight = factors(7, 5, 3, scale=0.3, extra=extra)
    x, bias = torch.randn(2, 4, 5).double(), torch.randn(7).double()
    torch.testing.assert_close(weight.linear(x, bias), F.linear(x, weight.dense(), bias))


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_a_prefix_equals_the_layer_that_was_cut_to_it_in_outputs_and_gradients(rank: int) -> None:
    whole = factors(6, 5, 5)
    cut = copy.deepcopy(whole)
    cut.truncate(rank)
    sampled = copy.deepcopy(whole)
    sampled.sampled = rank
    whole.rank = rank
    x = torch.randn(3, 5).double()
    bias = torch.randn(6).double()
    for other in (whole, sampled):
        assert torch.equal(other.linear(x, bias), cut.linear(x, bias))
        assert torch.equal(other.dense(), cut.dense())
        cut.zero_grad()
        cut.linear(x, bias).square().sum().backward()
        other.linear(x, bias).square().sum().backward()
        assert other.left.grad is not None and other.right.grad is not None
        assert torch.equal(other.left.grad[:, :rank], cut.left.grad)  # type: ignore[arg-type]
        assert torch.equal(other.right.grad[:rank], cut.right.grad)  # type: ignore[arg-type]
        assert not other.left.grad[:, rank:].any() and not other.right.grad[rank:].any()


def test_a_sampled_prefix_is_ignored_in_evaluation() -> None:
    weight = factors(4, 4, 3)
    whole = weight.dense()
    weight.sampled = 1
    assert not torch.equal(weight.dense(), whole)
    assert torch.equal(weight.eval().dense(), whole)


def test_a_state_dict_carries_the_active_rank_and_the_number_of_components() -> None:
    trained, fresh = factors(6, 5, 5), factors(6, 5, 5)
    trained.truncate(4)
    trained.rank = 2
    fresh.load_state_dict(trained.state_dict())
    assert (fresh.rank, fresh.allocated) == (2, 4)
    assert torch.equal(fresh.dense(), trained.dense())


def test_growing_by_zero_components_changes_nothing_and_keeps_what_an_optimiser_knows() -> None:
    weight = factors(6, 5, 2)
    optimizer = torch.optim.AdamW(weight.parameters(), lr=0.1)
    x = torch.randn(3, 5).double()
    weight.linear(x, None).square().sum().backward()
    optimizer.step()
    before, moment = weight.dense().detach(), optimizer.state[weight.left]["exp_avg"].clone()
    zero, new = torch.zeros(6, 2).double(), torch.randn(2, 5).double()
    weight.grow(zero, new, [optimizer])
    assert torch.equal(weight.dense(), before)
    assert torch.equal(optimizer.state[weight.left]["exp_avg"][:, :2], moment)
    assert not optimizer.state[weight.left]["exp_avg"][:, 2:].any()
    weight.linear(x, None).square().sum().backward()
    optimizer.step()
    assert weight.rank == 4


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_after_removing_components_a_step_equals_that_of_a_whole_weight_with_them_at_zero(
    name: str,
) -> None:
    settings = {"SGD": {"momentum": 0.9}}.get(name, {})
    whole, cut = factors(6, 5, 5), factors(6, 5, 5)
    cut.load_state_dict(whole.state_dict())
    x = torch.randn(3, 5).double()
    pairs = [(w, getattr(torch.optim, name)(w.parameters(), lr=0.01, **settings))
             for w in (whole, cut)]  # fmt: skip

    def step() -> None:
        for weight, optimizer in pairs:
            optimizer.zero_grad()
            weight.linear(x, None).square().sum().backward()
            optimizer.step()

    step()
    with torch.no_grad():
        whole.left[:, 3:], whole.right[3:] = 0, 0
    whole.rank = 3
    cut.truncate(3, [pairs[1][1]])
    step()
    assert torch.equal(cut.left, whole.left[:, :3])
    assert torch.equal(cut.right, whole.right[:3])


def test_the_suffix_importance_never_grows() -> None:
    weight = factors(6, 5, 5)
    suffix = weight.importance("suffix")
    assert (suffix.diff() <= 0).all()
    torch.testing.assert_close(suffix[0], weight.left.norm() * weight.right.norm())


def test_singular_values_are_those_of_the_product() -> None:
    weight = factors(6, 5, 4, scale=0.5)
    expected = torch.linalg.svdvals(weight.dense())[:4]
    torch.testing.assert_close(weight.singular_values()[:4], expected)


def test_resetting_vectors_of_an_optimiser_with_one_count_of_steps_is_refused() -> None:
    weight = factors(6, 5, 2)
    optimizer = torch.optim.AdamW(weight.parameters(), lr=0.1)
    weight.dense().sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="step_adamw"):
        reset_state(optimizer, weight.left, 1, torch.tensor([0]))
    reset_state(optimizer, weight.left)
    assert weight.left not in optimizer.state


def test_resizing_keeps_the_parameter_and_its_group() -> None:
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    resize_parameter(parameter, 1, 2, [optimizer])
    assert optimizer.param_groups[0]["params"][0] is parameter
    assert optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape == (2, 2)


def test_swapping_in_at_full_rank_and_merging_gives_the_model_back() -> None:
    model = network()
    x, before, keys = image(), model(image()), list(model.state_dict())
    before = model(x)
    reparametrize(model, Split(rank=4), ["3", "5"])
    reparametrize(model, Split(rank=8), ["0"])
    assert isinstance(model[0], FactoredConv2d) and isinstance(model[5], FactoredLinear)
    expected = model(x)
    assert [name for name, _, _ in structures(model)] == ["0", "3", "5"]
    assert sorted(merge(model)) == ["0", "3", "5"]
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), expected)
    assert not torch.allclose(before, expected)  # rank 4 of 20 lost something


@pytest.mark.parametrize("scheme", ["channel", "spatial", "input"])
def test_a_factored_convolution_equals_the_one_with_its_kernel(scheme: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1)).double()
    reparametrize(model, Split(rank=2, scheme=scheme), ["0"])
    x = image()
    expected = F.conv2d(x, model[0].weight, model[0].bias, stride=2, padding=1)
    torch.testing.assert_close(model(x), expected)


def test_a_raw_matrix_keeps_its_layer_and_costs_only_the_factors() -> None:
    from archzoo.layers.hyperbolic import PoincareLinear

    model = nn.Sequential(PoincareLinear(6, 6)).double()
    with torch.no_grad():
        model[0].weight.normal_(std=0.1)
    x = torch.randn(4, 6).double() / 10
    before = model(x)
    reparametrize(model, Split(rank=6), ["0:weight"])
    torch.testing.assert_close(model(x), before)
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))
    model(x).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.rpartition(".")[2] for name in trained} == {"left", "right", "offset"}
    merge(model)
    torch.testing.assert_close(model(x), before)
    merge(twin)  # copies share a class that PyTorch made; merging one must not break another
    torch.testing.assert_close(twin(x), before)


def test_by_default_heads_tied_depthwise_and_uneconomic_weights_stay_dense() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(16, 16)
            self.small = nn.Linear(16, 3)
            self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
            self.embedding = nn.Linear(16, 16)
            self.tied = nn.Linear(16, 16)
            self.tied.weight = self.wide_again = nn.Parameter(torch.randn(16, 16))
            self.attention = nn.MultiheadAttention(16, 2)
            self.head = nn.Linear(16, 16)

    controller = reparametrize(Model(), Split(rank=4))
    assert list(controller.targets) == ["wide"]
    assert set(controller.skipped) == {"small", "depthwise", "tied"}
    assert "tied to wide_again" in controller.skipped["tied"]


def test_steps_count_draw_alike_and_leave_the_learning_rate_as_they_found_it() -> None:
    def train(controller: Controller, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            controller.model(image()).sum().backward()
            optimizer.step()

    runs = []
    for _ in range(2):
        controller = reparametrize(network(), Watch(rank=2), ["3"], learning_rate_ratio=3.0)
        optimizer = torch.optim.SGD(controller.model.parameters(), lr=0.01)
        controller.attach(optimizer)
        train(controller, optimizer)
        runs.append(controller)
        assert sorted(controller.state["rates"]) == [0.01, 0.015]  # 3 · 0.5, the targets only
        assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    assert runs[0].step == 2
    assert runs[0].state["draws"] == runs[1].state["draws"]
    assert runs[0].state["draws"][0] != runs[0].state["draws"][1]


def test_a_controller_goes_on_from_its_state_and_refuses_that_of_another() -> None:
    first = reparametrize(network(), Watch(rank=2), ["3"])
    first.step, first.state["draws"] = 7, [1.0]
    again = reparametrize(network(), Watch(rank=2), ["3"])
    again.load_state_dict(first.state_dict())
    assert (again.step, again.state) == (7, {"draws": [1.0]})
    with pytest.raises(ValueError, match="trained with Watch, this run uses Split"):
        reparametrize(network(), Split(rank=2), ["3"]).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="rank=2.*has rank=3"):
        reparametrize(network(), Watch(rank=3), ["3"]).load_state_dict(first.state_dict())


def test_removing_components_reaches_the_copies_of_a_model() -> None:
    model = network()
    controller = reparametrize(model, Split(rank=4), ["3"])
    twin = copy.deepcopy(model)
    controller.twins.append(twin)
    controller.truncate("3", 2)
    assert twin[3].structure.rank == model[3].structure.rank == 2
    assert torch.equal(twin[3].weight, model[3].weight)


BAD = {
    "rank=99 exceeds the full rank 20 of 3": (Split(rank=99), ["3"]),
    "'hidden' matches no linear": (Split(), ["hidden"]),
    "cannot be a target: its weight is tied": (Split(), ["6"]),
    "cannot be a target: a depthwise kernel": (Split(), ["7"]),
    "holds NaN": (Split(), ["8"]),
    "no weight of Sequential is a target": (Split(rank=18), None),
}


@pytest.mark.parametrize(("message", "given"), BAD.items())
def test_bad_targets_are_refused_and_the_model_stays_as_it_was(
    message: str, given: tuple[Method, list[str] | None]
) -> None:
    model = network().append(nn.Linear(20, 4)).append(nn.Conv2d(4, 4, 3, groups=4))
    model.append(nn.Linear(4, 4))
    model[6].weight = model[5].weight
    with torch.no_grad():
        model[8].weight[0, 0] = torch.nan
    if given[1] is None:
        model = network()[3:]
    kinds = [type(m) for m in model]
    with pytest.raises(ValueError, match=message):
        reparametrize(model, given[0], given[1])
    assert [type(m) for m in model] == kinds
