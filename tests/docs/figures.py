"""Tables of figures of residuals and experiments, each from a kept result of a benchmark."""

from typing import Any

from ..reference import table
from .kept import dense_accuracy, mean, only, rows

__all__ = ["FIGURES"]


def residual_costs() -> str:
    """Whole networks and bytes over plain addition: the best path of each."""

    def least(what: str, name: str) -> str:
        ratios = [row["ratio"] for row in rows("residual", what=what, residual=name)]
        return f"{min(ratios):.2f}×"

    def kept(name: str, length: int) -> str:
        row = only("residual", residual=f"{name}, kernel", case=f"L={length}")
        return f"{row['ratio']:.2f}×"

    head = ("residual", "ViT step", "GPT step", "inference, ViT / GPT", "bytes kept, L = 24 / 48")
    names = {"block_attnres": "`block_attnres`, 8 blocks"}
    return table(
        head,
        *(
            (
                names.get(name, f"`{name}`"),
                least("ViT, training step", name),
                least("GPT, training step", name),
                f"{least('ViT, inference', name)} / {least('GPT, inference', name)}",
                f"{kept(name, 24)} / {kept(name, 48)}",
            )
            for name in ("block_attnres", "attnres", "delta", "delta_cc")
        ),
    )


def residual_bytes_gpt() -> str:
    """Residuals on a small GPT over bytes, the best first."""
    found = sorted(rows("residual_bytes_gpt"), key=lambda row: row["bits/byte"])
    return table(
        ("residual", "bits per byte", "standard error", "against `add`", "rate", "step over `add`"),
        *(
            (
                f"`{row['residual']}`",
                f"{row['bits/byte']:.3f}",
                f"{row['standard error']:.3f}",
                "" if row["residual"] == "add" else row["against add"],
                str(row["lr"]),
                f"{row['step over add']:.2f}×",
            )
            for row in found
        ),
    )


def compare_digits() -> str:
    """What `archzoo compare` found on the digits."""
    return table(
        ("residual", "parameters", "forward, ms", "step, ms", "kept, MiB", "test accuracy, %"),
        *(
            (
                f"`{row['residual']}`",
                f"{row['parameters']:,}",
                f"{row['forward, ms']:.1f}",
                f"{row['step, ms']:.1f}",
                f"{row['kept, MiB']:.1f}",
                f"{row['test accuracy, %']:.1f} ± {row['deviation']:.1f}",
            )
            for row in rows("compare_digits")
        ),
    )


def experiments() -> str:
    """Experiments of the configs with a kept result, in one line each."""
    poincare = [
        rows("poincare_fashion_mnist", model=f"{g}_resnet_tiny")[0]["clean"]
        for g in ("poincare", "euclidean")
    ]
    mammals = only("wordnet_mammals", method="ours, float32", dim=5)
    ldlt = rows("ldlt_fashion_mnist", model="LDLT")
    trp = mean([row["exported, %"] for row in rows("lowrank_fashion_mnist", method="TRP")])
    dense = dense_accuracy()
    residual = {row["residual"]: row["bits/byte"] for row in rows("residual_bytes_gpt")}
    best = min(residual, key=residual.__getitem__)
    lowrank = {row["method"]: row["bits/byte"] for row in rows("lowrank_bytes_gpt")}
    tables = {row["method"]: row["mean, %"] for row in rows("ldlt_tabular", accuracy="36/255")}
    lines = {
        "residual_bytes_gpt": f"bits per byte {residual['add']:.2f} with `add`, "
        f"{residual[best]:.2f} with `{best}` (three seeds)",
        "poincare_fashion_mnist": f"test accuracy {poincare[0]} %, its flat twin {poincare[1]} % "
        "(two seeds)",
        "wordnet_mammals": f"mean rank {mammals['mean rank']:.2f}, MAP {mammals['MAP']:.3f} in 5 "
        "dimensions (two seeds)",
        "ldlt_fashion_mnist": f"test accuracy {mean([r['clean'] for r in ldlt]):.1f} %, "
        f"{mean([r['72/255'] for r in ldlt]):.1f} % certified at ε = 72/255 (two seeds)",
        "ldlt_tabular": f"{tables['LDLT dense']:.1f} % certified at 36/255 over 27 tables, SLL "
        f"{tables['SLL']:.1f} % (three seeds)",
        "lowrank_fashion_mnist": f"test accuracy {trp:.1f} % with 29 % of the convolution "
        f"parameters by TRP, dense {dense:.1f} % (two seeds)",
        "lowrank_bytes_gpt": f"bits per byte {lowrank['SLTrain']:.2f} with SLTrain, "
        f"{lowrank['full rank']:.2f} at full rank (three seeds)",
    }
    named = {"poincare_fashion_mnist": "poincare_resnet_fashion_mnist"}
    return table(
        ("`experiment=`", "result", "measured by"),
        *(
            (f"`{named.get(name, name)}`", told, f"`benchmarks/{name}.py`")
            for name, told in lines.items()
        ),
    )


def pela_resnet() -> str:
    """Training after compression, plainly and beside a teacher."""
    return table(
        ("trained for an epoch", "40 %", "30 %"),
        *(
            (
                row["trained"],
                *(
                    f"{row[share]:.2f} ± {row[f'{share}, standard error']:.2f}"
                    for share in ("40%", "30%")
                ),
            )
            for row in rows("pela_resnet")
        ),
    )


def compress_resnet() -> str:
    """Rules for ranks within two cases of compression by data."""

    def figure(row: dict[str, Any], share: str) -> str:
        return f"{row[share]:.1f} ± {row[f'{share}, standard error']:.1f}"

    dense = only("compress_resnet", case="dense")
    found = [row for row in rows("compress_resnet") if row["case"] != "dense"]
    return table(
        ("case", "ranks by", "40 %", "30 %", "MACs at 40 / 30 %"),
        ("dense", "", f"{dense['40%']:.1f}", "", ""),
        *(
            (
                f"`{row['case']}`",
                {"uniform": "`uniform`", "energy": "`energy`"}.get(
                    row["ranks by"], f"`dp`, `{row['ranks by']}`"
                ),
                figure(row, "40%"),
                figure(row, "30%"),
                f"{row['40%, MACs']:.2f} / {row['30%, MACs']:.2f}",
            )
            for row in found
        ),
    )


FIGURES = {
    function.__name__: function
    for function in (
        residual_costs,
        residual_bytes_gpt,
        compare_digits,
        experiments,
        compress_resnet,
        pela_resnet,
    )
}
