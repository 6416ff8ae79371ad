"""capture_reprocess: rejected rows put through again, once, linked to what they were."""

import json
from pathlib import Path

import pytest
from profilestream.base import commits, tables
from profilestream.capture import reprocess
from pyspark.sql import SparkSession

from tests.builders import SHOP, Shop, event

BAD = [event(1, kind="VIEW"), event(2, kind="peek"), event(3, price="-1"), event(4)]


def _captured(spark: SparkSession, home: Path) -> Shop:
    shop = Shop(home)
    shop.write("a.jsonl", "\n".join(json.dumps(row) for row in BAD))
    shop.capture(spark)
    return shop


def _mend(shop: Shop) -> None:
    shop.mapping = SHOP.replace('event_type = "kind"', "event_type = \"replace(lower(kind), 'peek', 'view')\"")


def test_rejected_rows_are_put_through_once_after_a_mend(spark: SparkSession, tmp_path: Path) -> None:
    shop = _captured(spark, tmp_path)
    _mend(shop)
    settings = shop.settings()
    first = reprocess.run(spark, settings, "shop", None)
    assert (first.rows_in, first.rows_out) == (3, 2)
    events = shop.read(spark, tables.EVENTS).select("event_id", "event_type", "position").orderBy("event_id").collect()
    assert [tuple(row) for row in events] == [
        ("e1", "view", "a.jsonl:1"), ("e2", "view", "a.jsonl:2"), ("e4", "view", "a.jsonl:4"),
    ]  # fmt: skip
    rejected = shop.read(spark, tables.REJECTED_EVENTS)
    origin = rejected.where("rule = 'price_negative' AND reprocessed_from IS NULL").select("epoch", "batch_id").first()
    again = rejected.where("reprocessed_from IS NOT NULL").select("position", "rule", "reprocessed_from").collect()
    assert origin is not None
    assert [tuple(row) for row in again] == [("a.jsonl:3", "price_negative", f"{origin[0]}/{origin[1]}")]

    before = {table: shop.content(spark, table) for table in (tables.EVENTS, tables.CAPTURE_BATCHES)}
    for rules in (None, ["event_type_unknown"]):
        second = reprocess.run(spark, settings, "shop", rules)
        assert (second.rows_in, second.rows_out) == (0, 0)
    assert {table: shop.content(spark, table) for table in before} == before


def test_a_replay_that_broke_off_is_finished_and_not_doubled(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = _captured(spark, tmp_path)
    _mend(shop)
    append = commits.append

    def breaks(frame: object, table: tables.Table, *args: object) -> None:
        if table is tables.REJECTED_EVENTS:
            raise OSError("the disk is gone")
        append(frame, table, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(commits, "append", breaks)
    with pytest.raises(OSError, match="the disk is gone"):
        reprocess.run(spark, shop.settings(), "shop", None)
    monkeypatch.undo()
    done = reprocess.run(spark, shop.settings(), "shop", None)
    assert (done.rows_in, done.rows_out) == (3, 2)
    ids = [row[0] for row in shop.read(spark, tables.EVENTS).select("event_id").collect()]
    assert sorted(ids) == ["e1", "e2", "e4"]
