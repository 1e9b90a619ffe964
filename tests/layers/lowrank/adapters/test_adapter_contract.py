"""What every adapter keeps, on every kind of layer: its start, its count, the frozen rest, merging.

The registry is that of the zoo, so a new preset is held to these laws by its line there.
"""

import copy

import pytest
import torch
from archzoo.layers.lowrank import merge, structures
from archzoo.zoo.axes.adapters import adapter_info, apply_adapter, make_adapter

from ....tiers import tiered
from .adapter_networks import LAYERS, NAMES, adapted, example, network, preset_of, train

EVERY = [
    (name, kind)
    for name in NAMES
    for kind in LAYERS
    if kind == "linear" or preset_of(name).is_matrix  # a gate reads the input of a linear layer
]
EACH = pytest.mark.parametrize(
    ("name", "kind"), tiered(EVERY, lambda name, kind: kind == "linear" or name in ("lora", "dora"))
)
CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale: hundreds of roundings


@EACH
def test_the_start_is_the_base_and_the_trained_numbers_are_those_of_the_formula(name, kind):
    model, controller = adapted(name, kind)
    base = network(kind).eval()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shapes = [structure.shape for _, structure in controller.structures()]
    assert shapes
    assert trained == sum(controller.method.numbers(shape) for shape in shapes)
    x = example(kind)
    for mode in (True, False):
        started = model.train(mode)(x)
        if not controller.method.moves_weight:
            torch.testing.assert_close(started, base(x), **CLOSE)
            for target in controller.targets.values():
                inside = target.name.partition(":")[2] or "weight"
                weight = base.get_submodule(target.name.partition(":")[0]).get_parameter(inside)
                matrix = weight if target.unfolding is None else target.unfolding.to_matrix(weight)
                if target.structure.is_matrix:
                    torch.testing.assert_close(target.structure.dense(), matrix, **CLOSE)
        else:
            assert not torch.allclose(started, base(x), **CLOSE)


@EACH
def test_what_is_frozen_keeps_its_bits_and_what_is_trained_moves(name, kind):
    model, controller = adapted(name, kind)
    before = copy.deepcopy(model)
    train(controller, kind)
    old = dict(before.named_parameters())
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, old[n])]
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert moved and set(moved) <= set(trained)
    x = example(kind)
    assert not torch.allclose(model.eval()(x), before.eval()(x), **CLOSE)
    held = {id(p) for state in controller.optimizers for p in state.state}
    assert held == {id(model.get_parameter(n)) for n in trained}


@EACH
def test_a_merged_model_has_the_outputs_of_the_unmerged_one(name, kind):
    model, controller = adapted(name, kind)
    train(controller, kind)
    x = example(kind)
    before = model.eval()(x)
    fixed = [n for n, _, structure in structures(model) if not structure.is_matrix]
    if fixed:
        with pytest.raises(ValueError, match=f"{fixed[0]}.*activation|gate"):
            merge(model)
        return
    merge(model)
    torch.testing.assert_close(model(x), before, **CLOSE)
    assert set(model.state_dict()) == set(network(kind).state_dict())


@EACH
def test_a_state_dict_brings_all_of_an_adapter_back(name, kind):
    model, controller = adapted(name, kind)
    train(controller, kind)
    again, other = adapted(name, kind)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(controller.state_dict())
    x = example(kind)
    assert torch.equal(again.eval()(x), model.eval()(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_above_the_full_one_and_patterns_without_a_match_are_refused(name):
    base = network("linear").state_dict()
    for settings, message in [
        ({"rank": 99}, "rank=99 exceeds the full rank 8 of 0"),
        ({"train_also": ["haed"]}, "train_also: 'haed' matches no parameter"),
        ({"targets": ["1*"]}, "targets: '1\\*' matches no linear"),
    ]:
        if settings.keys() - adapter_info(name).options.keys():
            continue
        model = network("linear")
        few = {"rank": 1, "target_rank": 99} if name == "increlora" else {"rank": 1, "active": 1}
        known = adapter_info(name).options
        if name == "tlora" and "rank" in settings:  # of a ring, which the weight does not bound
            continue
        given = {k: v for k, v in few.items() if k in known}
        given |= {"name": name, "targets": ["0"], **settings}
        if make_adapter(name).reads:
            given["gradients"] = False
        with pytest.raises(ValueError, match=f"adapter={name}: {message}"):
            apply_adapter(model, given)
        assert model.state_dict().keys() == base.keys()
        assert all(p.requires_grad for p in model.parameters())
