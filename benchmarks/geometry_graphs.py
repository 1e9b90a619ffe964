"""What graph convolutions cost: the sparse product, layers beside public code, and whole models.

1. The product with a graph's matrix, forward and backward, as sorted rows, as its definition, which
   compiled and traced code sees, and as torch.sparse has it.
2. A convolution, forward and backward, of tangents over HGCN's and of space parts over HyboNet's at
   equal outputs, which `geometry_parity.py` compares; theirs multiply by a torch.sparse matrix.
3. A training step of `gcn_small` without an optimiser, and the bytes that it keeps for the backward
   pass, over the flat twin.

Graphs are drawn: few nodes have many of the edges. Times are of the process's CPU on one thread.
Rows are medians of interleaved repetitions, ratios medians of pairwise ratios; figures want a
machine that does nothing else. `geometry_peers.py` says how to get the public code.
"""

import contextlib
import statistics
import warnings
from typing import Any

import geometry_peers as theirs
import torch
from archzoo.layers.graphs import (
    KeptNeighbours,
    MobiusLinear,
    midpoints,
    neighbour_mean,
    tangent_means,
)
from archzoo.layers.hyperbolic import GatedLorentzLinear
from archzoo.zoo import create_model
from geometry_parity import full
from harness import Bar, Measurement, interleaved, main, median_ratio
from hyperbolic import Candidate
from torch import Tensor, nn

Row = dict[str, Any]
C = 0.5
WIDTH = 64
GRAPHS = {"mammals": (1180, 6540), "network": (8000, 32000)}
"""Nodes and edges: as many as the closure of WordNet's mammals has, and some more."""
STEP, LAYER = 1.5, 2.0
JUDGED = "network"
"""The graph of the bars of whole models: on the smaller one they are the price of calls."""


def drawn(nodes: int, edges: int) -> Tensor:
    """Edges, each once, whose second ends are the more frequent the lower their number."""
    g = torch.Generator().manual_seed(0)
    one = torch.randint(nodes, (4 * edges,), generator=g)
    other = (torch.rand(4 * edges, generator=g) ** 3 * nodes).long().clamp_max(nodes - 1)
    ends = torch.stack([one, other], 1).sort(1).values
    ends = ends[ends[:, 0] != ends[:, 1]].unique(dim=0)
    return ends[torch.randperm(len(ends), generator=g)[:edges]]


def compare(
    what: str, candidates: dict[str, Candidate], repetitions: int, *, bytes_too: bool = False
) -> list[Row]:
    """Rows of all candidates; the first is what the others are measured against.

    Bytes are those kept for the backward pass, which torch.sparse does not tell.
    """
    for candidate in candidates.values():
        candidate.step()
    steps = {name: each.step for name, each in candidates.items()}
    times = interleaved(steps, repetitions)
    first, *_ = candidates
    rows: list[Row] = [
        {
            "case": what,
            "what": name,
            "ms": 1e3 * statistics.median(times[name]),
            "time": median_ratio(times[name], times[first]),
        }
        for name in candidates
    ]
    if bytes_too:
        kept = [each.kept() for each in candidates.values()]
        rows = [row | {"kept": one / kept[0]} for row, one in zip(rows, kept, strict=True)]
    return rows


def sparse(rows: Any, size: int) -> Tensor:
    """A torch.sparse matrix of the same entries, as the public code has it."""
    place = torch.stack([rows.target, rows.source])
    return torch.sparse_coo_tensor(place, rows.weight, (size, size)).coalesce()


def products(quick: bool) -> list[Row]:
    """The product alone."""
    found = []
    for name, (nodes, edges) in GRAPHS.items():
        rows = KeptNeighbours()(drawn(nodes, edges), nodes, "row", torch.float32)
        plain, h = rows._replace(cache=None), torch.randn(nodes, WIDTH, requires_grad=True)
        matrix = sparse(rows, nodes)
        forms = {
            "sorted rows": lambda h=h, rows=rows: neighbour_mean(h, rows),
            "definition": lambda h=h, plain=plain: neighbour_mean(h, plain),
            "torch.sparse": lambda h=h, matrix=matrix: torch.sparse.mm(matrix, h),
        }
        candidates = {key: Candidate(form, [h], []) for key, form in forms.items()}
        found += compare(f"product, {name}", candidates, 5 if quick else 25)
    return found


