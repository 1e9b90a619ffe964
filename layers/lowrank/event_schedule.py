"""When the events of a method happen: numbers of steps, given as such or as shares of a run."""

__all__ = ["check_rewarm", "check_steps", "known", "rewarm_steps", "rewarmed", "steps_of"]


def check_steps(value: int | float | None, what: str) -> None:
    """Refuse a setting that is neither a number of steps nor a share of a run.

    Args:
        value: Steps (int, at least 1), a share of the run (float, in (0, 1)), or None for never.
        what: Its name.

    Raises:
        ValueError: naming it and the value.
    """
    if value is None:
        return
    share = isinstance(value, float)
    if isinstance(value, bool) or (not 0.0 < value < 1.0 if share else value < 1):
        raise ValueError(
            f"{what} must be at least 1 step, or a share of the run in (0, 1), got {value}"
        )


def steps_of(value: int | float, total_steps: int | None, what: str) -> int:
    """Return the number of steps that a setting means, at least 1.

    Args:
        value: Steps, or a share of the run.
        total_steps: Steps of the run; only shares need it.
        what: Name of the setting.

    Raises:
        ValueError: a share of a run whose length is unknown.
    """
    if isinstance(value, int):
        return value
    return max(1, round(value * known(total_steps, f"{what}={value}")))


def known(total_steps: int | None, because: str) -> int:
    """Return the steps of a run.

    Raises:
        ValueError: they are unknown, with what needs them.
    """
    if total_steps is None:
        raise ValueError(
            f"{because} needs the length of the run; give total_steps, the optimiser steps of all "
            f"epochs"
        )
    return total_steps


def check_rewarm(rewarm: int | None, interval: int | None, what: str) -> None:
    """Refuse a warm-up that is not over before the next one begins: the rate would be capped.

    Args:
        rewarm: Steps, or None for a default that fits.
        interval: Steps from one warm-up to the next; None or 0 where there is none, or not known.
        what: Name of the setting of the interval.

    Raises:
        ValueError: naming both.
    """
    if rewarm is None:
        return
    if isinstance(rewarm, bool) or rewarm < 0:
        raise ValueError(f"rewarm must be at least 0 steps, got {rewarm}")
    if interval and rewarm >= interval:
        raise ValueError(
            f"rewarm={rewarm} must be below {what}, which is {interval} steps, or the learning "
            f"rate would never stay at its full value; lower it, or leave it out for a tenth of "
            f"the interval at most"
        )


def rewarm_steps(rewarm: int | None, interval: int, usual: int) -> int:
    """Return the steps of a warm-up: as set, or the usual ones, at most a tenth of the interval.

    Args:
        rewarm: Steps, or None.
        interval: Steps from one warm-up to the next; 0 where there is none.
        usual: Steps of a long interval.
    """
    if rewarm is not None:
        return rewarm
    return min(usual, interval // 10) if interval else usual


def rewarmed(since: int, steps: int) -> float:
    """Return the factor of a linear warm-up, 1/steps to 1, for the step `since` (from 0)."""
    return min(1.0, (since + 1) / steps) if steps else 1.0
