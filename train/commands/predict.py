"""Predict the classes of files: images, rows of CSV files, sequences, or how likely a text is.

An input is read as the test fold of the model's training was. A file or row that cannot be read is
said on stderr, the others are predicted, and the exit code is 1:

    archzoo predict runs/RUN cat.jpg dog.png
    archzoo predict runs/RUN new-rows.csv top=1 --json
    archzoo predict hf-hub:OWNER/NAME letter.txt
"""

import sys
from typing import Any

import torch

from ..command_line.answer import Answer
from ..errors import RunError, UsageError, check_at_least_one
from ..subject.given_model import find_model
from ..subject.prediction import predict as predictions

__all__ = ["predict"]


def predict(
    model: str,
    *files: str,
    top: int = 5,
    batch_size: int = 64,
    threads: int | None = None,
    imports: list[str] | None = None,
) -> Answer:
    """Predict files with a trained model.

    Args:
        model: The folder of a run or of a saved model, or hf-hub:OWNER/NAME.
        files: Images, CSV files with a header, FASTA files, or texts, whichever the model reads.
        top: How many classes to name, the likeliest first; of a text, how many bytes after it.
        batch_size: Inputs at a time.
        threads: CPU threads of torch; null leaves torch's choice.
        imports: Your own modules; null is those that the run recorded.

    Raises:
        RunError: no such model, or one that reads no files.
    """
    if not files:
        raise UsageError("there is no file to predict; write archzoo predict MODEL FILE…")
    check_at_least_one(top=top, batch_size=batch_size, threads=threads)
    place = find_model(model, imports)
    if not place.trained:
        raise RunError(
            f"{model} is a registered name, which has no weights; name a run, the folder of a "
            f"saved model, or hf-hub:OWNER/NAME"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    found, failed = [], 0
    for row in predictions(place.load(), list(files), top=top, batch_size=batch_size):
        found.append(row)
        if "error" in row:
            failed += 1
            print(f"archzoo predict: {row['error']}", file=sys.stderr)
    lines = [_line(row) for row in found if "error" not in row]
    inputs = f"{failed} of {len(found)} inputs could not be predicted"
    return Answer(found, "\n".join(lines), failed=inputs if failed else None, lines=True)


def _line(row: dict[str, Any]) -> str:
    """One input for a reader."""
    shares = ", ".join(
        f"{each['class']} {100 * each['probability']:.2f} %" for each in row["classes"]
    )
    if "bytes" not in row:
        return f"{row['input']}: {shares}"
    return (
        f"{row['input']}: {row['bits_per_byte']:.4f} bits per byte, log-likelihood "
        f"{row['log_likelihood']:.2f} nats of {row['bytes']:,} bytes; next {shares}"
    )
