"""How the benchmarks measure: two pieces of work in turn, in emptied folders."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path


def emptied(folder: Path) -> Path:
    """The folder, there and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def in_turn(times: int, first: Callable[[], float], second: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Seconds of two pieces of work, measured in turn after one warm-up of each."""
    first(), second()
    pairs = [(first(), second()) for _ in range(times)]
    return [a for a, _ in pairs], [b for _, b in pairs]
