"""Tables of adapters on four networks of images, and what they did not show."""

from typing import Any

from ..reference import table
from .finding import Finding
from .kept import rows

__all__ = ["ADAPTER_IMAGE_FIGURES", "adapters_on_images"]

NAMES = {"vit": "ViT", "resnet": "ResNet-20", "poincare": "Poincaré ResNet", "ldlt": "LDLT ResNet"}
TASKS = {"turned": "turned by 90°", "new": "other classes", "half turn": "turned by 180°"}


def points(text: str) -> str:
    """A verdict on per cent, with one digit."""
    words = (f"{float(w):.1f}" if w.replace(".", "", 1).isdigit() else w for w in text.split())
    return " ".join(words)


def accuracy(row: dict[str, Any] | None) -> str:
    """Test accuracy in per cent with its standard error."""
    return "" if row is None else f"{row['accuracy']:.1f} ± {row['standard error']:.1f}"


def method(name: str) -> str:
    """The name of a method, as code where it is a preset of the registry."""
    first, comma, rest = name.partition(",")
    return name if first in ("before", "all weights", "head alone") else f"`{first}`{comma}{rest}"


def measured(network: str, task: str) -> dict[str, dict[str, Any]]:
    """Rows of methods by name."""
    found = rows("adapter_images", network=network, task=task)
    return {row["method"]: row for row in found if "method" in row}


def compared(network: str, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Lines of a network's methods, the best of its first task first."""
    own = {task: measured(network, task) for task in tasks}
    first = own[tasks[0]]
    lines = []
    for name in sorted(first, key=lambda name: -first[name]["accuracy"]):
        cells = []
        for task in tasks:
            row = own[task].get(name)
            cells += [accuracy(row), points(row.get("against lora", "")) if row else ""]
        told = first[name]
        numbers = f"{told['trained']:,}" if "trained" in told else ""
        bytes_kept = f"{told['optimiser, KiB']:,.0f}" if "trained" in told else ""
        lines.append((method(name), told.get("settings", ""), numbers, bytes_kept, *cells))
    return lines


def adapter_images() -> str:
    """All presets on a ViT."""
    tasks = ("turned", "new")
    heads = [cell for task in tasks for cell in (TASKS[task], "beside `lora`")]
    return table(("", "settings", "trained", "KiB", *heads), *compared("vit", tasks))


def adapter_images_first_layer() -> str:
    """Half a turn, with the first layer adapted too."""
    head = ("", "settings", "trained", "KiB", TASKS["half turn"], "beside `lora`")
    return table(head, *compared("vit", ("half turn",)))


def adapter_images_networks() -> str:
    """Some presets on a residual, a hyperbolic and a Lipschitz network."""
    tasks = ("turned", "new")
    heads = [cell for task in tasks for cell in (TASKS[task], "beside `lora`")]
    return table(
        ("network", "", "settings", "trained", "KiB", *heads),
        *(
            (NAMES[network], *line)
            for network in ("resnet", "poincare", "ldlt")
            for line in compared(network, tasks)
        ),
    )


def adapter_images_claims() -> str:
    """What papers say of two methods, by network and task."""
    found = [row for row in rows("adapter_images") if "claim" in row]
    cases = list(dict.fromkeys((row["network"], row["task"]) for row in found))
    cells = {
        (row["claim"], row["network"], row["task"]): ("yes: " if row["reproduced"] else "no: ")
        + points(row["found"])
        for row in found
    }
    sources = {row["claim"]: row["source"].removeprefix("arXiv:") for row in found}
    return table(
        ("claim", *(f"{NAMES[network]}, {TASKS[task]}" for network, task in cases)),
        *(
            (
                f"{claim}, [{source}](https://arxiv.org/abs/{source})",
                *(cells.get((claim, *case), "") for case in cases),
            )
            for claim, source in sources.items()
        ),
    )


ADAPTER_IMAGE_FIGURES = {
    function.__name__: function
    for function in (
        adapter_images,
        adapter_images_first_layer,
        adapter_images_networks,
        adapter_images_claims,
    )
}


def adapters_on_images() -> list[Finding]:
    """What adapters did not show on images."""
    claims = [row for row in rows("adapter_images") if "claim" in row]
    missed = [row for row in claims if not row["reproduced"]]
    told = "; ".join(
        f"{row['claim']} ({NAMES[row['network']]}, {TASKS[row['task']]}): {points(row['found'])}"
        for row in missed
    )
    return [
        Finding(
            "2026-11-30",
            "Most of what papers claim between adapters is not shown on small networks of images",
            f"{len(missed)} of {len(claims)} claims are not reproduced at about equal trained "
            "numbers, each method at its best rate, three seeds of 60 or 100 steps; in points of "
            f"test accuracy: {told}.",
            "adapter_images",
        )
    ]
