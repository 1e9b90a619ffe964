"""The fast forms of Attention Residuals equal their definition, and variants their equations."""

import itertools

import pytest
import torch
from archzoo.layers._kernels import load_kernels
from archzoo.layers.residual import Context, Site, depth_mix, two_phase_mix
from archzoo.layers.residual._fast import look_ahead
from archzoo.layers.residual._fast.depth_kernel import fused_mix
from archzoo.layers.residual._fast.depth_scores import combine
from torch import Tensor

from ..stacks import SITES, WIDTH, branch_weights, build, normal, rms_norm, stack, states, trained

TOL = {"rtol": 1e-12, "atol": 1e-12}  # some thousand roundings of float64
BITWISE = {"rtol": 0.0, "atol": 0.0}
# A machine without a compiler has no kernels, and then there is one path less to test.
PATHS = ["plain", *(["kernel"] if load_kernels("attnres") else [])]
VARIANTS = [
    ("attnres", {}),
    *[("block_attnres", {"block_size": size}) for size in (1, 2, 3, 4, 5, 6, 100)],
    ("attnres", {"key_gain": False}),
    ("attnres", {"competition": "sigmoid"}),
    ("attnres", {"heads": 5}),
    ("attnres", {"window": 2}),
    ("attnres", {"input_dependent_query": True}),
    ("attnres", {"additive": True}),
    ("attnres", {"shared_query": True}),
    ("block_attnres", {"block_size": 2, "additive": True}),
    ("block_attnres", {"block_size": 2, "window": 1}),
    ("block_attnres", {"block_size": 4, "heads": 5, "competition": "sigmoid"}),
    ("block_attnres", {"block_size": 2, "input_dependent_query": True, "shared_query": True}),
]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)
    return request.param


def defined(monkeypatch) -> None:
    """Leave only the definition: no look ahead, no hand-written gradient."""
    monkeypatch.setattr(look_ahead, "records_references", lambda *tensors: False)


def outputs_and_gradients(residual, x, weights, keep=None) -> list[Tensor]:
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    out = stack(residual, x, weights, keep=keep)
    inputs = [x, weights, *residual.parameters()]
    g = normal(*out.shape, seed=9)
    return [out.detach(), *torch.autograd.grad(out, inputs, g, materialize_grads=True)]


def some_dropped() -> Tensor:
    keep = torch.tensor([[0.0, 2.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0], [0.0, 0.0], [2.0, 0.0]])
    return keep.double()[:, :, None, None]


@pytest.mark.parametrize("dropped", [False, True])
@every_variant
def test_a_path_gives_the_outputs_and_gradients_of_the_definition(
    name, options, dropped, path, monkeypatch
):
    residual = trained(build(name, **options))
    arguments = residual, normal(2, 3, WIDTH), branch_weights(), some_dropped() if dropped else None
    ours = outputs_and_gradients(*arguments)
    defined(monkeypatch)
    for mine, theirs in zip(ours, outputs_and_gradients(*arguments), strict=True):
        torch.testing.assert_close(mine, theirs, **TOL)


@every_variant
def test_images_take_the_gradients_of_the_definition_too(name, options, monkeypatch):
    residual = trained(build(name, channel_dim=1, **options))

    def run() -> list[Tensor]:
        x = normal(2, WIDTH, 3, 2).requires_grad_()
        ys = normal(len(SITES), 2, WIDTH, 3, 2, seed=1).requires_grad_()
        state = residual.open(x)
        for site, y in enumerate(ys):
            h = residual.read(state, site)
            state = residual.write(state, site, y * h.mean(1, keepdim=True), Context(h, h))
        out = residual.close(state)
        inputs = [x, ys, *residual.parameters()]
        g = normal(*out.shape, seed=9)
        return [out, *torch.autograd.grad(out, inputs, g, materialize_grads=True)]

    ours = run()
    defined(monkeypatch)
    for mine, theirs in zip(ours, run(), strict=True):
        torch.testing.assert_close(mine, theirs, **TOL)


