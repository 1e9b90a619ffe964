"""Gradients of every residual: of second order, asked for at once, and kept by hooks."""

import itertools

import pytest
import torch
from archzoo.layers._kernels import load_kernels
from archzoo.layers.residual import Context
from archzoo.layers.residual._fast import depth_kernel, depth_scores, growing_gradients
from archzoo.zoo.axes.residuals import residuals
from torch import Tensor

from ..stacks import SITES, WIDTH, branch_weights, build, look, normal, rms_norm, tensors, trained

NAMES = residuals.names()
VARIANTS = [(name, {}) for name in NAMES] + [
    ("block_attnres", {"block_size": 2}),
    ("attnres", {"competition": "sigmoid"}),
    ("attnres", {"heads": 5}),
    ("attnres", {"window": 2}),
    ("attnres", {"input_dependent_query": True}),
    ("block_attnres", {"block_size": 2, "additive": True}),
    ("delta", {"mode": "write_only"}),
    ("delta", {"mode": "erase_only"}),
    ("delta", {"parameterisation": "v1", "eps": 0.5}),  # at 1e-5 too sharp to difference
    ("delta_cc", {"parameterisation": "repo"}),
]
# Those with gradients written by hand; the others are plain PyTorch but for what they call.
BY_HAND = ["attnres", "block_attnres", "delta", "delta_cc", "gyro_attnres", "mobius", "orthogonal"]
KERNELS = [False, *([True] if load_kernels("attnres") else [])]
LAYOUTS = ["tokens", "transposed tokens", "images", "channels last"]
TOL = {"rtol": 1e-9, "atol": 1e-9}  # a thousandth of what the finite differences can see


def all_variants(**further: list):
    """Parametrise by every variant, with kernels and without where it has any, and by what else.

    Usual are the first of each further list, and of those with gradients by hand all of them.
    """
    cases = []
    for (name, options), kernels in itertools.product(VARIANTS, KERNELS):
        if name not in BY_HAND and not kernels and len(KERNELS) > 1:
            continue
        for values in itertools.product(*further.values()):
            first = values == tuple(found[0] for found in further.values())
            marks = [] if first or (name in BY_HAND and kernels) else [pytest.mark.slow]
            label = " ".join([name, *map(str, options.values()), *values])
            label += " with kernels" if kernels else ""
            cases.append(pytest.param(name, options, kernels, *values, marks=marks, id=label))
    names = ["name", "options", "kernels", *further]
    return pytest.mark.parametrize(names, cases, indirect=["kernels"])


