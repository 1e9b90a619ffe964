"""Write a text by a language model, kept where another model finds it likely.

The samples are drawn from the model, one context long and each after a newline. With a judge those
are kept that it gives the fewest bits per byte or, with by=ratio, the fewest beyond those of the
model that wrote them. No data are read: so a task's adapter is carried to another model where the
task's data are not at hand, see docs/adapters.md:

    archzoo generate runs/target own.txt size=400000
    archzoo generate runs/target likely.txt judge=runs/adapted keep=0.5 by=ratio
    archzoo generate pretrained:gpt_nano/bytes code.txt size=10000 temperature=0.8 --json
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from ...zoo.share.atomic_write import replacing
from ..command_line.answer import Answer
from ..errors import RunError, check_at_least_one
from ..subject.generation import check_draw, generated, language_model

__all__ = ["generate"]


def generate(
    model: str,
    file: str,
    *,
    size: int = 100_000,
    judge: str | None = None,
    keep: float = 0.5,
    by: Literal["bits", "ratio"] = "ratio",
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    threads: int | None = None,
    imports: list[str] | None = None,
) -> Answer:
    """Write a text by a language model.

    Args:
        model: The folder of a run or of a saved model, hf-hub:OWNER/NAME or pretrained:NAME.
        file: The text to write; it must not be there.
        size: Bytes to write, at least one context; whole samples are written, so a few more.
        judge: Another model of bytes, that says which samples to keep; null keeps all.
        keep: The share of samples that a judge keeps, in [1e-6, 1].
        by: What a judge counts: bits per byte, or the ratio of its likelihood to the writer's.
        temperature: Divides the writer's logits; 0 takes the likeliest byte.
        batch_size: Samples at a time; with another, one seed draws another text.
        seed: Of the draw, in [0, 2**64).
        threads: CPU threads of torch; null leaves torch's choice.
        imports: Your own modules; null is those that the run recorded.

    Raises:
        RunError: no such model or one that writes no bytes, a setting out of range, or a file that
            is there or cannot be written.
    """
    check_at_least_one(size=size, batch_size=batch_size, threads=threads)
    check_draw(judged=judge is not None, keep=keep, by=by, temperature=temperature, seed=seed)
    path = Path(file)
    with contextlib.ExitStack() as opened:
        # Before the work, which would be in vain where nothing can be written.
        with _in_one_line(path):
            if os.path.lexists(path):
                raise FileExistsError
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = opened.enter_context(replacing(path, new=True))
        if threads is not None:
            torch.set_num_threads(threads)
        writer = language_model(model, imports)
        critic = None if judge is None else language_model(judge, imports)
        made = generated(
            writer,
            size,
            critic,
            keep=keep,
            by=by,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed,
        )
        with _in_one_line(path):
            temporary.write_bytes(made.text)
            opened.close()
    facts = {"file": file, "bytes": len(made.text), "drawn": made.drawn, "samples": made.samples}
    told = f"{file}: {len(made.text):,} bytes in {made.samples:,} samples"
    if made.threshold is None:
        return Answer(facts, told)
    bits = {"kept_bits_per_byte": made.kept_bits, "drawn_bits_per_byte": made.drawn_bits}
    return Answer(
        {**facts, "threshold": made.threshold, **bits},
        f"{told} of {made.drawn:,}; the judge gives them {made.kept_bits:.3f} bits per byte, all "
        f"that were drawn {made.drawn_bits:.3f}",
    )


@contextlib.contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Say what kept a file from being written.

    Raises:
        RunError: it is there, or cannot be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise RunError(f"{path} is there already; name another file, or remove it") from error
        raise RunError(f"{path} cannot be written: {error}; name another file") from error
