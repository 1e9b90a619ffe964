"""What every registered model promises; a new model is tested here with no new test."""

import copy
import io
import itertools
import warnings

import pytest
import torch
from archzoo.layers.hyperbolic import LorentzConv2d, PoincareConv2d
from archzoo.layers.lipschitz import AOLConv2d
from archzoo.layers.residual import AttnRes
from archzoo.zoo import create_model, model_info, residuals
from archzoo.zoo.backbones.variants import GEOMETRIES
from archzoo.zoo.backbones.vit import VisionTransformer
from archzoo.zoo.trunk import Trunk
from torch import nn
from torch._dynamo.testing import CompileCounter

from ..close import assert_close_in_scale
from ..tiers import tiered
from .small_models import (
    ALL,
    CANDIDATES,
    EVERYWHERE,
    HEADED,
    KINDS,
    NANO,
    SMALL,
    build,
    example,
    example_shape,
    fits,
    fitting,
    loss_of,
    on_meta,
    settled,
    trained,
)

every = pytest.mark.parametrize("name", ALL)
kinds = pytest.mark.parametrize("name", KINDS)
headed = pytest.mark.parametrize("name", HEADED)
headed_kinds = pytest.mark.parametrize("name", [n for n in KINDS if n in HEADED])
# Depth may break what holds for a few layers.
small = pytest.mark.parametrize("name", tiered(SMALL, KINDS))
nano = pytest.mark.parametrize("name", NANO)
# The compiler takes seconds for each, and ten for a network in a ball.
TRACED = ("mlp_nano", "resnet_nano", "vit_nano", "gpt_nano")
traced = pytest.mark.parametrize(
    ("name", "residual"),
    tiered(
        itertools.product(NANO, ["add", "block_attnres"]),
        lambda name, residual: name in TRACED and residual == "block_attnres",
    ),
)
VARIANTS = {name for name, *_ in GEOMETRIES}
BITWISE = {"rtol": 0.0, "atol": 0.0}


def gradients(model, x):
    """Return the gradients of a loss on all logits, by name."""
    model.zero_grad()
    loss_of(model(x)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_there_are_models_of_every_size_and_kind():
    assert {model_info(name).kind for name in NANO} == {
        *("image", "features", "tokens", "sequence", "graph")
    }
    assert set(NANO) < set(SMALL) < set(ALL)


# Shapes and handles, without memory for weights.


@pytest.mark.parametrize(
    "name", tiered(ALL, lambda name: name not in ("poincare_resnet32", "poincare_resnet56"))
)
def test_a_model_builds_with_no_argument_and_answers_for_each_class(name):
    model = on_meta(name)
    x = example(name, device="meta")
    with torch.no_grad():
        logits = model(x)
    kind = model_info(name).kind
    tokens = x.shape[1:] if kind in ("tokens", "sequence") else ()
    # A node's candidates come with the sample; all other models have classes.
    classes = CANDIDATES if kind == "nodes" else model.num_classes
    assert logits.shape == (2, *tokens, classes)


@kinds
def test_a_model_builds_with_no_argument_and_every_parameter_gets_a_gradient(name):
    model = on_meta(name)
    model(example(name, device="meta")).sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None]
    assert without == []


@headed_kinds
def test_features_and_head_have_the_sizes_the_model_tells(name):
    model = on_meta(name)
    features = model.forward_features(example(name, device="meta"))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape[-1] == model.num_features
    assert model.forward_head(features).shape == (*pooled.shape[:-1], model.num_classes)


@headed_kinds
def test_the_head_can_be_replaced_and_removed(name):
    model = on_meta(name)
    features = model.forward_features(example(name, device="meta"))
    model.reset_classifier(7)
    lead = model.forward_head(features).shape[:-1]  # a head of tokens gives way to one of sequences
    assert lead in (features.shape[:1], features.shape[:-1])
    assert model.num_classes == model.default_cfg["num_classes"] == 7
    assert model.get_classifier() is model.head and model.head.out_features == 7
    assert model.forward_head(features).shape == (*lead, 7)
    model.reset_classifier(0)
    assert model.num_classes == 0 and isinstance(model.head, nn.Identity)
    assert model.forward_head(features).shape == (*lead, model.num_features)
    with pytest.raises(ValueError, match="num_classes must be at least 0, got -1"):
        model.reset_classifier(-1)


@headed_kinds
@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_number_of_classes_is_a_keyword(name, num_classes):
    model = on_meta(name, num_classes=num_classes)
    assert model.num_classes == model.default_cfg["num_classes"] == num_classes
    pooled = torch.empty(2, model.num_features, device="meta")
    assert model.get_classifier()(pooled).shape == (2, num_classes or model.num_features)


