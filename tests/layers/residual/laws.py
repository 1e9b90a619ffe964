"""What every residual mechanism promises to every backbone, as functions that raise where it fails.

A law takes `make`, a partial of `stacks.build`: `make(**options)` is a fresh mechanism in float64.
`test_contract` asks every mechanism of the registry, and `test_mutations` shows what is noticed.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator

import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Residual
from archzoo.zoo.axes.residuals import residuals
from torch import Tensor
from torch.nn import functional as F

from .stacks import (
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

Make = functools.partial[Residual]
Law = Callable[[Make], None]

BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
# Relative, too: with trained gates a rewritten state reaches some thousands.
BOTH = {"rtol": 1e-12, "atol": 1e-12}


def embedding() -> Tensor:
    """x (2, 3, D), anew for each law: a mechanism under test may change it."""
    return normal(2, 3, WIDTH)


def outputs() -> Tensor:
    """What six branches may have computed (6, 2, 3, D)."""
    return normal(len(SITES), 2, 3, WIDTH, seed=1)


def takes(make: Make, option: str) -> bool:
    """Whether the builder of a mechanism has an option."""
    (mechanism,) = make.args
    builder = residuals[mechanism].build if isinstance(mechanism, str) else mechanism
    return option in inspect.signature(builder).parameters


def views(read) -> list[Tensor]:
    """The tensors of a read."""
    return [read] if isinstance(read, Tensor) else [*read.values()]


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


# Sources: the embedding and the branch outputs.


def reads_and_the_close_see_every_source_if_it_says_so_and_only_then(make: Make) -> None:
    residual = trained(make())
    seen = [all(_reached(out, sources)) for out, sources in _outputs(residual)]
    assert all(seen) == residual.sees_every_source, seen


def weight_decay_shuts_no_source_out(make: Make) -> None:
    before, after = make(), make()
    kept = decay_exclusions(after)
    with torch.no_grad():
        for key, parameter in after.named_parameters():
            if key not in kept:
                parameter.zero_()
    pairs = zip(_outputs(before), _outputs(after), strict=True)
    for (one, sources), (two, others) in pairs:
        reached = zip(_reached(one, sources), _reached(two, others), strict=True)
        assert not any(once and not still for once, still in reached)


def a_window_of_as_many_branches_as_there_are_is_none_and_one_less_is_one(make: Make) -> None:
    if not takes(make, "window"):
        return
    size = {"block_size": 1} if takes(make, "block_size") else {}
    closed = {
        window: stack(trained(make(window=window, **size)), embedding(), branch_weights())
        for window in (len(SITES) - 1, len(SITES), 10 * len(SITES))
    }
    torch.testing.assert_close(closed[len(SITES)], closed[10 * len(SITES)], **TOL)
    assert (closed[len(SITES) - 1] - closed[len(SITES)]).abs().max() > 1e-6


def _outputs(residual: Residual) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """What every site and the close return, as one number, with the sources until then."""
    x, *ys = sources = [t.clone().requires_grad_() for t in (embedding(), *outputs())]
    state = residual.open(x)
    for site, y in enumerate(ys):
        h = residual.read(state, site)
        yield _number(h), sources[: site + 1]
        state = residual.write(state, site, y, Context(h, h))
    yield _number(residual.close(state)), sources


def _number(read) -> Tensor:
    """A sum that no symmetry sends to a constant."""
    return torch.stack(
        [(v * normal(*v.shape, seed=i)).sum() for i, v in enumerate(views(read))]
    ).sum()


def _reached(out: Tensor, inputs: list[Tensor]) -> list[bool]:
    """Whether an output has a gradient at each of the inputs."""
    if not out.requires_grad:
        return [False] * len(inputs)
    found = torch.autograd.grad(out, inputs, retain_graph=True, allow_unused=True)
    return [g is not None and bool(g.abs().max() > 0) for g in found]


# Parameters.


def every_entry_of_a_parameter_takes_part(make: Make) -> None:
    acts: dict[str, Tensor] = {}
    for seed in range(3):  # a hidden unit may rest for one draw
        residual = trained(make(), seed)
        loss = stack(residual, normal(2, 6, WIDTH), branch_weights()).square().sum()
        for key, parameter in residual.named_parameters():
            found = _gradient(loss, parameter).ne(0)
            acts[key] = acts.get(key, False) | found
    for key, entries in acts.items():
        # The first site has one source, so there may be nothing that its own row decides.
        by_site = len(entries) in (len(SITES), len(SITES) + 1)
        assert entries[by_site:].all() and entries.any(), key


def _gradient(out: Tensor, parameter: Tensor) -> Tensor:
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(out, parameter, **options)[0]


def parameters_act_in_the_order_of_the_sites(make: Make) -> None:
    residual = trained(make())
    parameters = dict(residual.named_parameters())
    if not parameters:
        return
    first: dict[str, list[int | None]] = {key: [None] * len(p) for key, p in parameters.items()}
    for place, (out, _) in enumerate(_outputs(residual)):
        if not out.requires_grad:
            continue
        for key, parameter in parameters.items():
            for row, part in enumerate(_gradient(out, parameter)):
                if first[key][row] is None and part.abs().max() > 0:
                    first[key][row] = place
    families: dict[str, list[list[int | None]]] = {}
    for key, rows in first.items():  # `gate.0`, `gate.1`, … of a list are one after another
        families.setdefault(re.sub(r"\.\d+", ".*", key), []).append(rows)
    for key, members in families.items():
        acting = [place for rows in members for place in rows if place is not None]
        assert acting == sorted(acting), (key, acting)


# Drop path.


def a_keep_mask_of_ones_is_no_mask(make: Make) -> None:
    residual = trained(make())
    ones = torch.ones(len(SITES), 2, 1, 1, dtype=torch.float64)
    closed = [stack(residual, embedding(), branch_weights(), keep=keep) for keep in (ones, None)]
    torch.testing.assert_close(*closed, **BITWISE)


def what_a_dropped_branch_computed_does_not_matter(make: Make) -> None:
    residual = trained(make())
    x, ys = normal(3, 2, WIDTH), normal(len(SITES), 3, 2, WIDTH, seed=1)
    keep = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    keep = torch.cat([keep, keep.flip(0).roll(1, 1)]).repeat(3, 1, 1, 1)
    noise = torch.where(keep == 0, normal(*ys.shape, seed=2), 0.0)
    expected = residual.close(fill(residual, x, ys, keep))
    torch.testing.assert_close(
        residual.close(fill(residual, x, ys + noise, keep)), expected, **BITWISE
    )
    assert not torch.equal(residual.close(fill(residual, x, ys + noise)), expected)


def a_branch_that_was_kept_weighs_as_much_more_as_its_mask(make: Make) -> None:
    residual = trained(make())
    keep = torch.ones(len(SITES), 2, 1, 1, dtype=torch.float64)
    plain, heavy = (
        residual.close(fill(residual, embedding(), outputs(), factor * keep)) for factor in (1, 2)
    )
    assert ((plain - heavy).abs().amax((1, 2)) > 1e-6).all()


def a_sample_never_sees_the_keep_mask_of_another(make: Make) -> None:
    residual, weights = trained(make()), branch_weights()
    g = torch.Generator().manual_seed(0)
    keep = torch.randint(0, 2, (len(SITES), 2, 1, 1), generator=g).double() * 2
    assert keep[:, 0].ne(keep[:, 1]).any()
    together = stack(residual, embedding(), weights, keep=keep)
    for i in range(2):
        alone = stack(residual, embedding()[i : i + 1], weights, keep=keep[:, i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, **TOL)


LAWS: list[Law] = [
    a_fresh_state_is_read_and_closed_as_the_embedding,
    no_verb_changes_what_it_is_given,
    a_read_and_a_close_are_pure,
    reads_and_the_close_keep_the_shape,
    images_and_tokens_are_treated_alike_in_every_layout,
    a_token_sees_no_later_token_and_no_other_sample,
    it_starts_equal_to_add_if_it_says_so_and_only_then,
    resetting_returns_to_the_start,
    reads_and_the_close_see_every_source_if_it_says_so_and_only_then,
    weight_decay_shuts_no_source_out,
    a_window_of_as_many_branches_as_there_are_is_none_and_one_less_is_one,
    every_entry_of_a_parameter_takes_part,
    parameters_act_in_the_order_of_the_sites,
    a_keep_mask_of_ones_is_no_mask,
    what_a_dropped_branch_computed_does_not_matter,
    a_branch_that_was_kept_weighs_as_much_more_as_its_mask,
    a_sample_never_sees_the_keep_mask_of_another,
]
