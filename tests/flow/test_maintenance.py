"""Maintenance while all stages run changes no table."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import streaming
from profilestream.base.queries import RunOptions
from profilestream.base.session import with_spark_session
from profilestream.steward import maintain
from profilestream.steward.maintenance_report import MaintenanceReport
from pyspark.sql import SparkSession

from tests.flow import laws

# Files and log entries that are older than 72 s are removed: no batch of the test is longer.
MAINTENANCE = ["maintain.min_files=2", "maintain.keep_hours=0.02", "learn.rankers.enabled=true"]


def test_maintenance_while_all_stages_run_changes_no_table(
    spark: SparkSession, tmp_path: Path, at_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    number_of_files = 12 if at_length else 2
    log = laws.seeded_log(tmp_path, 50 * number_of_files, seed=1)
    once = laws.capture_log(spark, tmp_path / "once", log, 1, seed=1)
    flow.run(spark, settings_module.load(str(once), MAINTENANCE), RunOptions())
    home = tmp_path / "continuous"
    laws.deliver(log, home / "all_files", number_of_files, random.Random(1))
    (home / "input").mkdir()
    config = laws.write_config(log, home, derive_files=1000)
    settings = settings_module.load(str(config), MAINTENANCE)
    other_session = spark.newSession()  # its settings during a compaction are not those of the stages
    stop, errors, reports = threading.Event(), list[BaseException](), list[MaintenanceReport]()

    def deliver_and_maintain() -> None:
        try:
            for file in sorted((home / "all_files").iterdir()):
                file.rename(home / "input" / file.name)
                time.sleep(1)
                reports.append(maintain.run(other_session, settings, datetime.now(UTC)))
        except BaseException as error:
            errors.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=with_spark_session(other_session, deliver_and_maintain))
    with monkeypatch.context() as patch:
        patch.setattr(streaming, "_stop_signals", lambda: _event(stop))
        thread.start()
        flow.run(spark, settings, RunOptions(continuous=1.0))
    thread.join()
    assert errors == []
    combined = sum(table.combined_files for report in reports for table in report.tables)
    assert len(reports) == number_of_files and combined > 0
    flow.run(spark, settings, RunOptions())
    laws.assert_same(
        laws.read_result(spark, once), laws.read_result(spark, config), "one batch and batches with maintenance"
    )


@contextmanager
def _event(event: threading.Event) -> Iterator[threading.Event]:
    yield event
