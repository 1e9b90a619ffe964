"""The ResNet: linear shortcuts, any image size, and a hand-off that keeps the plain sum."""

import pytest
import torch
from archzoo.layers.residual import Site
from archzoo.zoo import create_model
from archzoo.zoo.axes.residuals import make_residual
from archzoo.zoo.backbones.resnet import linear_shortcut
from torch import nn

from ..small_models import EVERYWHERE, build, example, loss_of, on_meta, trained

EQUAL = [
    name
    for name in EVERYWHERE
    if name != "add"
    and make_residual(name, 4, [Site("conv", 0), Site("conv", 1)]).equals_prenorm_at_init
]
DEPTHS = {"widths": (8, 16, 8), "depths": (3, 1, 5)}


def exact(residual, twin=None, **options):
    """Return a float64 network whose norms are scale-invariant, with the weights of its twin."""
    model = build("resnet_nano", residual=residual, **DEPTHS, **options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-20
    if twin is not None:
        missing = model.load_state_dict(twin.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert all(".residual." in key for key in missing.missing_keys)
    return model


def images(size=16, batch=3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, size, size, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(
    ("residual", "options"),
    [
        *[(name, {}) for name in EQUAL],
        *[("block_attnres", {"block_size": size}) for size in (1, 2, 3, 9)],
        ("attnres", {"key_gain": False}),
    ],
    ids=str,
)
def test_zero_queries_equal_the_plain_network_in_training(residual, options):
    plain = exact("add")
    ours = exact({"name": residual, **options}, twin=plain)
    logits, our_logits = plain(images()), ours(images())
    # float64 through 18 convolutions and batch norms.
    torch.testing.assert_close(our_logits, logits, rtol=1e-9, atol=1e-9)
    loss_of(logits).backward()
    loss_of(our_logits).backward()
    gradients = dict(ours.named_parameters())
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(
            gradients[key].grad, parameter.grad, rtol=1e-8, atol=1e-8, msg=key
        )


def test_attention_residuals_are_among_the_equal():
    assert {"attnres", "block_attnres"} <= set(EQUAL)


@pytest.mark.parametrize("residual", [*EQUAL, "scaled"])
def test_a_trained_residual_changes_the_network(residual):
    plain = exact("add")
    ours = exact(residual, twin=plain)
    for stage in ours.stages:
        trained(stage.residual)
    assert (ours(images()) - plain(images())).abs().max() > 1e-4


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("residual", EQUAL)
def test_one_image_alone_starts_equal_under_stochastic_depth_too(residual, seed):
    # A dropped branch leaves the mean, so each sample has its own factor: the batch norm of a
    # single sample takes it out, and the hand-off multiplies by the number of sources left.
    plain = exact("add", drop_path_rate=0.7)
    ours = exact(residual, twin=plain, drop_path_rate=0.7)
    logits = []
    for model in (plain, ours):
        torch.manual_seed(seed)
        logits.append(model(images(batch=1)))
    # float64 through 18 convolutions and batch norms.
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-9)
    assert (logits[0] - plain.eval()(images(batch=1))).abs().max() > 1e-6


@pytest.mark.parametrize("residual", ["add", "block_attnres"])
def test_a_stage_halves_the_resolution_and_sets_the_width(residual):
    model = build("resnet20", residual=residual)
    seen = []
    for stage in model.stages:
        stage.branches[-1].register_forward_hook(lambda *a: seen.append(a[-1].shape))
    features = model.forward_features(example("resnet20"))
    assert seen == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    assert features.shape == (2, 64, 8, 8)
    assert model.forward_head(features, pre_logits=True).shape == (2, 64)


@pytest.mark.parametrize(
    ("name", "width"), [("resnet_tiny", 512), ("resnet_small", 512), ("resnet_base", 2048)]
)
def test_an_imagenet_network_ends_at_a_thirty_second_of_the_image(name, width):
    features = on_meta(name).forward_features(example(name, device="meta"))
    assert features.shape == (2, width, 7, 7)


@pytest.mark.parametrize(("widths", "stride"), [((4, 4), 1), ((4, 4), 2), ((4, 6), 1), ((4, 6), 2)])
def test_the_shortcut_is_linear(widths, stride):
    shortcut = linear_shortcut(*widths, stride).double()
    x, y = images()[:, :1].expand(-1, 4, -1, -1).unbind(0)[:2]
    x, y = x[None], y[None]
    # A handful of roundings at unit scale.
    torch.testing.assert_close(
        shortcut(2 * x - 3 * y), 2 * shortcut(x) - 3 * shortcut(y), rtol=0.0, atol=1e-12
    )
    assert shortcut(x).shape == (1, widths[1], 16 // stride, 16 // stride)


def test_a_shortcut_that_changes_no_shape_is_the_identity():
    x = images()
    assert torch.equal(linear_shortcut(3, 3, 1)(x), x)
    assert sum(p.numel() for p in linear_shortcut(3, 3, 2).parameters()) == 0


@pytest.mark.parametrize("size", [8, 9, 15, 17, 31, 33])
@pytest.mark.parametrize("residual", ["add", "block_attnres"])
def test_odd_sizes_run(residual, size):
    model = build("resnet_nano", residual=residual, **DEPTHS).double().eval()
    logits = model(images(size))
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet_base"])
@pytest.mark.parametrize("size", [64, 97, 225])
def test_odd_sizes_run_through_the_imagenet_stem(name, size):
    assert on_meta(name)(torch.empty(2, 3, size, size, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8,)}, "must name the same number of stages"),
        ({"widths": (), "depths": ()}, "must name the same number of stages"),
        ({"depths": (2, 0)}, "each at least 1 deep"),
        ({"stem": "mnist"}, "stem must be .*got 'mnist'"),
        ({"residual": "ad"}, "no residual named 'ad'; did you mean 'add'"),
    ],
)
def test_a_bad_shape_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("resnet_nano", **options)
