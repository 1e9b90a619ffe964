"""What rearranges axes does what its pattern says, and every tool that traces follows it."""

import inspect
import warnings

import pytest
import torch
from archzoo.layers.lipschitz import SpaceToDepth
from archzoo.zoo.backbones.self_attention import SelfAttention, join_heads, split_heads
from einops import rearrange
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

# A module, an input of it, and another of a batch that was not seen in tracing.
MODULES = {
    "space to depth": (SpaceToDepth(2), torch.randn(2, 3, 5, 4), torch.randn(5, 3, 5, 4)),
    "attention": (SelfAttention(12, 3), torch.randn(2, 5, 12), torch.randn(4, 5, 12)),
}


def compiled(module: nn.Module, x: Tensor):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def exported(module: nn.Module, x: Tensor):
    batch = {0: torch.export.Dim("batch")}
    return torch.export.export(module, (x,), dynamic_shapes=(batch,)).module()


def jit_traced(module: nn.Module, x: Tensor):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")  # deprecated as such
        return torch.jit.trace(module, x)


def proxied(module: nn.Module, x: Tensor):
    return make_fx(module, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)


def fx_traced(module: nn.Module, x: Tensor):
    # torch.fx asks that what is optional be given: a stand-in is never None.
    wanted = inspect.signature(module.forward).parameters.values()
    given = {p.name: p.default for p in wanted if p.default is not p.empty}
    return torch.fx.symbolic_trace(module, concrete_args=given)


FOLLOWERS = {
    "torch.compile": compiled,
    "torch.export": exported,
    "torch.jit.trace": jit_traced,
    "torch.fx": fx_traced,
    "make_fx": proxied,
}


@pytest.mark.compiles
@pytest.mark.parametrize("follow", FOLLOWERS)
@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_what_traces_follows_it_at_a_batch_that_it_did_not_see(name, follow):
    module, x, other = MODULES[name]
    followed = FOLLOWERS[follow](module, x)
    torch.testing.assert_close(followed(other), module(other), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_heads_are_split_and_joined_as_their_patterns_say(batch):
    x, of = torch.randn(batch, 5, 3 * 12), {"three": 3, "h": 2}
    parts = split_heads(x, 2)
    assert torch.equal(parts, rearrange(x, "b t (three h d) -> three b h t d", **of))
    assert torch.equal(join_heads(parts[1]), x[..., 12:24])


@pytest.mark.parametrize("batch", [(), (0,), (1,), (3, 2)])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_a_square_of_pixels_becomes_channels_row_by_row(batch, layout):
    x = torch.randn(*batch, 3, 6, 4)
    x = x if layout == "contiguous" else x.mT.contiguous().mT
    y = SpaceToDepth(2)(x)
    assert y.shape == (*batch, 12, 3, 2)
    for channel in range(3):
        for row in range(2):
            for column in range(2):
                place = 4 * channel + 2 * row + column
                assert torch.equal(y[..., place, :, :], x[..., channel, row::2, column::2])
