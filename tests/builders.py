"""Builders for tests: a shop with a mapping, input files and settings, and its capture."""

import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profilestream.base import settings as settings_module
from profilestream.base import streaming, tables
from profilestream.base.delta_table import Table
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests import log_files

SHOP = """
user_namespace = "shop"
item_namespace = "shop"

[input]
format = "jsonl"
columns = "id string, kind string, at string, who string, what string, price string, quantity string"

[columns]
event_id = "id"
event_type = "kind"
event_time = "at"
user_id = "who"
item_id = "what"
price = "price"
quantity = "quantity"
"""
# Head of a declaration of the profile table; statistics follow.
USER_PROFILES = """
name = "user_profiles"
write = "merge"
where = "user_id IS NOT NULL"
[keys]
user_id = { of = "user_id" }
"""
# Profiles with a vector and its population.
VECTOR_PROFILES = (
    USER_PROFILES
    + """
[statistics.behavior.vector]
kind = "mean_vector"
[statistics.behavior.vector.dimensions]
price = "price"
buys = "int(event_type = 'purchase')"
never = "0"
[population]
name = "population_stats"
of = "behavior.vector"
weights = { buys = 2 }
words = { price = ["cheap", "expensive"] }
"""
)
# Columns that differ between two runs with equal results.
RUN_DEPENDENT_COLUMNS = ("ingest_time", "epoch", "seconds", "lateness_seconds_max", "reprocessed_from")


@dataclass
class Shop:
    """A source in its own folder, with settings that capture it."""

    home: Path
    mapping: str = SHOP
    name: str = "shop"
    extra_settings: str = ""
    overrides: list[str] = field(default_factory=list)
    is_tracked: bool = False  # creating an MLflow store takes more than a second
    written: int = 0

    @property
    def input(self) -> Path:
        """Folder of its input files."""
        return self.home / "input" / self.name

    @property
    def source_settings(self) -> str:
        """The settings of the source, except its mapping."""
        return f'path = "{self.input}"\nmax_files_per_trigger = 1\n'

    def write(self, name: str, text: str | bytes) -> Path:
        """Write an input file; modification times are in the order of the calls."""
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.written += 1
        os.utime(path, (1_700_000_000 + self.written, 1_700_000_000 + self.written))
        return path

    def settings(self) -> Settings:
        """Settings with this source, one file per batch."""
        return settings_module.load(str(self.config()), self.overrides)

    def config(self) -> Path:
        """The config file, written from the current fields of the shop."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.input.mkdir(parents=True, exist_ok=True)
        mapping = self.home / f"{self.name}.toml"
        mapping.write_text(self.mapping)
        config = self.home / f"{self.name}_settings.toml"
        config.write_text(
            f'[paths]\nwarehouse = "{self.home}/warehouse"\ncheckpoints = "{self.home}/checkpoints"\n'
            f'[capture.sources.{self.name}]\nmapping = "{mapping}"\n'
            + self.source_settings
            + self.extra_settings
            + ("" if self.is_tracked else "\n[learn.tracking]\nenabled = false\n")
        )
        return config

    def capture(self, spark: SparkSession, **options: Any) -> None:
        """Run capture_events to the end of the input."""
        settings = self.settings()
        streaming.run(spark, [ingest.query(settings, self.name)], settings, RunOptions(**options))

    def append_events(self, spark: SparkSession, events: list[dict[str, Any]], batch_id: int = 0) -> None:
        """Append raw events to `events` as capture does, without running it; the events are clean and distinct.

        The mapping must consist of column names, without SQL.
        """
        settings, mapping = self.settings(), tomllib.loads(self.mapping)
        ingest.events_table(settings.capture).create(spark, settings.paths)
        names = mapping["columns"]
        raw = [tuple(event.get(name) for name in names.values()) for event in events]
        types = {field.name: field.dataType for field in tables.EVENTS.schema}
        columns = {name: F.col(name).cast(types[name]) for name in names}
        spaces = {"user_id": mapping["user_namespace"], "item_id": mapping["item_namespace"]}
        columns |= {name: F.concat(F.lit(f"{space}:"), name) for name, space in spaces.items()}
        rows = spark.createDataFrame(raw, ", ".join(f"{name} string" for name in names)).withColumns(columns)
        value = {"value": F.col("price") * F.col("quantity"), "batch_id": F.lit(batch_id).cast("bigint")}
        log_files.append_events(rows.withColumns(value), settings)

    def read(self, spark: SparkSession, table: Table) -> DataFrame:
        """The rows of one of its tables."""
        return table.read(spark, self.settings().paths)

    def counts(self, spark: SparkSession) -> tuple[int, int, int, int]:
        """Rows in, clean, rejected and duplicate, summed over all batches of the source."""
        batches = self.read(spark, tables.CAPTURE_BATCHES).where("kind = 'source'").collect()
        names = ("rows_in", "rows_clean", "rows_rejected", "rows_duplicate")
        a, b, c, d = (sum(row[name] for row in batches) for name in names)
        return a, b, c, d

    def content(self, spark: SparkSession, table: Table) -> list[str]:
        """A table's rows as sorted JSON, without run-dependent columns; equal for equal results."""
        frame = self.read(spark, table)
        rows = frame.select(
            F.to_json(F.struct(*[c for c in frame.columns if c not in RUN_DEPENDENT_COLUMNS]))
        ).collect()
        return sorted(row[0] for row in rows)


def event(number: int, **changes: Any) -> dict[str, Any]:
    """A valid raw event of the shop."""
    day, minute = divmod(number, 60)
    return {
        "id": f"e{number}", "kind": "view", "at": f"2026-01-{1 + day % 28:02d}T10:{minute:02d}:00Z",
        "who": f"u{number % 7}", "what": f"i{number % 5}", "price": "2.5", "quantity": "1", **changes,
    }  # fmt: skip


def short_lived_env() -> dict[str, str]:
    """Environment of a short job: the JVM uses its first compiler only."""
    return {**os.environ, "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"}


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a process and its children; the process is the leader of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Wait until the condition is true; fail after a timeout."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.1)
