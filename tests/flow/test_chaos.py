"""kill -9 for real; `make chaos` does 20 of them over the whole demo log."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import run_pipeline
from tests.flow import chaos


def test_two_kills_in_twelve_days_change_nothing(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chaos.ROOT)

    def calmly(command: list[str]) -> None:
        assert run_pipeline.main(command[2:]) == 0

    rows = chaos.run(
        tmp_path, days=12, kills=2, most_steps=3, files_per_batch=6, seed=7, calmly=calmly, session=lambda: spark
    )
    assert rows["capture_batches"] == 2 and rows["user_profiles"] > 400
