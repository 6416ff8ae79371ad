"""CPU time of the driver's processes during a batch: Python, its JVM and, in local mode, the Python workers."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Seconds between two searches for new processes. Their CPU time until then is not lost: the counters are cumulative.
_SEARCH_SECONDS = 10.0


@dataclass
class CpuShare:
    """CPU seconds of a batch; null where the operating system does not report them, and while the batch runs."""

    seconds: float | None = None


class ProcessTree:
    """The CPU time of this process, its JVM and all processes that they started, from `/proc`.

    Under spark-submit the JVM starts Python; otherwise Python starts the JVM.
    """

    def __init__(self) -> None:
        self._root = os.getppid() if "PYSPARK_GATEWAY_PORT" in os.environ else os.getpid()
        self._processes: list[int] = []
        self._searched = -_SEARCH_SECONDS

    def seconds(self) -> float | None:
        """CPU seconds, including those of ended child processes; null without `/proc`."""
        if not (_PROC / "self" / "stat").exists():
            return None
        now = time.monotonic()
        if now - self._searched >= _SEARCH_SECONDS:
            self._searched, self._processes = now, self._descendants()
        # User and system time, and the same of ended children.
        ticks = sum(sum(map(int, fields[11:15])) for process in self._processes if (fields := _stat(process)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def _descendants(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for name in os.listdir(_PROC):
            if name.isdigit() and (fields := _stat(int(name))):
                children.setdefault(int(fields[1]), []).append(int(name))
        tree, waiting = list[int](), [self._root]
        while waiting:
            process = waiting.pop()
            tree.append(process)
            waiting += children.get(process, [])
        return tree


def _stat(process: int) -> list[str] | None:
    """The fields of `/proc/<process>/stat` from the state on, after the name of the command; null if it has ended."""
    try:
        return (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


class CpuClock:
    """Divides CPU time among batches: those that run at the same time share it equally.

    Args:
        read: the CPU seconds so far; null: unknown.
    """

    def __init__(self, read: Callable[[], float | None]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._last: float | None = None
        self._running: dict[int, float] = {}  # CPU seconds so far, by id of the share

    @contextmanager
    def measure(self) -> Iterator[CpuShare]:
        """Measure the block; its share has the seconds when the block has ended."""
        share = CpuShare()
        with self._lock:
            self._divide()
            self._running[id(share)] = 0.0
        try:
            yield share
        finally:
            with self._lock:
                self._divide()
                seconds = self._running.pop(id(share))
                share.seconds = None if self._last is None else seconds

    def _divide(self) -> None:
        now = self._read()
        if now is not None and self._last is not None and self._running:
            part = max(now - self._last, 0.0) / len(self._running)
            for key in self._running:
                self._running[key] += part
        self._last = now


CPU_CLOCK = CpuClock(ProcessTree().seconds)