def convolutions(quick: bool) -> list[Row]:
    """Our layers over the public ones, with the same weights."""
    found = []
    for name, (nodes, edges) in GRAPHS.items():
        torch.manual_seed(0)
        rows = KeptNeighbours()(drawn(nodes, edges), nodes, "row", torch.float32)
        matrix, x = sparse(rows, nodes), 0.1 * torch.randn(nodes, WIDTH)
        repetitions = 3 if quick else 15

        def leaf(x: Tensor) -> Tensor:
            return x.detach().clone().requires_grad_()

        with contextlib.suppress(ImportError):
            module, ball = theirs.hgcn_layers()
            c, t = torch.tensor([C]), leaf(x)
            off = {"use_bias": True, "use_att": False, "local_agg": False}
            peer = module.HyperbolicGraphConvolution(
                ball, WIDTH, WIDTH, c, c, 0.0, torch.relu, **off
            )
            layer = MobiusLinear(WIDTH, WIDTH, curvature=C)
            with torch.no_grad():
                layer.bias.normal_(std=0.1)
                peer.linear.weight.copy_(layer.weight)
                peer.linear.bias.copy_(layer.bias)
            point = leaf(ball.expmap0(x, c))
            ours = Candidate(
                lambda t=t, layer=layer, rows=rows: tangent_means(
                    layer(t), rows, C, "tangent"
                ).relu(),
                [t],
                list(layer.parameters()),
            )
            other = Candidate(
                lambda peer=peer, point=point, matrix=matrix: peer((point, matrix))[0],
                [point],
                list(peer.parameters()),
            )
            same = ball.logmap0(other.forward(), c) - ours.forward()
            assert float(same.abs().max()) < 1e-4, f"outputs differ by {float(same.abs().max())}"
            found += compare(f"layer, {name}", {"tangents": ours, "HGCN": other}, repetitions)
        with contextlib.suppress(ImportError):
            module, manifold = theirs.gcn_layers()
            peer = module.LorentzGraphConvolution(
                manifold, WIDTH + 1, WIDTH + 1, True, 0.0, False, False
            )
            gated, s = GatedLorentzLinear(WIDTH, WIDTH, curvature=1.0), leaf(x)
            with torch.no_grad():
                peer.linear.weight.weight.copy_(gated.weight)
                peer.linear.weight.bias.copy_(gated.bias)
                peer.linear.scale.copy_(gated.log_scale)
            point = leaf(full(x, 1.0))
            ours = Candidate(
                lambda s=s, gated=gated, rows=rows: midpoints(gated(s), rows, 1.0, "space"),
                [s],
                list(gated.parameters()),
            )
            other = Candidate(
                lambda peer=peer, point=point, matrix=matrix: peer((point, matrix))[0],
                [point],
                list(peer.parameters()),
            )
            same = other.forward()[..., 1:] - ours.forward()
            assert float(same.abs().max()) < 1e-3, f"outputs differ by {float(same.abs().max())}"
            found += compare(f"layer, {name}", {"gated": ours, "HyboNet": other}, repetitions)
    return found


def models(quick: bool) -> list[Row]:
    """Training steps of whole models."""
    found = []
    for name, (nodes, edges) in GRAPHS.items():
        ends, sample = drawn(nodes, edges), torch.arange(512)
        candidates = {}
        for geometry in ("euclidean", "lorentz", "poincare"):
            torch.manual_seed(0)
            sizes = {"num_nodes": nodes, "num_edges": len(ends), "num_classes": 4}
            model = create_model("gcn_small", **sizes, geometry=geometry)
            model.follow_graph(ends)
            for key, parameter in model.named_parameters():
                if key.endswith("time_weight"):
                    nn.init.normal_(parameter, std=0.02)
            candidates[geometry] = Candidate(
                lambda model=model, sample=sample: model(sample), [], list(model.parameters())
            )
        repetitions = 5 if quick else 25
        found += compare(f"gcn_small, {name}", candidates, repetitions, bytes_too=True)
    return found


def measure(quick: bool) -> Measurement:
    """Measure everything."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what public code uses that is deprecated
        rows = [*products(quick), *convolutions(quick), *models(quick)]
    bars = [
        Bar(f"{row['what']} over flat, {row['case']}", row["time"], STEP)
        for row in rows
        if row["what"] in ("lorentz", "poincare") and row["case"].endswith(JUDGED)
    ]
    bars += [
        Bar(f"HGCN over ours, {row['case']}", row["time"], LAYER, False)
        for row in rows
        if row["what"] == "HGCN"
    ]
    return rows, bars


if __name__ == "__main__":
    main("geometry_graphs", measure)
