"""Hashes of stored event ids in memory: a superset of the ids in `events`, within a bound."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from profilestream.base import commits, tables
from profilestream.base.commits import Txn
from profilestream.base.settings import Settings
from profilestream.capture.known_ids import KnownIds, hashes_of
from pyspark.sql import SparkSession

from tests.builders import Shop, event

FIRST, SECOND, THIRD = (date(2026, 1, day) for day in (1, 2, 3))
# Events of (id, date, source).
EVENTS = [("e0", FIRST, "shop"), ("e1", SECOND, "shop"), ("of another source", FIRST, "other")]
WRITER = Txn("capture_events/shop", "one", 0)


@pytest.fixture
def settings(spark: SparkSession, tmp_path: Path) -> Settings:
    """A warehouse with EVENTS in one commit."""
    settings = Shop(tmp_path).settings()
    tables.EVENTS.create(spark, settings.paths)
    constants = {"event_type": "view", "event_time": 0, "ingest_time": 0, "position": "f:1"}
    rows = tables.EVENTS.arrow_rows(
        [
            {"event_id": name, "event_date": day, "event_period": day, "source": source, **constants}
            | {"epoch": WRITER.epoch, "batch_id": WRITER.batch_id}
            for name, day, source in EVENTS
        ]
    )
    commits.append(rows, tables.EVENTS, settings.paths, WRITER)
    return settings


def _contain(known: KnownIds, *ids: str) -> list[bool]:
    return [bool(is_known) for is_known in known.contain(hashes_of(pa.chunked_array([ids])))]


def test_the_ids_of_the_source_on_the_loaded_dates_are_known(settings: Settings) -> None:
    known = KnownIds("shop", 100)
    assert known.load(Path(tables.EVENTS.path(settings.paths)), [SECOND, THIRD])
    assert _contain(known, "e0", "e1", "of another source") == [False, True, False]
    assert known.load(Path(tables.EVENTS.path(settings.paths)), [FIRST])
    assert _contain(known, "e0", "e1", "of another source") == [True, True, False]


def test_added_ids_are_known_and_deleted_ones_remain(spark: SparkSession, settings: Settings) -> None:
    known = KnownIds("shop", 100)
    folder = Path(tables.EVENTS.path(settings.paths))
    known.load(folder, [FIRST, SECOND, THIRD])
    dates = np.array([FIRST, THIRD], "datetime64[D]")
    known.add(hashes_of(pa.chunked_array([["new", "newer"]])), dates)
    commits.delete(spark, tables.EVENTS, settings.paths, where="event_id = 'e0'")
    assert known.load(folder, [FIRST, SECOND, THIRD])
    assert _contain(known, "e0", "e1", "new", "newer", "unknown") == [True, True, True, True, False]
    # The exact check reads the table.
    stored = known.stored(folder, [FIRST, SECOND], pa.chunked_array([["e0", "e1", "new"]]), Txn("", "two", 0))
    assert stored["event_id"].to_pylist() == ["e1"]


def test_events_of_the_batch_itself_are_no_earlier_events(settings: Settings) -> None:
    known, folder = KnownIds("shop", 100), Path(tables.EVENTS.path(settings.paths))
    ids = pa.chunked_array([["e0"]])
    assert len(known.stored(folder, [FIRST], ids, WRITER)) == 0
    assert len(known.stored(folder, [FIRST], ids, replace(WRITER, batch_id=1))) == 1
    assert len(known.stored(folder, [FIRST], ids, replace(WRITER, epoch="two"))) == 1


def test_above_the_bound_other_dates_are_removed_and_then_nothing_is_loaded(settings: Settings) -> None:
    known, folder = KnownIds("shop", 2), Path(tables.EVENTS.path(settings.paths))
    assert known.load(folder, [FIRST])  # the file also contains the event of the other source
    assert known.load(folder, [SECOND])
    assert _contain(known, "e0", "e1") == [True, True]
    known.add(hashes_of(pa.chunked_array([["new"]])), np.array([SECOND], "datetime64[D]"))
    assert not known.load(folder, [FIRST, SECOND, THIRD])
    assert _contain(known, "e0", "e1", "new") == [False, False, False]
    assert known.load(folder, [THIRD])
    assert not KnownIds("shop", 0).load(folder, [FIRST])


def test_a_table_without_rows_has_no_ids(spark: SparkSession, tmp_path: Path) -> None:
    settings = Shop(tmp_path).settings()
    tables.EVENTS.create(spark, settings.paths)
    known = KnownIds("shop", 0)
    assert known.load(Path(tables.EVENTS.path(settings.paths)), [FIRST])
    assert _contain(known, "e0") == [False]


@pytest.mark.parametrize("max_keys", [100, 0])
def test_false_suspects_and_a_bound_of_no_keys_change_no_row(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_keys: int
) -> None:
    monkeypatch.setattr(KnownIds, "contain", lambda self, hashes: np.ones(len(hashes), np.bool_))
    shop = Shop(tmp_path, overrides=[f"stream.local_max_keys={max_keys}"])
    shop.write("0.jsonl", "\n".join(json.dumps(event(n)) for n in (0, 1, 1)))
    shop.write("1.jsonl", "\n".join(json.dumps(one) for one in (event(0), event(1, price="3"), event(2))))
    shop.capture(spark)
    assert shop.counts(spark) == (6, 3, 1, 2)
    assert sorted(row["event_id"] for row in shop.read(spark, tables.EVENTS).collect()) == ["e0", "e1", "e2"]
    (rejected,) = shop.read(spark, tables.REJECTED_EVENTS).collect()
    assert (rejected["rule"], rejected["position"]) == ("id_reused", "1.jsonl:2")
    assert rejected["payload"] == json.dumps(event(1, price="3"))


def test_a_duplicate_is_found_whatever_files_are_read_before_the_one_with_its_first_event(
    spark: SparkSession, tmp_path: Path
) -> None:
    shop = Shop(tmp_path)
    for name, numbers in enumerate([(1,), (0, 2), (3,), (1, 3)]):  # the ids of the second file include 1 between them
        shop.write(f"{name}.jsonl", "\n".join(json.dumps(event(n)) for n in numbers))
    shop.capture(spark)
    assert shop.counts(spark) == (6, 4, 0, 2)
