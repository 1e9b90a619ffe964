"""Tables of the scaling study, from its kept fit and its kept costs."""

from collections.abc import Callable, Sequence
from typing import Any

from ..reference import ROOT, table
from .kept import RESULTS, only, result, rows

__all__ = ["SCALING_FIGURES"]

PLACES = ("smallest", "middle", "largest")
PICTURE = "![Losses and laws of the residuals, and their multipliers at three sizes](scaling.png)"
NOT_MEASURED = "Not measured yet."
NOT_FITTED = "Not fitted yet: a law needs three sizes of `add` and of another residual."


def sizes() -> list[int]:
    """The sizes that all residuals were trained at."""
    return sorted({row["size"] for row in rows("scaling", part="loss")})


def scaling_state() -> str:
    """What of the study is missing."""
    return " ".join(result("scaling").get("notes", ["Every point of the study was trained."]))


def residuals() -> list[str]:
    """The residuals that were trained to the end, the reference first."""
    return list(dict.fromkeys(row["residual"] for row in rows("scaling", part="loss")))


def spanned(figures: Sequence[float], digits: int = 2) -> str:
    """A figure with both ends of its interval."""
    whole, low, high = (f"{x:.{digits}f}".replace("-", "−") for x in figures)
    return f"{whole} [{low}, {high}]"


def scaling_sizes() -> str:
    """The five sizes and what a run of `add` costs."""

    def line(size: int) -> tuple[str, ...]:
        row = only("scaling_costs", size=size, residual="add")
        count = 15 * size**3
        return (
            str(size),
            str(8 * size),
            f"{row['parameters']:,}",
            f"{count * 1024 / 1e6:.2f} M",
            f"{count * row['FLOPs']:.2g}".replace("e+", " · 10^"),
            str(only("scaling", part="loss", residual="add", size=size)["seeds"]),
        )

    head = ("blocks and heads", "width", "parameters", "bytes seen", "FLOPs of `add`", "seeds")
    return table(head, *map(line, sizes()))


def scaling_losses() -> str:
    """Test bits per byte of every residual and size."""

    def cell(residual: str, size: int) -> str:
        row = only("scaling", part="loss", residual=residual, size=size)
        spread = f" ± {row['standard error']:.3f}" if row["seeds"] > 1 else ""
        return f"{row['bits/byte']:.3f}{spread} ({row['rate']:g})"

    return table(
        ("residual", *(f"{size} blocks" for size in sizes())),
        *((f"`{name}`", *(cell(name, size) for size in sizes())) for name in residuals()),
    )


def scaling_multipliers() -> str:
    """How many times the compute of `add` reaches the same loss, and the picture."""

    def line(row: dict[str, Any]) -> tuple[str, ...]:
        law = row["part"] == "multiplier"
        return (
            f"`{row['residual']}`",
            row["equal"],
            "laws" if law else "runs",
            *(spanned(row[place]) for place in PLACES),
            f"{spanned(row['trend'])}: {row['with size']}" if law else "",
        )

    found = [
        row
        for name in residuals()[1:]
        for equal in ("FLOPs", "seconds")
        for part in ("between", "multiplier")
        for row in rows("scaling", part=part, residual=name, text="both", equal=equal)
    ]
    head = ("residual", "at equal", "by", *(f"{place} size" for place in PLACES), "trend of laws")
    drawn = [PICTURE] if (ROOT / "docs" / "scaling.png").is_file() else []
    return "\n\n".join([table(head, *map(line, found)), *drawn]) if found else NOT_FITTED


def scaling_misfit() -> str:
    """The floor of the laws and what they leave, beside the errors of the means."""
    if not rows("scaling", part="law"):
        return NOT_FITTED
    law = only("scaling", part="law", residual="add", equal="FLOPs", text="both")
    errors = [row["standard error"] for row in rows("scaling", part="loss") if row["seeds"] > 1]
    told = (
        f"The floor is c = {spanned(law['c'])} bits per byte, and the laws leave a root mean "
        f"square of {law['misfit']:.3f}; the standard errors of the means are {min(errors):.3f} to "
        f"{max(errors):.3f}."
    )
    bound = (
        "\n\nThat is the bound: these losses fall ever faster, where a floor could only make them "
        "fall ever slower, so that a law of this form does not describe these sizes."
    )
    return told + bound * (law["c"][0] == 0)


def scaling_texts() -> str:
    """Multipliers at equal FLOPs and the middle size, on each text by itself."""
    if not rows("scaling", part="multiplier"):
        return NOT_FITTED

    def cell(name: str, text: str) -> str:
        found = only("scaling", part="multiplier", residual=name, text=text, equal="FLOPs")
        return spanned(found["middle"])

    return table(
        ("residual", "novels", "sources"),
        *((f"`{n}`", cell(n, "novels"), cell(n, "sources")) for n in residuals()[1:]),
    )


def scaling_costs() -> str:
    """What a step of each residual costs over one of `add`, at the smallest and largest size."""
    ends = (sizes()[0], sizes()[-1])

    def over(name: str, column: str) -> str:
        found = []
        for size in ends:
            here, plain = (
                only("scaling_costs", size=size, residual=each)[column] for each in (name, "add")
            )
            found.append(f"{here / plain:.2f}")
        return " / ".join(found)

    def step(name: str) -> str:
        found = (only("scaling_costs", size=s, residual=name)["step over add"] for s in ends)
        return " / ".join(f"{ratio:.2f}" for ratio in found)

    names = list(dict.fromkeys(row["residual"] for row in rows("scaling_costs")))
    columns = ("parameters", "FLOPs", "arithmetic")
    return table(
        ("residual", *columns, "time of a step"),
        *((f"`{n}`", *(over(n, c) for c in columns), step(n)) for n in names if n != "add"),
    )


def when_kept(write: Callable[[], str]) -> Callable[[], str]:
    """A part that says so where the study has no kept result yet."""

    def written() -> str:
        kept = (RESULTS / f"{name}.json" for name in ("scaling", "scaling_costs"))
        return write() if all(path.is_file() for path in kept) else NOT_MEASURED

    return written


SCALING_FIGURES = {
    function.__name__: when_kept(function)
    for function in (
        scaling_state,
        scaling_sizes,
        scaling_losses,
        scaling_multipliers,
        scaling_misfit,
        scaling_texts,
        scaling_costs,
    )
}
