"""What Maestro's theory says its factors become, checked without and with training (T1 to T7).

For targets A x the loss of a prefix b is tr[(A - U_b V_b) C (A - U_b V_b)ᵀ] with C = E[x xᵀ]. The
SVD of A √C, with the root taken out of V again, minimises it for all b at once (T1, T2); the plain
SVD of A does not where C is not white (T3, the negative control), and A = I gives the principal
components of the inputs (T4).

Trained are three cases of the notebook that the authors released, by the steps of `Maestro` itself:
white inputs (T5), A = I with the flat lasso (T6), and inputs that weigh the smaller singular values
more (T7). T5 and T7 have four initialisations, the groups of a 1×1 convolution, under one draw.
After 6,000 steps of T5 what is left of components 4 to 6, which decay ever more slowly, is about as
large as what is allowed, so that case has twelve initialisations under three draws.

Source: Horváth et al. 2023, "Maestro", arXiv:2308.14929, and its notebook.
"""

from collections.abc import Iterator

import torch
from archzoo.layers.lowrank import Factors, Maestro, reparametrize, weighted_svd
from harness import Bar
from torch import Tensor, nn
from torch.nn import functional as F

ORDER = Maestro(group_lasso=0.0, shrink_every=0)  # sampled prefixes alone


def recovery(quick: bool) -> Iterator[Bar]:
    """Yield T1 to T7; with `quick` without the long runs of T5 and T7."""
    yield from untrained()
    # After so few steps the third importance may still be 3.55, where σ is 3.665.
    yield from white_inputs("T5, 2,000 steps", 2000, (), 1.2e-2, 0.12)
    yield from identity()
    if not quick:
        yield from white_inputs("T5, 6,000 steps", 6000, (4000, 5000), 3e-3, 0.05, seeds=3)
        yield from white_inputs("T5, 8,000 steps", 8000, (6000, 7000), 3e-3, 0.05)
        yield from weighted_inputs()


def untrained() -> Iterator[Bar]:
    """Yield T1 to T4: gradients of all prefix losses at factors that no training made."""
    target, root = normals(7, 5, seed=0), normals(5, 5, seed=7)
    root = root * torch.logspace(0, 1.5, 5, dtype=torch.float64)
    second, white = root @ root.mT / 5, torch.eye(5, dtype=torch.float64)
    plain, weighted = weighted_svd(target), weighted_svd(target, right_moment=second)
    # Losses and gradients are sums of numbers of this size, which rounding is relative to.
    scale = float(weighted.singular_values[0].square())
    gradients = prefix_gradients(target, white, plain.left, plain.right)
    yield Bar("T1: gradient at the SVD, white inputs", largest(gradients), 2e-14)
    gradients = prefix_gradients(target, second, weighted.left, weighted.right)
    yield Bar("T2: gradient at the whitened SVD, over S₁²", largest(gradients) / scale, 1e-13)
    off = 0.0
    for b in range(6):
        loss = prefix_loss(target, second, weighted.left[:, :b], weighted.right[:b])
        tail = weighted.singular_values[b:].square().sum()
        off = max(off, float((loss - tail).abs()) / scale)
    yield Bar("T2: loss of a prefix less Σ_{i>b} S_i², over S₁²", off, 1e-13)
    norms = [float(g.norm()) for g in prefix_gradients(target, second, plain.left, plain.right)]
    what = "T3, negative control: gradient norm at the plain SVD, b = 1..4"
    yield Bar(what, min(norms[1:5]), 1.0, at_most=False)
    principal = weighted_svd(white, right_moment=second)
    vectors = torch.linalg.eigh(second).eigenvectors.flip(-1)
    off = max(
        float((principal.left[:, :b] @ principal.right[:b] - v @ v.mT).norm())
        for b in range(6)
        for v in [vectors[:, :b]]
    )
    yield Bar("T4: W_b less the projector on b principal components", off, 1e-14)


def white_inputs(
    case: str, steps: int, drops: tuple[int, ...], limit: float, off: float, seeds: int = 1
) -> Iterator[Bar]:
    """Yield T5: every prefix becomes the truncated SVD of A, whose rank is 3."""
    a, p, s, q = matrix()
    every = [fit(torch.eye(9), a, steps, drops, seed) for seed in range(seeds)]
    best = (q.T[:, None] * s * p[None]).permute(2, 0, 1).cumsum(0)
    left, right = (torch.cat([getattr(f, n).detach() for f in every]) for n in ("left", "right"))
    prefixes = (left.mT[..., None] * right[..., None, :]).cumsum(1)
    error = ((prefixes - best).norm(dim=(-2, -1)) / best.norm(dim=(-2, -1))).amax(1)
    if seeds > 1:
        yield Bar(f"{case}: relative error of any prefix, median", float(error.median()), limit)
    yield Bar(f"{case}: relative error of any prefix", float(error.max()), limit)
    found = torch.cat([importances(factors) for factors in every])
    yield Bar(f"{case}: importance less σ, first three", largest([found[:, :3] - s[:3]]), off)
    yield Bar(f"{case}: importance of the rest", float(found[:, 3:].max()), 0.15)