@headed
def test_the_default_configuration_tells_the_truth(name):
    model = on_meta(name)
    cfg = model.default_cfg
    assert model.pretrained_cfg is cfg
    assert cfg["num_classes"] == model.num_classes > 0
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    if model_info(name).kind == "image":
        assert cfg["input_size"] == example_shape(name)
        first = model.get_submodule(cfg["first_conv"])
        assert isinstance(first, nn.Conv2d | PoincareConv2d | LorentzConv2d | AOLConv2d)
        assert first.in_channels == cfg["input_size"][0]
        assert len(cfg["mean"]) == len(cfg["std"]) == cfg["input_size"][0]
    elif model_info(name).kind == "graph":
        assert "input_size" not in cfg
    else:
        assert len(cfg["input_size"]) == 1


@every
def test_the_model_remembers_its_recipe(name):
    assert on_meta(name).recipe == (name, {})
    changed = {"num_classes": 3, "residual": "scaled"}
    changed = {key: value for key, value in changed.items() if key in model_info(name).options}
    assert on_meta(name, **changed).recipe == (name, changed)


@kinds
def test_printing_a_model_shows_its_sizes(name):
    model = on_meta(name)
    text = repr(model)
    if name in HEADED:
        assert f"in_features={model.num_features}, out_features={model.num_classes}" in text
    else:
        assert f"{model.points.shape[0]}, {model.num_features}" in text
    for module in model.modules():
        if isinstance(module, AttnRes):
            size = f"sites={len(module.sites)}, block_size={module.block_size}"
            assert f"width={module.width}, {size}" in text


@kinds
def test_marks_against_weight_decay_name_queries_and_tables(name):
    model = on_meta(name)
    marks = model.no_weight_decay()
    assert marks <= dict(model.named_parameters()).keys()
    for prefix, module in model.named_modules():
        if isinstance(module, AttnRes):
            assert {f"{prefix}.query", f"{prefix}.gain"} <= marks
    if isinstance(model, VisionTransformer):
        assert {"pos_embed", "prefix"} <= marks


@kinds
def test_timms_optimisers_decay_all_matrices_but_the_marked(name):
    from timm.optim import param_groups_weight_decay

    model = on_meta(name)
    marks = model.no_weight_decay()
    groups = param_groups_weight_decay(model, 0.1, no_weight_decay_list=marks)
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and key not in marks), key


# Numbers.


@kinds
def test_one_seed_gives_one_model(name):
    one, two, other = (build(name, seed) for seed in (0, 0, 1))
    x = example(name)
    torch.testing.assert_close(one(x), two(x), **BITWISE)
    assert not torch.equal(one(x), other(x))


@kinds
def test_a_forward_is_the_head_of_the_features(name):
    model = build(name).eval()
    x = example(name)
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x), **BITWISE)


@small
def test_gradients_are_finite_and_reach_the_first_layer(name):
    model = build(name)
    grads = gradients(model, example(name))
    assert all(grad.isfinite().all() for grad in grads.values())
    first = next(key for key, _ in model.named_parameters())
    assert grads[first].abs().max() > 0


@small
def test_a_sample_does_not_depend_on_its_batch(name):
    model = trained(build(name)).double()
    settled(model, example(name, 8, seed=1, dtype=torch.float64)).eval()
    x = example(name, 3, dtype=torch.float64)
    together = model(x)
    alone = torch.cat([model(sample) for sample in x.split(1)])
    # float64; a matrix product may sum in another order for another batch.
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-10)
    assert (together[0] - together[1]).abs().max() > 1e-6


@kinds
def test_a_copy_is_the_same_model(name):
    model = build(name).eval()
    twin = copy.deepcopy(model)
    x = example(name)
    torch.testing.assert_close(twin(x), model(x), **BITWISE)
    assert twin.no_weight_decay() == model.no_weight_decay()
    assert [k for k, _ in twin.named_parameters()] == [k for k, _ in model.named_parameters()]


@kinds
def test_saving_and_loading_changes_no_bit(name, tmp_path):
    from archzoo.zoo import save_model

    model = trained(build(name)).eval()
    x = example(name)
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    assert loaded.recipe == model.recipe
    assert loaded.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(loaded(x), model(x), **BITWISE)


def blocks(model):
    """What a model runs one after another, of its last trunk."""
    last = [m for m in model.modules() if hasattr(m, "grad_checkpointing")][-1]
    return last.branches if isinstance(last, Trunk) else last


def rates(name):
    """Every rate of a model whose draws must be the same again."""
    return {o: 0.5 for o in ("drop_path_rate", "drop_rate") if o in model_info(name).options}


# All but a table of points, which has no activations to speak of.
RECOMPUTED = [name for name in SMALL if model_info(name).kind != "nodes"]


