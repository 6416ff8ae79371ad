"""One row a session: equal to plain Python, whatever the batches, crashes and lateness, and whatever lies ahead."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from profilestream.base import commits, tables
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings
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


def _settings(home: Path, **made: Any) -> Settings:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"enabled": True, **made}.items()]
    return Shop(home, extra_settings="\n".join(["[derive.sessions]", *lines])).settings()


class Written:
    """The tables `events` and `sessions`, written batch by batch without a stream."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark, self.settings = spark, settings
        self.table, (self.query,) = sessions.table(settings), sessions.queries(settings)
        self.batches = itertools.count()
        for table in (tables.EVENTS, self.table):
            table.create(spark, settings.paths)

    def arrive(self, log: list[Click]) -> DataFrame:
        """Events that capture has written; gives them."""
        rows = self.spark.createDataFrame([astuple(click) for click in log], DDL)
        known = {"user_id": F.col("user"), "item_id": F.col("item"), "event_time": F.timestamp_micros("at")}
        return log_files.arrive(rows.withColumns(known), self.settings)

    def batch(self, events: DataFrame) -> None:
        """The stage takes a batch of them."""
        spark, paths = self.spark, self.settings.paths
        number = next(self.batches)
        versions = self.query.versions(spark, Checkpoint(spark, ""), number)
        self.query.write(events, Batch(spark, paths, Txn(sessions.STAGE, "one", number), Plan("", "", versions)))
        assert commits.version(spark, self.table, paths) == number + 1, "a batch is one commit"

    def take(self, *log: Click) -> None:
        """A batch, just when it arrives."""
        self.batch(self.arrive(list(log)))

    def said(self) -> dict[tuple[str, int, str], Any]:
        """Sessions as tests/naive.py has them."""
        return _said(self.table.read(self.spark, self.settings.paths))


def _said(rows: DataFrame) -> dict[tuple[str, int, str], Any]:
    times = [name for name, kind in rows.dtypes if kind == "timestamp"]
    collected = rows.withColumns({name: F.unix_micros(name) for name in times}).collect()
    found = {
        (row["user_id"], row["session_start"], row["session_id"]): {
            "end": row["session_end"], "events": row["events"], "types": row["types"], "value": row["value"],
            "items": row["items"], "entry": row["entry_category"], "exit": row["exit_category"],
            "device": row["device"], "is_bounce": row["is_bounce"], "is_converted": row["is_converted"],
            "cluster": (row["cluster_start"], row["cluster_end"]),
            "path": {tuple(move)[:3]: move["count"] for move in row["transitions"]},
        }
        for row in collected
    }  # fmt: skip
    assert len(found) == len(collected), "a key stands twice"
    return found


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
def written(spark: SparkSession, tmp_path: Path) -> Callable[..., Written]:
    """Makes empty tables, by settings."""
    homes = itertools.count()
    return lambda **made: Written(spark, _settings(tmp_path / str(next(homes)), **made))


# A log that fails is not made smaller: each try takes ten seconds.
@tried(max_examples=2, deadline=None, suppress_health_check=[*HealthCheck], phases=PHASES)
@example(seed=4)  # own ids, a short cap, nothing ahead
@given(seed=st.integers(0, 2**32))
def test_any_batches_say_what_plain_python_says(written: Callable[..., Written], seed: int) -> None:
    """When all of `events` lies ahead, tables are compared at the end; else after every batch."""
    dice = random.Random(seed)
    use_source_session_ids, max_hours, is_ahead = dice.random() < 0.5, dice.choice([0.75, 24.0]), dice.random() < 0.5
    log = _log(dice)
    stage = written(use_source_session_ids=use_source_session_ids, max_hours=max_hours, most_categories=2)
    parts = [[click for click, batch in log if batch == n] for n in range(2)]
    whole = stage.arrive([click for click, _ in log]) if is_ahead else None
    seen: list[Click] = []
    for part in parts:
        ids = [click.event_id for click in part]
        stage.batch(stage.arrive(part) if whole is None else whole.where(F.col("event_id").isin(ids)))
        seen += part
        if whole is None or part is parts[-1]:
            assert stage.said() == naive.sessions(
                seen, 30 * MINUTE, int(max_hours * 60 * MINUTE), use_source_session_ids, 2
            )


def _at(minutes: int, number: int = 0, **more: Any) -> Click:
    return Click(more.pop("user", "anna"), MIDNIGHT + minutes * MINUTE, "shop", f"e{minutes}-{number}", **more)


