"""What a person sees while a stage runs: batches, rows, rows a second, time left."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StageProgress:
    """A live bar on a terminal, one plain line a batch elsewhere (a log file, CI)."""

    def __init__(self, stage: str, total_files: int | None) -> None:
        self._stage, self._total = stage, total_files
        self._batches = self._rows = self._files = 0
        self._started = time.monotonic()
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "StageProgress":
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total} files · {task.fields[said]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._stage, total=self._total, said="waiting for the first batch")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def batch_done(self, rows: int, files: int) -> None:
        """Count one finished micro-batch and show where things stand."""
        self._batches += 1
        self._rows += rows
        self._files += files
        spent = max(time.monotonic() - self._started, 1e-9)
        said = f"batch {self._batches} · {self._rows:,} rows · {self._rows / spent:,.0f} rows/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._files, said=said)
            return
        print(f"{self._stage}  {self._files}/{self._total or '?'} files · {said}{self._left(spent)}", file=sys.stderr)  # noqa: T201

    @property
    def files_left(self) -> int | None:
        """Files that the run has still to read; null when the source is not a folder of files."""
        return None if self._total is None else max(self._total - self._files, 0)

    def _left(self, spent: float) -> str:
        if self.files_left is None or not self._files:
            return ""
        return f" · {self.files_left * spent / self._files:.0f} s left"
