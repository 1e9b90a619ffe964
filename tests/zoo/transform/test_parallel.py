"""A model in parallel form shares its weights; a fused one is the same function."""

import copy
import functools

import pytest
import torch
from archzoo.layers.residual import Add, Parallel, Scaled
from archzoo.zoo import create_model, fuse_parallel, save_model, to_parallel, with_residual
from archzoo.zoo.trunk import Trunk
from torch import nn

from ..small_models import ADDITIVE as MODELS
from ..small_models import build, example, loss_of, trained

EXACT = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
ADDITIVE = ["add", "scaled", "skip_init", "rezero", "layer_scale", "parallel"]


def ours(name, **options):
    return trained(build(name, **options)).double().eval()


def inputs(name):
    return example(name, dtype=torch.float64)


@pytest.mark.parametrize("residual", [*ADDITIVE[:-1], {"name": "parallel", "group": 1}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_parallel_form_leads_back_bit_for_bit(name, residual):
    model, x = ours(name, residual=residual), inputs(name)
    before, logits = copy.deepcopy(model.state_dict()), model(x)
    wide = to_parallel(model, None)
    assert (wide(x) - logits).abs().max() > 1e-6
    assert torch.equal(to_parallel(wide, 1)(x), logits)
    # The given model is left as it was.
    assert torch.equal(model(x), logits)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_all_weights_are_shared_and_named_alike(name):
    model = ours(name, residual="layer_scale")
    wide = to_parallel(model, 2)
    assert type(wide) is type(model)
    theirs = dict(wide.named_parameters())
    assert list(theirs) == [key for key, _ in model.named_parameters()]
    assert all(theirs[key] is p for key, p in model.named_parameters())
    assert all(a is b for a, b in zip(wide.buffers(), model.buffers(), strict=True))
    loss_of(wide(inputs(name))).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert wide.no_weight_decay() == model.no_weight_decay()


@pytest.mark.parametrize("group", [1, 2, 3, None])
@pytest.mark.parametrize("name", MODELS)
def test_the_converted_model_is_the_one_built_that_way(name, group):
    model = ours(name)
    twin = ours(name, residual={"name": "parallel", "group": group})
    assert torch.equal(to_parallel(model, group)(inputs(name)), twin(inputs(name)))
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("convert", [to_parallel, with_residual])
def test_a_model_that_maps_the_stream_after_every_sum_is_refused(convert):
    model = ours("poincare_resnet_nano", geometry="euclidean", residual="add")
    with pytest.raises(ValueError, match="PoincareResNet maps the stream after every sum"):
        convert(model, "attnres" if convert is not to_parallel else 2)


def test_one_group_is_the_stem_plus_every_branch():
    model = to_parallel(ours("mlp_nano", depth=5), None)
    trunk, x = model.trunk, inputs("mlp_nano")
    h = model.stem(x)
    parts = zip(trunk.norms, trunk.branches, strict=True)
    expected = h + sum(branch(norm(h)) for norm, branch in parts)
    torch.testing.assert_close(trunk(h), expected, **EXACT)


def test_a_stage_of_a_cnn_is_a_barrier():
    model = to_parallel(ours("resnet_nano", depths=(3, 2)), None)
    x = inputs("resnet_nano")
    h = model.stem(x)
    for shortcut, stage in zip(model.shortcuts, model.stages, strict=True):
        base = shortcut(h)
        outputs = [stage.branches[0](stage.norms[0](h))]
        for norm, branch in zip(stage.norms[1:], stage.branches[1:], strict=True):
            outputs.append(branch(norm(base)))
        h = base + sum(outputs)
    torch.testing.assert_close(model.forward_features(x), model.norm(h), **EXACT)


def test_a_bare_trunk_is_taken_too():
    trunk = ours("mlp_nano", depth=4).trunk
    wide = to_parallel(trunk, 2)
    assert isinstance(wide, Trunk) and wide is not trunk
    assert type(trunk.residual) is Add and wide.residual.group == 2
    assert wide.branches is trunk.branches


def test_mode_drop_path_and_checkpointing_are_kept():
    model = build("mlp_nano", depth=4, drop_path_rate=0.2).train()
    model.set_grad_checkpointing()
    wide = to_parallel(model, 2)
    assert wide.trunk.drop_path == model.trunk.drop_path
    assert wide.trunk.grad_checkpointing and wide.training and wide.trunk.residual.training
    assert not to_parallel(model.eval(), 2).trunk.residual.training


@pytest.mark.parametrize(
    "residual",
    [
        *ADDITIVE,
        {"name": "scaled", "exponent": 1.0, "count": "blocks"},
        {"name": "layer_scale", "initial": 0.2},
        functools.partial(Scaled, coefficient=0.5),
        {"name": "parallel", "group": 3, "exponent": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "options"), [("mlp_nano", {"depth": 4}), ("resnet_nano", {"depths": (3, 2)})]
)
def test_a_converted_model_is_saved_and_rebuilt(name, options, residual, tmp_path):
    model = to_parallel(trained(build(name, residual=residual, **options)).eval(), 2)
    loaded = create_model(f"local-dir:{save_model(model, tmp_path / 'saved')}").eval()
    assert torch.equal(loaded(example(name)), model(example(name)))
    twin = create_model(model.recipe[0], **model.recipe[1])
    stages = zip(twin.modules(), model.modules(), strict=True)
    found = [(a.initial, b.initial) for a, b in stages if isinstance(a, Parallel)]
    assert found and all(a == b for a, b in found)


def test_a_residual_that_no_config_can_name_is_converted_but_not_saved(tmp_path):
    model = build("mlp_nano", residual=lambda *args, **options: Scaled(*args, **options))
    wide = to_parallel(model, 2)
    assert wide.trunk.residual.initial == 2**-0.5
    with pytest.raises(ValueError, match="only a model made by create_model can be saved"):
        save_model(wide, tmp_path)


@pytest.mark.parametrize("residual", ["block_attnres", "delta", "deepnorm"])
def test_another_residual_is_refused_by_name(residual):
    model = build("mlp_nano", residual=residual)
    kind = type(model.trunk.residual).__name__
    for convert in (functools.partial(to_parallel, group=2), fuse_parallel):
        with pytest.raises(ValueError, match=f"{kind} is not additive"):
            convert(model)


def test_a_model_without_a_trunk_is_refused():
    with pytest.raises(ValueError, match="Linear runs no Trunk"):
        to_parallel(nn.Linear(2, 2), None)
    with pytest.raises(ValueError, match="group must be at least 1 or None, got 0"):
        to_parallel(build("mlp_nano"), 0)


# Fusion.


@pytest.mark.parametrize("residual", ADDITIVE)
@pytest.mark.parametrize("group", [1, 2, 3, 5, None])
def test_a_fused_model_is_the_same_function(group, residual):
    model = to_parallel(ours("mlp_nano", depth=5, residual=residual), group)
    fused, x = fuse_parallel(model), inputs("mlp_nano")
    torch.testing.assert_close(fused(x), model(x), **EXACT)
    size = 5 if group is None else group
    assert len(fused.trunk.branches) == -(-5 // size)
    assert fused.trunk.branches[0][0].out_features == size * 64
    assert type(fused.trunk.residual) is Add


def test_a_sequential_model_fuses_branch_by_branch():
    model = ours("mlp_nano", depth=3, drop_rate=0.3, drop_path_rate=0.2)
    fused = fuse_parallel(model.train())
    x = inputs("mlp_nano")
    assert not any(module.training for module in fused.modules())
    assert model.training
    torch.testing.assert_close(fused(x), model.eval()(x), **EXACT)
    assert not any(isinstance(module, nn.Dropout) for module in fused.trunk.modules())


def test_a_fused_model_owns_its_weights_and_tells_no_recipe(tmp_path):
    model = to_parallel(ours("mlp_nano", depth=4), None)
    fused, x = fuse_parallel(model), inputs("mlp_nano")
    before = fused(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(fused(x), before)
    assert fused.trunk.norms[0].weight is None
    with pytest.raises(ValueError, match="only a model made by create_model can be saved"):
        save_model(fused, tmp_path)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU("tanh"), nn.SiLU()], ids=str)
def test_norms_biases_and_activations_of_several_kinds_fuse(norm, affine, bias, activation):
    torch.manual_seed(0)
    source = ours("mlp_nano", depth=3).trunk
    hidden = [4, 7, 5]
    branches = [
        nn.Sequential(nn.Linear(32, n, bias=bias), activation, nn.Linear(n, 32, bias=bias))
        for n in hidden
    ]
    norms = [norm(32, eps=1e-5, elementwise_affine=affine) for _ in hidden]
    residual = Parallel(32, source.residual.sites, group=None, exponent=0.5)
    trunk = trained(Trunk(residual, branches, norms, [0.0] * 3)).double().eval()
    fused = fuse_parallel(trunk)
    assert fused.branches[0][0].weight.shape == (16, 32)
    x = example("mlp_nano", dtype=torch.float64)[:, :32]
    torch.testing.assert_close(fused(x), trunk(x), **EXACT)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_nano", "branch at site 0 is SelfAttention, and only Sequential"),
        ("gpt_nano", "branch at site 0 is CausalAttention, and only Sequential"),
        ("resnet_nano", "norm at site 0 is a Sequential, which does not fold"),
    ],
)
def test_branches_that_are_no_mlp_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        fuse_parallel(to_parallel(ours(name), None))


def test_branches_that_differ_are_refused():
    model = to_parallel(ours("mlp_nano", depth=2), None)
    model.trunk.branches[1][1] = nn.ReLU()
    with pytest.raises(ValueError, match=r"group at site 0 has different activations: GELU.*ReLU"):
        fuse_parallel(model)
    model.trunk.branches[1][1] = nn.Softmax(-1)
    with pytest.raises(ValueError, match="branch at site 1 is Linear · Softmax · Dropout · Linear"):
        fuse_parallel(model)
    model = to_parallel(ours("mlp_nano", depth=2), None)
    model.trunk.norms[1] = nn.LayerNorm(32, eps=1e-3)
    with pytest.raises(ValueError, match="group at site 0 has different norms"):
        fuse_parallel(model)
