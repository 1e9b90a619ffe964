"""Tables of figures on the pages of the ball, of Lipschitz networks, low rank and adapters."""

from ..reference import table
from .kept import bold, dense_accuracy, mean, only, rows

__all__ = ["FAMILY_FIGURES"]

WHO = ("ours, plain", "ours, kernels", "geoopt", "HypLL", "original")


def hyperbolic_costs() -> str:
    """Layers and a network of the ball over their Euclidean twins, in time and in bytes."""

    def ratios(case: str, column: str, digits: int) -> list[str]:
        found = {row["who"]: row[column] for row in rows("hyperbolic", what=case)}
        return [
            f"{found[who]:.{digits if found[who] < 10 else 0}f}×" if who in found else ""
            for who in WHO
        ]

    cases = {
        "conv + BN, C=16, 32x32": "3×3 convolution + norm, 16 channels, 32²",
        "conv + BN, C=32, 16x16": "32 channels, 16²",
        "conv + BN, C=64, 8x8": "64 channels, 8²",
        "ResNet-20 step": "training step of ResNet-20, 8-16-32 channels",
    }
    lines = []
    for case, told in cases.items():
        lines.append((told, *ratios(case, "time ratio", 1)))
        lines.append(("bytes kept", *ratios(case, "MiB ratio", 1)))
    return table(("", "plain PyTorch", "with the kernel", *WHO[2:]), *lines)


def poincare_fashion_mnist() -> str:
    """A Poincaré ResNet beside its flat twins."""
    models = rows("poincare_fashion_mnist")
    lines = {
        "test accuracy": ("clean",),
        "under PGD, 2/255": ("PGD 2/255",),
        "under PGD, 4/255": ("PGD 4/255",),
        "AUROC, digits, energy / norm": ("AUROC digits, energy", "AUROC digits, norm"),
        "AUROC, rotated, energy / norm": ("AUROC rotated, energy", "AUROC rotated, norm"),
        "AUROC, noise, energy / norm": ("AUROC noise, energy", "AUROC noise, norm"),
    }

    def cell(text: str, spread: bool) -> str:
        value, error = map(float, text.split(" ± "))
        return f"{value:.1f} ± {error:.1f}" if spread else f"{value:.1f}"

    return table(
        ("", "Poincaré", "flat twin", "flat, hyperbolic head"),
        *(
            (told, *(" / ".join(cell(row[key], len(keys) == 1) for key in keys) for row in models))
            for told, keys in lines.items()
        ),
    )


def wordnet_mammals() -> str:
    """Embeddings of WordNet's mammals in 5 and 10 dimensions."""
    names = {
        "ours, float32": "ours, float32",
        "ours, float64": "ours, float64",
        "gensim": "gensim",
        "geoopt, float32": "composed of geoopt's parts, float32",
        "geoopt, float64": "composed of geoopt's parts, float64",
        "ours, Euclidean": "flat, squared distances",
    }

    def cells(method: str, dim: int) -> tuple[str, str]:
        found = rows("wordnet_mammals", method=method, dim=dim)
        if not found:
            return "", ""
        rank, spread = found[0]["mean rank"], found[0]["its spread"]
        return f"{rank:.2f} ± {spread:.2f}", f"{found[0]['MAP']:.3f}"

    return table(
        ("", "mean rank, 5 dimensions", "MAP", "mean rank, 10 dimensions", "MAP"),
        *((told, *cells(method, 5), *cells(method, 10)) for method, told in names.items()),
    )


def lipschitz_costs() -> str:
    """A training step of LDLT blocks over a Sandwich layer, and evaluation over a plain block."""
    forms = {
        "LDLT n=1, identity skip": "n = 1, identity skip",
        "LDLT n=1, learned skip": "n = 1, learned skip",
        "LDLT n=2": "n = 2, joint (the default)",
        "LDLT n=2, chain first": "n = 2, chain first",
        "LDLT n=2, skip first": "n = 2, skip first",
    }

    def ratio(part: str, case: str) -> str:
        notes = only("lipschitz", part=part, case=case)["notes"]
        return f"{float(notes.partition(' ')[0]):.2f}"

    parts = [f"{what}, batch {size}" for what in ("training", "evaluation") for size in (256, 2048)]
    return table(
        ("", "training, batch 256", "batch 2,048", "evaluation, batch 256", "batch 2,048"),
        *((told, *(ratio(part, case) for part in parts)) for case, told in forms.items()),
    )


def ldlt_tabular() -> str:
    """Seven networks on 27 tables: clean and certified accuracy."""
    names = {
        "LDLT n=1": "LDLT, n = 1",
        "LDLT n=2": "LDLT, n = 2",
        "LDLT dense": "LDLT, dense",
        "SLL": "SLL",
        "Sandwich": "Sandwich",
        "AOL": "AOL",
        "plain MLP": "plain MLP, its best bound",
    }
    columns = ("clean", "36/255", "72/255", "108/255")
    best = {
        c: max(f"{row['mean, %']:.1f}" for row in rows("ldlt_tabular", accuracy=c)) for c in columns
    }

    def cells(method: str) -> list[str]:
        texts = [
            f"{only('ldlt_tabular', accuracy=c, method=method)['mean, %']:.1f}" for c in columns
        ]
        found = [bold(text, text == best[c]) for text, c in zip(texts, columns, strict=True)]
        return [*found, f"{only('ldlt_tabular', accuracy='72/255', method=method)['rank']:.1f}"]

    return table(
        ("", *columns, "mean rank at 72/255"),
        *((told, *cells(method)) for method, told in names.items()),
    )


