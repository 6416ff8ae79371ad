"""Batches of a backfill are in order of event time, and every evaluated row is newer than the state that scores it."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from profilestream.base import streaming, tables
from profilestream.base.queries import Batch, BatchResult, RunOptions, appended_rows, stage_query
from profilestream.base.settings import Settings
from profilestream.learn import stage
from profilestream.learn.factors import factors_spec
from profilestream.learn.factors.factors_spec import FactorsSpec
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests.builders import Shop, event

SETTINGS = """
[learn.factors]
enabled = true
k = 2
first_full_passes = 0
full_passes = 0
max_neighbors = 0
"""


def _write_days(shop: Shop, days: range) -> None:
    """One file per day with three events, each two hours after the one before."""
    for day in days:
        rows = [
            event(
                n,
                at=f"{date(2025, 1, 1) + timedelta(days=day)}T{10 + 2 * (n % 3)}:00:00Z",
                who=f"u{n * n % 31}",
                what=f"i{n * 7 % 40}",
            )  # fmt: skip
            for n in range(3 * day, 3 * day + 3)
        ]
        shop.write(f"{day}.jsonl", "\n".join(map(json.dumps, rows)))


def _assert_evaluated_in_order(spark: SparkSession, shop: Shop, files_per_batch: int) -> None:
    metrics = shop.read(spark, tables.MODEL_METRICS)
    evaluated = metrics.where("metric = 'recall_20' AND model = 'blend'").collect()
    rows = shop.read(spark, tables.EVENTS).count()
    assert len(evaluated) >= rows // 3 // files_per_batch - 1
    assert all(row["rows_from"] > row["state_as_of"] for row in evaluated)
    late_rows = metrics.where("metric = 'late_rows'").agg(F.sum("value")).collect()[0][0]
    assert late_rows <= 0.05 * rows


def test_a_backfill_is_evaluated_in_order_when_the_learner_starts_after_it_and_when_more_of_it_arrives(
    spark: SparkSession, tmp_path: Path, at_length: bool
) -> None:
    days, files, learned = (365, 100, 31) if at_length else (20, 15, 10)
    overrides = [f"capture.sources.shop.max_files_per_trigger={files}", f"learn.max_files_per_trigger={learned}"]
    shop = Shop(tmp_path, extra_settings=SETTINGS, overrides=overrides)
    settings = shop.settings()
    _write_days(shop, range(days))
    shop.capture(spark)
    # The rewritten files are the last ones in Delta's order of files, although their dates are early.
    events = DeltaTable.forPath(spark, tables.EVENTS.path(settings.paths))
    events.delete(F.col("user_id") == "shop:u4")
    assert 0 < shop.read(spark, tables.EVENTS).count() < 3 * days
    for part in (range(days, days), range(days, 2 * days)):
        _write_days(shop, part)
        shop.capture(spark)
        streaming.run(spark, stage.queries(FactorsSpec, settings), settings, RunOptions())
        _assert_evaluated_in_order(spark, shop, learned)
        learned_events = factors_spec.read_state(spark, settings).global_sums.event_count
        assert learned_events == shop.read(spark, tables.EVENTS).count()


def test_a_commit_of_events_has_one_file_per_date_in_order_of_date(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, overrides=["capture.sources.shop.max_files_per_trigger=6"])
    for n, day in enumerate([5, 5, 5, 5, 5, 5, 9, 7, 8, 9, 7, 8]):
        rows = [event(10 * n + m, at=f"2026-01-{day:02}T{n + 1:02}:{m:02}:00Z") for m in range(5)]
        shop.write(f"{n:02}.jsonl", "\n".join(map(json.dumps, rows)))
    shop.capture(spark)
    dates = []
    for commit in sorted((tmp_path / "warehouse" / "events" / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        dates.append([action["add"]["partitionValues"]["event_period"] for action in actions if "add" in action])
    assert dates == [[], ["2026-01-05"], ["2026-01-07", "2026-01-08", "2026-01-09"]]


def _recording_stage(settings: Settings, batches: list[list[Any]], fail_at: int) -> Any:
    """A stage that records the event ids and dates of its batches, three files each; fails in one of them."""

    def write(events: DataFrame, batch: Batch) -> BatchResult:
        rows = [tuple(row) for row in events.select("event_id", "event_date").collect()]
        if batch.txn.batch_id == fail_at:
            raise RuntimeError("fails once")
        batches.append(rows)
        empty = batch.spark.createDataFrame([], tables.CAPTURE_ALARMS.schema)
        batch.append(empty, tables.CAPTURE_ALARMS)
        return BatchResult(rows_in=len(rows))

    source = appended_rows(tables.EVENTS, "capture_events", settings.paths, 3)
    return stage_query("record", source, (tables.CAPTURE_ALARMS,), write, settings="", shared=(tables.CAPTURE_ALARMS,))


def _append_days(spark: SparkSession, shop: Shop, days: list[int], batch_id: int) -> list[str]:
    """One commit with one event per day, in this order; days may repeat."""
    ids = [f"{batch_id}-{n}" for n in range(len(days))]
    rows = [event(n, id=ids[n], at=f"2025-03-{day:02}T10:00:00Z") for n, day in enumerate(days)]
    shop.append_events(spark, rows, batch_id=batch_id)
    return ids


@pytest.mark.parametrize("days", [[9, 2, 14, 5, 11, 7, 1], [4, 4, 1, 1, 4, 4, 1, 1, 4]])
def test_a_snapshot_that_is_read_in_two_runs_with_commits_between_is_read_once_and_in_order_of_date(
    spark: SparkSession, tmp_path: Path, days: list[int]
) -> None:
    shop = Shop(tmp_path)
    settings, batches, expected = shop.settings(), list[list[Any]](), list[str]()
    for number, day in enumerate(days):
        expected += _append_days(spark, shop, [day], number)
    with pytest.raises(Exception, match="fails once"):
        streaming.run(spark, [_recording_stage(settings, batches, fail_at=1)], settings, RunOptions())
    later = _append_days(spark, shop, [3, 20], 100) + _append_days(spark, shop, [4], 101)
    streaming.run(spark, [_recording_stage(settings, batches, fail_at=-1)], settings, RunOptions())
    assert sorted(name for batch in batches for name, _ in batch) == sorted(expected + later)
    snapshot = [[day for name, day in batch if name in expected] for batch in batches]
    for n, earlier in enumerate(snapshot):
        newer = [day for batch in snapshot[n + 1 :] for day in batch]
        assert not earlier or not newer or max(earlier) <= min(newer)
