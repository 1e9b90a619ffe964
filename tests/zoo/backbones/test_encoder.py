"""The encoder of sequences: both directions, no order of its own, padding that changes nothing."""

import pytest
import torch
from archzoo.layers.lowrank import WeightStructure
from archzoo.train.data import IGNORE
from archzoo.train.engine.metrics import cross_entropy
from archzoo.zoo import certify, create_model, list_models, residuals, save_model
from archzoo.zoo.axes.geometry import GeometryName
from archzoo.zoo.axes.lowrank import make_method, methods
from archzoo.zoo.backbones.bidirectional_attention import BidirectionalAttention
from archzoo.zoo.backbones.encoder import PADDING

from ...tiers import tiered
from ..small_models import TINY, build, loss_of, on_meta, trained

LENGTH, CLASSES = 12, 3
SIZES = TINY["encoder_nano"]
GEOMETRIES = GeometryName.__args__
USUAL = ("add", "block_attnres")
CASES = [("euclidean", name) for name in residuals.names()] + [
    (geometry, "add") for geometry in GEOMETRIES[1:]
]
every = pytest.mark.parametrize(
    ("geometry", "residual"), tiered(CASES, lambda geometry, residual: residual in USUAL)
)
# A kernel sums over keys, and a norm over channels, in float64: some thousand roundings.
CLOSE = {"rtol": 0.0, "atol": 1e-12}


def encoder(**options):
    """Return the smallest encoder in float64, as if trained, in evaluation."""
    return trained(build("encoder_nano", **SIZES, **options)).double().eval()


