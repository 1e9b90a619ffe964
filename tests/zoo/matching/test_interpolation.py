"""The way between two networks: exact at its ends, and a barrier that is never negative."""

import copy

import pytest
import torch
from archzoo.zoo import create_model
from archzoo.zoo.matching import (
    Barrier,
    barrier,
    interpolate,
    match,
    permutation_spec,
    permute,
    plot_barriers,
    singular_alignment,
)
from torch import nn
from torch.nn import functional as F

from ..small_models import TINY, build, example, trained


def small(name: str, seed: int = 0) -> nn.Module:
    return trained(build(name, seed, **TINY[name]), seed)


def batches(name: str, count: int = 2):
    g = torch.Generator().manual_seed(0)
    return [
        (example(name, 8, seed=i, **TINY[name]), torch.randint(0, 10, (8,), generator=g))
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["mlp_nano", "resnet_nano", "vit_nano"])
def test_the_ends_have_the_numbers_of_the_networks(name):
    a, b = small(name), small(name, 1)
    for t, end in ((0.0, a), (1.0, b)):
        found = interpolate(a, b, t).state_dict()
        for key, value in end.state_dict().items():
            if value.is_floating_point():
                assert torch.equal(found[key], value), key


def test_halfway_every_number_is_the_mean():
    a, b = small("mlp_nano"), small("mlp_nano", 1)
    middle = interpolate(a, b, 0.5)
    for one, two, between in zip(a.parameters(), b.parameters(), middle.parameters(), strict=True):
        torch.testing.assert_close(between, (one + two) / 2)


@pytest.mark.parametrize("name", ["mlp_nano", "resnet_nano"])
def test_the_way_from_a_network_to_itself_is_flat(name):
    a, data = small(name), batches(name)
    way = barrier(a, copy.deepcopy(a), data, statistics=data, points=5)
    assert way.of_loss == pytest.approx(0.0, abs=1e-6)
    assert way.of_accuracy == 0.0
    assert str(way.of_accuracy) == "0.0"  # and not -0.0


def test_a_permuted_copy_is_far_away_until_it_is_matched():
    a = small("mlp_nano")
    spec = permutation_spec(a)
    b = permute(copy.deepcopy(a), spec, spec.random(1))
    data = [(x, a(x).argmax(-1)) for x, _ in batches("mlp_nano")]
    before = barrier(a, b, data, points=5)
    after = barrier(a, permute(b, spec, match(a, b).permutations), data, points=5)
    assert before.of_loss > 10 * after.of_loss and before.of_accuracy > 0


def test_losses_are_those_of_the_interpolated_networks():
    a, b = small("mlp_nano"), small("mlp_nano", 1)
    data = batches("mlp_nano")
    way = barrier(a, b, data, points=3)
    with torch.no_grad():
        logits = torch.cat([interpolate(a, b, 0.5).eval()(x) for x, _ in data])
    targets = torch.cat([y for _, y in data])
    assert way.loss[1] == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    assert way.accuracy[1] == float((logits.argmax(-1) == targets).double().mean())


def test_a_barrier_is_measured_from_the_line_between_the_ends_and_never_negative():
    way = Barrier((0.0, 0.5, 1.0), (1.0, 3.0, 2.0), (0.5, 0.2, 0.7), (1.0, 2.0), (0.5, 0.7))
    assert way.of_loss == 1.5 and way.of_accuracy == pytest.approx(0.4)
    bridge = Barrier((0.0, 0.5, 1.0), (1.0, 0.5, 2.0), (0.5, 0.9, 0.7), (1.0, 2.0), (0.5, 0.7))
    assert bridge.of_loss == bridge.of_accuracy == 0.0


def test_batch_norms_take_the_statistics_of_the_network_that_is_there():
    a, b = small("resnet_nano"), small("resnet_nano", 1)
    data = batches("resnet_nano")
    way = barrier(a, b, data, statistics=data, points=3)
    stale = interpolate(a, b, 0.5).eval()
    with torch.no_grad():
        loss = torch.cat([F.cross_entropy(stale(x), y, reduction="none") for x, y in data]).mean()
    assert way.loss[1] != pytest.approx(float(loss), rel=1e-3)
    with pytest.raises(ValueError, match="statistics from statistics=: batches is empty"):
        barrier(a, b, data, points=3)


