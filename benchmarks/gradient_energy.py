"""How much of the gradients of a small GPT lies in few columns, and how long columns stay chosen.

AdamW trains the network of `projected_optimizers.py`; in steps 200 to 299 the gradient of every
matrix is projected to a quarter of its short side, and nothing follows from it.
"""

import statistics
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.lowrank.maths.subspace import cosine_basis, strongest_columns
from archzoo.train.data import Batches, data_sets, loader
from archzoo.zoo import create_model
from torch import nn

__all__ = ["energies"]

SHARE = 0.25


def energies(text: Path, shape: dict[str, int], steps: int = 300, measured: int = 100) -> dict:
    """Return the mean shares of squared norms, and of columns that the next step replaces.

    Args:
        text: Folder of the corpus.
        shape: Of the network.
        steps: All steps.
        measured: The last ones, in which gradients are looked at.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    length = shape["context_length"]
    fold = data_sets.build("bytes", path=str(text), pattern="*.txt", context_length=length).train
    model = create_model("gpt_nano", **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, betas=(0.9, 0.99), weight_decay=0)
    data = iter(loader(fold, Batches(len(fold), 16, seed=0, epoch=0, shuffle=True)))
    found: dict[str, list[float]] = {}
    before: dict[str, set[int]] = {}
    for step in range(steps):
        inputs, targets = next(data)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for name, p in model.named_parameters():
            if step >= steps - measured and p.dim() == 2 and "embed" not in name:
                assert p.grad is not None
                _look(name, p.grad, found, before)
        optimizer.step()
    return {what: round(statistics.mean(shares), 3) for what, shares in found.items()}


def _look(name: str, g: Any, found: dict[str, list[float]], before: dict[str, set[int]]) -> None:
    """Add the shares of one gradient."""
    g = g if g.shape[0] >= g.shape[1] else g.mT
    rank, table = round(SHARE * g.shape[1]), cosine_basis(g.shape[1], g)
    noise = torch.randn_like(g)
    for what, matrix in {"cosines": g, "cosines, of noise": noise}.items():
        chosen = strongest_columns(matrix @ table, rank)
        share = (matrix @ table)[:, chosen].square().sum() / matrix.square().sum()
        found.setdefault(what, []).append(float(share))
        if matrix is g:
            columns = set(chosen.tolist())
            if name in before:
                left = len(before[name] - columns) / rank
                found.setdefault("cosines replaced", []).append(left)
            before[name] = columns
    values = torch.linalg.svdvals(g).square()
    found.setdefault("singular vectors", []).append(float(values[:rank].sum() / values.sum()))
