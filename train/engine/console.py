"""What a person watching a run sees: a bar on a terminal, and one line per evaluation."""

import sys
import time
from collections.abc import Mapping

__all__ = ["Console", "describe", "say"]


def say(text: str) -> None:
    """Print a line above whatever bar there is."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def describe(metrics: Mapping[str, float]) -> str:
    """Write metrics for a reader: accuracy in percent, everything else with four digits."""
    parts = []
    for name, value in metrics.items():
        shown = f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4g}"
        parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts)


class Console:
    """Progress of one run, on the leading process only.

    Args:
        total: Samples that the run will see.
        done: Samples seen before it was resumed.
        leader: Whether this process talks at all.
        bar: Whether to draw a bar; None draws it on a terminal.
    """

    def __init__(self, total: int, done: int, leader: bool, bar: bool | None) -> None:
        """Start the clock."""
        from tqdm import tqdm

        shown = leader and (sys.stderr.isatty() if bar is None else bar)
        self.bar = tqdm(
            total=total,
            initial=done,
            unit=" samples",
            unit_scale=True,
            disable=not shown,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self.total, self.done = total, done
        self.started, self.start_done = time.perf_counter(), done

    def advance(self, samples: int, note: str | None) -> None:
        """Move the bar; a note replaces what stands beside it."""
        self.done += samples
        if not self.bar.disable:
            if note is not None:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(samples)

    def eta(self) -> str:
        """The time left at the pace so far."""
        seen = self.done - self.start_done
        left = (time.perf_counter() - self.started) * (self.total - self.done) / max(1, seen)
        return f"{int(left // 60)}:{int(left % 60):02d}"

    def close(self) -> None:
        """Leave the last bar on the screen."""
        self.bar.close()
