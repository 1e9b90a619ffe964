"""Links of four real networks in 8 dimensions, beside FastRP and the product of degrees.

Of the largest component a tenth of the edges is held out, half to choose by and half to test, and
negatives are pairs drawn evenly from all (`experiment=graph_networks`); another seed holds out
other edges. The learning rate is the better of two by the validation AUC at seed 0. FastRP is that
of four powers with equal weights by the cosine, which needs no training, as does the product of
the two degrees. `power` is no hierarchy and stands for a control.

What degrees tell depends on how edges are held out more than on anything else here, so that their
product is given for three ways: from nodes that keep another edge, as above; evenly from all edges;
and from those outside a random spanning tree.

Set ARCHZOO_DATA to the folder with `graphs/NAME.tsv.gz`.
"""

import os
import statistics
from pathlib import Path
from typing import Any

import torch
from archzoo.train.data import Splits, data_sets
from archzoo.train.data.graphs import read_graph
from graph_runs import SPACES, cosines_of_fastrp, degree_products, ranked
from harness import UNTRACKED, Bar, Measurement, main
from runs import Runs, text
from torch import Tensor

NETWORKS = Path(os.environ.get("ARCHZOO_DATA", "/usr/share/archzoo")) / "graphs"
NAMES = ("netscience", "hep-th", "as-22july06", "power")
CHOICES = (("optim.lr=0.03",), ("optim.lr=0.1",))
SEEDS = (0, 1, 2)
SMALLER = {"netscience": ("trainer.batch_size=1024",)}  # it has 1,648 samples
QUICK = "trainer.steps=10"
CURVED = ("Poincaré", "Lorentz")
Found = dict[str, list[float]]


def measure(quick: bool) -> Measurement:
    """Train what is missing, and make a row of each network and model."""
    torch.set_num_threads(1)
    names, seeds, steps = (NAMES, SEEDS, ()) if not quick else (NAMES[:1], (0, 1), (QUICK,))
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for name in names:
        place = component_file(name)
        runs = Runs("graph_networks", quick, f"data.path={place}")
        splits = [links(place, seed) for seed in seeds]
        found: Found = {"degree product": [degree_products(one) for one in splits]}
        for dim in (8, 32, 128):
            found[f"FastRP, {dim} dimensions"] = [
                cosines_of_fastrp(one, dim, seed) for one, seed in zip(splits, seeds, strict=True)
            ]
        chosen = {}
        for space, options in SPACES.items():
            told = ("experiment=graph_networks", f"name={name}", *SMALLER.get(name, ()), *steps)
            choices = CHOICES[:1] if quick else CHOICES
            found[space], rate = runs.tested((*told, *options), choices, "auc", seeds)
            chosen[space] = rate[0].partition("=")[2]
        graph = splits[0].graph
        assert graph is not None
        rows += [
            {"network": name, "nodes": graph.num_nodes, "edges": edges_of(place),
             "model": model, "AUC": text(figures), "rate": chosen.get(model, "")}
            for model, figures in found.items()
        ]  # fmt: skip
        rows += dealt(name, place)
        bars += [] if quick else judge(name, found)
    return rows, bars


def judge(name: str, found: Found) -> list[Bar]:
    """The better curved model beside what needs no training; of the control nothing is asked."""
    if name not in ("as-22july06", "hep-th"):
        return []
    best = max(statistics.mean(found[space]) for space in CURVED)
    return [
        Bar(f"AUC on {name}, the better curved model above {rival}",
            best - statistics.mean(found[rival]), 0.0, at_most=False)
        for rival in ("FastRP, 8 dimensions", "degree product")
    ]  # fmt: skip


def links(place: Path, seed: int) -> Splits:
    """The folds that the runs of a seed have."""
    return data_sets.build("graph_links", path=str(place), split=seed, negatives=1, even_pairs=True)


def component_file(name: str) -> Path:
    """Write the largest component of a network as an edge list."""
    read = read_graph(str(NETWORKS / f"{name}.tsv.gz"), simplify=True)
    edges = largest_component(read.edges, read.num_nodes)
    place = UNTRACKED / "graph_networks" / f"{name}.tsv"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(f"{u}\t{v}\n" for u, v in edges.tolist()))
    return place


def largest_component(edges: Tensor, num_nodes: int) -> Tensor:
    """The edges of the largest component, its nodes numbered anew."""
    label = torch.arange(num_nodes)
    while True:
        least = torch.minimum(label[edges[:, 0]], label[edges[:, 1]])
        lower = label.scatter_reduce(0, edges.flatten(), least.repeat_interleave(2), "amin")
        if torch.equal(lower, label):
            break
        label = lower
    kept = label == label.bincount().argmax()
    return (kept.cumsum(0) - 1)[edges[kept[edges[:, 0]]]]


def edges_of(place: Path) -> int:
    """Count the edges of a file."""
    return len(place.read_text().splitlines())


def dealt(name: str, place: Path) -> list[dict[str, Any]]:
    """The product of degrees where edges are held out otherwise."""
    edges, num_nodes = read_graph(str(place)).edges, int(read_graph(str(place)).num_nodes)
    rows = []
    for way in ("evenly", "outside a spanning tree"):
        figures = []
        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(edges), generator=generator)
            if way == "outside a spanning tree":
                order = order[~spanning(edges[order], num_nodes)]
            kept = torch.ones(len(edges), dtype=torch.bool)
            kept[order[: len(edges) // 10]] = False
            degrees = edges[kept].flatten().bincount(minlength=num_nodes).double()
            drawn = torch.randint(num_nodes, (2 * len(edges), 2), generator=generator)
            false = not_among(drawn, edges, num_nodes)[: len(edges) // 10]
            pairs = torch.stack([edges[~kept], false], 1)
            figures.append(ranked(degrees[pairs].prod(-1)))
        rows.append(
            {"network": name, "model": f"degree product, edges held out {way}",
             "AUC": text(figures)}
        )  # fmt: skip
    return rows


def spanning(edges: Tensor, num_nodes: int) -> Tensor:
    """Which edges join what no edge before them did: a spanning tree."""
    above = list(range(num_nodes))

    def root(node: int) -> int:
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    tree = []
    for u, v in edges.tolist():
        one, other = root(u), root(v)
        above[one] = other
        tree.append(one != other)
    return torch.tensor(tree)


def not_among(pairs: Tensor, edges: Tensor, num_nodes: int) -> Tensor:
    """The pairs of different nodes that are no edge."""
    codes = [one.min(1).values * num_nodes + one.max(1).values for one in (pairs, edges)]
    return pairs[~torch.isin(*codes) & (pairs[:, 0] != pairs[:, 1])]


if __name__ == "__main__":
    main("graph_networks", measure)
