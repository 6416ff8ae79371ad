"""kill -9 for real; `make chaos` does 20 of them over the whole demo log."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from benchmarks.workloads import windows_of_users
from jobs import run_pipeline
from tests.flow import chaos


def test_a_kill_in_twelve_days_changes_nothing(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chaos.ROOT)

    def calmly(command: list[str]) -> None:
        assert run_pipeline.main(command[2:]) == 0

    # Tiles of users alone, beside every other derived table: those of items and others are made by the same code.
    more = {"derive.features": '["derive/user_hours.toml"]', "derive.windows.file": windows_of_users(tmp_path)}
    rows = chaos.run(
        tmp_path, days=12, kills=1, most_steps=6, files_per_batch=6, seed=7, calmly=calmly, session=lambda: spark,
        more=more,
    )  # fmt: skip
    assert rows["capture_batches"] == 2 and rows["user_profiles"] > 400
