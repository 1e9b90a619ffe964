"""Smaller models out of trained ones: budgets, data, recipes, and what is refused."""

import copy
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import CASES, Factors, calibrated_svd, forward_batch, structures
from archzoo.layers.lowrank.input_moments import collect_moments
from archzoo.zoo import additivity, compress
from archzoo.zoo.share.create import create_model
from archzoo.zoo.share.save_load import save_model
from archzoo.zoo.transform.calibration_pass import Directions
from archzoo.zoo.transform.compress import decompose
from archzoo.zoo.transform.distortion import falling, ladder, output_curve, output_gains
from archzoo.zoo.transform.layer_by_layer import LayerByLayer
from torch import Tensor, nn

SENSITIVITIES = ("local", "output", "fisher")


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network(seed: int = 0) -> nn.Sequential:
    """A convolution, a grouped one without a bias, a linear layer and a head, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 20), nn.ReLU(), nn.Linear(20, 4),
    ).double().eval()  # fmt: skip


def batches(count: int = 3) -> list[Tensor]:
    """Images whose channels are correlated and of a mean far from zero."""
    mixed = torch.einsum("cd,bdhw->bchw", draw(3, 3, seed=9), draw(24, 3, 6, 6, seed=8))
    return list((mixed.relu() + 1.0).chunk(count))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("allocation", ["dp", "welore"])
def test_the_budget_of_the_whole_model_is_met_and_the_model_left_as_it_is(case, allocation):
    model = network()
    before = copy.deepcopy(model.state_dict())
    for budget in (0.3, 0.7):
        small = compress(model, case, budget=budget, allocation=allocation, batches=batches())
        assert 0.6 * budget * size(model) < size(small) <= budget * size(model)
        assert torch.isfinite(small(batches()[0])).all()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.modules())


def test_the_whole_budget_is_the_dense_model_bit_by_bit():
    model = network()
    for case in ("svd", "feature_mimicking"):
        same = compress(model, case, budget=1.0, batches=batches())
        assert torch.equal(same(batches()[0]), model(batches()[0]))


@pytest.mark.parametrize("sequential", [False, True])
def test_a_layer_is_decomposed_by_what_it_sees(sequential):
    model = network()
    small = compress(
        model, "svd_llm", budget=0.5, batches=batches(), sequential=sequential, targets=["2", "5"]
    )
    seen = copy.deepcopy(model)
    if sequential:
        seen[2] = small[2]
    for name, matrix in (("2", model[2].weight.view(2, 6, 36)), ("5", model[5].weight)):
        structure = dict((n, s) for n, _, s in structures(small)).get(name)
        if structure is None:
            continue
        moments = collect_moments(seen if name == "5" else model, batches(), [name])[name]
        best = calibrated_svd(matrix.detach(), structure.rank, "svd_llm", moments, damping=0.0)
        product = best.left @ best.right
        torch.testing.assert_close(structure.dense().detach(), product, rtol=0.0, atol=1e-8)


def test_feature_mimicking_keeps_the_mean_of_every_layers_outputs_and_gives_biases():
    model = network()
    small = compress(model, budget=0.9, batches=batches(), sequential=False, targets=["0", "2"])
    assert small[2].bias is not None and model[2].bias is None
    data = torch.cat(batches())
    expected = model[0](data).mean((0, 2, 3))
    torch.testing.assert_close(small[0](data).mean((0, 2, 3)), expected, rtol=1e-10, atol=1e-10)
    inside = model[:2](data)
    means = [m[2](inside).mean((0, 2, 3)) for m in (model, small)]
    torch.testing.assert_close(means[1], means[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
def test_of_two_layers_the_one_that_the_outputs_feel_keeps_its_rank(sensitivity):
    torch.manual_seed(0)
    left, right = (nn.Linear(16, 16, bias=False).double() for _ in range(2))

    class Sum(nn.Module):
        """Two branches, one of them a thousand times weaker at the output."""

        def __init__(self) -> None:
            super().__init__()
            self.loud, self.quiet = left, right

        def forward(self, x: Tensor) -> Tensor:
            return self.loud(x) + 1e-3 * self.quiet(x)

    small = compress(Sum(), "svd_llm", budget=0.6, batches=[draw(64, 16)], sensitivity=sensitivity)
    ranks = {n: s.rank for n, _, s in structures(small) if isinstance(s, Factors)}
    if sensitivity == "local":
        assert abs(ranks["loud"] - ranks["quiet"]) <= 2
    else:
        assert "loud" not in ranks and ranks["quiet"] <= 3


@pytest.mark.parametrize(
    ("in_place", "frozen"), [(False, False), (True, False), (True, True)], ids=str
)
def test_output_gains_are_the_squared_jacobian_over_the_rows(in_place, frozen):
    model, data = network().requires_grad_(not frozen), batches()
    model[6] = nn.ReLU(inplace=in_place)
    found = output_gains(model, data * 50, ["5"])["5"]
    model[6] = nn.ReLU()
    x = torch.cat(data)
    hidden = model[:6](x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda h: model[6:](h[None])[0]))(hidden.detach())
    expected = float(jacobian.detach().square().sum((1, 2)).mean()) / 20
    assert found == pytest.approx(expected, rel=0.12)  # 1,200 random directions


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["2", "5", "7"])
def test_the_error_of_outputs_at_every_rank_follows_from_their_moment(case, name):
    model, data = network(), batches()
    shape = {"2": (2, 6, 36), "5": (20, 192), "7": (4, 20)}[name]
    work = LayerByLayer(
        case, model, {name: shape}, data, forward_batch, Directions(forward_batch, 0)
    )
    full = work.decomposed(name, None, work.moments[name])
    errors = work.output_errors(name, full)
    seen = torch.cat(data)
    inside = model[: int(name)](seen).detach()
    layer = model.get_submodule(name)
    assert len(errors) == min(shape[-2:]) + 1
    for rank in (1, 2, len(errors) - 1):
        cut = copy.deepcopy(layer)
        product = full.left[..., :rank] @ full.right[..., :rank, :]
        cut.weight.data = product.reshape(layer.weight.shape)
        gap = (layer(inside) - cut(inside)).detach().transpose(0, 1).flatten(1)
        if case == "feature_mimicking":
            gap = gap - gap.mean(1, keepdim=True)
        expected = float(gap.square().mean(1).sum())
        assert float(errors[rank]) == pytest.approx(expected, rel=1e-4, abs=1e-5 * float(errors[0]))


def test_one_linear_layer_has_its_tail_as_the_distortion():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10, bias=False)).double()
    white = torch.linalg.qr(draw(40, 12)).Q * 40**0.5
    small = compress(model, "svd_llm", budget=0.6, batches=[white], targets=["0"])
    rank = next(s.rank for _, _, s in structures(small))
    tail = torch.linalg.svdvals(model[0].weight.detach())[rank:].square().sum()
    found = additivity(model, small, [white])
    assert found.joint == pytest.approx(float(tail), rel=1e-9)
    assert found.ratio == pytest.approx(1.0, rel=1e-12)


def test_independent_branches_of_mean_zero_add_exactly():
    torch.manual_seed(0)

    class Two(nn.Module):
        """Each half of the input has its own layer; the outputs are added."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Linear(6, 8, bias=False).double() for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x[:, :6]) + self.b(x[:, 6:])

    model = Two()
    half = torch.linalg.qr(draw(40, 12)).Q  # columns are orthogonal, so the halves do not correlate
    small = compress(model, "svd_llm", budget=0.5, batches=[half])
    found = additivity(model, small, [half])
    assert len(found.single) == 2
    assert found.joint == pytest.approx(sum(found.single.values()), rel=1e-10)


