"""LDLᵀ maps: the inequality for any parameters, the inverse, limits, a control that must fail."""

import pytest
import torch
from archzoo.layers.lipschitz import LMIBlock, contraction, lmi_matrix, uncontract
from archzoo.layers.lipschitz.ldlt import chain
from archzoo.layers.lipschitz.ldlt.chain import Free, feed_forward_block, residual_block
from archzoo.layers.lipschitz.ldlt.contraction import bounded, solve_right
from archzoo.layers.lipschitz.ldlt.joint import joint_block, joint_inverse
from archzoo.layers.lipschitz.ldlt.skip import given_skip_block, skip_block
from torch.autograd import gradcheck, gradgradcheck

from ..lipschitz_cases import FORMS, draw, normals, smallest, worst_pattern

forms = pytest.mark.parametrize("form", FORMS)
DEPTHS = [(form, n) for form in FORMS for n in (1, 2, 3) if form != "joint" or n == 2]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The contraction.


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3)])
def test_what_a_contraction_leaves_is_the_inverse_of_n_transposed_n(shape):
    q, n = contraction(normals(generator(0), *shape))
    left = torch.eye(shape[0], dtype=torch.float64) - q @ q.mT
    # float64: a Cholesky factor and a solve of at most seven rows.
    torch.testing.assert_close(left, torch.linalg.inv(n.mT @ n), rtol=1e-12, atol=1e-12)
    assert (left - torch.linalg.inv(n @ n.mT)).abs().max() > 1e-3


@pytest.mark.parametrize("gain", [0.1, 1.0, 30.0])
def test_a_contraction_is_undone(gain):
    k = gain * normals(generator(1), 5, 4)
    again, _ = uncontract(contraction(k)[0])
    # The map flattens with the square of the gain.
    torch.testing.assert_close(again, k, rtol=1e-14 * max(1, gain**2) * 100, atol=1e-12)


def test_a_matrix_of_norm_one_is_no_contraction():
    with pytest.raises(ValueError, match="A / L has norm 1.*not strictly certified"):
        uncontract(torch.eye(3, dtype=torch.float64), "A / L")


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_the_backward_pass_of_a_contraction_is_right_twice(shape):
    k = normals(generator(2), *shape).requires_grad_()
    assert gradcheck(contraction, (k,))
    assert gradcheck(bounded, (k,))
    assert gradgradcheck(contraction, (k,))
    z = torch.complex(normals(generator(3), 2, *shape), normals(generator(4), 2, *shape))
    assert gradcheck(contraction, (z.requires_grad_(),))


