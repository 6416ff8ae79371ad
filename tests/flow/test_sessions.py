"""`sessions` equals plain Python for any batches, crashes, late events and newer events that `events` already has."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from profilestream.base import commits, tables
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.queries import Batch
from profilestream.base.settings import Settings
from profilestream.derive import sessions
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import derive_sessions
from tests import log_files, naive
from tests.builders import Shop, event
from tests.fault_injection import Crashes
from tests.naive import Click
from tests.open_readers import assert_all_readers_agree

MINUTE = 60_000_000
MIDNIGHT = 1_767_312_000_000_000  # 2026-01-02
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
TYPES = {"at": "bigint", "value": "double"}
DDL = ", ".join(f"{field.name} {TYPES.get(field.name, 'string')}" for field in fields(Click))


def _settings(home: Path, **options: Any) -> Settings:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"enabled": True, **options}.items()]
    return Shop(home, extra_settings="\n".join(["[derive.sessions]", *lines])).settings()


class SessionWarehouse:
    """The tables `events` and `sessions`, written batch by batch without a stream."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark, self.settings = spark, settings
        self.table, (self.query,) = sessions.table(settings), sessions.queries(settings)
        self.batches = itertools.count()
        self.local_max_rows, self.indexes = 0, dict[str, KeyedRows]()
        for table in (tables.EVENTS, self.table):
            table.create(spark, settings.paths)

    def append_events(self, log: list[Click]) -> DataFrame:
        """Append to `events` as capture does; returns the rows."""
        rows = self.spark.createDataFrame([astuple(click) for click in log], DDL)
        columns = {"user_id": F.col("user"), "item_id": F.col("item"), "event_time": F.timestamp_micros("at")}
        return log_files.append_events(rows.withColumns(columns), self.settings)

    def write_sessions(self, events: DataFrame) -> None:
        """Run one batch of the stage."""
        spark, paths = self.spark, self.settings.paths
        number = next(self.batches)
        versions = self.query.versions(spark, Checkpoint(spark, ""), number)
        txn, plan = Txn(sessions.STAGE, "one", number), Plan("", "", versions)
        batch = Batch(
            spark, paths, txn, plan, local_max_rows=self.local_max_rows, local_max_keys=1_000_000, indexes=self.indexes
        )
        self.query.write(events, batch)
        assert commits.version(spark, self.table, paths) == number + 1, "a batch is one commit"

    def write_batch(self, *log: Click) -> None:
        """Append events and run a batch with them."""
        self.write_sessions(self.append_events(list(log)))

    def sessions(self) -> dict[tuple[str, int, str], Any]:
        """The stored sessions in the form of tests/naive.py."""
        return _sessions(self.table.read(self.spark, self.settings.paths))


def _sessions(rows: DataFrame) -> dict[tuple[str, int, str], Any]:
    times = [name for name, sql_type in rows.dtypes if sql_type == "timestamp"]
    collected = rows.withColumns({name: F.unix_micros(name) for name in times}).collect()
    by_key = {
        (row["user_id"], row["session_start"], row["session_id"]): {
            "end": row["session_end"], "events": row["events"], "types": row["types"], "value": row["value"],
            "items": row["items"], "entry": row["entry_category"], "exit": row["exit_category"],
            "device": row["device"], "is_bounce": row["is_bounce"], "is_converted": row["is_converted"],
            "span": (row["span_start"], row["span_end"]),
            "path": {tuple(transition)[:3]: transition["count"] for transition in row["transitions"]},
        }
        for row in collected
    }  # fmt: skip
    assert len(by_key) == len(collected), "several rows have the same key"
    return by_key


def _log(dice: random.Random) -> list[tuple[Click, int]]:
    """Events of nine users and a guest around midnight, often at equal times or a gap apart, each with its batch."""

    def click(n: int) -> Click:
        return Click(
            user=dice.choice([*"abcdefghi", None]),
            at=MIDNIGHT + dice.randint(-30, 30) * 10 * MINUTE,
            source=dice.choice(["shop", "app"]),
            event_id=f"e{n * 7 % 100}-{n}",
            event_type=dice.choice(["view", "view", "cart", "purchase"]),
            session_id=dice.choice([None, "", "s1", "s2"]),
            category=dice.choice([None, "tea", "tea.green", "cups", "lamps.floor"]),
            item=dice.choice([None, "i1", "i2", "i3"]),
            value=dice.choice([None, 0.5, 2.0]),
            device=dice.choice([None, "phone", "desk"]),
        )

    return [(click(n), dice.randrange(2)) for n in range(dice.randint(90, 160))]


