"""Projected optimisers beside SciPy's transform and the authors' own code.

GaLore's and APOLLO's code (both Apache 2.0) is looked for in clones of `jiaweizzhao/GaLore` and
`zhuhanqing/APOLLO` in the folder `ARCHZOO_PEERS`, and needs the package transformers; what is not
there is not judged. Their modules are imported one by one: the packages also import bitsandbytes.
"""

import functools
import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import scipy.fft
import torch
from archzoo.layers.lowrank import ProjectedAdamW
from archzoo.layers.lowrank.maths.subspace import (
    cosine_basis,
    gather_columns,
    singular_basis,
    strongest_columns,
)
from archzoo.layers.lowrank.optim import projected_adamw
from harness import Bar
from torch import Tensor, nn

PEERS = Path(os.environ.get("ARCHZOO_PEERS", "build/peers"))
ROWS, COLUMNS, RANK, STEPS = 40, 24, 7, 12


def identities() -> list[Bar]:
    """What holds of the cosines to rounding, and SciPy's transform."""
    g = gradient(0)
    basis = cosine_basis(COLUMNS, g)
    chosen, other = (strongest_columns(gradient(i) @ basis, RANK) for i in (0, 1))
    kept, energy = basis[:, chosen], (g @ basis).square().sum(0)
    residual = (g - g @ kept @ kept.mT).square().sum()
    dropped = energy.sum() - energy[chosen].sum()
    moments = gradient(2)[:, :RANK]
    found = {
        "G Q and scipy.fft.dct": apart(
            g @ basis, torch.from_numpy(scipy.fft.dct(g.numpy(), norm="ortho", axis=-1))
        ),
        "QᵀQ and I": apart(basis.mT @ basis, torch.eye(COLUMNS).double()),
        "residual and energy of the dropped columns": apart(residual, dropped),
        "gather and rotation": apart(
            gather_columns(moments, chosen, other, COLUMNS), moments @ kept.mT @ basis[:, other]
        ),
    }
    return [Bar(f"{name}, float64", figure, 1e-12) for name, figure in found.items()]


def parities() -> list[Bar]:
    """Differences from the authors' code, where it is there."""
    bars = []
    if (PEERS / "GaLore").is_dir():
        bars.append(Bar("GaLore's projector, float32, tall and wide", projector(), 1e-6))
        bars.append(Bar(f"{STEPS} steps of GaLore's AdamW, float64", galore(), 1e-10))
    if (PEERS / "APOLLO").is_dir():
        bars.append(Bar(f"{STEPS} steps of APOLLO's AdamW, float64", apollo(), 1e-6))
    return bars


def gradient(seed: int) -> Tensor:
    """A gradient (m, n) whose singular values are apart, so that rounding decides no vector."""
    draws = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(n, COLUMNS, generator=draws, dtype=torch.float64)).Q
        for n in (ROWS, COLUMNS)
    )
    return left * 0.8 ** torch.arange(COLUMNS) @ right.mT


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two entries."""
    return float((one - other).abs().max())


def module(folder: str, package: str, name: str) -> ModuleType:
    """Import one module of a clone, without its package's own imports."""
    if package not in sys.modules:
        bare = ModuleType(package)
        bare.__path__ = [str(PEERS / folder / package)]
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{name}")


def projector() -> float:
    """Difference of what is left of a tall and of a wide gradient."""
    kind = module("GaLore", "galore_torch", "galore_projector").GaLoreProjector
    tall = gradient(3).float()
    kept = singular_basis(tall, RANK)
    expected = tall @ kept @ kept.mT
    worst = 0.0
    for matrix, mine in ((tall, expected), (tall.mT.contiguous(), expected.mT)):
        made = kind(RANK)
        worst = max(worst, apart(made.project_back(made.project(matrix, 0)), mine))
    return worst


def galore() -> float:
    """Difference from GaLore, made to decompose in float64 as it is given."""
    tensors = ModuleType("galore_torch.galore_projector_tensor")  # needs tensorly; not used
    tensors.GaLoreProjectorTensor = None  # type: ignore[attr-defined]
    sys.modules[tensors.__name__] = tensors
    adamw = module("GaLore", "galore_torch", "adamw")
    kind = adamw.GaLoreProjector

    def decompose(self: Any, weights: Tensor, rank: int, type: str) -> Tensor:
        left, _, right = torch.linalg.svd(weights, full_matrices=False)
        return right[:rank] if type == "right" else left[:, :rank]

    kind.get_orthogonal_matrix = decompose
    theirs = {"scale": 0.25, "proj_type": "std"}
    ours = {"basis": "svd", "rotate": False, "scale": 0.25}
    # Signs of singular vectors are those of one decomposition; of a wide matrix it is another one,
    # and moments that are not carried over would then meet other signs.
    return max(
        steps(
            adamw.AdamW,
            {**theirs, "update_proj_gap": every},
            {**ours, "update_every": every},
            wide,
        )
        for wide, every in ((False, 4), (True, STEPS))
    )


def apollo() -> float:
    """Difference from APOLLO, made to project to our random columns.

    Its limit on the growth of an update looks at moments without their corrections, and ours at the
    update; neither limits anything here.
    """
    code = module("APOLLO", "apollo_torch", "apollo")
    kept: list[Tensor] = []

    def draw(self: Any, gradient: Tensor, proj_type: str) -> None:
        self.ortho_matrix = kept[0].mT if proj_type == "right" else kept[0]

    code.GradientProjector.update_ortho_matrix = draw
    theirs = {"update_proj_gap": 4, "scale": 1.0, "proj_type": "std", "proj": "random"}
    theirs |= {"scale_type": "channel"}
    ours = {"basis": "random", "update_every": 4, "rotate": False, "channel_scaling": True}
    free = functools.partial(code.AdamW, disable_nl=True)
    with patch.object(projected_adamw, "GROWTH", math.inf):
        return max(steps(free, theirs, ours, wide, kept) for wide in (False, True))


def steps(
    theirs: Callable[..., torch.optim.Optimizer],
    group: dict[str, Any],
    settings: dict[str, Any],
    wide: bool,
    kept: list[Tensor] | None = None,
) -> float:
    """Difference of two weights after steps on the same gradients; `kept` gets our columns."""
    start = gradient(99).mT.contiguous() if wide else gradient(99)
    p, q = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    # Its ε stands beside the root of the uncorrected mean; so small it is beside neither.
    other = theirs([{"params": [p], "rank": RANK, **group}], lr=0.01, eps=1e-15)
    ours = ProjectedAdamW([q], lr=0.01, eps=1e-15, weight_decay=0.0, rank=RANK, **settings)
    for number in range(STEPS):
        p.grad = gradient(number).mT.contiguous() if wide else gradient(number)
        q.grad = p.grad.clone()
        ours.step()
        if kept is not None:
            kept[:] = [ours.state[q]["basis"]]
        other.step()
    return apart(p.detach(), q.detach())