def test_curves_fall_to_zero_and_go_through_what_was_measured_where_it_falls():
    assert falling([5.0, 3.0, 4.0, 1.0]) == [5.0, 3.5, 3.5, 1.0]
    assert ladder(5) == [1, 2, 3, 4, 5]
    ranks = ladder(500)
    assert len(ranks) <= 25 and ranks[0] == 1 and ranks[-1] == 500
    curve = output_curve(16, {1: 8.0, 3: 2.0, 9: 0.5})
    assert [float(curve[r]) for r in (1, 3, 9, 16)] == pytest.approx([8.0, 2.0, 0.5, 0.0])
    assert float(curve[2]) == pytest.approx(4.0)
    assert (curve.diff() <= 0).all()


def zoo_model() -> Any:
    torch.manual_seed(0)
    return create_model("resnet_nano", widths=(6, 8), depths=(1, 1)).eval()


def images(seed: int = 0, count: int = 8) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options",
    [
        {"case": "feature_mimicking", "budget": 0.6},
        {"case": "eora", "base": "prune:0.5", "rank": 2},
        {"case": "eora", "base": "ranks:0.3", "rank": 1},
    ],
    ids=lambda options: options.get("base", "budget"),
)
def test_a_compressed_model_of_the_zoo_is_rebuilt_from_its_folder(options, tmp_path):
    small = compress(zoo_model(), batches=[images(1), images(2)], **options)
    save_model(small, tmp_path)
    again = create_model(f"local-dir:{tmp_path}").eval()
    assert list(structures(again))
    assert torch.equal(again(images()), small(images()))