@pytest.fixture(params=KERNELS, ids=lambda on: "kernels" if on else "plain")
def kernels(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)
    return request.param


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Lay tokens (…, B, T, D) out as `layout` says; images take the tokens as a row of pixels."""
    if layout == "transposed tokens":
        return x.transpose(-3, -2).contiguous().transpose(-3, -2)
    if layout == "tokens":
        return x
    image = x.unsqueeze(-2).movedim(-1, -3)
    return image.contiguous() if layout == "images" else image


def residual_for(name: str, options: dict, layout: str):
    dim = 1 if layout in ("images", "channels last") else -1
    # Smooth enough to be differenced.
    return trained(build(name, channel_dim=dim, **options), scale=0.2)


def run(residual, x: Tensor, weights: Tensor, layout: str, outputs=None) -> Tensor:
    """Close a stack of tanh(norm(read) W), or of given branch outputs, over tokens x laid out."""
    dim = residual.channel_dim

    def norm(t: Tensor) -> Tensor:
        return rms_norm(t.movedim(dim, -1)).movedim(-1, dim)

    state = residual.open(laid_out(x, layout))
    for site, weight in enumerate(weights):
        if residual.norm_position == "post":
            state = residual.handoff(state, norm)
        h = residual.read(state, site)
        normed, seen = look(residual, site, h, norm)
        if outputs is None:
            y = (seen.movedim(dim, -1) @ weight).tanh().movedim(-1, dim)
        else:
            y = laid_out(outputs[site], layout)
        state = residual.write(state, site, y, Context(h, normed))
    return residual.close(state)


def loss_of(residual, x, weights, layout="tokens", outputs=None) -> Tensor:
    out = run(residual, x, weights, layout, outputs)
    return (out.sin() * normal(*out.shape, seed=9)).sum()


def check_second_order(loss, inputs: list[Tensor]) -> None:
    """The gradient with a graph is the gradient, and its derivative the finite difference."""
    plain = torch.autograd.grad(loss(), inputs, materialize_grads=True)
    graph = torch.autograd.grad(loss(), inputs, create_graph=True, materialize_grads=True)
    for mine, theirs in zip(graph, plain, strict=True):
        torch.testing.assert_close(mine.detach(), theirs, **TOL)
    along = [normal(*p.shape, seed=20 + i) for i, p in enumerate(inputs)]
    probe = [normal(*p.shape, seed=40 + i) for i, p in enumerate(inputs)]
    total = sum((g * v).sum() for g, v in zip(graph, probe, strict=True))
    second = torch.autograd.grad(total, inputs, allow_unused=True)
    ours = sum(float((s * v).sum()) for s, v in zip(second, along, strict=True) if s is not None)
    step = 1e-4

    def at(times: int) -> float:
        """Return the probed gradient `times` steps along."""
        with torch.no_grad():
            for p, v in zip(inputs, along, strict=True):
                p.add_(v, alpha=times * step)
        moved = torch.autograd.grad(loss(), inputs, materialize_grads=True)
        with torch.no_grad():
            for p, v in zip(inputs, along, strict=True):
                p.sub_(v, alpha=times * step)
        return sum(float((g * v).sum()) for g, v in zip(moved, probe, strict=True))

    difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    # Of order step⁴ times a sixth derivative of the loss.
    assert abs(ours - difference) <= 1e-6 * max(abs(difference), 1.0)


@all_variants(layout=LAYOUTS)
def test_the_second_derivative_is_the_finite_difference(name, options, layout, kernels):
    residual = residual_for(name, options, layout)
    x, weights = normal(2, 3, WIDTH).requires_grad_(), branch_weights().requires_grad_()
    inputs = [x, weights, *residual.parameters()]
    check_second_order(lambda: loss_of(residual, x, weights, layout), inputs)


@pytest.mark.parametrize(
    "wanted", [*itertools.product([False, True], repeat=3)][1:], ids=lambda w: str(w)
)
@pytest.mark.parametrize("name", BY_HAND)
def test_it_is_so_for_every_choice_of_what_is_differentiated(name, wanted, kernels):
    residual = residual_for(name, {}, "tokens")
    groups = [[normal(2, 3, WIDTH)], [branch_weights()], [*residual.parameters()]]
    for group, wants in zip(groups, wanted, strict=True):
        for tensor in group:
            tensor.requires_grad_(wants)
    (x,), (weights,), _ = groups
    inputs = [t for group in groups for t in group if t.requires_grad]
    if inputs:  # the Möbius residual has no parameters
        check_second_order(lambda: loss_of(residual, x, weights), inputs)


@pytest.mark.parametrize("name", BY_HAND)
def test_it_is_so_where_one_leaf_is_the_stream_and_every_branch_output(name, kernels):
    residual = residual_for(name, {}, "tokens")
    x = normal(2, 3, WIDTH).requires_grad_()
    weights = branch_weights()

    def loss() -> Tensor:
        return loss_of(residual, x, weights, outputs=[x] * len(SITES))

    check_second_order(loss, [x, *residual.parameters()])


@pytest.mark.parametrize("name", BY_HAND)
def test_it_is_so_where_sources_are_made_of_each_other(name, kernels):
    # A gradient that followed what lies above the inputs would count the shared part twice.
    residual = residual_for(name, {}, "tokens")
    x, weights = normal(2, 3, WIDTH).requires_grad_(), branch_weights()

    def loss() -> Tensor:
        shared = x.tanh()
        return loss_of(residual, shared, weights, outputs=[shared * (i / 6) for i in range(6)])

    check_second_order(loss, [x])


# A gradient that is handed out is never written again.


def histories(residual, x: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return a loss and every tensor with a gradient that the stack passes on its way to it."""
    state, seen = residual.open(x), [x]
    for site, weight in enumerate(weights):
        if residual.norm_position == "post":
            state = residual.handoff(state, rms_norm)
        h = residual.read(state, site)
        normed, c = look(residual, site, h, rms_norm)
        y = (c @ weight).tanh()
        state = residual.write(state, site, y, Context(h, normed))
        seen += [*tensors(h), y, *tensors(state)]
    seen.append(residual.close(state))
    kept = {id(t): t for t in seen if t.is_floating_point() and t.requires_grad}
    return seen[-1].square().sum(), [*kept.values()]


