"""Measure whether two trained networks are connected, before and after their units are matched.

The units of B are put in the places where its weights are closest to those of A, which leaves B the
same function; then loss and accuracy are measured on the straight way from A to B, as they are and
matched. A barrier is how far the loss rises, or the accuracy falls, beside the line between the two
ends; alignment is how far the top singular vectors of their layers point the same way. Batch norms
get new statistics at every point. Data are those of A's run, unless others are named; two networks
that read samples differently, or number their classes so, are refused:

    archzoo connect runs/A runs/B
    archzoo connect runs/A runs/B split=train points=11 out=barrier.png
    archzoo connect my-model hf-hub:OWNER/NAME data=digits --json
"""

import statistics as summary
from collections.abc import Mapping
from typing import Any, Literal

from ..command_line.answer import Answer
from ..command_line.table import aligned
from ..errors import RunError, check_at_least_one

__all__ = ["connect"]

TITLES = {"before": "as they are", "after": "matched"}


def connect(
    a: str,
    b: str,
    *,
    data: str | dict[str, Any] | None = None,
    split: Literal["test", "validation", "train"] = "test",
    points: int = 25,
    batch_size: int = 250,
    statistics: int = 2500,
    vectors: int = 5,
    out: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    seed: int = 0,
    other_data: bool = False,
    imports: list[str] | None = None,
) -> Answer:
    """Match two trained networks of one architecture and measure the way between them.

    Args:
        a: The folder of a run or of a saved model, hf-hub:OWNER/NAME or pretrained:NAME/TAG.
        b: Another of the same architecture.
        data: A data set by name, with its keys as data.KEY=value; null is that of A's run.
        split: The fold; that of training comes augmented.
        points: Points of the way, both ends among them, at least 3.
        batch_size: Samples at a time.
        statistics: Training samples from which batch norms take their statistics at each point.
        vectors: Singular vectors of each layer whose alignment is told.
        out: A picture to draw; its ending chooses the format; null draws none.
        device: Where the networks run.
        threads: CPU threads of torch; null leaves torch's choice.
        seed: Of the order in which units are matched, and of the draw of training samples.
        other_data: Whether the data may have changed, and classes are scored by their number.
        imports: Your own modules; null is those that the runs recorded.

    Raises:
        RunError: two architectures, networks that cannot be matched or read data differently, data
            that do not fit, or a name of no picture.
    """
    check_at_least_one(
        batch_size=batch_size, statistics=statistics, vectors=vectors, threads=threads
    )
    if points < 3:
        raise RunError(f"points must be at least 3, both ends and one between, got {points}")
    import torch

    from ...zoo.matching import barrier, match, permute, plot_barriers, singular_alignment
    from ..command_line.picture_file import picture_file, save_picture
    from ..engine.process import choose_device
    from ..subject.conventions import conventions_of, different_convention
    from ..subject.given_data import CLASSIFIED, model_on_data
    from ..subject.given_model import find_model

    picture = None if out is None else picture_file(out)
    if threads is not None:
        torch.set_num_threads(threads)
    places = [find_model(text, imports) for text in (a, b)]
    for place in places:
        if not place.trained:
            raise RunError(
                f"{place.text} is a registered name, which has no weights; name a run, the folder "
                f"of a saved model, or hf-hub:OWNER/NAME"
            )
    where = choose_device(device)
    subject = model_on_data(places[0], data, kinds=CLASSIFIED, other_data=other_data)
    first, second = subject.model.to(where), places[1].load().to(where)
    differing = different_convention(conventions_of(first), conventions_of(second))
    if differing is not None:
        raise RunError(f"{a} and {b} do not read samples alike: {differing}")
    same_data = subject.own and places[1].data == subject.data
    if same_data and places[1].run is not None and not other_data:
        places[1].run.check_data(subject.splits.about)
    batches = [(x.to(where), y.to(where)) for x, y in subject.batches(split, batch_size)]
    renewed = [x.to(where) for x, _ in subject.drawn(statistics, batch_size, seed)]
    try:
        matching = match(first, second, seed=seed)
        alignment = {"before": singular_alignment(first, second, matching.spec, k=vectors)}
        ways = {"before": barrier(first, second, batches, statistics=renewed, points=points)}
        alignment["after"] = singular_alignment(
            first, second, matching.spec, matching.permutations, k=vectors
        )
        permute(second, matching.spec, matching.permutations)
        ways["after"] = barrier(first, second, batches, statistics=renewed, points=points)
    except ValueError as error:
        raise RunError(f"{a} and {b}: {error}") from error
    found = {
        "model": subject.name,
        "a": a,
        "b": b,
        "data": subject.data,
        "split": split,
        "samples": sum(len(x) for x, _ in batches),
        "agreement": {"before": matching.before, "after": matching.after},
        "groups": len(matching.spec.groups),
        "t": list(ways["before"].t),
        **{
            when: {
                "loss": list(way.loss),
                "accuracy": list(way.accuracy),
                "own_loss": list(way.own_loss),
                "own_accuracy": list(way.own_accuracy),
                "loss_barrier": way.of_loss,
                "accuracy_barrier": way.of_accuracy,
                "alignment": alignment[when],
            }
            for when, way in ways.items()
        },
    }
    text = _text(found)
    if picture is not None:
        save_picture(plot_barriers({TITLES[w]: way for w, way in ways.items()}), picture)
        text += f"\n\n{out}"
    return Answer(found, text)


def _text(found: Mapping[str, Any]) -> str:
    """Write what was found for a reader."""
    middle = len(found["t"]) // 2
    at_middle = f"loss at {found['t'][middle]:.2f}"
    rows: list[tuple[str, ...]] = [
        ("", "loss barrier", at_middle, "accuracy barrier, %", "alignment")
    ]
    for when, title in TITLES.items():
        way = found[when]
        mean = summary.mean(way["alignment"].values()) if way["alignment"] else 0.0
        rows.append(
            (
                title,
                f"{way['loss_barrier']:.4f}",
                f"{way['loss'][middle]:.4f}",
                f"{100 * way['accuracy_barrier']:.2f}",
                f"{mean:.3f}",
            )
        )
    losses, shares = (
        " and ".join(f"{scale * each:.{digits}f}" for each in found["before"][key])
        for key, scale, digits in (("own_loss", 1, 4), ("own_accuracy", 100, 2))
    )
    layers: list[tuple[str, ...]] = [("layer, alignment", *TITLES.values())]
    layers += [
        (name, f"{before:.3f}", f"{found['after']['alignment'][name]:.3f}")
        for name, before in found["before"]["alignment"].items()
    ]
    return "\n".join(
        [
            f"{found['model']}, {found['a']} and {found['b']} on {found['data']}, "
            f"{found['samples']:,} samples of the {found['split']} fold: loss {losses}, accuracy "
            f"{shares} %",
            "",
            *aligned(rows, left=1),
            "",
            *aligned(layers, left=1),
        ]
    )