@pytest.mark.parametrize("grad", [True, False])
@every_variant
def test_a_state_without_its_cache_reads_and_goes_on_as_the_definition_does(
    name, options, grad, path, monkeypatch
):
    residual = trained(build(name, **options))
    x, ys, g = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1), normal(2, 3, WIDTH)

    def run(emptied: int | None) -> list[Tensor]:
        """Write every output, and forget what is cached before one of the sites."""
        leaf = x.clone().requires_grad_()
        state, reads = residual.open(leaf), []
        for site, y in enumerate(ys):
            if site == emptied:
                state = state._replace(cache=None)
            reads.append(residual.read(state, site))
            state = residual.write(state, site, y, Context(reads[-1], reads[-1]))
        reads.append(residual.close(state._replace(cache=None) if emptied == len(ys) else state))
        if not grad:
            return reads
        inputs = [leaf, *residual.parameters()]
        total = sum((h * g).sin().sum() for h in reads)
        return [*reads, *torch.autograd.grad(total, inputs, materialize_grads=True)]

    with torch.set_grad_enabled(grad):
        found = [run(emptied) for emptied in (None, *range(len(SITES) + 1))]
        defined(monkeypatch)
        expected = run(None)
    for one in found:
        for mine, theirs in zip(one, expected, strict=True):
            torch.testing.assert_close(mine, theirs, **TOL)


def test_a_state_holds_the_sources_of_the_equation_and_one_cache(path):
    residual = trained(build("block_attnres", block_size=2))
    *_, state = states(residual, normal(2, 3, WIDTH), branch_weights())
    assert state._fields == ("values", "alive", "stream", "cache")
    assert len(state.values) == 4 and state.alive == (None,) * 4 and state.stream is None


@pytest.mark.parametrize("dropped", [False, True])
@every_variant
def test_evaluation_without_gradients_gives_the_same_features(name, options, dropped, path):
    residual = trained(build(name, **options))
    keep = some_dropped() if dropped else None
    arguments = residual, normal(2, 3, WIDTH), branch_weights(), rms_norm, keep
    with torch.no_grad():
        phases = stack(*arguments)
    torch.testing.assert_close(phases, stack(*arguments).detach(), **TOL)


@pytest.mark.parametrize("size", range(1, 8))
def test_two_phases_are_one_for_every_block_size(size, path):
    residual = trained(build("block_attnres", block_size=size))
    x, weights = normal(2, 3, WIDTH), branch_weights()
    with torch.no_grad():
        phased = [residual.read(s, i) for i, s in enumerate(states(residual, x, weights))]
    whole = [residual.read(s, i) for i, s in enumerate(states(residual, x, weights))]
    for mine, theirs in zip(phased, whole, strict=True):
        torch.testing.assert_close(mine, theirs, **TOL)


