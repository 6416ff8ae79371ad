"""A stage that crashes around its writes, and is started again each time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from profilestream.base import commits, streaming
from profilestream.base.queries import Query, RunOptions
from profilestream.base.settings import Settings
from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Crashes:
    """Crashes of a stage: after the first and after the last write of a batch, or (at length) around each of them."""

    spark: SparkSession
    monkeypatch: pytest.MonkeyPatch
    at_length: bool

    def run_through(self, queries: list[Query], settings: Settings, batch_id: int) -> int:
        """Run a stage to its end, with crashes in a batch; returns around how many places it can crash."""
        names = [table.name for query in queries for table in query.tables]
        points = [(names[0], "before"), *((name, "after") for name in names)]
        few = dict.fromkeys((points[1], points[-1]))
        for name, side in points if self.at_length else few:
            beside = names[names.index(name) + 1 :]
            with self.monkeypatch.context() as patch, pytest.raises(Exception, match=f"crash {side} {name}"):
                for write in ("append", "merge"):
                    patch.setattr(commits, write, _crashing(getattr(commits, write), name, side, batch_id, beside))
                streaming.run(self.spark, queries, settings, RunOptions())
        streaming.run(self.spark, queries, settings, RunOptions())
        return len(points)


def _crashing(write: Callable[..., Any], name: str, side: str, batch_id: int, beside: list[str]) -> Callable[..., Any]:
    def crashes(frame: Any, table: Any, paths: Any, txn: Any, **more: Any) -> Any:
        here = table.name == name and txn.batch_id == batch_id
        dies_too = table.name in beside and txn.batch_id == batch_id  # it may be written at the same time
        if dies_too or (here and side == "before"):
            raise RuntimeError(f"crash {side} {name}")
        written = write(frame, table, paths, txn, **more)
        if here:
            raise RuntimeError(f"crash after {name}")
        return written

    return crashes
