"""Benchmarks of what is served."""

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
from benchmarks.measuring import emptied, in_turn, seconds_of
from benchmarks.result import Result

SEED = 20_260_101
ROOT = Path(__file__).parent.parent


def report_seconds(spark: SparkSession, work: Path, rows: int = 1_000_000) -> Result:
    """Seconds of the page over those of a count of `events` that reads every row."""
    log = workloads.json_log(spark, work / "log", first=0, rows=rows, files=20, seed=SEED)
    settings = _settings(emptied(work / "home"), log)
    for queries in ([ingest.query(settings, "shop")], profiles.queries(settings)):
        streaming.run(spark, queries, settings, RunOptions())

    def count() -> None:
        # Delta answers count(*), and that of a column without nulls, from its log, without a look at the rows. A frame
        # that is collected again finds what it shuffled the first time.
        tables.EVENTS.read(spark, settings.paths).agg(F.count_if(F.length("event_id") > 0)).collect()

    seconds = in_turn(3, lambda: seconds_of(count), lambda: seconds_of(lambda: write_report.run(spark, settings)))
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"stated, no bound was asked: this one notices a page that reads the events again and again; {rows:,} events, "
        f"their batches and profiles, no learners; {statistics.median(seconds[1]):.1f} s against "
        f"{statistics.median(seconds[0]):.2f} s; seed {SEED}"
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
