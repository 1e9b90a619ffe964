"""Laws of states, reads, shapes and starts."""

import torch
from archzoo.layers.residual import Context, Residual
from torch import Tensor
from torch.nn import functional as F

from ..stacks import (
    SITES,
    WIDTH,
    branch_weights,
    build,
    fill,
    layer_norm,
    normal,
    rms_norm,
    stack,
    states,
    tensors,
    trained,
)
from .given import BITWISE, BOTH, TOL, Make, embedding, outputs, views

__all__ = [
    "a_fresh_state_is_read_and_closed_as_the_embedding",
    "a_read_and_a_close_are_pure",
    "a_token_sees_no_later_token_and_no_other_sample",
    "images_and_tokens_are_treated_alike_in_every_layout",
    "it_starts_equal_to_add_if_it_says_so_and_only_then",
    "no_verb_changes_what_it_is_given",
    "reads_and_the_close_keep_the_shape",
    "resetting_returns_to_the_start",
]


# States, reads and shapes.


def a_fresh_state_is_read_and_closed_as_the_embedding(make: Make) -> None:
    # The scale is free: a norm follows either way, and a sum of n streams is n times as long.
    residual, x = make(), embedding()
    for seen in (residual.read(residual.open(x), 0), residual.close(residual.open(x))):
        torch.testing.assert_close(rms_norm(seen), rms_norm(x), **TOL)


def no_verb_changes_what_it_is_given(make: Make) -> None:
    residual, given = trained(make()), []

    def watch(*values) -> None:
        given.extend((t, t.clone(), t._version) for t in tensors(values))

    keep = torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1)
    x = embedding()
    state = residual.open(x)
    watch(x)
    for site, y in enumerate(outputs()):
        assert isinstance(state, tuple)
        h = residual.read(state, site)
        watch(state, h, y, keep)
        state = residual.write(state, site, y, Context(h, h, keep))
    watch(state)
    watch(residual.close(state))
    residual.handoff(state, torch.neg)
    for tensor, copy, version in given:
        assert tensor._version == version
        assert torch.equal(tensor, copy)


def a_read_and_a_close_are_pure(make: Make) -> None:
    residual = trained(make())
    for site, state in enumerate(states(residual, embedding(), branch_weights())):
        again = [
            residual.read(state, min(site, len(SITES) - 1)),
            residual.read(state, min(site, len(SITES) - 1)),
        ]
        torch.testing.assert_close(*again, **BITWISE)
    torch.testing.assert_close(residual.close(state), residual.close(state), **BITWISE)


def reads_and_the_close_keep_the_shape(make: Make) -> None:
    for channel_dim, shape in [(-1, (2, 3, WIDTH)), (1, (2, WIDTH, 4, 3))]:
        residual = trained(make(channel_dim=channel_dim))
        state = residual.open(normal(*shape))
        for site in range(len(SITES)):
            h = residual.read(state, site)
            assert all(view.shape == shape for view in views(h))
            state = residual.write(state, site, normal(*shape, seed=site), Context(h, h))
        assert residual.close(state).shape == shape
        assert residual.close(residual.handoff(state, lambda x: x[:1])).shape == (1, *shape[1:])


def images_and_tokens_are_treated_alike_in_every_layout(make: Make) -> None:
    tokens, images = trained(make()), trained(make(channel_dim=1))
    x, ys = normal(2, 4, 3, WIDTH), normal(len(SITES), 2, 4, 3, WIDTH, seed=1)
    expected = tokens.close(fill(tokens, x, ys)).movedim(-1, 1)
    first, rest = x.movedim(-1, 1), ys.movedim(-1, 2)  # channels last in memory
    for layout in (torch.clone, torch.Tensor.contiguous, _every_second):
        found = images.close(fill(images, layout(first), [layout(y) for y in rest]))
        torch.testing.assert_close(found, expected, **BOTH)
    strided = tokens.close(fill(tokens, _every_second(x), [_every_second(y) for y in ys]))
    torch.testing.assert_close(strided.movedim(-1, 1), expected, **BOTH)


def _every_second(x: Tensor) -> Tensor:
    """The same numbers, where no two axes can be viewed as one."""
    return F.pad(x, (0, x.shape[-1]))[..., : x.shape[-1]].mT.contiguous().mT


def a_token_sees_no_later_token_and_no_other_sample(make: Make) -> None:
    residual = trained(make())
    x, ys = normal(2, 6, WIDTH), normal(len(SITES), 2, 6, WIDTH, seed=1)
    expected = residual.close(fill(residual, x, ys))
    other = normal(*ys.shape, seed=2)
    later = torch.zeros(2, 6, 1, dtype=torch.bool)
    later[:, 4:] = later[1] = True
    found = residual.close(fill(residual, torch.where(later, other[0], x), [*ys]))
    torch.testing.assert_close(found[0, :4], expected[0, :4], **BITWISE)
    found = residual.close(fill(residual, x, torch.where(later, other, ys)))
    torch.testing.assert_close(found[0, :4], expected[0, :4], **BITWISE)


# Starts.


def it_starts_equal_to_add_if_it_says_so_and_only_then(make: Make) -> None:
    for norm in (rms_norm, layer_norm):
        plain, ours = (_network(one, norm) for one in (build("add"), make()))
        if make().equals_prenorm_at_init:
            torch.testing.assert_close(ours, plain, **TOL)
        else:
            assert (ours[0] - plain[0]).abs().max() > 1e-3


def _network(residual: Residual, norm) -> list[Tensor]:
    """Logits, and the gradients of everything but the mechanism's own parameters."""
    parts = normal(4, WIDTH, seed=3), branch_weights(), normal(WIDTH, 6, seed=4)
    embed, weights, head = (part.clone().requires_grad_() for part in parts)
    x = normal(2, 3, 4, seed=2)
    logits = norm(stack(residual, x @ embed, weights, norm)) @ head
    loss = (logits * normal(*logits.shape, seed=9)).sum()
    return [logits.detach(), *torch.autograd.grad(loss, [embed, weights, head])]


def resetting_returns_to_the_start(make: Make) -> None:
    residual = make()
    if not any(True for _ in residual.parameters()):
        return
    trained(residual)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        residual.float().reset_parameters()
    fresh = make().float()
    for (key, ours), start in zip(residual.named_parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(ours, start, **BITWISE, msg=lambda m, k=key: f"{k}: {m}")