def weighted_inputs() -> Iterator[Bar]:
    """Yield T7: inputs that make scale · σ rise as 4, 6, 9 turn the order of the σ round."""
    a, _, s, _ = matrix()
    basis, scale = torch.linalg.svd(a)[0], torch.ones(9)
    scale[:3] = torch.tensor([4.0, 6.0, 9.0]) / s[:3]
    inputs = scale[:, None] * basis.T
    found = importances(fit(inputs, inputs @ a, 10_000, ()))
    off = largest([found[:, :3] - s[:3].flip(0)])
    yield Bar("T7: importance less σ in reversed order", off, 0.1)


def identity() -> Iterator[Bar]:
    """Yield T6: the rank of the data is found, and the first principal component."""
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(12345))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10, bias=False))
    method = Maestro(group_lasso=0.01, lasso="flat", shrink_every=0)
    controller = reparametrize(model, method, ["0"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller.attach(optimizer)
    for _ in range(2500):
        optimizer.zero_grad()
        penalty = controller.penalty()
        assert penalty is not None
        whole = F.mse_loss(model.eval()(x), x)
        (whole + F.mse_loss(model.train()(x), x) + penalty).backward()
        optimizer.step()
    factors = controller.factors()["0"]
    found = factors.importance()
    yield Bar("T6: importance less 1, first three", largest([found[:3] - 1]), 0.03)
    yield Bar("T6: importance of the other seven", float(found[3:].max()), 1e-6)
    with torch.no_grad():
        yield Bar("T6: mean squared error", float(F.mse_loss(model.eval()(x), x)), 2e-4)
        factors.rank = 1
        best = torch.linalg.svdvals(x)[1:].square().sum() / x.numel()
        above = float(F.mse_loss(model(x), x) - best)
    yield Bar(f"T6: error of one component above the least, {float(best):.4f}", above, 5e-4)


def fit(
    inputs: Tensor, outputs: Tensor, steps: int, drops: tuple[int, ...], seed: int = 0
) -> Factors:
    """Learn a linear map of rows by SGD at 0.5 on the mean squared loss, four times at once."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(4 * inputs.shape[1], 4 * outputs.shape[1], 1, groups=4, bias=False)
    controller = reparametrize(nn.Sequential(layer), ORDER, ["0"], seed=seed)
    for part in (controller.factors()["0"].right, controller.factors()["0"].left):
        for group in part:
            nn.init.kaiming_uniform_(group, a=5**0.5)  # a fresh linear layer's, as in the notebook
    optimizer = torch.optim.SGD(controller.model.parameters(), lr=0.5)
    controller.attach(optimizer)
    x, y = (rows.repeat(1, 4)[..., None, None] for rows in (inputs, outputs))
    for step in range(steps):
        if step in drops:
            optimizer.param_groups[0]["lr"] *= 0.1
        optimizer.zero_grad()
        (4 * F.mse_loss(controller.model(x), y)).backward()
        optimizer.step()
    return controller.factors()["0"]


def matrix() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return A = (9, 3)(3, 6) of normals, and its SVD."""
    generator = torch.Generator().manual_seed(123)
    a = torch.randn(9, 3, generator=generator) @ torch.randn(3, 6, generator=generator)
    return a, *torch.linalg.svd(a, full_matrices=False)


def importances(factors: Factors) -> Tensor:
    """Return ‖left_j‖ ‖right_j‖ of every group, (4, R)."""
    return factors.left.detach().norm(dim=-2) * factors.right.detach().norm(dim=-1)


def prefix_loss(target: Tensor, second: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return tr[(A - U V) C (A - U V)ᵀ]."""
    error = target - left @ right
    return (error @ second * error).sum()


def prefix_gradients(target: Tensor, second: Tensor, left: Tensor, right: Tensor) -> list[Tensor]:
    """Return the gradients of the loss of every prefix b = 0 … R in its factors, flat."""
    found = []
    for b in range(left.shape[1] + 1):
        parts = left[:, :b].clone().requires_grad_(), right[:b].clone().requires_grad_()
        gradients = torch.autograd.grad(prefix_loss(target, second, *parts), parts)
        found.append(torch.cat([g.flatten() for g in gradients]))
    return found


def normals(*shape: int, seed: int) -> Tensor:
    """Draw normals in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def largest(tensors: list[Tensor]) -> float:
    """Return the largest magnitude in all tensors."""
    return max(float(t.detach().abs().max()) for t in tensors if t.numel())