def test_the_two_phases_of_the_operator_are_one_softmax():
    sources, later, queries = (
        normal(4, 2, 3, WIDTH),
        normal(3, 2, 3, WIDTH, seed=1),
        normal(3, WIDTH),
    )

    def logits(values, query):
        r = (values.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return r * (values * query).sum(-1, keepdim=True)

    mixed = two_phase_mix(
        list(sources),
        torch.stack([logits(sources, query) for query in queries]),
        later,
        torch.stack([logits(p, query) for p, query in zip(later, queries, strict=True)]),
    )
    for h, p, query in zip(mixed, later, queries, strict=True):
        torch.testing.assert_close(h, depth_mix([*sources, p], query), **TOL)


@every_variant
def test_the_gradient_of_every_branch_output_is_the_one_of_the_definition(
    name, options, path, monkeypatch
):
    # A gradient that autograd shares between two readers must not be written to by either.
    residual, x = trained(build(name, **options)), normal(2, 3, WIDTH)

    def gradients():
        ys = [y.requires_grad_() for y in normal(len(SITES), 2, 3, WIDTH, seed=1)]
        state, passed = residual.open(x), []
        for site, y in enumerate(ys):
            h = residual.read(state, site)
            passed.append(y * 1.0)
            passed[-1].retain_grad()
            state = residual.write(state, site, passed[-1], Context(h, h))
        residual.close(state).square().sum().backward()
        # A source that a window dropped has no reader: no gradient, or zeros, are both right.
        return [torch.zeros_like(y) if y.grad is None else y.grad for y in passed]

    ours = gradients()
    defined(monkeypatch)
    for mine, theirs in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(mine, theirs, **TOL)


@pytest.mark.parametrize("size", [1, 3])
def test_two_futures_of_one_state_add_their_gradients(size, path, monkeypatch):
    residual = trained(build("block_attnres", block_size=size))
    weights = branch_weights()

    def gradient():
        x = normal(2, 3, WIDTH).requires_grad_()
        past = list(itertools.islice(states(residual, x, weights), 3))[-1]
        total = residual.close(past).sum()
        for sign in (1.0, -0.5):
            state = past
            for site in (2, 3):
                h = residual.read(state, site)
                state = residual.write(state, site, (sign * h).sin(), Context(h, h))
            total = total + (sign * residual.close(state)).square().sum()
        return torch.autograd.grad(total, x)[0]

    ours = gradient()
    defined(monkeypatch)
    torch.testing.assert_close(ours, gradient(), **TOL)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.skipif("kernel" not in PATHS, reason="no compiler")
def test_the_kernels_gradient_is_the_gradient(masked):
    sources, query = normal(3, 2, 2, 4), normal(4, seed=1)
    alive = [None, torch.tensor([True, False]).view(2, 1, 1) if masked else None, None]

    def function(query, *sources):
        mixed, passed = fused_mix(sources, query, 0.1, alive)
        return mixed, *(2.0 * v for v in passed)

    inputs = [t.clone().requires_grad_() for t in (query, *sources)]
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("channel_dim", [-1, 1])
@pytest.mark.parametrize("heads", [1, 2])
def test_the_gradient_of_a_combination_is_the_gradient(heads, channel_dim):
    shape = (2, 3, 4) if channel_dim == -1 else (2, 4, 3)
    small = (2, 3, heads) if channel_dim == -1 else (2, heads, 3)
    sources, weights = normal(3, *shape), normal(3, *small, seed=1)

    def function(weights, *sources):
        mixed, passed = combine(weights, sources, channel_dim)
        return mixed, *(2.0 * v for v in passed)

    inputs = [t.clone().requires_grad_() for t in (weights, *sources)]
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.skipif("kernel" not in PATHS, reason="no compiler")
def test_the_number_of_threads_changes_no_bit():
    residual = trained(build("block_attnres", width=16))
    arguments = residual, normal(4, 50, 16), branch_weights(width=16)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(outputs_and_gradients(*arguments)[3:])  # those of the mechanism itself
    torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, **BITWISE)


# What is kept for the backward pass.


def kept(residual, length: int, width: int) -> int:
    """Count the bytes that autograd keeps for a stack of tanh(norm(read) W)."""
    weights = branch_weights(length, width).float().requires_grad_()
    x = normal(8, 64, width).float().requires_grad_()
    given = {t.untyped_storage().data_ptr() for t in (x, weights, *residual.parameters())}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        stack(residual, x, weights)
    return sum(storages.values())