def start(name: str, options: dict):
    residual = trained(build(name, **options))
    return residual, normal(2, 3, WIDTH).requires_grad_(), branch_weights()


@all_variants()
def test_gradients_asked_for_at_once_are_those_asked_for_one_at_a_time(name, options, kernels):
    residual, x, weights = start(name, options)
    loss, seen = histories(residual, x, weights)
    options = {"retain_graph": True, "allow_unused": True}
    together = torch.autograd.grad(loss, seen, **options)
    for tensor, gradient in zip(seen, together, strict=True):
        (alone,) = torch.autograd.grad(loss, tensor, **options)
        assert (alone is None) == (gradient is None)
        if alone is not None:
            torch.testing.assert_close(gradient, alone, rtol=1e-12, atol=1e-12)


KEEPS = {
    "itself": lambda g: g,
    "a view": lambda g: g[..., 1:],
    "an alias": lambda g: g.detach(),
    "an array": lambda g: g.numpy(),
    "its memory": lambda g: g.untyped_storage(),
}


@all_variants(keep=[*KEEPS])
def test_what_a_hook_keeps_does_not_change(name, options, keep, kernels):
    residual, x, weights = start(name, options)
    loss, seen = histories(residual, x, weights)
    kept = []

    def hook(gradient: Tensor | None) -> None:
        if gradient is not None:  # that of a source which no later site reads
            held = KEEPS[keep](gradient)
            kept.append((held, held.tolist()))

    for tensor in seen:
        tensor.register_hook(hook)
        if tensor.is_leaf:
            tensor.register_post_accumulate_grad_hook(lambda leaf: hook(leaf.grad))
        else:
            tensor.retain_grad()
    loss.backward()
    assert len(kept) > 2 * len(SITES)
    assert all(held.tolist() == then for held, then in kept)


@pytest.mark.parametrize(("name", "options"), [("attnres", {}), ("block_attnres", {})], ids=str)
def test_a_backward_hook_of_a_branch_keeps_its_gradients(name, options, kernels):
    residual, x, weights = start(name, options)
    kept = []

    class Branch(torch.nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h * 2.0

    branch = Branch()
    branch.register_full_backward_hook(
        lambda module, given, got: kept.extend((g, g.clone()) for g in (*given, *got))
    )
    state = residual.open(x)
    for site in range(len(weights)):
        h = residual.read(state, site)
        state = residual.write(state, site, branch(h), Context(h, h))
    residual.close(state).square().sum().backward()
    assert len(kept) == 2 * len(SITES)
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize("name", ["attnres", "block_attnres"])
def test_a_gradient_that_nobody_sees_grows_in_place(name, kernels, monkeypatch):
    # Speed alone: with a torch that counts otherwise, every reader would copy, and this would say.
    answers = []

    def may_write(passed):
        answers.extend(growing_gradients.may_write(passed))
        return answers[-len(passed) :]

    for gradients in (depth_kernel, depth_scores):
        monkeypatch.setattr(gradients, "may_write", may_write)
    residual, x, weights = start(name, {})
    loss_of(residual, x, weights).backward()
    assert sum(answers) >= len(SITES)