def _told(stage: Written) -> list[tuple[int, int, int]]:
    """Start and end in minutes, and events, of each session."""
    return [((start - MIDNIGHT) // MINUTE, (row["end"] - MIDNIGHT) // MINUTE, row["events"])
            for (_, start, _), row in sorted(stage.said().items())]  # fmt: skip


def test_a_late_event_joins_two_sessions_or_comes_before_the_first_and_a_guest_has_none(
    written: Callable[..., Written],
) -> None:
    stage = written()
    stage.take(_at(0), _at(10), _at(60), _at(500), _at(5, user=None))
    assert _told(stage) == [(0, 10, 2), (60, 60, 1), (500, 500, 1)]
    stage.take(_at(40))  # exactly a gap after the one, and less before the other
    assert _told(stage) == [(0, 60, 4), (500, 500, 1)]
    stage.take(_at(-25), _at(-26), _at(470))
    assert _told(stage) == [(-26, 60, 6), (470, 500, 2)]
    stage.take(_at(1, 1, user=None))
    assert _told(stage) == [(-26, 60, 6), (470, 500, 2)]
    feed = stage.spark.read.format("delta").option("readChangeFeed", True).option("startingVersion", 2)
    changes = feed.load(stage.table.path(stage.settings.paths)).where("_commit_version = 2")
    kinds = sorted((row["_change_type"], row["events"]) for row in changes.collect())
    assert kinds == [("delete", 1), ("update_postimage", 4), ("update_preimage", 2)]


def test_the_cap_begins_a_session_at_the_first_event_at_or_after_it(written: Callable[..., Written]) -> None:
    stage = written(max_hours=1)
    stage.take(_at(0), _at(25), _at(50), _at(60), _at(80), _at(100), _at(119), _at(121))
    assert _told(stage) == [(0, 50, 3), (60, 119, 4), (121, 121, 1)]
    stage.take(_at(-10))
    assert _told(stage) == [(-10, 25, 3), (50, 100, 4), (119, 121, 2)]


def test_ids_of_the_log_are_sessions_of_their_own_and_events_without_one_go_by_the_gap(
    written: Callable[..., Written],
) -> None:
    stage = written(use_source_session_ids=True)
    stage.take(_at(0, session_id="s1"), _at(0, 1, session_id="s2"), _at(0, 2), _at(20, session_id=""))
    stage.take(_at(3000, session_id="s1"), _at(3000, 1), _at(-5, session_id="s2"))
    found = [(own, row["events"]) for (_, _, own), row in sorted(stage.said().items())]
    assert found == [("s2", 2), ("", 2), ("s1", 2), ("", 1)]


def test_only_days_of_touched_clusters_are_read(
    written: Callable[..., Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = written()
    day = 24 * 60
    stage.take(*[_at(n * day) for n in range(6)])
    plans: list[str] = []
    merge = commits.merge

    def merging(frame: DataFrame, *given: Any, **more: Any) -> DataFrame:
        plans.append(frame._jdf.queryExecution().executedPlan().toString())
        assert more["within"].startswith("t.session_start BETWEEN TIMESTAMP'2026-01-02 23:55:00")
        return merge(frame, *given, **more)

    monkeypatch.setattr(commits, "merge", merging)
    stage.take(_at(day - 5))
    (filters,) = [line for line in plans[0].split("PartitionFilters: ")[1:] if "event_date" in line.split("]")[0]]
    assert "IN (2026-01-02,2026-01-03)" in filters.split("PushedFilters")[0], filters
    assert len(_told(stage)) == 6 and (day - 5, day, 2) in _told(stage)


def _shop(home: Path, files: int) -> Shop:
    """Two days of events, the oldest delivered last, in so many files; each is a batch of both stages."""
    extra = "[derive]\nmax_files_per_trigger = 1\n[derive.sessions]\nenabled = true\n"
    shop = Shop(home, extra_settings=extra)
    log = [_event(n) for n in range(48)][::-1]
    for n in range(files):
        part = log[n * len(log) // files : (n + 1) * len(log) // files]
        shop.write(f"{n:02}.jsonl", "\n".join(json.dumps(e) for e in part))
    return shop


def _event(n: int) -> dict[str, Any]:
    at = MIDNIGHT // 1_000_000 + n * 7 * 60
    who = None if n % 9 == 0 else f"u{n % 4}"
    kind = ("view", "purchase")[n % 3 == 0]
    return event(n, kind=kind, who=who, at=str(at))


def test_a_crash_before_or_after_the_write_and_a_rebuild_change_nothing(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = _shop(tmp_path, files=2)
    shop.mapping = shop.mapping.replace('"at"\n', '"timestamp_seconds(bigint(at))"\n')
    shop.capture(spark)
    settings = shop.settings()
    assert crashes.run_through(sessions.queries(settings), settings, batch_id=1) == 2
    table = sessions.table(settings)
    once = _said(table.read(spark, settings.paths))
    assert sum(row["events"] for row in once.values()) == 48 - 6
    clicks = [
        Click(f"shop:{e['who']}", int(e["at"]) * 1_000_000, "shop", e["id"], e["kind"], item=e["what"], value=2.5)
        for e in map(_event, range(48))
        if e["who"]
    ]
    assert once == naive.sessions(clicks, 30 * MINUTE, 24 * 60 * MINUTE)
    assert_all_readers_agree(spark, table.path(settings.paths), "events")
    assert derive_sessions.main(["--config", str(shop.config()), "--check"]) == 0
    assert derive_sessions.main(["--config", str(shop.config()), "--rebuild"]) == 0
    assert _said(table.read(spark, settings.paths)) == once
    config = ["--config", str(shop.config()), "--set", "derive.sessions.gap_minutes=5"]
    assert derive_sessions.main(config) == 3


def test_a_declared_table_of_the_same_name_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    shipped = Path(__file__).parent.parent.parent / "conf" / "derive" / "user_hours.toml"
    (tmp_path / "mine.toml").write_text(shipped.read_text().replace('"user_hours"', '"sessions"'))
    extra = f'[derive]\nfeatures = ["{tmp_path}/mine.toml"]\n[derive.sessions]\nenabled = true\n'
    with pytest.raises(BadSettings, match="sessions is the table of derive_sessions"):
        sessions.check(spark, Shop(tmp_path, extra_settings=extra).settings())
