"""A stage that crashes around each of its writes in turn, and is started again each time."""

from collections.abc import Callable
from typing import Any

import pytest
from profilestream.base import commits, stream
from profilestream.base.settings import Settings
from profilestream.base.stream import Options, Query
from pyspark.sql import SparkSession


def run_through_crashes(
    spark: SparkSession, queries: list[Query], settings: Settings, monkeypatch: pytest.MonkeyPatch, batch_id: int
) -> int:
    """Run a stage to its end, with a crash between any two writes of the batch, and before and after all of them;
    returns how many there were."""
    names = [table.name for query in queries for table in query.tables]
    points = [(names[0], "before"), *((name, "after") for name in names)]
    for name, side in points:
        beside = names[names.index(name) + 1 :]
        with monkeypatch.context() as patch, pytest.raises(Exception, match=f"crash {side} {name}"):
            for write in ("append", "merge"):
                patch.setattr(commits, write, _crashing(getattr(commits, write), name, side, batch_id, beside))
            stream.run(spark, queries, settings, Options())
    stream.run(spark, queries, settings, Options())
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