@pytest.mark.parametrize(
    ("name", "drawn"),
    tiered(
        [
            (name, drawn)
            for name in RECOMPUTED
            for drawn in (False, True)
            if rates(name) or not drawn
        ],
        lambda name, drawn: name in KINDS,
    ),
)
def test_recomputing_activations_gives_the_same_gradients_and_statistics(name, drawn):
    x = example(name)
    results = []
    for enable in (False, True):
        model = trained(build(name, **(rates(name) if drawn else {})))
        model.set_grad_checkpointing(enable)
        calls = []
        blocks(model)[-1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(5)
        results.append((gradients(model, x), dict(model.named_buffers())))
        assert len(calls) == 1 + enable
    for plain, recomputed in zip(*results, strict=True):
        assert plain.keys() == recomputed.keys()
        for key, value in plain.items():
            torch.testing.assert_close(
                recomputed[key], value, **BITWISE, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("name", [n for n in KINDS if n in RECOMPUTED])
def test_recomputation_can_be_switched_off_again_and_rests_in_evaluation(name):
    model = build(name).eval()
    model.set_grad_checkpointing()
    calls = []
    blocks(model)[-1].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(model, example(name))
    model.train().set_grad_checkpointing(False)
    gradients(model, example(name))
    assert len(calls) == 2


@pytest.mark.parametrize("name", [n for n in SMALL if n not in RECOMPUTED])
def test_a_table_has_nothing_to_recompute_and_says_so(name):
    model = on_meta(name)
    model.set_grad_checkpointing(False)
    with pytest.raises(ValueError, match="has no blocks whose activations could be computed again"):
        model.set_grad_checkpointing()
    with pytest.raises(ValueError, match="has no blocks to compile; compile the model as a whole"):
        model.compile_blocks()


# The product of backbones and residuals, on the smallest backbones.


# Those of another geometry run over all in `axes/test_geometry`, at smaller sizes.
@pytest.mark.parametrize(
    ("name", "residual"),
    tiered(
        fitting(NANO),
        lambda name, residual: name not in VARIANTS or residual == "block_attnres",
    ),
)
def test_every_backbone_runs_over_every_residual(name, residual):
    model = build(name, residual=residual, drop_path_rate=0.5)
    x = example(name, 4)
    logits = model(x)
    assert logits.isfinite().all()
    grads = gradients(model, x)
    assert len(grads) == len(list(model.parameters()))
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("name", [name for name in NANO if not fits(name, "value_residual")])
@pytest.mark.parametrize("residual", [n for n in residuals.names() if n not in EVERYWHERE])
def test_a_backbone_without_attention_refuses_what_mixes_keys_and_values(name, residual):
    with pytest.raises(ValueError, match="mixes the keys and values of attention, and the.*alone"):
        build(name, residual=residual)


@pytest.mark.parametrize("residual", ["add", "scaled", "attnres", "block_attnres", "layer_scale"])
@nano
def test_stochastic_depth_acts_in_training_only(name, residual):
    model = trained(build(name, residual=residual, drop_path_rate=0.5))
    plain = trained(build(name, residual=residual))
    plain.load_state_dict(model.state_dict())
    x = example(name, 4)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), **BITWISE)
    model.train()
    torch.manual_seed(0)
    draws = [model(x) for _ in range(8)]
    assert any(not torch.equal(draw, draws[0]) for draw in draws)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
@nano
def test_a_rate_that_is_no_probability_is_refused(name, rate):
    with pytest.raises(ValueError, match=rf"drop_path_rate must lie in \[0, 1\), got {rate}"):
        create_model(name, drop_path_rate=rate)


@pytest.mark.parametrize("residual", ["add", "block_attnres"])
@nano
def test_a_model_runs_in_bfloat16_and_under_autocast(name, residual):
    model = trained(build(name, residual=residual)).eval()
    x = example(name)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x)
    low = model.bfloat16()(x.bfloat16() if x.is_floating_point() else x)
    assert low.dtype == torch.bfloat16
    # Eight bits of mantissa, through at most four blocks.
    for ours in (mixed, low):
        assert (ours.float() - exact).norm() < 0.1 * exact.norm()


def parity(model, x, backend, share=3e-5):
    """Compare logits and gradients of the whole compiled graph with eager ones.

    Each may differ by a share of the largest. That of float32 is for fusion, which changes the
    order of sums: gradients of a gyro network were found off float64 by up to 1.1e-5 of theirs.
    """
    expected, expected_gradients = model(x), gradients(model, x)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        assert_close_in_scale(compiled(x), expected, share)
        model.zero_grad()
        loss_of(compiled(x)).backward()
    for key, parameter in model.named_parameters():
        expected = expected_gradients[key]
        atol = share * max(3.0, float(expected.abs().max()))
        torch.testing.assert_close(
            parameter.grad, expected, rtol=30 * share, atol=atol, msg=lambda m, k=key: f"{k}: {m}"
        )
    torch._dynamo.reset()


