"""CPU time of the driver's processes during a batch: Python, its JVM and, in local mode, the Python workers."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
# Seconds between two searches for new processes. Their CPU time until then is not lost: the counters are cumulative.
_SEARCH_SECONDS = 10.0


@dataclass
class CpuShare:
    """CPU seconds of a batch; null where the operating system does not report them, and while the batch runs."""

    seconds: float | None = None


class _Ticks(NamedTuple):
    """CPU time of a process in clock ticks.

    Args:
        total: its own, and that of its ended children.
        children: that of its ended children.
    """

    parent: int
    total: int
    children: int


class ProcessTree:
    """The CPU time of this process, its JVM and all processes that they started, from `/proc`.

    Under spark-submit the JVM starts Python; otherwise Python starts the JVM.
    """

    def __init__(self) -> None:
        self._root = os.getppid() if "PYSPARK_GATEWAY_PORT" in os.environ else os.getpid()
        self._processes: list[int] = []
        self._searched = -_SEARCH_SECONDS
        self._last: dict[int, _Ticks] = {}
        self._ended = 0

    def seconds(self) -> float | None:
        """CPU seconds, including those of ended child processes; null without `/proc`."""
        if not (_PROC / "self" / "stat").exists():
            return None
        now = time.monotonic()
        if now - self._searched >= _SEARCH_SECONDS:
            self._searched, self._processes = now, self._descendants()
        ticks = {process: _ticks(fields) for process in self._processes if (fields := _stat(process))}
        self._ended += self._unaccounted(ticks)
        self._last = ticks
        return (self._ended + sum(one.total for one in ticks.values())) / os.sysconf("SC_CLK_TCK")

    def _unaccounted(self, ticks: dict[int, _Ticks]) -> int:
        """Ticks of ended processes that their parents have not added to their own.

        PySpark's daemon ignores SIGCHLD, so the system does not add up the CPU time of its workers.
        """
        ended = Counter[int]()
        for process, last in self._last.items():
            if process not in ticks:
                ended[last.parent] += last.total
        return sum(max(total - self._reaped(parent, ticks), 0) for parent, total in ended.items())

    def _reaped(self, parent: int, ticks: dict[int, _Ticks]) -> int:
        """Ticks of ended children that a process has added to its own since the last reading."""
        if parent not in ticks or parent not in self._last:
            return 0
        return ticks[parent].children - self._last[parent].children

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


def _ticks(fields: list[str]) -> _Ticks:
    own, children = (sum(map(int, fields[first : first + 2])) for first in (11, 13))  # user and system time
    return _Ticks(int(fields[1]), own + children, children)


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
