"""The laws of Deep Delta Learning, operator and mechanism, in float64."""

import math
import re

import pytest
import torch
from archzoo.layers._kernels import load_kernels
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Delta, Site, frozen_routing
from archzoo.layers.residual._fast import delta_kernel, permission
from archzoo.layers.residual.delta.write import compress, delta_write, delta_write_definition
from archzoo.zoo import create_model
from archzoo.zoo.backbones.self_attention import KeyValueCache
from archzoo.zoo.trunk import Trunk
from torch import Tensor, nn

from ..formulas.columns import Literal
from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, rms_norm, stack, trained

D, M = 7, 4
BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-13}  # some hundred roundings of float64 at unit scale
# A machine without a compiler has no kernels, and then there is one path less to test.
PATHS = ["plain", *(["kernel"] if load_kernels("delta") else [])]
MODES = ["full", "write_only", "erase_only"]
every_mode = pytest.mark.parametrize("mode", MODES)
every_m = pytest.mark.parametrize("m", [1, M])


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)
    return request.param


@pytest.fixture(params=["definition", *PATHS])
def write(request, monkeypatch):
    """The write by its definition and by every path."""
    if request.param == "plain":
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)
    return delta_write_definition if request.param == "definition" else delta_write


def tokens(m: int = M, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A state (2, 3, m, D), a branch output (2, 3, D), a gate in (0, 2) and a target (2, 3, m)."""
    gate = 2 * normal(2, 3, 1, seed=seed + 2).sigmoid()
    return normal(2, 3, m, D, seed=seed), normal(2, 3, D, seed=seed + 1), gate, normal(2, 3, m)


def assert_same(ours, theirs) -> None:
    """Compare lists of tensors to some thousand roundings of the largest entry of each."""
    for mine, their in zip(ours, theirs, strict=True):
        largest = their.detach().abs().max().item()
        torch.testing.assert_close(mine, their, rtol=0.0, atol=1e-12 * max(1.0, largest))


def unit(h: Tensor) -> Tensor:
    return h / h.norm(dim=-1, keepdim=True)


def readout(state: Tensor, h: Tensor) -> Tensor:
    """kᵀX (…, m)."""
    return torch.einsum("...d,...md->...m", unit(h), state)


def full(beta: float) -> Tensor:
    return torch.full((2, 3, 1), beta, dtype=torch.float64)


# The operator.


def test_a_closed_gate_leaves_the_state(write):
    x, h, _, v = tokens()
    torch.testing.assert_close(write(x, h, full(0.0), v), x, **BITWISE)


def test_beta_one_reads_back_what_it_wrote(write):
    x, h, _, v = tokens()
    torch.testing.assert_close(readout(write(x, h, full(1.0), v, eps=0.0), h), v, **TOL)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1.0])
def test_the_discrepancy_shrinks_by_one_minus_beta(write, eps):
    x, h, beta, v = tokens()
    # The guard makes k shorter than one, which weakens the gate by its square; r is read along k.
    square = h.square().sum(-1, keepdim=True)
    length = square / (square + eps**2)
    r, after = (length.sqrt() * readout(s, h) for s in (x, write(x, h, beta, v, eps=eps)))
    torch.testing.assert_close(after - v, (1 - beta * length) * (r - v), **TOL)


def test_what_is_orthogonal_to_the_direction_stays(write):
    x, h, beta, v = tokens()
    u = normal(2, 3, D, seed=9)
    u = u - (u * unit(h)).sum(-1, keepdim=True) * unit(h)
    torch.testing.assert_close(readout(write(x, h, beta, v), u), readout(x, u), **TOL)


def shortcut(write, beta: float) -> Tensor:
    """Return A (6, D, D) of six tokens, as what a write without a target does to the identity."""
    h = normal(6, D, seed=1)
    identity = torch.eye(D).double().expand(6, D, D).contiguous()
    gate = torch.full((6, 1), beta, dtype=torch.float64)
    return write(identity, h, gate, torch.zeros(6, D).double(), eps=0.0).mT


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.6, 2.0])
def test_the_shortcut_has_eigenvalue_one_minus_beta_once_and_else_one(write, beta):
    a = shortcut(write, beta)
    torch.testing.assert_close(a, a.mT, **TOL)
    expected = torch.ones(6, D).double()
    expected[:, 0] = 1 - beta
    torch.testing.assert_close(torch.linalg.eigvalsh(a), expected, **TOL)
    torch.testing.assert_close(torch.linalg.det(a), expected[:, 0], **TOL)
    norms = torch.linalg.matrix_norm(a, 2)
    torch.testing.assert_close(norms, torch.ones_like(norms), **TOL)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.6, 2.0])
def test_the_shortcut_is_orthogonal_at_zero_and_two_only_and_a_projector_at_zero_and_one(
    write, beta
):
    a, identity = shortcut(write, beta), torch.eye(D).double()
    defects = (a @ a.mT - identity).abs().amax((1, 2)), (a @ a - a).abs().amax((1, 2))
    for defect, holds in zip(defects, (beta in (0.0, 2.0), beta in (0.0, 1.0)), strict=True):
        assert (defect < 1e-13).all() if holds else (defect > 0.05).all()


def test_beta_two_without_a_target_is_a_reflection(write):
    x, h, _, v = tokens()
    once = write(x, h, full(2.0), torch.zeros_like(v), eps=0.0)
    torch.testing.assert_close(once.norm(dim=-1), x.norm(dim=-1), **TOL)
    twice = write(once, h, full(2.0), torch.zeros_like(v), eps=0.0)
    torch.testing.assert_close(twice, x, **TOL)
    assert (once - x).abs().max() > 1.0


def test_erasing_loses_the_norm_of_what_was_read(write):
    x, h, beta, v = tokens()
    erased = write(x, h, beta, v, mode="erase_only", eps=0.0)
    expected = x.square().sum((-1, -2)) - (beta * (2 - beta) * readout(x, h).square()).sum(-1)
    torch.testing.assert_close(erased.square().sum((-1, -2)), expected, rtol=0.0, atol=1e-12)


def test_the_norm_after_a_write_is_known_and_grows_by_beta_times_the_target_at_most(write):
    x, h, beta, v = tokens()
    r = readout(x, h)
    after = write(x, h, beta, v, eps=0.0).square().sum((-1, -2))
    change = ((1 - beta) * r + beta * v).square().sum(-1) - r.square().sum(-1)
    torch.testing.assert_close(after, x.square().sum((-1, -2)) + change, rtol=0.0, atol=1e-12)
    bound = x.norm(dim=(-1, -2)) + beta[..., 0] * v.norm(dim=-1)
    assert (after.sqrt() <= bound + 1e-13).all()


@every_mode
def test_a_write_changes_the_state_by_a_matrix_of_rank_one(write, mode):
    x, h, beta, v = tokens()
    change = write(x, h, beta, v, mode=mode) - x
    values = torch.linalg.svdvals(change)
    assert (values[..., 1] <= 1e-14 * values[..., 0].clamp(min=1)).all()
    assert (values[..., 0] > 0.01).all()


@every_mode
def test_columns_are_written_one_by_one_with_a_shared_direction_and_gate(write, mode):
    x, h, beta, v = tokens()
    alone = [
        write(x[..., j : j + 1, :].contiguous(), h, beta, v[..., j : j + 1], mode=mode)
        for j in range(M)
    ]
    torch.testing.assert_close(torch.cat(alone, -2), write(x, h, beta, v, mode=mode), **BITWISE)


@every_m
def test_the_sign_of_direction_and_target_together_does_not_matter(write, m):
    x, h, beta, v = tokens(m)
    torch.testing.assert_close(write(x, -h, beta, -v), write(x, h, beta, v), **BITWISE)


@pytest.mark.parametrize("factor", [1e-3, 0.7, 3.0, 1e3])
def test_the_size_of_a_branch_output_does_not_matter(write, factor):
    x, h, beta, v = tokens()
    ours = write(x, factor * h, beta, v, eps=0.0)
    torch.testing.assert_close(ours, write(x, h, beta, v, eps=0.0), **TOL)


def test_two_writes_of_one_target_are_one_with_the_combined_gate(write):
    x, h, beta, v = tokens()
    other = 2 * normal(2, 3, 1, seed=7).sigmoid()
    twice = write(write(x, h, beta, v, eps=0.0), h, other, v, eps=0.0)
    once = write(x, h, 1 - (1 - beta) * (1 - other), v, eps=0.0)
    torch.testing.assert_close(twice, once, **TOL)


def test_a_target_exists_that_makes_the_write_an_addition(write):
    x, h, beta, _ = tokens(1)
    v = readout(x, h) + h.norm(dim=-1, keepdim=True) / beta
    torch.testing.assert_close(write(x, h, beta, v, eps=0.0), x + h.unsqueeze(-2), **TOL)


def test_a_full_write_is_a_write_without_erasure_minus_what_was_read(write):
    x, h, beta, v = tokens()
    k = unit(h)
    difference = write(x, h, beta, v, eps=0.0) - write(x, h, beta, v, mode="write_only", eps=0.0)
    erased = -torch.einsum("...o,...d,...m->...md", beta, k, readout(x, h))
    torch.testing.assert_close(difference, erased, **TOL)
    only = write(x, h, beta, v, mode="erase_only", eps=0.0)
    torch.testing.assert_close(only, x + erased, **TOL)


def test_a_stack_of_writes_is_the_delta_rule_over_depth(write):
    length = 5
    h, v = normal(length, 2, 3, D, seed=1), normal(length, 2, 3, M, seed=2)
    beta = 2 * normal(length, 2, 3, 1, seed=3).sigmoid()
    x = normal(2, 3, M, D)
    s = x.mT  # the recurrence of DeltaNet, with S (D, m) and depth for time
    for k, target, gate in zip(unit(h), v, beta, strict=True):
        outer = gate[..., None] * k[..., :, None]
        s = (torch.eye(D).double() - outer * k[..., None, :]) @ s + outer * target[..., None, :]
    for step in range(length):
        x = write(x, h[step], beta[step], v[step], eps=0.0)
    torch.testing.assert_close(x.mT, s, **TOL)


def test_orthonormal_directions_at_beta_one_store_every_target(write):
    keys = torch.linalg.qr(normal(2, 3, D, D))[0].mT.contiguous()
    v = normal(5, 2, 3, M, seed=2)
    x = torch.zeros(2, 3, M, D).double()
    for step in range(5):
        x = write(x, keys[..., step, :].contiguous(), full(1.0), v[step], eps=0.0)
    torch.testing.assert_close(x, torch.einsum("btld,lbtm->btmd", keys[..., :5, :], v), **TOL)
    for step in range(5):
        torch.testing.assert_close(readout(x, keys[..., step, :]), v[step], **TOL)


def test_the_shortcut_of_a_diagonal_state_has_a_closed_form(write):
    lam, h = normal(2, 3, D, seed=4), normal(2, 3, D, seed=1)
    k, beta = unit(h), tokens()[2]
    x = torch.diag_embed(lam)
    after = write(x, h, beta, torch.zeros(2, 3, D).double(), eps=0.0).mT
    expected = x - beta[..., None] * lam[..., None, :] * k[..., :, None] * k[..., None, :]
    torch.testing.assert_close(after, expected, **TOL)


def outputs_and_gradients(function, inputs) -> list[Tensor]:
    inputs = [t.clone().requires_grad_() for t in inputs]
    out = function(*inputs)
    g = normal(*out.shape, seed=9)
    return [out.detach(), *torch.autograd.grad(out, inputs, g, materialize_grads=True)]


@every_m
@every_mode
def test_a_path_gives_the_outputs_and_gradients_of_the_definition(path, mode, m):
    ours = outputs_and_gradients(lambda *x: delta_write(*x, mode=mode), tokens(m))
    theirs = outputs_and_gradients(lambda *x: delta_write_definition(*x, mode=mode), tokens(m))
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, **TOL)


@every_m
def test_a_path_compresses_as_the_sum_over_columns_does(path, m):
    inputs = normal(2, 3, m, D), normal(m, D, seed=1)
    ours = outputs_and_gradients(compress, inputs)
    theirs = outputs_and_gradients(lambda x, w: torch.einsum("btmd,md->btd", x, w), inputs)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, **TOL)


@every_m
@every_mode
def test_the_gradient_of_a_write_is_its_gradient(path, mode, m):
    inputs = [t.requires_grad_() for t in tokens(m)]
    assert torch.autograd.gradcheck(lambda *x: delta_write(*x, mode=mode), inputs)


@every_m
def test_the_gradient_of_a_compression_is_its_gradient(path, m):
    inputs = normal(2, 3, m, D).requires_grad_(), normal(m, D, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(compress, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 333])
def test_the_number_of_threads_changes_no_bit(rows, dtype):
    inputs = normal(rows, M, D).to(dtype), normal(M, D, seed=1).to(dtype)
    x, h = inputs[0], normal(rows, D, seed=2).to(dtype)
    beta, v = normal(rows, 1, seed=3).to(dtype), normal(rows, M, seed=4).to(dtype)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([])
        for function, arguments in ((compress, inputs), (delta_write, (x, h, beta, v))):
            arguments = [t.clone().requires_grad_() for t in arguments]
            out = function(*arguments)
            g = normal(*out.shape, seed=9).to(dtype)
            found[-1] += [out.detach(), *torch.autograd.grad(out, arguments, g)]
    torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, **BITWISE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_out_in_float32(dtype):
    x, h, beta, v = (t.to(dtype) for t in tokens())
    exact = delta_write(*(t.float() for t in (x, h, beta, v)))
    ours = delta_write(x, h, beta, v)
    assert ours.dtype == dtype
    # The change and the sum are rounded once each.
    size = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.float(), exact, rtol=size, atol=size * x.abs().max().item())
    # ε² is below the smallest float16 number: the guard must not vanish.
    assert torch.equal(delta_write(x, torch.zeros_like(h), beta, v), x)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_at_a_zero_branch_the_gradient_of_the_direction_is_of_the_order_of_one_over_epsilon(
    write, eps
):
    x, h, beta, v = tokens()
    h = torch.zeros_like(h).requires_grad_()
    g = normal(*x.shape, seed=9)
    (gradient,) = torch.autograd.grad(write(x, h, beta, v, eps=eps), h, g)
    expected = torch.einsum("bto,btm,btmd->btd", beta, v, g) / eps
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0.0)


@every_mode
def test_with_frozen_routing_a_write_is_linear_in_the_state_and_the_branch(mode):
    inputs = [t.requires_grad_() for t in tokens()]
    with frozen_routing():
        out = delta_write(*inputs, mode=mode)
    g = normal(*out.shape, seed=9)
    gradients = torch.autograd.grad(out, inputs, g, materialize_grads=True)
    parts = [(t * gradient).sum() for t, gradient in zip(inputs, gradients, strict=True)]
    torch.testing.assert_close(parts[0] + parts[1], (out * g).sum(), rtol=1e-13, atol=1e-13)
    assert parts[2] == parts[3] == 0


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_with_frozen_routing_a_compressor_is_constant(channel_dim):
    x = normal(2, 3, M, D) if channel_dim == -1 else normal(2, M, D, 3, 2)
    inputs = [x.requires_grad_(), normal(M, D, seed=1).requires_grad_()]
    with frozen_routing():
        out = compress(*inputs, channel_dim)
    g = normal(*out.shape, seed=9)
    to_state, to_weight = torch.autograd.grad(out, inputs, g, materialize_grads=True)
    torch.testing.assert_close((inputs[0] * to_state).sum(), (out * g).sum(), rtol=1e-13, atol=0.0)
    assert not to_weight.any()


# The mechanism: every form against the paper's equations, on states (B, T, D, m).

FORMS = [
    {},
    {"value_channels": M},
    {"value_channels": 3, "cc_form": "repo"},
    {"value_channels": M, "cc_form": "repo", "expand": "convolution"},
    {"value_channels": M, "compress": "tokens"},
    {"value_channels": M, "compress": "tokens", "expand": "convolution"},
]
PARAMETERISATIONS = ["paper", "repo", "v1"]
VARIANTS = [
    *[{"parameterisation": p, **form} for p in PARAMETERISATIONS for form in FORMS],
    *[{"parameterisation": p, "gate_hidden": 3} for p in PARAMETERISATIONS],
    *[{"mode": mode, "value_channels": M} for mode in MODES[1:]],
    {"mode": "write_only", "parameterisation": "v1"},
    {"mode": "erase_only", "parameterisation": "repo", "gate_hidden": 3},
    {"frozen_beta": 1.7, "value_channels": M},
    {"frozen_beta": 0.0, "parameterisation": "repo"},
    {"initial_beta": 0.3, "eps": 0.1},
]
ALONG_TOKENS = [form for form in FORMS if {"convolution", "tokens"} & set(form.values())]
POINTWISE = [
    options for options in VARIANTS if not {"convolution", "tokens"} & set(options.values())
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)
TAPS = 4


@every_variant
def test_a_stack_is_what_the_equations_say(options, path):
    residual = trained(build("delta", **options))
    x, weights = normal(2, 6, WIDTH), branch_weights()
    parameters = list(residual.parameters())

    def with_gradients(run) -> list[Tensor]:
        inputs = [t.clone().requires_grad_() for t in (x, weights)]
        out = run(*inputs)
        g = normal(*out.shape, seed=9)
        return [out, *torch.autograd.grad(out, [*inputs, *parameters], g, materialize_grads=True)]

    ours = with_gradients(lambda *inputs: stack(residual, *inputs))
    theirs = with_gradients(Literal(residual, options).stack)
    assert_same(ours, theirs)


@every_variant
def test_evaluation_without_gradients_gives_the_same_features(options, path):
    residual = trained(build("delta", **options))
    with torch.no_grad():
        ours = stack(residual, normal(2, 6, WIDTH), branch_weights())
    expected = stack(residual, normal(2, 6, WIDTH), branch_weights()).detach()
    torch.testing.assert_close(ours, expected, **BITWISE)


@every_variant
def test_every_parameter_takes_part(options, monkeypatch):
    residual = trained(build("delta", **options))
    stack(residual, normal(2, 6, WIDTH), branch_weights()).square().sum().backward()
    for key, parameter in residual.named_parameters():
        # β = 0 never writes, so only what reads takes part.
        assert parameter.grad.abs().max() > 0 or options.get("frozen_beta") == 0.0, key


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_the_padded_convolution_and_read_vector_collapse_to_one_matrix(m):
    residual = trained(build("delta", value_channels=m, cc_form="repo"))
    weights, x = residual.channel_weights(), normal(2, 3, WIDTH, m)
    assert weights.shape == (4, m, WIDTH)
    literal = Literal(residual, {"cc_form": "repo", "value_channels": m})
    for block in range(4):
        collapsed = torch.einsum("btdm,md->btd", x, weights[block])
        torch.testing.assert_close(collapsed, literal.compress(x, block), **TOL)


def test_a_free_matrix_is_its_own_channel_weights():
    residual = trained(build("delta", value_channels=M))
    assert residual.channel_weights() is residual.columns


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_fresh_mechanism_reads_its_embedding_at_every_site(form):
    residual = build("delta", **form)
    x = normal(2, 6, WIDTH)
    state = residual.open(x)
    repeated = x.unsqueeze(-2).expand(2, 6, residual.value_channels, WIDTH)
    torch.testing.assert_close(state.columns, repeated, **BITWISE)
    for read in (*(residual.read(state, site) for site in range(6)), residual.close(state)):
        # A read vector of thirds was rounded to float32.
        torch.testing.assert_close(read, x, rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_token_reaches_the_taps_after_it_and_none_before(form, position):
    residual = trained(build("delta", **form))
    x = normal(2, 12, WIDTH)
    changed = x.clone()
    changed[:, position] += 1.0
    states = residual.open(x), residual.open(changed)
    reach = 0
    for stage, key in enumerate(("expand", "compress")):
        reach += TAPS - 1 if form.get(key) in ("convolution", "tokens") else 0
        if stage == 0:
            differences = states[1].columns - states[0].columns
        else:
            differences = residual.read(states[1], 0) - residual.read(states[0], 0)
        moved = differences.flatten(2).abs().amax((0, 2)) > 1e-9
        expected = [position <= t <= position + reach for t in range(12)]
        assert moved.tolist() == expected


def test_channel_compression_treats_tokens_one_by_one():
    residual = trained(build("delta", value_channels=M, cc_form="repo"))
    x, weights, order = normal(2, 6, WIDTH), branch_weights(), [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(
        stack(residual, x[:, order], weights), stack(residual, x, weights)[:, order], **TOL
    )


def perturbed(model: nn.Module) -> nn.Module:
    """Move every parameter, so that no law holds by a fresh value."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("prompt", range(1, TAPS + 2))
@pytest.mark.parametrize("form", FORMS, ids=str)
@torch.no_grad()
def test_cached_decoding_is_the_full_forward_after_any_prompt(form, prompt):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("gpt_nano", residual={"name": "delta", **form})
    model = perturbed(model.double().eval())
    ids = torch.randint(256, (2, 10), generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(64)
    pieces = ids.split([prompt, *[1] * (10 - prompt)], dim=1)
    logits = [model.forward_head(model.forward_features(piece, cache)) for piece in pieces]
    # Sums over the keys run in another order; float64, a few thousand roundings.
    torch.testing.assert_close(torch.cat(logits, 1), model(ids), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", POINTWISE, ids=str)
def test_images_are_tokens_with_the_channels_elsewhere(options):
    by_tokens = trained(build("delta", **options))
    by_images = trained(build("delta", channel_dim=1, **options))
    x, ys = normal(2, 4, 3, WIDTH), normal(len(SITES), 2, 4, 3, WIDTH, seed=1)
    g = normal(*x.shape, seed=9)
    expected = by_tokens.close(fill(by_tokens, x, ys))
    ours = by_images.close(fill(by_images, x.movedim(-1, 1), ys.movedim(-1, 2))).movedim(1, -1)
    assert_same([ours], [expected])
    theirs = torch.autograd.grad(expected, list(by_tokens.parameters()), g, materialize_grads=True)
    mine = torch.autograd.grad(ours, list(by_images.parameters()), g, materialize_grads=True)
    assert_same(mine, theirs)


# The gate.


def beta_of(residual: Delta, normed: Tensor) -> float:
    """Return the gate of the first site, read off an audit."""
    state = residual.open(torch.zeros_like(normed))
    with residual.audit() as records:
        residual.write(state, 0, torch.ones_like(normed), Context(normed, normed))
    return records[0]["beta"].item()


@pytest.mark.parametrize("hidden", [None, 3])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("beta", [0.05, 0.5, 1.0, 1.95])
def test_a_fresh_gate_is_at_its_initial_value_where_the_context_is_zero(
    beta, parameterisation, hidden
):
    residual = build(
        "delta", initial_beta=beta, parameterisation=parameterisation, gate_hidden=hidden
    )
    # The bias was rounded to float32.
    assert beta_of(residual, torch.zeros(1, 2, WIDTH).double()) == pytest.approx(beta, rel=1e-6)


def test_a_gate_lies_between_zero_and_two():
    residual = trained(build("delta"))
    along = residual.gate[0].detach().expand(1, 2, WIDTH)
    assert 0.0 < beta_of(residual, -3 * along) < 0.1
    assert 1.9 < beta_of(residual, 3 * along) < 2.0


def test_a_frozen_gate_has_no_parameters_and_ignores_the_context():
    residual = trained(build("delta", frozen_beta=1.3))
    assert residual.gate is residual.gate_bias is residual.gate_hidden is None
    for seed in range(3):
        beta = beta_of(residual, normal(1, 2, WIDTH, seed=seed))
        assert beta == pytest.approx(1.3, rel=1e-15)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_resetting_returns_to_the_start(options):
    fresh = build("delta", **options)
    residual = trained(build("delta", **options)).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        residual.reset_parameters()
    for ours, parameter in zip(residual.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours.double(), parameter)


def test_fresh_heads_are_small_normals():
    residual = build("delta", width=512, parameterisation="repo", gate_hidden=256)
    for name, fan_in in (("value", 512), ("gate_hidden", 512), ("gate", 256)):
        std = getattr(residual, name).std().item()
        # 1,536 normals and more give their deviation to 2 %; allow three of these.
        assert std == pytest.approx(0.5 * fan_in**-0.5, rel=0.06)
    assert residual.value_bias.abs().max() <= 512**-0.5
    assert residual.gate_bias.eq(0).all()


def test_only_the_matrices_of_a_head_are_decayed():
    options = {"value_channels": M, "compress": "tokens", "expand": "convolution"}
    residual = build("delta", parameterisation="v1", gate_hidden=3, **options)
    decayed = dict(residual.named_parameters()).keys() - decay_exclusions(residual)
    assert decayed == {"gate_hidden", "direction_in", "direction_out"}


# The audit.


def audited(residual: Delta, x: Tensor, ys: Tensor) -> list[dict[str, Tensor]]:
    with residual.audit() as records:
        fill(residual, x, ys)
    return records


@pytest.mark.parametrize("channel_dim", [-1, 1])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_an_audit_sees_the_discrepancy_shrink_by_one_minus_beta(
    parameterisation, beta, channel_dim
):
    residual = trained(
        build(
            "delta",
            frozen_beta=beta,
            value_channels=3,
            parameterisation=parameterisation,
            channel_dim=channel_dim,
            eps=0.0,
        )
    )
    shape = (2, 4, 3, WIDTH) if channel_dim == -1 else (2, WIDTH, 4, 3)
    records = audited(residual, normal(*shape), normal(len(SITES), *shape, seed=1))
    assert len(records) == len(SITES)
    for record in records:
        assert record["beta"].item() == pytest.approx(beta, abs=1e-15)
        expected = abs(1 - beta) * record["discrepancy_before"]
        torch.testing.assert_close(record["discrepancy_after"], expected, rtol=1e-12, atol=1e-13)
        assert record["discrepancy_before"] > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_an_audit_has_the_means_over_tokens(mode):
    residual = trained(build("delta", value_channels=3, mode=mode))
    x, y = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
    (record,) = audited(residual, x, y[None])
    state = residual.open(x)
    h = residual.read(state, 0)
    after = residual.write(state, 0, y, Context(h, h)).columns
    beta = 2 * torch.sigmoid(h @ residual.gate[0] + residual.gate_bias[0])
    target = 0.0 if mode == "erase_only" else h @ residual.value[0].T
    expected = {
        "beta": beta.mean(),
        "discrepancy_before": (readout(state.columns, y) - target).norm(dim=-1).mean(),
        "discrepancy_after": (readout(after, y) - target).norm(dim=-1).mean(),
        "branch_norm": y.norm(dim=-1).mean(),
    }
    assert record.keys() == expected.keys()
    for key, value in record.items():
        assert not value.requires_grad
        # ε² = 1e-10 beside a squared norm of about five.
        torch.testing.assert_close(value, expected[key].detach(), rtol=1e-9, atol=0.0)


def test_nothing_is_recorded_outside_an_audit():
    residual = build("delta")
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    records = audited(residual, x, ys)
    fill(residual, x, ys)
    assert len(records) == len(SITES)
    assert residual.records is None
    with pytest.raises(RuntimeError), residual.audit():
        raise RuntimeError
    assert residual.records is None


def test_of_two_audits_the_inner_one_collects():
    residual = build("delta")
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    with residual.audit() as outer:
        assert len(audited(residual, x, ys)) == len(SITES)
        assert outer == []
        fill(residual, x, ys)
    assert len(outer) == len(SITES)


def test_an_audit_changes_nothing():
    residual = trained(build("delta", value_channels=M))
    arguments = residual, normal(2, 3, WIDTH), branch_weights()
    with residual.audit():
        ours = stack(*arguments)
    torch.testing.assert_close(ours, stack(*arguments), **BITWISE)


# Sites and branches.


@every_variant
def test_a_dropped_branch_leaves_the_state(options, path):
    residual = trained(build("delta", **options))
    x, y = normal(3, 6, WIDTH), normal(3, 6, WIDTH, seed=1)
    state = residual.open(x)
    h = residual.read(state, 0)
    keep = torch.tensor([0.0, 2.0, 0.0]).double().view(3, 1, 1)
    after = residual.write(state, 0, y, Context(h, rms_norm(h), keep)).columns
    torch.testing.assert_close(after[::2], state.columns[::2], **BITWISE)
    kept = residual.write(state, 0, y, Context(h, rms_norm(h))).columns
    # A kept branch writes its change divided by the probability to be kept.
    change = 2 * (kept - state.columns)[1]
    torch.testing.assert_close(after[1] - state.columns[1], change, **TOL)


def test_blocks_may_be_numbered_from_anywhere():
    plain = [Site("mlp", block) for block in (0, 0, 1, 2)]
    gaps = [Site("mlp", block) for block in (3, 3, 7, 8)]
    x, weights = normal(2, 3, WIDTH), branch_weights(4)
    ours, expected = (
        stack(trained(build("delta", sites=sites, value_channels=M)), x, weights)
        for sites in (gaps, plain)
    )
    torch.testing.assert_close(ours, expected, **BITWISE)


def zero_ended() -> nn.Module:
    branch = nn.Sequential(nn.Linear(WIDTH, 3), nn.ReLU(), nn.Linear(3, WIDTH))
    nn.init.zeros_(branch[-1].weight)
    return branch


def test_a_branch_that_starts_as_zero_is_refused_by_name():
    sites = [Site("mlp", 0), Site("mlp", 1)]
    branches = [nn.Linear(WIDTH, WIDTH), zero_ended()]
    parts = branches, [nn.Identity(), nn.Identity()], [0.0, 0.0]
    Trunk(build("add", sites=sites), *parts).check_branches()
    with pytest.raises(ValueError, match="branch at site 1 ends in .* zeros, and Delta cannot"):
        Trunk(build("delta", sites=sites), *parts).check_branches()
    nn.init.normal_(branches[1][-1].weight, std=1e-4)
    Trunk(build("delta", sites=sites), *parts).check_branches()


@pytest.mark.parametrize("name", ["delta", "delta_cc"])
def test_a_model_whose_short_attention_starts_as_zero_is_refused(name):
    assert create_model("gpt_nano", residual="add", short_window=4)
    with pytest.raises(ValueError, match="branch at site 0 ends in .* zeros, and Delta cannot"):
        create_model("gpt_nano", residual=name, short_window=4)


def test_the_preset_is_four_columns_compressed_over_channels():
    preset, spelt = build("delta_cc"), build("delta", value_channels=4)
    assert preset.channel_weights().shape == (4, 4, WIDTH)
    assert {k: p.shape for k, p in preset.named_parameters()} == {
        k: p.shape for k, p in spelt.named_parameters()
    }


# Published totals: small and medium, for the baseline, m = 1, TC and CC without EC, TC and CC.

OPTIONS = [
    None,
    {},
    {"value_channels": 4, "compress": "tokens"},
    {"value_channels": 4, "compress": "channels"},
    {"value_channels": 4, "compress": "tokens", "expand": "convolution"},
    {"value_channels": 4, "compress": "channels", "expand": "convolution"},
]
TOTALS = {
    "gpt_124m": [123590400, 123627312, 123842476, 123722668, 123854764, 123734956],
    "gpt_353m": [353508352, 353606752, 354164052, 353856852, 354180436, 353873236],
}


@pytest.mark.parametrize(
    ("name", "options", "total"),
    [
        (name, options, total)
        for name, totals in TOTALS.items()
        for options, total in zip(OPTIONS, totals, strict=True)
    ],
)
def test_a_model_has_as_many_parameters_as_the_authors_release(name, options, total):
    released = {"name": "delta", "parameterisation": "repo", "cc_form": "repo"}
    with torch.device("meta"):
        model = create_model(name, residual="add" if options is None else released | options)
    assert sum(p.numel() for p in model.parameters()) == total


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_channels": 0}, "value_channels must be at least 1, got 0"),
        ({"gate_hidden": 0}, "gate_hidden must be at least 1 or None, got 0"),
        ({"initial_beta": 0.0}, "initial_beta must lie inside (0, 2), got 0.0"),
        ({"initial_beta": 2.0}, "initial_beta must lie inside (0, 2), got 2.0"),
        ({"frozen_beta": -0.1}, "frozen_beta must lie in [0, 2], got -0.1"),
        ({"frozen_beta": 2.1}, "frozen_beta must lie in [0, 2], got 2.1"),
        ({"parameterisation": "v1", "mode": "erase_only"}, "mode='erase_only' has no use for the"),
        ({"initial_beta": math.nan}, "initial_beta must lie inside (0, 2), got nan"),
    ],
    ids=str,
)
def test_a_bad_number_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build("delta", **options)


@pytest.mark.parametrize("name", ["expand", "compress", "cc_form", "parameterisation", "mode"])
def test_an_unknown_choice_is_refused_by_the_class_itself(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'other'"):
        Delta(WIDTH, SITES, **{name: "other"})


@pytest.mark.parametrize("form", ALONG_TOKENS, ids=str)
def test_a_look_along_the_tokens_of_images_is_refused(form):
    with pytest.raises(ValueError, match="look along tokens, which images do not have"):
        build("delta", channel_dim=1, **form)
    with pytest.raises(ValueError, match=r"looks along tokens \(B, T, D\), got shape \(2, 3, 4, 5"):
        build("delta", **form).open(normal(2, 3, 4, WIDTH))
    # One column is neither made nor read by a convolution.
    assert build("delta", channel_dim=1, **(form | {"value_channels": 1})).value_channels == 1


def test_the_kernel_runs_where_it_is_built(monkeypatch):
    if "kernel" not in PATHS:
        pytest.skip("no kernels on this machine")
    asked = []
    monkeypatch.setattr(
        delta_kernel,
        "kernel_reads",
        lambda *a: asked.append(permission.kernel_reads(*a)) or asked[-1],
    )
    stack(build("delta", value_channels=M), normal(2, 3, WIDTH), branch_weights())
    assert len(asked) == 2 * len(SITES) + 1 and all(asked)
