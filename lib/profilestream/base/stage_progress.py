"""Progress display of running queries: one live bar per query on a terminal, one text line per batch elsewhere."""

import threading
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from profilestream.base import console


class _TimeLeft(TimeRemainingColumn):
    """The estimated remaining time; empty when the number of files is unknown."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Bars:
    """The live display, one per process; each query that is running adds a bar."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._display: Progress | None = None

    def add(self, stage: str, total: int | None, text: str) -> tuple[Progress, TaskID]:
        with self._lock:
            if self._display is None:
                self._display = Progress(
                    TextColumn("[bold]{task.description}"),
                    BarColumn(bar_width=10),
                    TextColumn("{task.fields[text]}"),
                    _TimeLeft(),
                    console=console.console(),
                )
                self._display.start()
            self._users += 1
            return self._display, self._display.add_task(stage, total=total, text=text)

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._display is not None:
                self._display.stop()
                self._display = None


_BARS = _Bars()


class StageProgress:
    """Counts of one query's run, also after it was started again, and their display."""

    def __init__(self, stage: str, total_files: int | None) -> None:
        self.stage, self._total = stage, total_files
        self.batches = self.rows = self.restarts = self._files = 0
        self._started = time.monotonic()
        self._last_batch = self._started
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        if console.has_bars():
            self._bar = _BARS.add(self.stage, self._total, "waiting for the first batch")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            _BARS.release()

    @property
    def seconds(self) -> float:
        """Seconds from the start of the query to the end of its last batch."""
        return self._last_batch - self._started

    @property
    def files_left(self) -> int | None:
        """Files that the run still has to read; null when the source is not a folder of files."""
        return None if self._total is None else max(self._total - self._files, 0)

    def batch_done(self, rows: int, files: int) -> None:
        """Count one finished micro-batch and display it."""
        self._last_batch = time.monotonic()
        self.batches += 1
        self.rows += rows
        self._files += files
        if self._total is not None:
            self._total = max(self._total, self._files)  # files may be added during the run
        files_read = "" if self._total is None else f"{self._files}/{self._total} files · "
        if self._bar is not None:
            display, bar = self._bar
            display.update(bar, completed=self._files, total=self._total, text=f"{files_read}{self.rows:,} rows")
            return
        rate = self.rows / max(self.seconds, 1e-9)
        text = f"{files_read}batch {self.batches} · {self.rows:,} rows · {rate:,.{0 if rate >= 10 else 1}f} rows/s"
        console.line(f"{self.stage}  {text}{self._time_left()}")

    def _time_left(self) -> str:
        if self.files_left is None or not self._files:
            return ""
        return f" · {self.files_left * self.seconds / self._files:.0f} s left"
