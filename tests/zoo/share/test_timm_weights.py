"""A ViT starts from timm's weights: equal outputs where the residual starts equal to `add`."""

import pytest
import timm
import torch
from archzoo.zoo import create_model, model_info
from archzoo.zoo.share.timm_weights import TIMM_NAMES

NAME = "vit_tiny"
SMALL = {"img_size": 32, "num_classes": 5}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of timm's model, as its hub would give them."""
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(TIMM_NAMES[NAME], num_classes=7)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    place = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(model.state_dict(), place)
    return place


@pytest.fixture(autouse=True)
def from_file(file, monkeypatch):
    """Let timm's builder read that file instead of its hub, and tell what it builds."""
    made, create = [], timm.create_model

    def build(name, **options):
        overlay = {"file": str(file), "num_classes": 7, "url": "", "hf_hub_id": None}
        made.append(create(name, **options, pretrained_cfg_overlay=overlay))
        return made[-1]

    monkeypatch.setattr(timm, "create_model", build)
    return made


@pytest.mark.parametrize("name", ["vit_tiny", "vit_tiny_block_attnres"])
def test_the_outputs_are_those_of_timm(name, from_file):
    model = create_model(name, pretrained="timm", **SMALL).eval()
    x = torch.randn(2, 3, 32, 32)
    theirs = from_file[0].eval()
    torch.testing.assert_close(
        model.forward_features(x), theirs.forward_features(x), rtol=1e-3, atol=1e-3
    )
    assert model.recipe == (name, SMALL)
    assert model.head.out_features == 5
    facts = theirs.pretrained_cfg
    assert (model.default_cfg["mean"], model.default_cfg["std"]) == (facts["mean"], facts["std"])


def test_other_channels_and_registers_take_what_fits(from_file):
    model = create_model(NAME, pretrained="timm", **SMALL, in_chans=1, registers=2)
    theirs = from_file[0]
    torch.testing.assert_close(model.patch_embed.proj.weight, theirs.patch_embed.proj.weight)
    torch.testing.assert_close(
        model.prefix[:, :1], theirs.cls_token + theirs.pos_embed[:, :1], rtol=0.0, atol=0.0
    )
    assert model.prefix.shape[1] == 3


@pytest.mark.parametrize("head", [None, "linear"])
def test_a_model_of_the_hyperboloid_takes_what_its_flat_twin_takes(head):
    flat = create_model(NAME, pretrained="timm", **SMALL)
    model = create_model(NAME, pretrained="timm", geometry="lorentz", head=head, **SMALL)
    theirs, ours = flat.state_dict(), model.state_dict()
    # Other classes than those of the file have a fresh head in each.
    kept = [key for key in theirs if not key.startswith("head.")]
    assert len(kept) == len(theirs) - 2
    for key in kept:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0.0, atol=0.0)
    assert all(not p.any() for key, p in ours.items() if key.endswith("time_weight"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp_nano", {}, "timm has no weights for mlp_nano; pretrained='timm' is for vit_tiny"),
        (NAME, {"width": 96}, "of timm has another .* than vit_tiny with .*'width': 96"),
        (NAME, {"qk_norm": True}, "of timm has another trunk.branches.0.k_norm.bias than"),
        (NAME, {"geometry": "poincare"}, "of timm has another .* than vit_tiny with .*'poincare'"),
        (NAME, {"residual": "delta"}, "residual='delta' does not start equal to 'add'"),
        (NAME, {"lowrank": "low_rank"}, "lowrank would replace weights; leave it out"),
    ],
)
def test_what_timm_has_no_weights_for_is_refused(name, options, message):
    small = SMALL if "img_size" in model_info(name).options else {}
    with pytest.raises(ValueError, match=message):
        create_model(name, pretrained="timm", **small, **options)


def test_timms_own_refusal_is_told(monkeypatch):
    def build(name, **options):
        raise RuntimeError("No pretrained weights exist")

    monkeypatch.setattr(timm, "create_model", build)
    with pytest.raises(ValueError, match="timm cannot give vit_tiny_patch16_224 its weights: No"):
        create_model(NAME, pretrained="timm")