@pytest.mark.compiles
@traced
def test_the_compiler_takes_the_whole_graph(name, residual):
    model = settled(trained(build(name, residual=residual)), example(name, 8, seed=1)).eval()
    parity(model, example(name), "aot_eager")


@pytest.mark.compiles
@pytest.mark.parametrize("residual", ["block_attnres"])
@pytest.mark.parametrize("name", ["mlp_nano"])
def test_compiled_code_computes_the_same(name, residual):
    model = settled(trained(build(name, residual=residual)), example(name, 8, seed=1)).eval()
    parity(model, example(name), "inductor")


@pytest.mark.compiles
@pytest.mark.parametrize("name", tiered(["mlp_nano", "resnet_nano"], ["mlp_nano"]))
def test_the_compiler_takes_recomputation(name):
    model = trained(build(name, residual="block_attnres"))
    model.set_grad_checkpointing()
    parity(model, example(name), "aot_eager")


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("name", "recomputed"),
    tiered(
        itertools.product(RECOMPUTED, (False, True)),
        lambda name, recomputed: (name, recomputed) in [("gpt_nano", False), ("resnet_nano", True)],
    ),
)
def test_blocks_compiled_by_themselves_compute_the_same(name, recomputed):
    plain = settled(trained(build(name)), example(name, 8, seed=1))
    plain.set_grad_checkpointing(recomputed)
    blocks, x = copy.deepcopy(plain), example(name)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        blocks.compile_blocks(backend="aot_eager", fullgraph=True)
        expected, found = gradients(plain, x), gradients(blocks, x)
        states = plain.state_dict(), blocks.state_dict()
        logits = plain.eval()(x), blocks.eval()(x)
    for key, value in expected.items():
        assert_close_in_scale(found[key], value, 1e-4, key)
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-5, atol=1e-6)
    assert_close_in_scale(logits[1], logits[0], 3e-5)
    torch._dynamo.reset()


@pytest.mark.compiles
def test_branches_of_one_kind_are_compiled_once():
    counter = CompileCounter()
    torch._dynamo.reset()
    model = build("gpt_nano", depth=12)
    model.compile_blocks(backend=counter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        model(example("gpt_nano"))
    assert counter.frame_count == 2  # an attention and an MLP, of 24 branches
    torch._dynamo.reset()


# Every mechanism over a network of one trunk and one of stages; every backbone over two of them.
PAIRS = [
    (name, residual)
    for name, residual in fitting(NANO)
    if name in ("mlp_nano", "resnet_nano") or residual in ("add", "block_attnres")
]


# Generating the code of the ball takes over a minute of a fast core and four of a slow one.
@pytest.mark.timeout(1200)
@pytest.mark.compiles
@pytest.mark.slow
@pytest.mark.parametrize(("name", "residual"), PAIRS)
def test_compiled_code_computes_the_same_for_every_pair(name, residual):
    model = settled(trained(build(name, residual=residual)), example(name, 8, seed=1)).eval()
    # In float64: a ResNet whose streams are points runs into the range of the ball, where the
    # rounding of float32 moves its logits by 2 % of the largest, that of float64 gradients by 3e-8.
    parity(model.double(), example(name, dtype=torch.float64), "inductor", share=1e-7)


@pytest.mark.compiles
@traced
def test_an_exported_program_computes_the_same(name, residual):
    model = settled(trained(build(name, residual=residual)), example(name, 8, seed=1)).eval()
    x = example(name)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    # float32; the program may take another kernel for the same sum.
    assert_close_in_scale(loaded(x), model(x), 1e-5)


# Published sizes.


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt_124m", 123_590_400),  # arXiv:2601.00417
        ("gpt_353m", 353_508_352),
        # A query and a gain per branch and for the readout: 2 · 25 · 768 and 2 · 49 · 1024.
        ("gpt_124m_block_attnres", 123_590_400 + 2 * 25 * 768),
        ("gpt_353m_block_attnres", 353_508_352 + 2 * 49 * 1024),
    ],
)
def test_a_published_size_is_met_exactly(name, parameters):
    assert sum(p.numel() for p in on_meta(name).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("vit_tiny", "vit_tiny_patch16_224"),
        ("vit_small", "vit_small_patch16_224"),
        ("vit_base", "vit_base_patch16_224"),
    ],
)
def test_a_vit_is_timms_without_the_position_of_the_class_token(name, timm_name):
    import timm

    with torch.device("meta"):
        theirs = timm.create_model(timm_name)
    ours = on_meta(name)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1] - ours.num_features


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85), ("resnet110", 1.7)],
)
def test_a_cifar_resnet_has_the_size_of_its_paper(name, millions):
    # arXiv:1512.03385, table 6, two figures; ours adds 1×1 shortcuts (2.6 k) where a stage widens.
    count = sum(p.numel() for p in on_meta(name).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.02)
