"""The load tool with the pipeline: probes become visible, and the measures of a window are complete."""

from pathlib import Path

import pytest
from profilestream.base import tables
from pyspark.sql import SparkSession

from benchmarks import load_run
from benchmarks.load_run import Input, Load


@pytest.mark.long
def test_events_that_arrive_at_a_rate_become_visible_in_the_tables(spark: SparkSession, tmp_path: Path) -> None:
    source = Input(tmp_path / "input")
    settings = load_run.load_settings(tmp_path / "home", source, features=False, sessions=False, tags_seconds=5)

    def run(load: Load) -> None:
        load.start(40, 5)
        load.run_window(40, 20, 5)

    (window,) = load_run.measure(spark, settings, source, run)
    assert window.lines == 20 * 40 and len(window.arrived) == 20
    for table in (load_run.EVENTS, load_run.PROFILES, load_run.TAGS):
        assert window.missing(table) == 0, table
        assert all(latency > 0 for latency in window.latencies(table)), table
    assert window.costs().keys() == {"capture_events", "derive_profiles"}
    assert window.cpu_cores > 0 and window.memory_mb > 100 and window.files > 10
    counts = tables.CAPTURE_BATCHES.read(spark, settings.paths).groupBy().sum().collect()[0].asDict()
    assert counts["sum(rows_in)"] == 30 * 40
    assert counts["sum(rows_rejected)"] > 0 and counts["sum(rows_duplicate)"] > 0
