"""What papers claim of curved spaces and of Lipschitz networks, beside the kept results."""

from .claim import Claim, Spread, ahead
from .kept import only, rows

__all__ = ["lipschitz_claims", "space_claims"]


def space_claims() -> list[Claim]:
    """Claims of hyperbolic networks."""
    mammals = {
        name: only("wordnet_mammals", method=name, dim=5)
        for name in ("ours, float32", "ours, Euclidean")
    }
    ball = only("poincare_fashion_mnist", model="poincare_resnet_tiny")
    flat = only("poincare_fashion_mnist", model="euclidean_resnet_tiny")
    foreign = [f"AUROC {name}, energy" for name in ("digits", "rotated", "noise")]
    known = [(Spread.read(ball[key], 1), Spread.read(flat[key], 1)) for key in foreign]
    clean = Spread.read(ball["clean"], 2), Spread.read(flat["clean"], 2)
    attacked = Spread.read(ball["PGD 2/255"], 1), Spread.read(flat["PGD 2/255"], 1)
    told = sum(ahead(*pair) for pair in known)

    def links(name: str) -> Spread:
        return Spread.read(only("graph_wordnet", model=name, dimensions=8)["AUC"])

    def counter(task: str, model: str) -> Spread:
        return Spread.read(only("graph_counter_examples", task=task, model=model)["figure"])

    ill = [counter("disease, F1", name) for name in ("flat", "Poincaré", "Lorentz")]
    digits = [counter("digits, accuracy", name) for name in ("lorentz_vit_nano", "vit_nano")]
    gaps = [row["gap closed"] for row in rows("graph_counter_examples") if row.get("gap closed")]
    distance, product, curved = map(links, ("flat, distance", "flat, inner product", "Poincaré"))
    rank = {name: Spread.of(row, "mean rank", "its spread", 2) for name, row in mammals.items()}
    return [
        Claim(
            "Poincaré embeddings reconstruct a hierarchy in five dimensions where Euclidean ones "
            "do not",
            "arXiv:1705.08039, table 1",
            f"WordNet's mammals, mean rank {rank['ours, float32']} (1 is exact), Euclidean "
            f"{rank['ours, Euclidean']} (two seeds)",
            ahead(rank["ours, Euclidean"], rank["ours, float32"]),
            "wordnet_mammals",
        ),
        Claim(
            "A Poincaré ResNet is as accurate as its flat twin",
            "arXiv:2303.14027, experiments",
            f"Fashion-MNIST {clean[0]} %, flat {clean[1]} % (two seeds)",
            not ahead(clean[1], clean[0]),
            "poincare_fashion_mnist",
        ),
        Claim(
            "A Poincaré ResNet is harder to attack",
            "arXiv:2303.14027, experiments",
            f"under PGD of 2/255 {attacked[0]} %, flat {attacked[1]} % (two seeds, at another "
            "learning rate than the twin's)",
            ahead(*attacked),
            "poincare_fashion_mnist",
        ),
        Claim(
            "A Poincaré ResNet tells foreign images better",
            "arXiv:2303.14027, experiments",
            "AUROC by energy on digits, rotated images and noise "
            + ", ".join(f"{a} / {b}" for a, b in known)
            + f": apart in {told} of {len(known)}",
            told == len(known),
            "poincare_fashion_mnist",
        ),
        Claim(
            "Hyperbolic graph networks predict a hierarchy's links better than Euclidean ones "
            "that decode by distances",
            "arXiv:1910.12933, table 1",
            f"AUC of WordNet's mammals in 8 dimensions {curved}, flat {distance}",
            ahead(curved, distance),
            "graph_wordnet",
        ),
        Claim(
            "The same beside a flat twin that decodes by inner products",
            "ours, beside arXiv:1910.12933, whose flat decoder is a distance",
            f"{curved}, flat {product}",
            ahead(curved, product),
            "graph_wordnet",
        ),
        Claim(
            "Hyperbolic graph networks classify the nodes of `disease` better",
            "arXiv:1910.12933, table 1",
            f"F1: flat {ill[0]}, Poincaré {ill[1]}, Lorentz {ill[2]} (five splits)",
            ahead(ill[1], ill[0]) or ahead(ill[2], ill[0]),
            "graph_counter_examples",
        ),
        Claim(
            "Networks of the hyperboloid classify images a little better",
            "arXiv:2303.15919, tables of ResNet-18",
            f"a ViT on the digits {digits[0]}, flat {digits[1]} (three seeds)",
            ahead(*digits),
            "graph_counter_examples",
        ),
        Claim(
            "Sparse spectral training closes 73.7 % and 82.5 % of the gap in hyperbolic graph "
            "networks",
            "arXiv:2405.15481, node classification and links",
            f"`disease`: {gaps[0]}; WordNet's links: {gaps[1]}, of a thousandth of AUC",
            all("%" in gap for gap in gaps),
            "graph_counter_examples",
        ),
    ]


def lipschitz_claims() -> list[Claim]:
    """Claims of Lipschitz networks."""
    radii = ("36/255", "72/255", "108/255")

    def at(radius: str, method: str, key: str = "mean, %") -> float:
        return only("ldlt_tabular", accuracy=radius, method=method)[key]

    def further(one: str, other: str) -> str:
        told = [f"{at(radius, one) - at(radius, other):+.1f}" for radius in radii]
        return f"{', '.join(told)} points at 36, 72 and 108/255 over 27 tables"

    def apart(one: str, other: str) -> bool:
        """Whether Nemenyi's test separates the mean ranks at every radius but the largest."""
        return all(
            at(radius, other, "rank, Lipschitz") - at(radius, one, "rank, Lipschitz")
            > at(radius, one, "CD, Lipschitz")
            for radius in radii[:2]
        )

    gains = [at(radius, "LDLT dense") - at(radius, "SLL") for radius in radii]
    images = {
        name: [row["72/255"] for row in rows("ldlt_fashion_mnist", model=name)]
        for name in ("LDLT", "SLL")
    }
    rule = "; apart by Nemenyi's test at 36 and 72/255"
    return [
        Claim(
            "LDLᵀ networks certify more than SLL",
            "arXiv:2512.05915, abstract",
            f"dense {further('LDLT dense', 'SLL')}{rule}"
            if apart("LDLT dense", "SLL")
            else f"dense {further('LDLT dense', 'SLL')}",
            apart("LDLT dense", "SLL"),
            "ldlt_tabular",
        ),
        Claim(
            "Their gain is 3 to 13 points, over 121 tables",
            "arXiv:2512.05915, abstract",
            f"{min(gains):.1f} to {max(gains):.1f} points over 27 tables, three seeds",
            min(gains) >= 3,
            "ldlt_tabular",
        ),
        Claim(
            "The same of convolutions on images",
            "ours, beside arXiv:2512.05915",
            f"Fashion-MNIST, certified at 72/255: {min(images['LDLT']):.1f} and "
            f"{max(images['LDLT']):.1f} %, SLL {min(images['SLL']):.1f} and "
            f"{max(images['SLL']):.1f} % (two seeds)",
            min(images["LDLT"]) > max(images["SLL"]),
            "ldlt_fashion_mnist",
        ),
        Claim(
            "Sandwich layers certify more than SLL",
            "arXiv:2301.11526, table 3",
            further("Sandwich", "SLL"),
            apart("Sandwich", "SLL"),
            "ldlt_tabular",
        ),
        Claim(
            "SLL blocks certify more than AOL layers",
            "arXiv:2303.03169, comparison on CIFAR",
            further("SLL", "AOL"),
            apart("SLL", "AOL"),
            "ldlt_tabular",
        ),
    ]
