"""Benchmark of maintenance: CPU seconds of a small batch, and files of each table, after many small batches."""

import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from profilestream import table_registry
from profilestream.base import files, streaming
from profilestream.base import settings as settings_module
from profilestream.base.queries import Query, RunOptions
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import profiles, tiles
from profilestream.steward import maintain
from pyspark.sql import DataFrame, SparkSession

from benchmarks.load_run import cpu_seconds
from benchmarks.result import Result
from benchmarks.timing import empty_folder
from benchmarks.workloads import START

SEED = 20_261_129
EVENTS_PER_BATCH, BATCHES_PER_DAY = 50, 100
USERS, ITEMS = 2_000, 500
_TYPES = ("view", "view", "view", "view", "click", "click", "cart", "purchase")


@dataclass
class BatchCosts:
    """The costs of many batches.

    Args:
        cpu_seconds: of each batch, in all stages.
        files: on the disk by table, after each maintenance.
        seconds: of all batches, and of all maintenance.
    """

    cpu_seconds: list[float] = field(default_factory=list)
    files: list[dict[str, int]] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)


def batches_1000(spark: SparkSession, work: Path) -> Result:
    """Median CPU seconds of the last 50 of 1,000 batches of 50 events, divided by those of batches 51 to 100."""
    costs = run_batches(spark, work, batches=1_000, batches_per_maintenance=50)
    early, late = (statistics.median(costs.cpu_seconds[part]) for part in (slice(50, 100), slice(-50, None)))
    most_files = {name: max(counts[name] for counts in costs.files[2:]) for name in costs.files[-1]}
    largest = max(most_files, key=lambda name: most_files[name])
    detail = (
        f"capture, user_hours, user_profiles; {early:.2f} and {late:.2f} CPU s; maintenance after every 50 batches; at "
        f"most {most_files[largest]} files of {largest} and {sum(costs.files[-1].values())} of all "
        f"{len(most_files)} tables; {costs.seconds[0]:.0f} s of batches, {costs.seconds[1]:.0f} s of maintenance; "
        f"seed {SEED}"
    )
    return Result("batches_1000", late / early, "ratio of CPU seconds", 1.15, "lower", "batches 51 to 100", detail)


def run_batches(
    spark: SparkSession, home: Path, *, batches: int, batches_per_maintenance: int, min_files: int = 20
) -> BatchCosts:
    """Run capture and the derive stages over so many batches of 50 events, with maintenance at intervals."""
    settings = _settings(home, min_files)
    queries = [ingest.query(settings, "shop"), *tiles.queries(settings), *profiles.queries(settings)]
    generator, costs = random.Random(SEED), BatchCosts()
    for first in range(0, batches, batches_per_maintenance):
        for number in range(first, first + batches_per_maintenance):
            _write_file(home / "input", number, generator)
        started = time.monotonic()
        by_query = [_cpu_of_batches(spark, query, settings) for query in queries]
        costs.cpu_seconds += [sum(parts) for parts in zip(*by_query, strict=True)]
        ran = time.monotonic()
        maintain.run(spark, settings, datetime.now(UTC))
        costs.seconds = costs.seconds[0] + ran - started, costs.seconds[1] + time.monotonic() - ran
        costs.files.append(_files_by_table(spark, settings))
    return costs


def _settings(home: Path, min_files: int) -> Settings:
    empty_folder(home / "input")
    here = Path(__file__).parent
    derive = here.parent / "conf" / "derive"
    config = home / "settings.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{home}/input"\nmapping = "{here}/shop.toml"\nmax_files_per_trigger = 1\n'
        f'[derive]\nfeatures = ["{derive}/user_hours.toml"]\nprofiles = ["{derive}/user_profiles.toml"]\n'
        f"max_files_per_trigger = 1\n[maintain]\nkeep_hours = 0\nmin_files = {min_files}\n"
    )
    return settings_module.load(str(config), [])


def _write_file(folder: Path, number: int, generator: random.Random) -> None:
    """Write the events of one batch; all are of one day, so they become one file of `events`."""
    second = START // 86_400 * 86_400 + number * 86_400 // BATCHES_PER_DAY
    at = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    rows = [
        {
            "event_id": f"b{number}-{n}", "event_type": generator.choice(_TYPES), "event_time": at,
            "user_id": f"u{generator.randrange(USERS)}", "item_id": f"i{generator.randrange(ITEMS)}",
            "category": f"c{generator.randrange(30)}", "price": generator.randrange(1, 10_000) / 100, "quantity": 1,
        }
        for n in range(EVENTS_PER_BATCH)
    ]  # fmt: skip
    path = folder / f"{number:05}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    os.utime(path, (START + number, START + number))


def _cpu_of_batches(spark: SparkSession, query: Query, settings: Settings) -> list[float]:
    """The CPU seconds of each batch, from the end of the batch before: with Spark's planning and its logs."""
    with _cpu_at_ends() as ends:
        streaming.run(spark, [query], settings, RunOptions())
    return [later - earlier for earlier, later in zip(ends, ends[1:], strict=False)]


@contextmanager
def _cpu_at_ends() -> Iterator[list[float]]:
    """CPU seconds of the process at the start of the block, and at the end of each batch."""
    ends = [cpu_seconds()]
    process: Any = QueryRunner._process

    def measured(self: QueryRunner, frame: DataFrame, batch_id: int) -> None:
        process(self, frame, batch_id)
        ends.append(cpu_seconds())

    with patch.object(QueryRunner, "_process", measured):
        yield ends


def _files_by_table(spark: SparkSession, settings: Settings) -> dict[str, int]:
    """The number of files on the disk of each table, with its log."""
    return {
        table.name: len(files.listing(spark, table.uri(settings.paths)))
        for table in table_registry.registry(settings)
        if table.exists(spark, settings.paths)
    }
