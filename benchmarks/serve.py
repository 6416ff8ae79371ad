"""Benchmark of the report."""

import statistics
from pathlib import Path

from profilestream.base import settings as settings_module
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import profiles
from profilestream.serve.report import write_report
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks import workloads
from benchmarks.result import Result
from benchmarks.timing import empty_folder, measure_alternately, measure_seconds

SEED = 20_260_101
ROOT = Path(__file__).parent.parent


def report_seconds(spark: SparkSession, work: Path, rows: int = 1_000_000) -> Result:
    """Seconds of writing the report, divided by those of a count of `events` that reads all rows."""
    log = workloads.write_json_log(spark, work / "log", first=0, rows=rows, files=20, seed=SEED)
    settings = _settings(empty_folder(work / "home"), log)
    for queries in ([ingest.query(settings, "shop")], profiles.queries(settings)):
        streaming.run(spark, queries, settings, RunOptions())

    def count() -> None:
        # A condition on values, because Delta computes count(*) from its log. A new frame in each run, because a frame
        # that is collected again reuses its shuffle files.
        tables.EVENTS.read(spark, settings.paths).agg(F.count_if(F.length("event_id") > 0)).collect()

    seconds = measure_alternately(
        3, lambda: measure_seconds(count), lambda: measure_seconds(lambda: write_report.run(spark, settings))
    )
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"the bound only detects a report that reads `events` many times; {rows:,} events, their batches and "
        f"profiles, no learners; {statistics.median(seconds[1]):.1f} s, count {statistics.median(seconds[0]):.2f} s; "
        f"seed {SEED}"
    )
    return Result("report_seconds", ratio, "ratio of seconds", 100.0, "lower", "a count that reads every row", detail)


def _settings(home: Path, log: Path) -> Settings:
    config = home / "settings.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{log}"\nmapping = "{ROOT}/benchmarks/shop.toml"\nmax_files_per_trigger = 5\n'
        f'[derive]\nprofiles = ["{ROOT}/conf/derive/user_profiles.toml"]\n'
    )
    return settings_module.load(str(config), [])
