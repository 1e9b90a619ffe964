"""Every path of a delta write gives the outputs and gradients of its definition."""

import pytest
import torch
from archzoo.layers.residual import frozen_routing
from archzoo.layers.residual._fast import delta_kernel, permission
from archzoo.layers.residual.delta.write import compress, delta_write, delta_write_definition
from torch import Tensor

from ..stacks import SITES, WIDTH, branch_weights, build, normal, stack
from .delta_parts import (
    BITWISE,
    PATHS,
    TOL,
    D,
    M,
    every_m,
    every_mode,
    tokens,
)


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