@pytest.mark.parametrize("length", [24, 48])
@pytest.mark.parametrize(
    ("name", "options"),
    [("attnres", {}), ("block_attnres", {}), ("block_attnres", {"num_blocks": 8})],
)
def test_it_keeps_little_more_than_a_plain_residual(name, options, length, path):
    sites = [Site(kind, block) for block in range(length // 2) for kind in ("attention", "mlp")]
    plain = kept(build("add", sites=sites, width=128).float(), length, 128)
    assert kept(build(name, sites=sites, width=128, **options).float(), length, 128) <= 1.35 * plain


# Variants, each against its equation written out for a stack of outputs v_0, …, v_l.


def history(residual, count: int):
    """Return random outputs and the read that follows them."""
    x, ys = normal(2, 3, WIDTH), list(normal(len(SITES), 2, 3, WIDTH, seed=1)[:count])
    state = residual.open(x)
    for site, y in enumerate(ys):
        h = residual.read(state, site)
        state = residual.write(state, site, y, Context(h, h))
    return [x, *ys], residual.read(state, count) if count < len(SITES) else residual.close(state)


def rms_keys(values: list[Tensor]) -> Tensor:
    v = torch.stack(values)
    return v * (v.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def queries(residual) -> Tensor:
    return (residual.query * residual.gain).detach()


@pytest.mark.parametrize("count", range(1, 7))
def test_sigmoid_sources_do_not_compete(count, path):
    residual = trained(build("attnres", competition="sigmoid"))
    values, h = history(residual, count)
    gates = (rms_keys(values) @ queries(residual)[count]).sigmoid()
    torch.testing.assert_close(h, (gates.unsqueeze(-1) * torch.stack(values)).sum(0), **TOL)


@pytest.mark.parametrize("count", range(1, 7))
def test_heads_have_a_softmax_over_depth_each(count, path):
    residual = trained(build("attnres", width=6, heads=3))
    x, ys = normal(2, 3, 6), normal(len(SITES), 2, 3, 6, seed=1)[:count]
    state = residual.open(x)
    for site, y in enumerate(ys):
        state = residual.write(state, site, y, Context(x, x))
    h = residual.read(state, count) if count < len(SITES) else residual.close(state)
    values = [x, *ys]
    logits = (rms_keys(values) * queries(residual)[count]).unflatten(-1, (3, 2)).sum(-1)
    mixed = logits.softmax(0).unsqueeze(-1) * torch.stack(values).unflatten(-1, (3, 2))
    torch.testing.assert_close(h, mixed.sum(0).flatten(-2), **TOL)


@pytest.mark.parametrize("window", [1, 2, 5, 6])
@pytest.mark.parametrize("count", range(1, 7))
def test_a_window_keeps_the_embedding_and_the_newest_outputs(count, window, path):
    residual = trained(build("attnres", window=window))
    values, h = history(residual, count)
    seen = [values[0], *values[1:][-window:]]
    torch.testing.assert_close(h, depth_mix(seen, queries(residual)[count]), **TOL)


@pytest.mark.parametrize("count", range(1, 7))
def test_an_additive_read_adds_the_mixture_to_the_plain_stream(count, path):
    residual = trained(build("attnres", additive=True))
    values, h = history(residual, count)
    mixture = depth_mix(values, queries(residual)[count]) if count < len(SITES) else 0.0
    torch.testing.assert_close(h, torch.stack(values).sum(0) + mixture, **TOL)


@pytest.mark.parametrize("count", range(1, 6))
def test_an_additive_read_leaves_the_open_block_out_of_the_mixture(count, path):
    residual = trained(build("block_attnres", additive=True, block_size=2))
    values, h = history(residual, count)
    blocks = [torch.stack(values[1 + 2 * i : 3 + 2 * i]).sum(0) for i in range(count // 2)]
    mixture = depth_mix([values[0], *blocks], queries(residual)[count])
    torch.testing.assert_close(h, torch.stack(values).sum(0) + mixture, **TOL)


@pytest.mark.parametrize("count", range(1, 7))
def test_sites_of_one_kind_share_a_query_and_the_readout_has_its_own(count, path):
    residual = trained(build("attnres", shared_query=True))
    assert residual.query.shape == (3, WIDTH)
    values, h = history(residual, count)
    row = 2 if count == len(SITES) else count % 2  # attention, mlp, attention, …
    torch.testing.assert_close(h, depth_mix(values, queries(residual)[row]), **TOL)


@pytest.mark.parametrize("count", range(1, 7))
def test_an_input_dependent_query_looks_at_the_newest_source(count, path):
    residual = trained(build("attnres", input_dependent_query=True))
    values, h = history(residual, count)
    query = residual.query[count] + rms_keys(values)[-1] @ residual.query_weight[count].T
    logits = (rms_keys(values) * (query * residual.gain[count])).sum(-1, keepdim=True)
    torch.testing.assert_close(h, (logits.softmax(0) * torch.stack(values)).sum(0), **TOL)


@pytest.mark.parametrize(
    ("options", "equal"),
    [
        ({"window": 5}, False),
        ({"window": 6}, True),
        ({"window": 2, "block_size": 3}, True),
        ({"additive": True}, True),
        ({"additive": True, "block_size": 2}, False),
        ({"heads": 5}, True),
        ({"competition": "sigmoid"}, True),
    ],
    ids=str,
)
def test_only_what_leaves_something_out_starts_apart_from_add(options, equal):
    residual = build("block_attnres", **{"block_size": 1, **options})
    assert residual.equals_prenorm_at_init is equal
    x, weights = normal(2, 3, WIDTH), branch_weights()
    ours = rms_norm(stack(residual, x, weights))
    apart = (ours - rms_norm(stack(build("add"), x, weights))).abs().max()
    assert apart < 1e-12 if equal else apart > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": 0}, "heads=0 does not divide width=5"),
        ({"heads": 2}, "heads=2 does not divide width=5"),
        ({"window": 0}, "window must be at least 1 or None, got 0"),
        ({"competition": "sparsemax"}, "competition must be .*'sparsemax'"),
    ],
)
def test_a_variant_out_of_range_is_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        build("attnres", **options)
