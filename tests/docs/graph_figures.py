"""Tables of graph networks in flat and curved spaces, read off the kept results."""

from ..reference import table
from .finding import Finding
from .kept import bold, result, rows

__all__ = ["GRAPH_FIGURES", "links_in_flat_space", "not_in_curved_space"]

SPACES = {
    "flat, distance": "flat, squared distance",
    "flat, inner product": "flat, inner product",
    "Poincaré": "Poincaré",
    "Lorentz": "Lorentz",
}


def graph_wordnet() -> str:
    """Links of WordNet's mammals by dimensions, beside what needs no training."""
    dims = (2, 4, 8, 16)
    (degrees,) = rows("graph_wordnet", model="degree product")
    names = {**SPACES, "FastRP": "FastRP"}
    cells = {
        name: [rows("graph_wordnet", model=name, dimensions=dim)[0]["AUC"] for dim in dims]
        for name in names
    }
    best = [max(float(cells[name][i].split()[0]) for name in names) for i in range(len(dims))]
    return table(
        ("", *(f"{dim} dimensions" for dim in dims)),
        *(
            (told, *(bold(text, float(text.split()[0]) == top)
                     for text, top in zip(cells[name], best, strict=True)))
            for name, told in names.items()
        ),
        ("product of degrees", *[degrees["AUC"]] * len(dims)),
    )  # fmt: skip


def graph_networks() -> str:
    """Links of four networks in eight dimensions, beside what needs no training."""
    networks = list(dict.fromkeys(row["network"] for row in result("graph_networks")["rows"]))
    models = {
        **SPACES,
        "FastRP, 8 dimensions": "FastRP",
        "degree product": "product of degrees",
    }
    wider = {f"FastRP, {dim} dimensions": f"FastRP, {dim} dimensions" for dim in (32, 128)}

    def cell(network: str, model: str) -> str:
        return rows("graph_networks", network=network, model=model)[0]["AUC"]

    best = {
        network: max(float(cell(network, model).split()[0]) for model in models)
        for network in networks
    }
    return table(
        ("8 dimensions", *(f"`{network}`" for network in networks)),
        *(
            (told, *(bold(cell(network, model), model in models
                          and float(cell(network, model).split()[0]) == best[network])
                     for network in networks))
            for model, told in {**models, **wider}.items()
        ),
    )  # fmt: skip


def degrees_by_dealing() -> str:
    """The product of degrees by how edges are held out."""
    networks = list(dict.fromkeys(row["network"] for row in result("graph_networks")["rows"]))
    ways = {
        "degree product": "nodes keep another edge",
        "degree product, edges held out evenly": "evenly from all edges",
        "degree product, edges held out outside a spanning tree": "outside a spanning tree",
    }
    return table(
        ("edges are held out", *(f"`{network}`" for network in networks)),
        *(
            (told, *(rows("graph_networks", network=network, model=model)[0]["AUC"]
                     for network in networks))
            for model, told in ways.items()
        ),
    )  # fmt: skip


def graph_counter_examples() -> str:
    """Node classification, images, and weights of low rank."""
    return table(
        ("task", "model", "figure", "runs", "gap closed"),
        *(
            (row["task"], row["model"], row["figure"], str(row["runs"]), row.get("gap closed", ""))
            for row in result("graph_counter_examples")["rows"]
        ),
    )


def links_in_flat_space() -> list[Finding]:
    """What a curved space did not give where the flat twin had the better decoder."""
    told = {
        name: [rows("graph_wordnet", model=name, dimensions=dim)[0]["AUC"] for dim in (2, 8)]
        for name in SPACES
    }
    (degrees,) = rows("graph_wordnet", model="degree product")
    return [
        Finding(
            "2026-11-29",
            "A flat graph network that decodes by inner products predicts WordNet's links as well",
            f"AUC in 8 dimensions {told['flat, inner product'][1]}, beside Poincaré "
            f"{told['Poincaré'][1]} and Lorentz {told['Lorentz'][1]}; in 2 dimensions "
            f"{told['flat, inner product'][0]}, {told['Poincaré'][0]} and {told['Lorentz'][0]}. "
            "The lead over squared distances, which the literature takes for the flat twin "
            f"({told['flat, distance'][1]} in 8 dimensions), is the decoder's and not the space's. "
            f"The product of degrees alone has {degrees['AUC']} (three seeds).",
            "graph_wordnet",
        )
    ]


def not_in_curved_space() -> list[Finding]:
    """What curved networks did not gain outside links."""

    def of(task: str, model: str) -> dict[str, str]:
        return rows("graph_counter_examples", task=task, model=model)[0]

    ill = [of("disease, F1", name)["figure"] for name in ("flat", "Poincaré", "Lorentz")]
    digits = [of("digits, accuracy", name)["figure"] for name in ("vit_nano", "lorentz_vit_nano")]
    ill_gap, links_gap = (
        of(f"{task}, Lorentz, 16 wide", "SST")["gap closed"]
        for task in ("disease, F1", "WordNet's mammals, AUC")
    )
    return [
        Finding(
            "2026-11-29",
            "Curved networks classify nodes of disease and images no better",
            f"F1 of `disease` over five splits: flat {ill[0]}, Poincaré {ill[1]}, Lorentz "
            f"{ill[2]}; accuracy on the digits over three seeds: flat {digits[0]}, Lorentz "
            f"{digits[1]}.",
            "graph_counter_examples",
        ),
        Finding(
            "2026-11-29",
            "The gap that sparse spectral training closes in hyperbolic networks is not shown",
            f"On `disease` {ill_gap} between full rank and LoRA, five splits being "
            f"too few; on WordNet's links {links_gap} of a gap that is a "
            "thousandth of AUC wide. The paper's 73.7 % and 82.5 % are over other data.",
            "graph_counter_examples",
        ),
    ]


GRAPH_FIGURES = {
    function.__name__: function
    for function in (graph_wordnet, graph_networks, degrees_by_dealing, graph_counter_examples)
}
