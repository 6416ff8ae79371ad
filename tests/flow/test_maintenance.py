"""Maintenance between runs changes no table, and is refused while a stage runs."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from profilestream import flow
from profilestream.base import locks
from profilestream.base import settings as settings_module
from profilestream.base.errors import Refused
from profilestream.base.queries import RunOptions
from pyspark.sql import SparkSession

from tests.builders import Shop
from tests.flow import laws

MAINTENANCE = ["maintain.min_files=2", "maintain.keep_hours=0.5", "learn.rankers.enabled=true"]


@pytest.mark.long
def test_maintenance_between_runs_changes_no_table(spark: SparkSession, tmp_path: Path) -> None:
    number_of_files = 10
    log = laws.seeded_log(tmp_path, 200 * number_of_files, seed=1)
    once = laws.capture_log(spark, tmp_path / "once", log, 1, seed=1)
    flow.run(spark, settings_module.load(str(once), MAINTENANCE), RunOptions())
    home = tmp_path / "maintained"
    laws.deliver(log, home / "all_files", number_of_files, random.Random(1))
    (home / "input").mkdir()
    config = laws.write_config(log, home, derive_files=1000)
    settings = settings_module.load(str(config), MAINTENANCE)
    combined = 0
    for file in sorted((home / "all_files").iterdir()):
        file.rename(home / "input" / file.name)
        flow.run(spark, settings, RunOptions())
        report = flow.maintain_tables(spark, settings, datetime.now(UTC) + timedelta(hours=1))
        combined += sum(table.combined_files for table in report.tables)
    assert combined > 0
    laws.assert_same(
        laws.read_result(spark, once), laws.read_result(spark, config), "one batch and batches with maintenance"
    )


def test_maintenance_is_refused_while_a_stage_runs(spark: SparkSession, tmp_path: Path) -> None:
    settings = Shop(tmp_path).settings()
    with locks.hold_lock(settings.paths.lock_folder, "capture/shop"):
        with pytest.raises(Refused, match="capture/shop is already running"):
            flow.maintain_tables(spark, settings, datetime.now(UTC))
        assert flow.maintain_tables(spark, settings, datetime.now(UTC), is_dry_run=True).tables == []