def ids(batch=2, length=LENGTH, seed=0):
    """Return tokens, none of which is padding."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(PADDING + 1, 259, (batch, length), generator=g)


def longer(tokens, count=5):
    return torch.nn.functional.pad(tokens, (0, count), value=PADDING)


@every
@torch.no_grad()
def test_padding_changes_no_real_token_and_no_class(geometry, residual):
    options = {"geometry": geometry, "residual": residual}
    tokens = ids()
    model = encoder(**options)
    torch.testing.assert_close(model(longer(tokens))[:, :LENGTH], model(tokens), **CLOSE)
    classifier = encoder(num_classes=CLASSES, **options)
    torch.testing.assert_close(classifier(longer(tokens)), classifier(tokens), **CLOSE)
    short, whole = longer(tokens[:1, :7]), tokens[1:]
    both = classifier(torch.cat([short, whole]))
    torch.testing.assert_close(both, torch.cat([classifier(tokens[:1, :7]), classifier(whole)]))


@every
@torch.no_grad()
def test_without_positions_a_permutation_of_tokens_permutes_what_is_made_of_them(
    geometry, residual
):
    model = encoder(geometry=geometry, residual=residual, rotary=False)
    assert model.trunk.residual.looks_along_tokens in ("", None, False, ())
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(1))
    tokens = ids()
    torch.testing.assert_close(model(tokens[:, order]), model(tokens)[:, order], **CLOSE)
    placed = encoder(geometry=geometry, residual=residual)
    assert (placed(tokens[:, order]) - placed(tokens)[:, order]).abs().max() > 1e-6


@every
def test_the_first_token_learns_from_the_last_and_padding_from_none(geometry, residual):
    model = encoder(geometry=geometry, residual=residual)
    embedded = []
    model.embedding.register_forward_hook(lambda *call: embedded.append(call[2]))
    out = model.forward_features(longer(ids()))
    (gradient,) = torch.autograd.grad(loss_of(out[:, 0]), embedded)
    assert gradient[:, :LENGTH].abs().amax((0, 2)).min() > 1e-12
    assert not gradient[:, LENGTH:].any()


@pytest.mark.parametrize("method", tiered(methods.names(), ("maestro", "sltrain")))
def test_every_weight_structure_trains_a_step(method):
    spec = {"name": method, **{"trp": {"min_kernel": 1}}.get(method, {})}
    model = build("encoder_nano", lowrank=spec, num_classes=CLASSES, **SIZES)
    changed = [m for m in model.modules() if isinstance(m, WeightStructure)]
    assert changed or method in ("full", "trp") or not make_method(spec).is_matrix
    before = model(ids())
    loss_of(before).backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    # The table is no head here; each row that was not looked up stays as it is.
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in learned)
    torch.optim.SGD(learned, lr=1e-3).step()
    assert not torch.equal(model(ids()), before)


@pytest.mark.parametrize("name", list_models("encoder_*"))
def test_its_sizes_differ_in_width_and_depth_alone(name):
    model = on_meta(name)
    assert model.names_tokens and model.head.weight is model.embedding.weight
    logits = model(ids().to("meta"))
    assert logits.shape == (2, LENGTH, model.vocab_size)


@torch.no_grad()
def test_a_classifier_reads_the_mean_of_the_real_tokens():
    model = encoder(num_classes=CLASSES)
    tokens = ids()
    tokens[0, 4:] = PADDING
    features = model.forward_features(tokens)
    assert not features[0, 4:].any() and features[0, :4].any(-1).all()
    mean = torch.stack([features[0, :4].mean(0), features[1].mean(0)])
    torch.testing.assert_close(model.pool(features), mean, **CLOSE)
    torch.testing.assert_close(model(tokens), model.head(mean), **CLOSE)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.no_grad()
def test_a_row_of_padding_alone_is_read_as_it_stands_and_is_a_number(geometry):
    model = encoder(num_classes=CLASSES, geometry=geometry)
    tokens = torch.full((1, 4), PADDING)
    assert model(tokens).isfinite().all()
    torch.testing.assert_close(model(longer(tokens)), model(tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_sequence_without_tokens_has_no_class_in_any_space(geometry):
    model = encoder(num_classes=CLASSES, geometry=geometry)
    with pytest.raises(ValueError, match=r"has at least one token, got shape \(2, 0\); leave"):
        model(ids(length=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_a_mask_of_numbers_is_refused_and_not_added_to_scores(dtype):
    attention = BidirectionalAttention(8, 2)
    with pytest.raises(ValueError, match=f"padding_mask must be of torch.bool, .* got {dtype}"):
        attention(torch.zeros(1, 3, 8), None, torch.ones(1, 3, dtype=dtype))


def test_only_hidden_tokens_are_learned_from():
    model = encoder()
    tokens, targets = ids(), torch.full((2, LENGTH), IGNORE)
    targets[0, 3], targets[1, 8] = 40, 50
    logits = model(tokens)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    expected = -torch.stack([logits[0, 3].log_softmax(-1)[40], logits[1, 8].log_softmax(-1)[50]])
    # The loss is a mean of float64 logarithms.
    torch.testing.assert_close(cross_entropy(logits, targets), expected.mean(), **CLOSE)
    rows = gradient.abs().amax(-1) > 0
    assert rows.nonzero().tolist() == [[0, 3], [1, 8]]


def test_a_head_of_classes_in_place_of_that_of_tokens_comes_back_from_a_folder(tmp_path):
    model = encoder()
    model.reset_classifier(CLASSES)
    assert not model.names_tokens and model(ids()).shape == (2, CLASSES)
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").double().eval()
    # float64 weights come back as float32 ones of the recipe's dtype do, to rounding.
    torch.testing.assert_close(loaded(ids()), model(ids()), rtol=1e-5, atol=1e-6)


def test_tokens_have_no_certificate_and_the_reason_says_so():
    model = build("encoder_nano", num_classes=CLASSES, **SIZES).eval()
    certificate = certify(model, ids(), attack=False, estimate=False)
    assert certificate.lipschitz == float("inf")
    assert any("reads integers, such as tokens" in reason for reason in certificate.reasons)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 1}, "vocab_size must be at least 2, got 1"),
        ({"width": 12, "num_heads": 4}, "width=12 must be a multiple of 2 · num_heads=8"),
        ({"norm_eps": -1.0}, "norm_eps must be at least 0, got -1.0"),
        ({"drop_rate": 1.0}, "drop_rate"),
        ({"head": "mlr"}, "give num_classes for one of its own"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("encoder_nano", **options)
