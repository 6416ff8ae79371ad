"""Timing of two alternatives in the same run, and empty folders for their output."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path


def empty_folder(folder: Path) -> Path:
    """The folder, created or empty_folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measure_seconds(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def measure_alternately(
    runs: int, first: Callable[[], float], second: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of two alternatives, which run one after the other `runs` times after a warm-up of each.

    Args:
        first, second: run the work and return its seconds.
    """
    first(), second()
    pairs = [(first(), second()) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs]