class TestBases:
    @pytest.mark.parametrize("base", ["prune:0.6", "prune:2:4", "quant:3", "quant:2:16"])
    def test_paths_bring_every_base_nearer_and_data_more_than_none(self, base):
        model, data = network(), batches()
        expected = model(torch.cat(data))
        error = {}
        for case in ("svd", "eora"):
            small = compress(model, case, base=base, rank=3, batches=data)
            error[case] = float((small(torch.cat(data)) - expected).detach().square().mean())
            assert all(s.extra is not None for _, _, s in structures(small))
        assert error["eora"] < error["svd"]

    def test_a_full_rank_restores_every_layer(self):
        model, data = network(), batches()
        small = compress(model, "eora", base="prune:2:4", rank=99, batches=data)
        expected = model(torch.cat(data))
        torch.testing.assert_close(small(torch.cat(data)), expected, rtol=0.0, atol=1e-8)

    def test_paths_join_the_factors_of_a_base_of_low_rank(self):
        model, data = network(), batches()
        start = decompose(model, ranks={"5": 4})
        small = compress(model, "eora", base=start, rank=3, batches=data, targets=["5"])
        found = {n: s for n, _, s in structures(small)}
        assert found["5"].rank == 7 and found["5"].extra is None
        layers = [dict((n, s) for n, _, s in structures(m))["5"] for m in (start, small)]
        assert torch.equal(layers[1].left[:, :4], layers[0].left)

    def test_a_base_that_took_nothing_has_nothing_to_compensate(self):
        model = network()
        with pytest.raises(ValueError, match="left every target as it was"):
            compress(model, "eora", base="prune:0.0", rank=2, batches=batches())


def tied() -> nn.Module:
    model = network()
    model[7] = nn.Linear(20, 20).double()
    model.append(nn.Linear(20, 20).double())
    model[8].weight = model[7].weight
    return model


def integers() -> nn.Module:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    for layer in model:
        layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    return model


BAD = {
    "case must be one of .*, got 'pca'": lambda: compress(network(), "pca", budget=0.5),
    "give base=, such as 'prune:2:4'": lambda: compress(network(), "eora", rank=2),
    r"case must be one of \['svd', 'eora'\] beside base=": lambda: compress(
        network(), "asvd", base="prune:2:4", rank=2, batches=batches()
    ),
    "budget must be a share of the parameters": lambda: compress(network(), budget=1.5),
    "budget=0.5 chooses ranks, and a base has rank=": lambda: compress(
        network(), "eora", budget=0.5, base="prune:2:4", rank=2
    ),
    "rank must be at least 1 beside base=, got None": lambda: compress(
        network(), "eora", base="prune:2:4"
    ),
    "rank=3 is that of paths beside base=": lambda: compress(network(), budget=0.5, rank=3),
    "base='prune:all': .*give prune:SHARE": lambda: compress(
        network(), "eora", base="prune:all", rank=2, batches=batches()
    ),
    "base='magic' is none": lambda: compress(
        network(), "eora", base="magic", rank=2, batches=batches()
    ),
    "base= has no layer '0'": lambda: compress(
        network(), "eora", base=nn.Sequential(), rank=2, batches=batches()
    ),
    "allocation must be one of": lambda: compress(network(), budget=0.5, allocation="greedy"),
    "sensitivity must be one of": lambda: compress(
        network(),
        budget=0.5,
        sensitivity="loud",  # type: ignore[arg-type]
    ),
    "allocation='uniform' compares no errors": lambda: compress(
        network(), budget=0.5, allocation="uniform", sensitivity="output", batches=batches()
    ),
    "needs batches=, some hundred samples": lambda: compress(network(), budget=0.5),
    "budget=0.01 cannot be met: rank 1 in every target leaves": lambda: compress(
        network(), "svd", budget=0.01
    ),
    "'nine' matches no linear or convolutional layer": lambda: compress(
        network(), "svd", budget=0.5, targets=["nine"]
    ),
    "7 cannot be a target: its weight is tied to": lambda: compress(
        tied(), "svd", budget=0.5, targets=["7"]
    ),
    "no weight of Sequential is a target": lambda: compress(
        nn.Sequential(nn.Embedding(5, 3)), "svd", budget=0.5
    ),
    r"batches hold 2 inputs of 5, which cannot decide \d+ components": lambda: compress(
        network(),
        "svd_llm",
        budget=0.7,
        allocation="uniform",
        batches=[batches()[0][:2]],
        targets=["5"],
    ),
    "batches hold 2 inputs of 5, which cannot decide 3 components": lambda: compress(
        network(), "eora", base="prune:0.5", rank=3, batches=[batches()[0][:2]], targets=["5"]
    ),
    "0 holds torch.int8, which has no factors": lambda: compress(integers(), "svd", budget=0.5),
}


@pytest.mark.parametrize(("message", "call"), BAD.items())
def test_bad_input_is_refused_by_name(message, call):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.long
def test_a_model_of_timm_becomes_smaller_by_what_it_sees():
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32).eval()
    data = [torch.randn(16, 3, 32, 32)]
    small = compress(model, "svd_llm", budget=0.7, batches=data)
    assert size(small) <= 0.7 * size(model)
    plain = compress(model, "svd", budget=0.7, batches=data)
    expected = model(data[0])
    errors = [(m(data[0]) - expected).square().mean() for m in (small, plain)]
    assert errors[0] < errors[1]