@pytest.fixture
def new_warehouse(spark: SparkSession, tmp_path: Path) -> Callable[..., SessionWarehouse]:
    """Creates a warehouse with empty tables; keyword arguments are settings of derive.sessions."""
    homes = itertools.count()
    return lambda **options: SessionWarehouse(spark, _settings(tmp_path / str(next(homes)), **options))


# No shrinking of failing logs: each example takes ten seconds.
@hypothesis_settings(max_examples=2, suppress_health_check=[*HealthCheck], phases=PHASES)
@example(seed=4)  # ids of the source, a short maximum duration, no newer events
@given(seed=st.integers(0, 2**32))
def test_sessions_of_any_batches_equal_plain_python(new_warehouse: Callable[..., SessionWarehouse], seed: int) -> None:
    """With all of `events` written before the first batch, tables are compared at the end; else after every batch.

    Spark or the driver processes a batch.
    """
    dice = random.Random(seed)
    use_source_session_ids, max_hours, all_at_once = dice.random() < 0.5, dice.choice([0.75, 24.0]), dice.random() < 0.5
    log = _log(dice)
    warehouse = new_warehouse(use_source_session_ids=use_source_session_ids, max_hours=max_hours, max_categories=2)
    batches = [[click for click, batch in log if batch == n] for n in range(2)]
    all_events = warehouse.append_events([click for click, _ in log]) if all_at_once else None
    processed: list[Click] = []
    for batch in batches:
        warehouse.local_max_rows = dice.choice([0, 10_000])
        ids = [click.event_id for click in batch]
        warehouse.write_sessions(
            warehouse.append_events(batch) if all_events is None else all_events.where(F.col("event_id").isin(ids))
        )
        processed += batch
        if all_events is None or batch is batches[-1]:
            assert warehouse.sessions() == naive.sessions(
                processed, 30 * MINUTE, int(max_hours * 60 * MINUTE), use_source_session_ids, 2
            )


def _at(minutes: int, number: int = 0, **columns: Any) -> Click:
    user = columns.pop("user", "anna")
    return Click(user, MIDNIGHT + minutes * MINUTE, "shop", f"e{minutes}-{number}", **columns)


