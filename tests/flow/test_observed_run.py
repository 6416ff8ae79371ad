"""What a run stores and exports about itself: lag, cost and failures of its stages, and alerts."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from profilestream.base import commits, local_appends, streaming, tables
from profilestream.base.delta_table import Table
from profilestream.base.observe import followed_log, metrics_file
from profilestream.base.observe.exported_metrics import (
    CAPTURE_ROWS,
    LAST_UPDATE,
    STAGE_BATCHES,
    STAGE_BYTES,
    STAGE_EVENT_TIME,
    STAGE_FAILED,
    STAGE_LAG_ROWS,
    STAGE_LAG_SECONDS,
    STAGE_RESTARTS,
    STAGE_ROWS,
)
from profilestream.base.queries import RunOptions
from profilestream.capture import ingest
from profilestream.derive import sessions
from pyspark.sql import Row, SparkSession

from tests.builders import Shop, event

SETTINGS = """
[stream]
max_files_per_trigger = 1
restart_seconds = 0.1
restarts = 1
[derive.sessions]
enabled = true
[observe]
alerts = "alerts.toml"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path, extra_settings=SETTINGS)
    (tmp_path / "alerts.toml").write_text(
        f'[rules.failed]\nmetric = "{STAGE_FAILED.name}"\nabove = 0\nseverity = "critical"\n'
        f'[delivery]\ncommand = ["sh", "-c", "cat >> {tmp_path}/sent; echo >> {tmp_path}/sent"]\n'
    )
    for number, name in enumerate(("a", "b")):
        shop.write(f"{name}.jsonl", "".join(json.dumps(event(n + 3 * number)) + "\n" for n in range(3)))
    return shop


def _capture(spark: SparkSession, shop: Shop) -> None:
    settings = shop.settings()
    assert streaming.run(spark, [ingest.query(settings, "shop")], settings, RunOptions())


def _derive(spark: SparkSession, shop: Shop) -> None:
    settings = shop.settings()
    assert streaming.run(spark, sessions.queries(settings), settings, RunOptions(), together=True)


def _samples(shop: Shop) -> metrics_file.Samples:
    return metrics_file.read(metrics_file.metrics_path(shop.settings()))


def _batches(spark: SparkSession, shop: Shop, stage: str) -> list[Row]:
    return shop.read(spark, tables.STAGE_BATCHES).where(f"stage = '{stage}'").orderBy("started_at").collect()


def _bytes(shop: Shop, *names: str) -> int:
    """Size of the data files and change files of tables that had no update yet."""
    folders = [Path(shop.settings().paths.warehouse) / name for name in names]
    return sum(
        file.stat().st_size for folder in folders for file in folder.rglob("*.parquet") if "_delta_log" not in str(file)
    )


def test_a_batch_of_capture_stores_its_event_time_bytes_and_cpu_time(spark: SparkSession, shop: Shop) -> None:
    _capture(spark, shop)
    newest = shop.read(spark, tables.EVENTS).agg({"event_time": "max"}).collect()[0][0]
    first, second = _batches(spark, shop, "capture_events")
    assert second["event_time_max"] == newest and first["event_time_max"] < newest
    assert first["bytes_written"] + second["bytes_written"] == _bytes(
        shop, "events", "rejected_events", "capture_batches"
    )
    for batch in (first, second):
        assert 0 < batch["commit_seconds"] < batch["seconds"]
        assert 0.05 < batch["cpu_seconds"] < 4 * batch["seconds"] + 1
        assert batch["lag_rows"] is None and batch["lag_seconds"] is None  # files: lag_files


