"""A branch is known by what it declares, whatever its parts are called."""

import pytest
import torch
from archzoo.layers.lowrank import FixedRanks, reparametrize
from archzoo.layers.residual import DeepNorm, Delta, MuddFormer, Residual, Site
from archzoo.zoo.backbones.self_attention import SelfAttention
from archzoo.zoo.backbones.timm_vit import ScaledBranch
from archzoo.zoo.branch import output_weight_of, value_weights_of, views_of
from archzoo.zoo.trunk import Trunk
from timm.layers import LayerScale, Mlp, SwiGLU
from torch import Tensor, nn

WIDTH, GAIN = 4, 0.25


class OwnAttention(nn.Module):
    """An attention whose parts have names of a user's own, the output before the others."""

    views = ("query", "key", "value")

    def __init__(self) -> None:
        super().__init__()
        self.leave, self.look, self.take = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    @property
    def output_weight(self) -> Tensor:
        return self.leave.weight

    @property
    def value_projections(self) -> tuple[Tensor, ...]:
        return (self.take.weight,)


class Undeclared(OwnAttention):
    views = ()


def trunk(residual: type[Residual], *branches: nn.Module, kind: str = "mlp", **options) -> Trunk:
    sites = [Site(kind, block) for block in range(len(branches))]
    norms = [nn.LayerNorm(WIDTH) for _ in branches]
    return Trunk(residual(WIDTH, sites, **options), branches, norms, [0.0] * len(branches))


def scaled(*branches: nn.Module) -> dict[str, float]:
    """Return by how much a gain of `GAIN` changes each parameter of branches."""
    for branch in branches:
        for parameter in branch.parameters():
            nn.init.ones_(parameter)
    trunk(DeepNorm, *branches, beta=GAIN).apply_branch_gain()
    holder = nn.ModuleList(branches)
    return {name: p.unique().tolist()[0] for name, p in holder.named_parameters()}


def test_a_gain_scales_values_and_output_and_leaves_what_only_looks():
    found = scaled(OwnAttention(), nn.Sequential(nn.Identity(), OwnAttention()))
    for name, value in found.items():
        passed = name.endswith(("take.weight", "leave.weight"))
        assert value == (GAIN if passed else 1.0), name


def test_a_gain_of_a_joint_projection_scales_the_rows_of_the_values():
    attention = SelfAttention(WIDTH, 2)
    nn.init.ones_(attention.qkv.weight)
    nn.init.ones_(attention.proj.weight)
    trunk(DeepNorm, attention, beta=GAIN).apply_branch_gain()
    assert attention.qkv.weight[:, 0].tolist() == [1.0] * 2 * WIDTH + [GAIN] * WIDTH
    assert (attention.proj.weight == GAIN).all()


def test_a_branch_that_declares_nothing_is_scaled_whole_whatever_its_layers_are_called():
    branch = nn.Sequential()
    branch.add_module("qkv", nn.Linear(WIDTH, 3 * WIDTH))
    branch.add_module("proj", nn.Linear(3 * WIDTH, WIDTH))
    nn.init.ones_(branch[0].weight)
    nn.init.ones_(branch[1].weight)
    trunk(DeepNorm, branch, beta=GAIN).apply_branch_gain()
    assert (branch[0].weight == GAIN).all() and (branch[1].weight == GAIN).all()


def test_a_layer_of_two_branches_is_scaled_once():
    shared = nn.Linear(WIDTH, WIDTH)
    branches = nn.Sequential(shared, nn.ReLU(), shared), nn.Sequential(shared)
    assert set(scaled(*branches).values()) == {GAIN, 1.0}  # and 1 is the bias
    attention = OwnAttention()
    assert len(value_weights_of(nn.ModuleList([attention, attention]))) == 2


def test_a_gain_that_would_be_lost_in_a_product_of_factors_is_refused():
    model = nn.Sequential(SelfAttention(WIDTH, 2))
    reparametrize(model, FixedRanks(ranks={"0.qkv": 1}), ["0.qkv"])
    with pytest.raises(ValueError, match="neither a parameter nor rows of one; scale branches"):
        trunk(DeepNorm, model[0], beta=GAIN).apply_branch_gain()


def test_what_must_not_be_zero_is_the_declared_output_weight():
    good, bad = OwnAttention(), OwnAttention()
    nn.init.zeros_(good.take.weight)  # the last that is registered
    nn.init.zeros_(bad.leave.weight)
    trunk(Delta, good).check_branches()
    with pytest.raises(ValueError, match="branch at site 1 ends in a weight of zeros"):
        trunk(Delta, good, bad).check_branches()


@pytest.mark.parametrize("where", [0, 1], ids=["alone", "inside"])
@pytest.mark.parametrize(
    ("branch", "last"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), "2.weight"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()), "1.weight"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False)), "0.weight"),
        (Mlp(4, 8), "fc2.weight"),
        (SwiGLU(4, 8), "fc2.weight"),
        (nn.MultiheadAttention(4, 2), "out_proj.weight"),
        (SelfAttention(4, 2), "proj.weight"),
        (nn.Linear(4, 4), "weight"),
    ],
)
def test_by_default_the_output_weight_is_that_of_the_last_part_with_one(branch, last, where):
    branch = nn.Sequential(nn.Identity(), branch, nn.GELU()) if where else branch
    name = f"1.{last}" if where else last
    assert output_weight_of(branch) is dict(branch.named_parameters())[name]


def test_a_branch_without_weights_has_no_output_weight_and_takes_one_tensor():
    assert output_weight_of(nn.Sequential(nn.ReLU(), nn.Identity())) is None
    assert views_of(nn.Identity()) == ()
    trunk(Delta, nn.Identity()).check_branches()


def test_a_product_of_factors_that_is_zero_ends_a_branch_in_zeros():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    reparametrize(model, FixedRanks(ranks={"2": 1}), ["2"])
    trunk(Delta, model).check_branches()
    nn.init.zeros_(model[2].structure.left)
    with pytest.raises(ValueError, match="branch at site 0 ends in a weight of zeros"):
        trunk(Delta, model).check_branches()


def test_factors_around_an_activation_have_no_one_weight_and_hide_the_layer_before():
    class Pair(nn.Module):
        is_matrix = False

        @property
        def weight(self) -> Tensor:
            raise ValueError("no single matrix exists")

    first = nn.Linear(WIDTH, WIDTH)
    nn.init.zeros_(first.weight)
    assert output_weight_of(nn.Sequential(first, Pair())) is None


def test_a_layer_scale_of_zero_ends_a_branch_in_zeros():
    scale = LayerScale(WIDTH, init_values=0.5)
    branch = ScaledBranch(Mlp(WIDTH), scale)
    expected = 0.5 * branch.branch.fc2.weight
    torch.testing.assert_close(output_weight_of(branch), expected, rtol=0.0, atol=0.0)
    trunk(Delta, branch).check_branches()
    nn.init.zeros_(scale.gamma)
    with pytest.raises(ValueError, match="branch at site 0 ends in a weight of zeros"):
        trunk(Delta, branch).check_branches()


@pytest.mark.parametrize("kind", ["attention", "short_attention"])
def test_an_attention_takes_views_where_it_declares_them_and_is_refused_where_not(kind):
    branches = OwnAttention(), OwnAttention()
    assert list(trunk(MuddFormer, *branches, kind=kind).norms[1]) == list(OwnAttention.views)
    with pytest.raises(ValueError, match=r"site 1 the views .* but Undeclared takes one tensor"):
        trunk(MuddFormer, OwnAttention(), Undeclared(), kind=kind)