def _intervals(warehouse: SessionWarehouse) -> list[tuple[int, int, int]]:
    """Start and end in minutes, and number of events, of each session."""
    return [((start - MIDNIGHT) // MINUTE, (row["end"] - MIDNIGHT) // MINUTE, row["events"])
            for (_, start, _), row in sorted(warehouse.sessions().items())]  # fmt: skip


def test_late_events_join_and_extend_sessions_and_guests_have_none(
    new_warehouse: Callable[..., SessionWarehouse],
) -> None:
    warehouse = new_warehouse()
    warehouse.write_batch(_at(0), _at(10), _at(60), _at(500), _at(5, user=None))
    assert _intervals(warehouse) == [(0, 10, 2), (60, 60, 1), (500, 500, 1)]
    warehouse.write_batch(_at(40))  # exactly a gap after one session, and less than a gap before the next
    assert _intervals(warehouse) == [(0, 60, 4), (500, 500, 1)]
    warehouse.write_batch(_at(-25), _at(-26), _at(470))
    assert _intervals(warehouse) == [(-26, 60, 6), (470, 500, 2)]
    warehouse.write_batch(_at(1, 1, user=None))
    assert _intervals(warehouse) == [(-26, 60, 6), (470, 500, 2)]
    feed = warehouse.spark.read.format("delta").option("readChangeFeed", True).option("startingVersion", 2)
    changes = feed.load(warehouse.table.path(warehouse.settings.paths)).where("_commit_version = 2")
    change_types = sorted((row["_change_type"], row["events"]) for row in changes.collect())
    assert change_types == [("delete", 1), ("update_postimage", 4), ("update_preimage", 2)]


def test_a_session_ends_before_the_first_event_at_or_after_the_maximum_duration(
    new_warehouse: Callable[..., SessionWarehouse],
) -> None:
    warehouse = new_warehouse(max_hours=1)
    warehouse.write_batch(_at(0), _at(25), _at(50), _at(60), _at(80), _at(100), _at(119), _at(121))
    assert _intervals(warehouse) == [(0, 50, 3), (60, 119, 4), (121, 121, 1)]
    warehouse.write_batch(_at(-10))
    assert _intervals(warehouse) == [(-10, 25, 3), (50, 100, 4), (119, 121, 2)]


def test_source_session_ids_define_sessions_and_events_without_one_are_split_by_the_gap(
    new_warehouse: Callable[..., SessionWarehouse],
) -> None:
    warehouse = new_warehouse(use_source_session_ids=True)
    warehouse.write_batch(_at(0, session_id="s1"), _at(0, 1, session_id="s2"), _at(0, 2), _at(20, session_id=""))
    warehouse.write_batch(_at(3000, session_id="s1"), _at(3000, 1), _at(-5, session_id="s2"))
    counts = [(session_id, row["events"]) for (_, _, session_id), row in sorted(warehouse.sessions().items())]
    assert counts == [("s2", 2), ("", 2), ("s1", 2), ("", 1)]


def test_a_batch_reads_only_the_days_of_touched_spans(
    new_warehouse: Callable[..., SessionWarehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = new_warehouse()
    day = 24 * 60
    warehouse.write_batch(*[_at(n * day) for n in range(6)])
    plans: list[str] = []
    merge = commits.merge

    def recording_merge(frame: DataFrame, *args: Any, **options: Any) -> DataFrame:
        plans.append(frame._jdf.queryExecution().executedPlan().toString())
        assert options["within"].startswith("t.session_start BETWEEN TIMESTAMP'2026-01-02 23:55:00")
        return merge(frame, *args, **options)

    monkeypatch.setattr(commits, "merge", recording_merge)
    warehouse.write_batch(_at(day - 5))
    (filters,) = [line for line in plans[0].split("PartitionFilters: ")[1:] if "event_period" in line.split("]")[0]]
    assert "IN (2026-01-01,2026-01-02,2026-01-03)" in filters.split("PushedFilters")[0], filters
    assert len(_intervals(warehouse)) == 6 and (day - 5, day, 2) in _intervals(warehouse)


def _shop(home: Path, files: int) -> Shop:
    """Two days of events in some files, the oldest events in the last file; each file is a batch of both stages."""
    extra = "[derive]\nmax_files_per_trigger = 1\n[derive.sessions]\nenabled = true\n"
    shop = Shop(home, extra_settings=extra)
    log = [_raw_event(n) for n in range(48)][::-1]
    for n in range(files):
        part = log[n * len(log) // files : (n + 1) * len(log) // files]
        shop.write(f"{n:02}.jsonl", "\n".join(json.dumps(e) for e in part))
    return shop


def _raw_event(n: int) -> dict[str, Any]:
    at = MIDNIGHT // 1_000_000 + n * 7 * 60
    user = None if n % 9 == 0 else f"u{n % 4}"
    event_type = ("view", "purchase")[n % 3 == 0]
    return event(n, kind=event_type, who=user, at=str(at))


def test_crashes_and_a_rebuild_change_nothing(spark: SparkSession, tmp_path: Path, crashes: Crashes) -> None:
    shop = _shop(tmp_path, files=2)
    shop.mapping = shop.mapping.replace('"at"\n', '"timestamp_seconds(bigint(at))"\n')
    shop.capture(spark)
    settings = shop.settings()
    assert crashes.run_through(sessions.queries(settings), settings, batch_id=1) == 2
    table = sessions.table(settings)
    stored = _sessions(table.read(spark, settings.paths))
    assert sum(row["events"] for row in stored.values()) == 48 - 6
    clicks = [
        Click(f"shop:{e['who']}", int(e["at"]) * 1_000_000, "shop", e["id"], e["kind"], item=e["what"], value=2.5)
        for e in map(_raw_event, range(48))
        if e["who"]
    ]
    assert stored == naive.sessions(clicks, 30 * MINUTE, 24 * 60 * MINUTE)
    assert_all_readers_agree(spark, table.path(settings.paths), "events")
    assert derive_sessions.main(["--config", str(shop.config()), "--check"]) == 0
    assert derive_sessions.main(["--config", str(shop.config()), "--rebuild"]) == 0
    assert _sessions(table.read(spark, settings.paths)) == stored
    config = ["--config", str(shop.config()), "--set", "derive.sessions.gap_minutes=5"]
    assert derive_sessions.main(config) == 3
