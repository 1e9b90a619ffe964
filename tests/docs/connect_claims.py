"""What is claimed of ways between two seeds, beside the table of `benchmarks/connect.py`."""

from typing import Any

from .claim import Claim, Spread, ahead
from .finding import Finding
from .kept import only, rows

__all__ = ["connect_claims", "residuals_apart"]

SMALL = 0.05
"""Of the loss barrier before matching: what a barrier that has gone may be."""
SHOWN = {"vit": "ViT", "resnet": "ResNet"}


def loss_barrier(row: dict[str, Any], when: str = "after") -> Spread:
    """A row's loss barrier; its error is the spread of the pairs, which share their seeds."""
    return Spread(row[f"loss barrier, {when}"], row[f"loss barrier, {when} ±"])


def widths(model: str, residual: str = "add") -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of a residual at the narrower and the wider width."""
    narrow, wide = sorted(
        rows("connect", model=model, residual=residual), key=lambda row: row["width"]
    )
    return narrow, wide


def gone(row: dict[str, Any]) -> bool:
    """Whether matching leaves no barrier to speak of."""
    return loss_barrier(row).mean <= SMALL * loss_barrier(row, "before").mean


def told(row: dict[str, Any]) -> str:
    """A barrier before and after."""
    return f"{loss_barrier(row, 'before')} → {loss_barrier(row)} nats"


def connect_claims() -> list[Claim]:
    """Claims of connected seeds."""
    mlp = only("connect", model="mlp_small", fold="test")
    pairs = {model: widths(model) for model in SHOWN}
    wider = [ahead(loss_barrier(narrow), loss_barrier(wide)) for narrow, wide in pairs.values()]
    return [
        Claim(
            "Two seeds of an MLP are connected without a barrier once their units are matched",
            "arXiv:2209.04836, experiments on MNIST",
            f"`mlp_small`, Fashion-MNIST: {told(mlp)}",
            gone(mlp),
            "connect",
        ),
        Claim(
            "So are two seeds of a ResNet, where it is wide enough (32 times a ResNet-20)",
            "arXiv:2209.04836, abstract and §5",
            "ResNet of two stages, one pass over Fashion-MNIST: "
            + "; ".join(f"width {row['width']}, {told(row)}" for row in pairs["resnet"]),
            any(gone(row) for row in pairs["resnet"]),
            "connect",
        ),
        Claim(
            "The wider a network, the lower the barrier between matched seeds",
            "arXiv:2209.04836, §5.2",
            "; ".join(
                f"{SHOWN[model]}, width {narrow['width']} {loss_barrier(narrow)}, "
                f"{wide['width']} {loss_barrier(wide)}"
                for model, (narrow, wide) in pairs.items()
            ),
            all(wider),
            "connect",
        ),
        Claim(
            "Matching turns the largest singular vectors of two networks the same way",
            "arXiv:2402.04051, §5",
            "alignment "
            + "; ".join(
                f"{name} {row['alignment, before']:.2f} → {row['alignment, after']:.2f}"
                for name, row in (
                    ("`mlp_small`", mlp),
                    *((SHOWN[model], wide) for model, (_, wide) in pairs.items()),
                )
            ),
            all(
                row["alignment, after"] > 2 * row["alignment, before"]
                for row in (mlp, *(wide for _, wide in pairs.values()))
            ),
            "connect",
        ),
    ]


def residuals_apart() -> list[Finding]:
    """With which residuals matched seeds are closer, and which connect them."""
    parts, closer, connected = [], [], []
    for model, name in SHOWN.items():
        residuals = {row["residual"] for row in rows("connect", model=model)}
        wide = {residual: widths(model, residual)[1] for residual in residuals}
        order = sorted(residuals, key=lambda residual: loss_barrier(wide[residual]).mean)  # noqa: B023
        told_of = ", ".join(f"`{residual}` {loss_barrier(wide[residual])}" for residual in order)
        parts.append(f"{name} of width {wide['add']['width']}: {told_of}")
        plain = loss_barrier(wide["add"])
        closer += [f"`{r}` in the {name}" for r in order if ahead(plain, loss_barrier(wide[r]))]
        connected += [f"`{r}` in the {name}" for r in order if gone(wide[r])]
    return [
        Finding(
            "2026-11-30",
            "Residuals that connect two seeds of a ViT or a ResNet after one pass over the images: "
            + (", ".join(connected) or "none"),
            f"Loss barriers of matched seeds, nats. {'; '.join(parts)}. Lower than with `add` by "
            f"more than twice the spread of the pairs: {', '.join(closer) or 'none'}.",
            "connect",
        )
    ]