def lowrank_fashion_mnist() -> str:
    """A ResNet-20 at 29 % of its convolution parameters, exported without fine-tuning."""
    names = {
        "SVD after training": "SVD after training, ranks searched",
        "TRP": "TRP",
        "TRP + nuclear norm": "TRP with the nuclear norm",
        "Maestro as published": "Maestro as published",
        "Maestro with a budget": "Maestro with warm-up and budget",
        "Maestro with a budget, without sampling": "the same without sampled prefixes",
    }
    dense = dense_accuracy()

    def span(found: list[float]) -> str:
        low, high = f"{100 * min(found):.0f}", f"{100 * max(found):.0f}"
        return f"{low} %" if low == high else f"{low} to {high} %"

    lines = []
    for method, told in names.items():
        found = rows("lowrank_fashion_mnist", method=method)
        exported = [row["exported, %"] for row in found]
        times = [mean([row[f"latency at {batch}"] for row in found]) for batch in (1, 64)]
        lines.append(
            (
                told,
                *(f"{figure:.1f}" for figure in exported),
                f"{mean(exported) - dense:.2f}",
                span([row["convolution parameters"] for row in found]),
                span([row["MACs"] for row in found]),
                " / ".join(f"{time:.2f}" for time in times),
            )
        )
    head = ("", "seed 0", "seed 1", "against dense", "convolution parameters", "MACs")
    return table((*head, "time at batch 1 / 64"), *lines)


def lowrank_bytes_gpt() -> str:
    """Training with fewer numbers: a GPT of two blocks, rank 12 of 96."""
    names = {
        "SLTrain": "SLTrain, 3 %",
        "ReLoRA": "ReLoRA, three merges",
        "frozen LoRA": "LoRA on a frozen matrix",
        "low rank, refactorised": "low rank, spectral init, refactorised",
        "LOST, linear": "LOST without activation",
        "LOST, SiLU": "LOST with SiLU",
    }
    return table(
        ("", "bits/byte", "stored", "trained", "KiB", "step over full"),
        *(
            (
                names.get(row["method"], row["method"]),
                f"{row['bits/byte']:.3f} ± {row['standard error']:.3f}",
                f"{row['parameters']:,}",
                f"{row['trained']:,}",
                f"{row['states and gradients, KiB']:,.0f}",
                f"{row['step over full']:.2f}",
            )
            for row in sorted(rows("lowrank_bytes_gpt"), key=lambda row: row["bits/byte"])
        ),
    )


def projected_optimizers() -> str:
    """Optimisers that keep less, beside AdamW."""
    return table(
        ("", "bits/byte", "over AdamW's", "KiB", "over AdamW's", "step over AdamW's", "rate"),
        *(
            (
                row["optimiser"],
                f"{row['bits/byte']:.3f} ± {row['standard error']:.3f}",
                f"{row['bits over AdamW']:.3f}",
                f"{row['KiB of the matrices']:,.0f}",
                f"{row['bytes over AdamW']:.2f}",
                f"{row['training step over AdamW']:.2f}",
                f"{row['rate']:g}",
            )
            for row in sorted(rows("projected_optimizers"), key=lambda row: row["bits/byte"])
        ),
    )


def welore_bytes_gpt() -> str:
    """A GPT cut at WeLore's ranks, at equal ones, and at those of the least squared error."""
    return table(
        ("ranks lost", "rule", "bits/byte", "more than whole", "more than one share", "parameters"),
        *(
            (
                f"{float(row['ranks lost']):.0%}".replace("%", " %"),
                row["rule"],
                f"{row['bits/byte']:.3f}",
                f"{row['more than whole']:+.3f}",
                f"{row['more than uniform']:+.3f} ± {row['standard error']:.3f}",
                f"{row['parameters']:,}",
            )
            for row in rows("welore_bytes_gpt")
        ),
    )


def adapter_parity() -> str:
    """How far adapters are from those of peft, at worst over kinds and seeds."""
    kept = {row["case"]: row for row in rows("adapter_parity")}
    groups = {
        "LoRA, rsLoRA, DoRA and MiSS": ("LoRA,", "DoRA,", "MiSS,"),
        "presets that become a LoRA": ("as a LoRA",),
        "RandLoRA with the same random matrices": ("RandLoRA",),
        "the start of LoftQ after five alternations": ("LoftQ, five",),
    }
    lines = []
    for told, marks in groups.items():
        found = [row for case, row in kept.items() if any(mark in case for mark in marks)
                 and "otherwise" not in case]  # fmt: skip
        worst = [max(row[part] for row in found) for part in ("outputs", "gradients")]
        lines.append((told, *(f"{figure:.0e}" if figure else "" for figure in worst)))
    back = [row["outputs"] for case, row in kept.items() if "come back otherwise" in case]
    lines.append(("tensors that a round trip changes", f"{sum(back):.0f} in {len(back)} kinds", ""))
    return table(("beside peft, float64", "outputs", "gradients"), *lines)


FAMILY_FIGURES = {
    function.__name__: function
    for function in (
        hyperbolic_costs,
        poincare_fashion_mnist,
        wordnet_mammals,
        lipschitz_costs,
        ldlt_tabular,
        lowrank_fashion_mnist,
        lowrank_bytes_gpt,
        projected_optimizers,
        welore_bytes_gpt,
        adapter_parity,
    )
}
