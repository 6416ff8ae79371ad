"""Crashes of a stage around its writes; the stage is started again after each crash."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from profilestream.base import commits, streaming
from profilestream.base.delta_table import Table
from profilestream.base.queries import Query, RunOptions
from profilestream.base.settings import Settings
from pyspark.sql import SparkSession


@contextmanager
def append_fails(monkeypatch: pytest.MonkeyPatch, table: Table) -> Iterator[None]:
    """The block ends with an error when it appends to the table."""
    append = commits.append

    def failing_append(frame: object, target: Table, *args: object) -> None:
        if target is table:
            raise OSError("the disk is full")
        append(frame, target, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full"):
        patch.setattr(commits, "append", failing_append)
        yield


@dataclass(frozen=True)
class Crashes:
    """Crashes a stage after the first and after the last write of a batch; in the long form, around every write."""

    spark: SparkSession
    monkeypatch: pytest.MonkeyPatch
    at_length: bool

    def run_through(self, queries: list[Query], settings: Settings, batch_id: int) -> int:
        """Run a stage to its end with crashes in one batch; returns the number of possible crash points."""
        names = [table.name for query in queries for table in query.tables]
        points = [(names[0], "before"), *((name, "after") for name in names)]
        first_and_last = dict.fromkeys((points[1], points[-1]))
        for name, side in points if self.at_length else first_and_last:
            later = names[names.index(name) + 1 :]
            with self.monkeypatch.context() as patch, pytest.raises(Exception, match=f"crash {side} {name}"):
                for write in ("append", "merge"):
                    patch.setattr(commits, write, _crashing(getattr(commits, write), name, side, batch_id, later))
                streaming.run(self.spark, queries, settings, RunOptions())
        streaming.run(self.spark, queries, settings, RunOptions())
        return len(points)


def _crashing(write: Callable[..., Any], name: str, side: str, batch_id: int, later: list[str]) -> Callable[..., Any]:
    def write_or_crash(frame: Any, table: Any, paths: Any, txn: Any, **more: Any) -> Any:
        is_here = table.name == name and txn.batch_id == batch_id
        is_later = table.name in later and txn.batch_id == batch_id  # may be written at the same time
        if is_later or (is_here and side == "before"):
            raise RuntimeError(f"crash {side} {name}")
        written = write(frame, table, paths, txn, **more)
        if is_here:
            raise RuntimeError(f"crash after {name}")
        return written

    return write_or_crash