@pytest.mark.parametrize("rows", [5, 140, 270])  # whole, in strips, with a factor in halves
def test_a_contraction_is_the_plain_formula_with_its_gradients(rows):
    k = (normals(generator(5), rows, 7) / rows**0.5).requires_grad_()
    n = torch.linalg.cholesky(torch.eye(rows, dtype=torch.float64) + k @ k.mT)
    plain = torch.linalg.solve_triangular(n, k, upper=False)
    ours, factor = contraction(k)
    torch.testing.assert_close((ours, factor), (plain, n), rtol=1e-12, atol=1e-13)
    weights = normals(generator(6), rows, 7), normals(generator(7), rows, rows)
    grads = [
        torch.autograd.grad((a * weights[0]).sum() + (b * weights[1]).sum(), k)[0]
        for a, b in ((plain, n), (ours, factor))
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


# The inequality.


@forms
def test_every_block_satisfies_the_inequality(form):
    g = generator(10)
    lowest = 0.0
    for trial in range(240):  # 1,440 over the six forms
        gain = (0.1, 1.0, 10.0, 100.0, 1000.0)[trial % 5]
        lipschitz = (0.5, 1.0, 3.0)[trial % 3]
        block = FORMS[form][0](draw(form, g, 1 + trial % 8, gain), lipschitz)
        lowest = min(lowest, smallest(block, lipschitz))
    assert lowest >= -1e-10  # float64


@pytest.mark.parametrize("name", ["identity", "zero", "orthogonal", "half", "boundary"])
def test_a_given_skip_satisfies_the_inequality_up_to_its_bound(name):
    g = generator(11)
    lowest = 0.0
    for trial in range(60):
        lipschitz, gain = (0.5, 1.0, 3.0)[trial % 3], (0.1, 1.0, 100.0)[trial % 3]
        eye = torch.eye(5, dtype=torch.float64)
        skip = {
            "identity": eye,
            "zero": 0 * eye,
            "orthogonal": torch.linalg.qr(normals(g, 5, 5))[0],
            "half": 0.5 * eye,
            "boundary": (m := normals(g, 4, 5)) / torch.linalg.matrix_norm(m, 2),
        }[name] * lipschitz
        values, vectors = torch.linalg.eigh(
            torch.eye(len(skip), dtype=torch.float64) - skip @ skip.mT / lipschitz**2
        )
        room = vectors * values.clamp_min(0).sqrt() @ vectors.mT
        block = given_skip_block(
            skip,
            room,
            gain * normals(g, 6, 5),
            gain * normals(g, len(skip), 6),
            normals(g, 6).exp(),
            lipschitz,
        )
        lowest = min(lowest, smallest(block, lipschitz))
    assert lowest >= -1e-10  # float64


def test_the_wrong_triangular_side_fails_the_same_law(monkeypatch):
    g = generator(12)
    frees = [draw("chain_first", g, 1 + trial % 3, 3.0) for trial in range(30)]
    right = min(smallest(residual_block(free, 1.0), 1.0) for free in frees)

    def swapped(x, n):
        return torch.linalg.solve_triangular(n, x, upper=False, left=False)

    monkeypatch.setattr(chain, "solve_right", swapped)
    wrong = min(smallest(residual_block(free, 1.0), 1.0) for free in frees)
    assert right >= -1e-10
    assert wrong < -1e-2
    # At width 1 both sides are the same number, so a test of that width would see nothing.
    narrow = [draw("chain_first", g, 2, 3.0, widest=1) for _ in range(10)]
    assert min(smallest(residual_block(free, 1.0), 1.0) for free in narrow) >= -1e-10


def test_two_inner_layers_satisfy_it_iff_one_matrix_of_their_weights_has_norm_one():
    g = generator(28)
    for trial in range(30):
        lipschitz, (d, d1, d2, out) = (0.5, 1.0, 3.0)[trial % 3], (3 + trial % 2, 4, 2, 5)
        s1, s2 = (0.5 * normals(g, d1)).exp(), (0.5 * normals(g, d2)).exp()
        m = normals(g, out + d1, d + d2)
        m = m / torch.linalg.matrix_norm(m, 2)

        def block(m, size, d=d, s1=s1, s2=s2, lipschitz=lipschitz, out=out):
            (a, b), (c1, c2) = (strip.split([d, len(s2)], 1) for strip in (size * m).split(
                [out, len(s1)]))  # fmt: skip
            inner = 2**0.5 * lipschitz * c1 / s1[:, None], 2 * c2.mT / s2[:, None] * s1
            return LMIBlock(lipschitz * a, inner, (None, 2**0.5 * b * s2), (s1**2, s2**2))

        # float64: eigenvalues of at most eleven rows.
        assert abs(smallest(block(m, 1.0), lipschitz)) < 1e-12
        assert smallest(block(m, 0.99), lipschitz) > 1e-4
        assert smallest(block(m, 1.01), lipschitz) < -1e-4


def test_a_wrong_factor_inside_the_contraction_fails_it_too(monkeypatch):
    free = draw("feed_forward", generator(13), 2, 3.0)

    def wrong(k):
        q, n = contraction(k)
        return q, torch.linalg.cholesky(n.mT @ n)

    monkeypatch.setattr(chain, "contraction", wrong)
    assert smallest(feed_forward_block(free, 1.0), 1.0) < -1e-2


# The inverse.


@forms
def test_a_certified_block_comes_back_from_its_parameters(form):
    g = generator(14)
    for trial in range(40):
        lipschitz = (0.5, 1.0, 3.0)[trial % 3]
        to_block, to_free = FORMS[form]
        block = to_block(draw(form, g, 1 + trial % 4, 0.7), lipschitz)
        again = to_block(to_free(block, lipschitz), lipschitz)
        for one, other in zip(
            (*block.inner, block.skip, block.taps[-1]),
            (*again.inner, again.skip, again.taps[-1]),
            strict=True,
        ):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("other", "layers"), [("skip_first", 1), ("skip_first", 3), ("joint", 2)])
def test_the_residual_forms_reach_the_same_blocks(other, layers):
    free = draw("chain_first", generator(15), layers, 0.8)
    block = residual_block(free, 2.0)
    to_block, to_free = FORMS[other]
    again = to_block(to_free(block, 2.0), 2.0)
    torch.testing.assert_close(again.skip, block.skip, rtol=0, atol=1e-10)
    torch.testing.assert_close(again.inner, block.inner, rtol=0, atol=1e-10)
    torch.testing.assert_close(again.taps[-1], block.taps[-1], rtol=0, atol=1e-10)