def test_tokens_without_a_loss_do_not_count():
    model = small("gpt_nano")
    x = example("gpt_nano", 2, **TINY["gpt_nano"])
    y = x.clone()
    y[:, 3:] = -100
    way = barrier(model, model, [(x, y)], points=3)
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(x)[:, :3].flatten(0, 1), x[:, :3].flatten())
    assert way.loss[0] == pytest.approx(float(loss), rel=1e-5)


def test_a_permutation_changes_singular_vectors_and_matching_brings_them_back():
    a = small("mlp_nano")
    spec = permutation_spec(a)
    b = permute(copy.deepcopy(a), spec, spec.random(1))
    before = singular_alignment(a, b, spec)
    after = singular_alignment(a, b, spec, match(a, b).permutations)
    assert all(value == pytest.approx(1.0, abs=1e-6) for value in after.values())
    assert sum(before.values()) < 0.7 * sum(after.values())
    for mine, other in zip(a.parameters(), b.parameters(), strict=True):
        if mine.dim() == 2:
            values = [torch.linalg.svdvals(w.detach().double()) for w in (mine, other)]
            torch.testing.assert_close(*values, atol=1e-12, rtol=1e-12)


def test_the_networks_themselves_are_measured_as_they_are():
    a, b, data = small("resnet_nano"), small("resnet_nano", 1), batches("resnet_nano")
    way = barrier(a, b, data, statistics=data, points=3)
    for model, loss in zip((a, b), way.own_loss, strict=True):
        with torch.no_grad():
            own = [F.cross_entropy(model.eval()(x), y, reduction="none") for x, y in data]
        assert loss == pytest.approx(float(torch.cat(own).mean()), rel=1e-5)
    assert way.own_loss != (way.loss[0], way.loss[-1])  # those have new statistics


def test_vectors_without_a_direction_do_not_count():
    a = create_model("mlp_nano")
    with torch.no_grad():
        a.stem.weight.copy_(torch.outer(torch.randn(32), torch.randn(64)))
        a.head.weight.zero_()
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.stem.weight += 1e-9 * torch.randn(32, 64)
    found = singular_alignment(a, b, permutation_spec(a))
    assert found["stem"] == pytest.approx(1.0, abs=1e-5)
    assert "head" not in found


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_over_any_number_of_axes_are_aligned(axes):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    net = nn.Sequential(conv(2, 6, 3), nn.ReLU(), conv(6, 4, 3))
    found = singular_alignment(net, copy.deepcopy(net), permutation_spec(net))
    assert found == pytest.approx({"0": 1.0, "2": 1.0})


def _without_numbers(model: nn.Module) -> nn.Module:
    """A network that is finite at its end, and overflows halfway to any other."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(1e20)
    return found


WRONG = {
    "t beyond the end": (lambda a, b: interpolate(a, b, 1.5), "t must lie"),
    "another width": (
        lambda a, b: interpolate(a, create_model("mlp_nano", width=16), 0.5),
        "num_features is 8 where b has 16",
    ),
    "two points": (lambda a, b: barrier(a, b, batches("mlp_nano"), points=2), "points must be"),
    "nothing to measure on": (lambda a, b: barrier(a, b, []), "nothing to measure on"),
    "no target that counts": (
        lambda a, b: barrier(a, b, [(x, y.fill_(-100)) for x, y in batches("mlp_nano")]),
        "nothing to measure on",
    ),
    "no number in between": (
        lambda a, b: barrier(a, _without_numbers(b), batches("mlp_nano"), points=3),
        "the loss at t=0.5 is nan",
    ),
    "no vectors": (lambda a, b: singular_alignment(a, b, permutation_spec(a), k=0), "k must be"),
    "nothing to draw": (lambda a, b: plot_barriers({}), "at least one way"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_measured_is_refused(case):
    call, word = WRONG[case]
    with pytest.raises(ValueError, match=word):
        call(small("mlp_nano"), small("mlp_nano", 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_way_to_itself_is_flat_in_every_dtype_over_strided_and_odd_batches(dtype):
    a = small("resnet_nano").to(dtype)
    strided = [(x.to(dtype).flip(-1).transpose(2, 3), y) for x, y in batches("resnet_nano")]
    odd = [*strided, (strided[0][0][:3], strided[0][1][:3])]
    way = barrier(a, copy.deepcopy(a), odd, statistics=strided, points=3)
    assert way.of_loss == pytest.approx(0.0, abs=1e-6) and way.of_accuracy == 0.0
    with_empty = [*odd, (odd[0][0][:0], odd[0][1][:0])]
    again = barrier(a, copy.deepcopy(a), with_empty, statistics=strided, points=3)
    assert again.own_loss == way.own_loss
