"""What every parameter of a fresh mechanism is: exact values, or `Normals` where it is drawn.

Sizes are those of `stacks`: six sites, attention and MLP in turn, and a width of 5.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..stacks import SITES, WIDTH

__all__ = ["STARTS", "Normals"]

L = len(SITES)


class Normals(NamedTuple):
    """Independent normals around zero."""

    std: float


Start = float | Tensor | Normals


def newest(*shape: int) -> Tensor:
    """One on the newest source, which is last, and zero on all others."""
    values = torch.zeros(shape, dtype=torch.float64)
    values[..., -1] = 1.0
    return values


def connections(n: int = 4) -> Tensor:
    """A_m one-hot on stream l mod n, A_r the identity, B ones."""
    static = torch.zeros(L, n, n + 2, dtype=torch.float64)
    for site in range(L):
        static[site, site % n, 0] = 1.0
        for i in range(n):
            static[site, i, 1 + i] = static[site, i, -1] = 1.0
    return static


def offsets(mixers: int, identity: list[int], n: int = 4) -> Tensor:
    """Reads and writes of stream l mod n at 1, of the others at −1; R far from all but I."""
    values = torch.full((L, 2 * n + mixers), -8.0, dtype=torch.float64)
    values[:, : 2 * n] = -1.0
    for site in range(L):
        values[site, site % n] = values[site, n + site % n] = 1.0
        for place in identity:
            values[site, 2 * n + place] = 0.0
    return values


ATTNRES: dict[str, Start] = {"query": 0.0, "gain": 1.0}
HEAD = Normals(0.5 * WIDTH**-0.5)
DELTA: dict[str, Start] = {"gate": HEAD, "gate_bias": 0.0, "value": HEAD}
DRAWN = Normals(WIDTH**-0.5)
BLOCKS = (1, 2, 3)

STARTS: dict[str, dict[str, Start]] = {
    "skip_init": {"scale": 0.0},
    "rezero": {"scale": 0.0},
    "layer_scale": {"scale": 0.1},
    "lorentz_centroid": {"log_weight": 0.0, "log_gain": 0.0},
    "highway": {"weight": 0.0, "bias": -2.0},
    "attnres": ATTNRES,
    "block_attnres": ATTNRES,
    "gyro_attnres": ATTNRES,
    "gyro_block_attnres": ATTNRES,
    "delta": DELTA,
    "delta_cc": {**DELTA, "columns": 0.25},
    "depth_swa": {"qkv": DRAWN, "out": 0.0},
    "lime": {f"route.{i}": newest(1, i + 1) for i in BLOCKS[:-1]},
    "value_residual": {"weight": 0.5},
    "denseformer": {f"alpha.{i}": newest(i + 1) for i in BLOCKS},
    "elc_bert": {"logits": 0.0},
    "embedding_skip": {"carry": 1.0, "skip": 0.0},
    "dca": {
        f"mix.{i}.{key}": v for i in range(3) for key, v in {"static": 1.0, "query": 0.0}.items()
    },
    "muddformer": {
        f"mix.{i - 1}.{key}": value
        for i in BLOCKS
        for key, value in {
            "first": DRAWN,
            "second": 0.0,
            "static": newest(4 if i < 3 else 1, i + 1),
        }.items()
    },
    "hyper_connections": {"static": connections(), "weight": 0.0, "scale": 0.01},
    "mhc": {"weight": 0.0, "gate": 0.01, "offset": offsets(16, [0, 5, 10, 15])},
    "mhc_lite": {"weight": 0.0, "gate": 0.01, "offset": offsets(24, [0])},
}