def test_the_joint_form_has_two_inner_layers():
    for layers in (1, 3):
        free = draw("chain_first", generator(29), layers, 0.8)
        with pytest.raises(ValueError, match=f"two inner layers, got {layers}"):
            joint_block(free, 1.0)
        with pytest.raises(ValueError, match=f"two inner layers, got {layers}"):
            joint_inverse(residual_block(free, 1.0), 1.0)


@forms
def test_a_block_beyond_its_bound_has_no_parameters(form):
    block = FORMS[form][0](draw(form, generator(16), 2, 2.0), 1.0)
    with pytest.raises(ValueError, match="not strictly certified"):
        FORMS[form][1](block, 0.3)


def test_an_identity_skip_over_two_layers_has_no_branch():
    g = generator(17)
    eye = torch.eye(3, dtype=torch.float64)
    for scale in (1.0, 1e-2, 1e-4):
        inner = scale * normals(g, 3, 3), scale * normals(g, 3, 3)
        ones = torch.ones(3, dtype=torch.float64)
        block = LMIBlock(eye, inner, (None, scale * normals(g, 3, 3)), (ones, ones))
        assert smallest(block, 1.0) < 0


# Scale, multipliers and limits.


@forms
def test_the_bound_is_a_scale_of_the_input(form):
    free = draw(form, generator(18), 2, 1.0)
    one, three = (FORMS[form][0](free, bound) for bound in (1.0, 3.0))
    d = one.skip.shape[1]
    torch.testing.assert_close(three.skip, 3 * one.skip, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(three.inner[0], 3 * one.inner[0], rtol=1e-12, atol=1e-13)
    second = one.inner[1].clone()
    if form == "dense":
        second[:, :d] *= 3
    torch.testing.assert_close(three.inner[1], second, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(three.taps[-1], one.taps[-1], rtol=1e-12, atol=1e-13)


@forms
def test_multipliers_change_nothing_for_relu_but_the_scale_of_biases(form):
    g = generator(19)
    free = draw(form, g, 3, 1.0)
    plain = free._replace(multipliers=tuple(torch.ones_like(m) for m in free.multipliers))
    x = normals(g, 6, free.inner[0].shape[1])
    biases = [normals(g, len(m)) for m in free.multipliers]
    roots = [m.sqrt() for m in free.multipliers]

    def run(block, biases):
        signals, out = [x], x @ block.skip.mT
        for c, tap, b in zip(block.inner, block.taps, biases, strict=True):
            last = torch.cat(signals, -1) if form == "dense" else signals[-1]
            signals.append(torch.relu(last @ c.mT + b))
            out = out if tap is None else out + signals[-1] @ tap.mT
        return out

    weighted = run(FORMS[form][0](free, 1.0), biases)
    scaled = [r * b for r, b in zip(roots, biases, strict=True)]
    torch.testing.assert_close(
        run(FORMS[form][0](plain, 1.0), scaled), weighted, rtol=1e-9, atol=1e-9
    )


def test_an_identity_skip_is_an_sll_block():
    g = generator(20)
    k = normals(g, 6, 5)
    one = torch.ones(6, dtype=torch.float64)
    block = given_skip_block(torch.eye(5, dtype=torch.float64), None, k, None, one, 1.0)
    w = block.inner[0].mT
    # SLL: x − 2 W T⁻¹ σ(Wᵀ x) with T ≥ Wᵀ W; here T = 2 I.
    torch.testing.assert_close(block.taps[0], -2 * w / 2, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(2 * torch.eye(6, dtype=torch.float64) - w.mT @ w).min() > 0


def test_no_skip_is_a_sandwich_layer():
    g = generator(21)
    free = draw("feed_forward", g, 1, 5.0)
    block = feed_forward_block(free, 1.0)
    c, b, m = block.inner[0], block.taps[0], torch.diag(block.multipliers[0])
    room = 2 * m - m @ c @ c.mT @ m - b.mT @ b
    assert torch.linalg.eigvalsh(room).min() >= -1e-12


def test_a_multiple_of_the_identity_is_met_exactly():
    free = draw("skip_first", generator(22), 2, 1.0)
    d, last = free.inner[0].shape[1], free.inner[-1].shape[0]
    out = torch.cat([1.33 * torch.eye(d, dtype=torch.float64), normals(generator(23), d, last)], 1)
    block = skip_block(free._replace(out=out), 2.0)
    a = 2.0 * 1.33 / (1 + 1.33**2) ** 0.5
    torch.testing.assert_close(
        block.skip, a * torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-13
    )


@forms
def test_the_map_has_the_gradients_of_differences(form):
    free = draw(form, generator(24), 2, 1.0, widest=3)
    tensors = [t.requires_grad_() for t in (*free.inner, free.out, *free.multipliers)]

    def weights(*tensors):
        block = FORMS[form][0](Free(tensors[:2], tensors[2], tensors[3:]), 1.5)
        return block.skip, *block.inner, *(t for t in block.taps if t is not None)

    assert gradcheck(weights, tensors)


# How much of the bound is used.


def square(form: str, layers: int, gain: float, d: int = 6) -> Free:
    """Draw the free matrices of a block of one width with multipliers of 1."""
    g = generator(25)
    whole = d * (layers + 1)
    columns = {"taps": whole, "dense": whole, "feed_forward": d}.get(form, 2 * d)
    inner = [gain * normals(g, d, d * k if form == "dense" else d) for k in range(1, layers + 1)]
    ones = (torch.ones(d, dtype=torch.float64),) * layers
    return Free(tuple(inner), gain * normals(g, d, columns), ones)


@pytest.mark.parametrize("gain", [1.0, 5.0, 30.0])
@pytest.mark.parametrize(("form", "layers"), DEPTHS)
def test_no_pattern_passes_the_bound(form, layers, gain):
    block = FORMS[form][0](square(form, layers, gain), 1.5)
    assert worst_pattern(block, starts=3) <= 1.5 * (1 + 1e-9)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_large_parameters_reach_their_bound(layers):
    assert worst_pattern(skip_block(square("skip_first", layers, 30.0), 1.5)) >= 0.999 * 1.5


@forms
def test_training_reaches_the_bound(form):
    free = square(form, 2, 3.0, d=4)
    tensors = [t.requires_grad_() for t in (*free.inner, free.out)]
    ascent = torch.optim.Adam(tensors, lr=0.3)
    for _ in range(300):
        block = FORMS[form][0](free, 1.5)
        signals, out = [torch.eye(4, dtype=torch.float64)], block.skip
        for c, tap in zip(block.inner, block.taps, strict=True):  # where every neuron is active
            signals.append(c @ (torch.cat(signals) if form == "dense" else signals[-1]))
            out = out if tap is None else out + tap @ signals[-1]
        ascent.zero_grad()
        (-torch.linalg.matrix_norm(out, 2)).backward()
        ascent.step()
    free = Free(*(tuple(t.detach() for t in free.inner), free.out.detach(), free.multipliers))
    found = worst_pattern(FORMS[form][0](free, 1.5), starts=2)
    assert 0.999 * 1.5 <= found <= 1.5 * (1 + 1e-9)


def test_weights_that_do_not_chain_are_refused():
    ones = torch.ones(4, dtype=torch.float64)
    block = LMIBlock(torch.eye(3), (torch.zeros(4, 3),), (torch.zeros(3, 4),), (ones,))
    assert lmi_matrix(block, 1.0).shape == (7, 7)
    with pytest.raises(ValueError, match="lipschitz must be positive, got 0"):
        lmi_matrix(block, 0)
    with pytest.raises(ValueError, match=r"C_1 must have 3 columns"):
        lmi_matrix(block._replace(inner=(torch.zeros(4, 2),)), 1.0)
    with pytest.raises(ValueError, match=r"B_1 must be \(3, 4\)"):
        lmi_matrix(block._replace(taps=(torch.zeros(3, 3),)), 1.0)
    with pytest.raises(ValueError, match="λ_1 must have 4 entries"):
        lmi_matrix(block._replace(multipliers=(torch.ones(3),)), 1.0)
    with pytest.raises(ValueError, match="needs 1 taps and multipliers"):
        lmi_matrix(block._replace(taps=()), 1.0)


def test_solving_from_the_right_is_the_inverse_adjoint():
    n = normals(generator(26), 4, 4).tril() + 4 * torch.eye(4, dtype=torch.float64)
    x = normals(generator(27), 3, 4)
    torch.testing.assert_close(solve_right(x, n) @ n.mT, x, rtol=1e-12, atol=1e-12)