def test_the_lag_of_a_stage_is_what_was_committed_and_not_read(spark: SparkSession, shop: Shop) -> None:
    _capture(spark, shop)
    _derive(spark, shop)
    for number in (7, 8):
        shop.write(f"{number}.jsonl", json.dumps(event(number)) + "\n")
    _capture(spark, shop)
    newest = shop.read(spark, tables.EVENTS).agg({"event_time": "max"}).collect()[0][0]
    started = time.time()
    shop.overrides = ["derive.max_files_per_trigger=1"]
    _derive(spark, shop)
    *_, behind, last = _batches(spark, shop, "derive_sessions")
    assert (behind["lag_rows"], last["lag_rows"], last["lag_seconds"]) == (1, 0, 0)
    assert 0 < behind["lag_seconds"] < time.time() - started + 60
    assert newest <= last["event_time_max"] <= newest + timedelta(milliseconds=1)
    assert last["bytes_written"] > 0
    samples = _samples(shop)
    assert samples[STAGE_LAG_ROWS.name, ("derive_sessions", "")] == 0
    assert samples[STAGE_EVENT_TIME.name, ("derive_sessions", "")] == last["event_time_max"].timestamp()


def test_the_metrics_of_several_runs_add_up_to_the_tables(spark: SparkSession, shop: Shop) -> None:
    _capture(spark, shop)
    shop.write("c.jsonl", json.dumps(event(9, who="null")) + "\n" + json.dumps(event(1)) + "\n")
    _capture(spark, shop)
    samples = _samples(shop)
    rows = {outcome: samples[CAPTURE_ROWS.name, ("shop", outcome)] for outcome in ("clean", "rejected", "duplicate")}
    assert rows == {"clean": 6, "rejected": 1, "duplicate": 1}
    labels = ("capture_events", "shop")
    batches = _batches(spark, shop, "capture_events")
    assert samples[STAGE_BATCHES.name, labels] == len(batches) == 3
    assert samples[STAGE_ROWS.name, labels] == 8
    assert samples[STAGE_BYTES.name, labels] == sum(batch["bytes_written"] for batch in batches)
    assert time.time() - samples[LAST_UPDATE.name, ()] < 60


def test_a_failed_stage_is_exported_and_sends_an_alert_that_the_next_run_resolves(
    spark: SparkSession, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = commits.append

    def fail(frame: Any, target: Table, *args: Any) -> None:
        if target.name == "events":
            raise OSError("the disk is full")
        append(frame, target, *args)

    settings = shop.settings()
    with monkeypatch.context() as patch:
        patch.setattr(commits, "append", fail)
        with pytest.raises(OSError, match="disk"):
            streaming.run(spark, [ingest.query(settings, "shop")], settings, RunOptions(continuous=0.1), together=True)
    labels = ("capture_events", "shop")
    assert (_samples(shop)[STAGE_FAILED.name, labels], _samples(shop)[STAGE_RESTARTS.name, labels]) == (1, 1)
    _capture(spark, shop)
    assert _samples(shop)[STAGE_FAILED.name, labels] == 0
    sent = [json.loads(line) for line in (tmp_path / "sent").read_text().splitlines()]
    assert [(one["alert"], one["state"], one["labels"]["source"]) for one in sent] == [
        ("failed", "active", "shop"),
        ("failed", "resolved", "shop"),
    ]


def test_a_table_of_the_former_version_gets_the_new_columns(spark: SparkSession, shop: Shop) -> None:
    settings, table = shop.settings(), tables.STAGE_BATCHES
    former = Table(table.name, table.columns[:9], table.key)
    former.create(spark, settings.paths)
    row: tuple[Any, ...] = ("capture_events", "shop", "e", 0, 0, 5, None, 1.0, [])
    local_appends.append(former.arrow_rows([dict(zip(former.names, row, strict=True))]), former, settings.paths)
    _capture(spark, shop)
    rows = shop.read(spark, table).orderBy("started_at").collect()
    assert [row["bytes_written"] is None for row in rows] == [True, False, False]


def test_an_error_of_the_measures_fails_no_stage(
    spark: SparkSession, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(followed_log, "parse_entry", lambda text: 1 / 0)
    _capture(spark, shop)
    assert shop.counts(spark) == (6, 6, 0, 0)
    assert "measures of stages are incomplete: ZeroDivisionError" in caplog.text
    assert [batch["bytes_written"] for batch in _batches(spark, shop, "capture_events")] == [None, None]
    assert _samples(shop)[STAGE_BATCHES.name, ("capture_events", "shop")] == 2
    assert (STAGE_LAG_SECONDS.name, ("capture_events", "shop")) not in _samples(shop)
