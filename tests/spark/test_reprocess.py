"""capture_reprocess: rejected rows are reprocessed once and refer to the batch that rejected them before."""

import json
import shutil
from pathlib import Path

import pytest
from profilestream.base import tables
from profilestream.capture import reprocess
from pyspark.sql import SparkSession

from tests.builders import SHOP, Shop, event
from tests.fault_injection import append_fails

ROWS = [event(1, kind="VIEW"), event(2, kind="peek"), event(3, price="-1"), event(4)]


def _captured(spark: SparkSession, home: Path) -> Shop:
    shop = Shop(home)
    shop.write("a.jsonl", "\n".join(json.dumps(row) for row in ROWS))
    shop.capture(spark)
    return shop


def _correct_mapping(shop: Shop) -> None:
    shop.mapping = SHOP.replace('event_type = "kind"', "event_type = \"replace(lower(kind), 'peek', 'view')\"")


def test_rejected_rows_are_reprocessed_once_after_the_mapping_is_corrected(spark: SparkSession, tmp_path: Path) -> None:
    shop = _captured(spark, tmp_path)
    _correct_mapping(shop)
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
    kinds = shop.read(spark, tables.CAPTURE_BATCHES).select("kind", "rows_in").orderBy("rows_in").collect()
    assert [tuple(row) for row in kinds] == [("reprocess", 3), ("source", 4)]

    before = {table: shop.content(spark, table) for table in (tables.EVENTS, tables.CAPTURE_BATCHES)}
    for rules in (None, ["event_type_unknown"]):
        second = reprocess.run(spark, settings, "shop", rules)
        assert (second.rows_in, second.rows_out) == (0, 0)
    assert {table: shop.content(spark, table) for table in before} == before


def test_a_retried_reprocess_batch_is_finished_and_doubles_no_row(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = _captured(spark, tmp_path)
    _correct_mapping(shop)
    with append_fails(monkeypatch, tables.REJECTED_EVENTS):
        reprocess.run(spark, shop.settings(), "shop", None)
    result = reprocess.run(spark, shop.settings(), "shop", None)
    assert (result.rows_in, result.rows_out) == (3, 2)
    ids = [row[0] for row in shop.read(spark, tables.EVENTS).select("event_id").collect()]
    assert sorted(ids) == ["e1", "e2", "e4"]


def test_a_line_that_two_epochs_rejected_is_reprocessed_for_each_epoch(spark: SparkSession, tmp_path: Path) -> None:
    shop = _captured(spark, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    shop.capture(spark, accept_new_epoch=True)
    _correct_mapping(shop)
    result = reprocess.run(spark, shop.settings(), "shop", None)
    assert (result.rows_in, result.rows_out) == (6, 2)
    batches = shop.read(spark, tables.CAPTURE_BATCHES).where("kind = 'reprocess'").orderBy("batch_id").collect()
    columns = ("rows_in", "rows_clean", "rows_rejected", "rows_duplicate")
    assert [[row[name] for name in columns] for row in batches] == [[3, 2, 1, 0], [3, 0, 1, 2]]
    assert shop.read(spark, tables.REJECTED_EVENTS).where("reprocessed_from IS NOT NULL").count() == 2
