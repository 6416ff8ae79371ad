"""Exactly once: crashes around every write, lost and restored state, concurrent runs, changed files."""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from profilestream.base import commits, delta_table, files, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused, SourceUnreadable
from profilestream.base.queries import RunOptions
from profilestream.base.query_runner import QueryRunner
from profilestream.capture import ingest
from pyspark.sql import SparkSession

from tests.builders import SHOP, Shop, event

CAPTURE_TABLES = (tables.EVENTS, tables.REJECTED_EVENTS, tables.CAPTURE_BATCHES)


class Crash(Exception):
    """Raised at a write in place of the death of the process."""


def _write_two_files(shop: Shop) -> None:
    """Two files, each a batch: both have clean and rejected rows, and the second has duplicates of both files."""
    rows = [event(n) for n in range(6)]
    shop.write("a.jsonl", "\n".join(json.dumps(r) for r in [*rows[:3], event(90, price="-1")]))
    shop.write("b.jsonl", "\n".join(json.dumps(r) for r in [rows[1], *rows[3:], rows[4], event(2, what="other")]))


def _tables_content(spark: SparkSession, shop: Shop) -> dict[str, list[str]]:
    return {table.name: shop.content(spark, table) for table in CAPTURE_TABLES}


@contextmanager
def _writes(monkeypatch: pytest.MonkeyPatch, crash_at: int | None, side: str) -> Iterator[list[str]]:
    """The names of the writes of a run, in order; write number `crash_at` (from 0) crashes before or after it."""
    writes: list[str] = []

    def record(write: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = len(writes)
            writes.append(name(*args))
            if number == crash_at and side == "before":
                raise Crash
            result = write(*args, **kwargs)
            if number == crash_at and side == "after":
                raise Crash
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(commits, "append", record(commits.append, lambda frame, table, *rest: table.name))
        patch.setattr(files, "write_text", record(files.write_text, lambda spark, path, text: Path(path).parent.name))
        yield writes


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders: the home of a shop, and its backup, written once after its two batches were captured."""
    home = tmp_path_factory.mktemp("exactly_once")
    return home / "shop", home / "backup"


@pytest.fixture
def captured_shop(spark: SparkSession, template: tuple[Path, Path]) -> Shop:
    """A shop whose two batches are captured; restored from the backup for each test."""
    home, backup = template
    shop = Shop(home)
    if not backup.exists():
        _write_two_files(shop)
        shop.capture(spark)
        shutil.copytree(home, backup)
    _restore(spark, backup, home)
    shop.written = 10
    return shop


def _restore(spark: SparkSession, backup: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(backup, home)
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]


def test_a_crash_before_or_after_any_write_changes_nothing(
    spark: SparkSession,
    captured_shop: Shop,
    template: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    at_length: bool,
) -> None:
    """One crash per run: before a write, after it, before the next, ...; each run continues from the last one."""
    home, backup = template
    third_file = "\n".join(json.dumps(r) for r in [event(0), event(40), event(41, kind="peek"), event(3, price="9")])
    captured_shop.write("c.jsonl", third_file)
    with _writes(monkeypatch, None, "") as writes:
        captured_shop.capture(spark)
    expected = _tables_content(spark, captured_shop)
    assert captured_shop.counts(spark) == (14, 7, 4, 3)
    names = ["plans", *[t.name for t in CAPTURE_TABLES]]
    assert writes == names
    _restore(spark, backup, home)
    captured_shop.written = 10
    captured_shop.write("c.jsonl", third_file)
    all_crashes = [([name], side) for name in names for side in ("before", "after")]
    for expected_writes, side in all_crashes if at_length else [(names[:2], "after")]:
        with _writes(monkeypatch, len(expected_writes) - 1, side) as writes, pytest.raises(Crash):
            captured_shop.capture(spark)
        assert writes == expected_writes, "a retry repeated a write of an earlier run"
    captured_shop.capture(spark)
    assert _tables_content(spark, captured_shop) == expected


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_the_very_first_write_changes_nothing(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    shop = Shop(tmp_path)
    shop.write("a.jsonl", json.dumps(event(1)))
    with _writes(monkeypatch, 0, side) as writes, pytest.raises(Crash):
        shop.capture(spark)
    assert writes == ["shop"]  # the epoch, in the checkpoint folder
    shop.capture(spark)
    assert shop.counts(spark) == (1, 1, 0, 0)


def _checkpoint(shop: Shop) -> Path:
    return shop.home / "checkpoints" / "capture_events" / "shop"


def test_a_retry_of_a_batch_without_its_checkpoint_commit_changes_nothing(
    spark: SparkSession, captured_shop: Shop
) -> None:
    before = _tables_content(spark, captured_shop)
    (_checkpoint(captured_shop) / "commits" / "1").unlink()
    (_checkpoint(captured_shop) / "commits" / ".1.crc").unlink(missing_ok=True)
    captured_shop.capture(spark)
    assert _tables_content(spark, captured_shop) == before


def test_a_lost_checkpoint_is_refused_and_a_new_epoch_adds_no_duplicates(
    spark: SparkSession, captured_shop: Shop
) -> None:
    before = captured_shop.content(spark, tables.EVENTS)
    shutil.rmtree(_checkpoint(captured_shop))
    with pytest.raises(Refused, match="the checkpoint of capture_events/shop is new, but events already holds batches"):
        captured_shop.capture(spark)
    captured_shop.capture(spark, accept_new_epoch=True)
    assert captured_shop.content(spark, tables.EVENTS) == before


def test_a_checkpoint_restored_from_an_older_copy_is_refused(
    spark: SparkSession, captured_shop: Shop, tmp_path: Path
) -> None:
    shutil.copytree(_checkpoint(captured_shop), tmp_path / "older")
    captured_shop.write("c.jsonl", json.dumps(event(50)))
    captured_shop.capture(spark)
    shutil.rmtree(_checkpoint(captured_shop))
    shutil.copytree(tmp_path / "older", _checkpoint(captured_shop))
    with pytest.raises(Refused, match="its last batch is 1, the table contains batch 2"):
        captured_shop.capture(spark)


@pytest.mark.parametrize("table", CAPTURE_TABLES, ids=lambda t: t.name)
def test_a_lost_table_is_refused(spark: SparkSession, captured_shop: Shop, table: Table) -> None:
    shutil.rmtree(captured_shop.home / "warehouse" / table.name)
    with pytest.raises(
        Refused, match=f"table {table.name} is missing, but the checkpoint of capture_events/shop has started"
    ):
        captured_shop.capture(spark)


def test_a_table_restored_from_an_older_copy_is_refused(
    spark: SparkSession, captured_shop: Shop, tmp_path: Path
) -> None:
    table = captured_shop.home / "warehouse" / "capture_batches"
    shutil.copytree(table, tmp_path / "older")
    captured_shop.write("c.jsonl", json.dumps(event(50)))
    captured_shop.capture(spark)
    shutil.rmtree(table)
    shutil.copytree(tmp_path / "older", table)
    with pytest.raises(Refused, match="table capture_batches is older than the checkpoint"):
        captured_shop.capture(spark)


def test_a_table_of_newer_code_is_refused(spark: SparkSession, captured_shop: Shop) -> None:
    path = captured_shop.home / "warehouse" / "events"
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('{delta_table.VERSION_PROPERTY}' = '9')")
    with pytest.raises(Refused, match="table events has schema version 9; this code supports 1"):
        captured_shop.capture(spark)


def test_a_mapping_edited_while_a_batch_is_unfinished_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path)
    _write_two_files(shop)
    with _writes(monkeypatch, 3, "before"), pytest.raises(Crash):  # epoch, plan, events, then rejected_events
        shop.capture(spark)
    shop.mapping = SHOP.replace('price = "price"', 'price = "price"\nchannel = "\'web\'"')
    with pytest.raises(Refused, match="batch 0 is unfinished and was started with other settings or another mapping"):
        shop.capture(spark)
    with pytest.raises(Refused, match=r"batch 0 cannot be planned again: it is already in \['events'\]"):
        shop.capture(spark, replan=True)
    shop.mapping = SHOP
    shop.capture(spark)
    assert shop.counts(spark) == (10, 6, 2, 2)


def test_a_batch_without_writes_can_be_planned_again(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path)
    _write_two_files(shop)
    with _writes(monkeypatch, 2, "before"), pytest.raises(Crash):
        shop.capture(spark)
    shop.mapping = SHOP.replace('price = "price"', 'price = "price"\nchannel = "\'web\'"')
    shop.capture(spark, replan=True)
    assert shop.read(spark, tables.EVENTS).where("channel = 'web'").count() == 6


def test_a_side_table_that_changed_while_a_batch_is_unfinished_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_table = tmp_path / "side.csv"
    lookup = f'[lookup.goods]\npath = "{side_table}"\nformat = "csv"\nkey = "sku"\non = "what"\n'
    mapping = SHOP.replace('item_id = "what"', 'item_id = "what"\nbrand = "goods.brand"')
    shop = Shop(tmp_path, mapping=f"{mapping}{lookup}[reject.recalled]\nwhen = \"brand = 'bad'\"\n")
    _write_two_files(shop)
    before, after = "sku,brand\ni0,bad\ni1,good\n", "sku,brand\ni0,good\ni1,bad\n"
    side_table.write_text(before)
    with _writes(monkeypatch, 2, "before"), pytest.raises(Crash):  # epoch, plan, then events
        shop.capture(spark)
    side_table.write_text(after)
    with pytest.raises(Refused, match=r"side table goods \(.*side.csv\) changed after the batch was started"):
        shop.capture(spark)
    with _writes(monkeypatch, 2, "before"), pytest.raises(Crash):  # plan, events, then rejected_events
        shop.capture(spark, replan=True)
    side_table.write_text(before)
    for replan in (False, True):  # events contains the batch, so it cannot be planned again
        with pytest.raises(Refused, match="side table goods"):
            shop.capture(spark, replan=replan)
    side_table.write_text(after)
    shop.capture(spark)
    # e1 is recalled in both files, e90 has a negative price, e2 is repeated with another item, e4 unchanged.
    events = shop.read(spark, tables.EVENTS).select("event_id", "brand").collect()
    assert sorted(events) == [("e0", "good"), ("e2", None), ("e3", None), ("e4", None), ("e5", "good")]
    assert shop.counts(spark) == (10, 5, 4, 1)


@pytest.mark.parametrize(
    ("compact_every", "file_list"), [("10", "1"), pytest.param("2", "1.compact", marks=pytest.mark.long)]
)
def test_files_listed_for_a_batch_that_was_never_started_become_a_batch(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compact_every: str, file_list: str
) -> None:
    spark.conf.set("spark.sql.streaming.fileSource.log.compactInterval", compact_every)
    shop = Shop(tmp_path)
    shop.write("0.jsonl", json.dumps(event(80)))
    shop.capture(spark)
    _write_two_files(shop)
    checkpoint = tmp_path / "checkpoints" / "capture_events" / "shop"
    with _writes(monkeypatch, 0, "before"), pytest.raises(Crash):  # the plan of batch 1
        shop.capture(spark)
    for name in ("1", ".1.crc"):
        (checkpoint / "offsets" / name).unlink(missing_ok=True)
    assert (checkpoint / "sources" / "0" / file_list).exists()
    shop.capture(spark)
    spark.conf.unset("spark.sql.streaming.fileSource.log.compactInterval")
    batches = shop.read(spark, tables.CAPTURE_BATCHES).orderBy("batch_id").collect()
    assert [(row["batch_id"], row["files"]) for row in batches] == [(0, 1), (1, 1), (2, 1)]


def test_a_concurrent_run_of_the_same_source_is_refused_and_the_lock_ends_with_its_process(
    spark: SparkSession, captured_shop: Shop
) -> None:
    lock = captured_shop.home / "checkpoints" / "capture" / "shop.lock"
    assert lock.exists()
    captured_shop.capture(spark)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="capture/shop is already running"):
            captured_shop.capture(spark)
    captured_shop.capture(spark)


def test_two_sources_write_concurrently_and_share_the_users_of_one_namespace(
    spark: SparkSession, tmp_path: Path
) -> None:
    web, till = Shop(tmp_path, name="web"), Shop(tmp_path, name="till")
    for shop, numbers in ((web, range(0, 8)), (till, range(100, 108))):
        for part in range(2):
            part_numbers = list(numbers)[part * 4 : part * 4 + 4]
            shop.write(f"{part}.jsonl", "\n".join(json.dumps(event(n, who="anna")) for n in part_numbers))
    errors: list[BaseException] = []

    def run(shop: Shop) -> None:
        try:
            shop.capture(spark)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(shop,)) for shop in (web, till)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    events = web.read(spark, tables.EVENTS)
    assert [tuple(r) for r in events.groupBy("source", "user_id").count().orderBy("source").collect()] == [
        ("till", "shop:anna", 8), ("web", "shop:anna", 8),
    ]  # fmt: skip


def test_any_order_and_split_of_files_gives_the_same_events(spark: SparkSession, tmp_path: Path) -> None:
    rows = [event(n) for n in range(9)]
    forward, backward = Shop(tmp_path / "forward"), Shop(tmp_path / "backward")
    forward.write("all.jsonl", "\n".join(json.dumps(r) for r in [*rows, rows[0]]))
    for number, part in enumerate((rows[6:], rows[2:7][::-1], rows[:3])):
        backward.write(f"{number}.jsonl", "\n".join(json.dumps(r) for r in part))
    contents = []
    for shop in (forward, backward):
        shop.capture(spark)
        events = shop.read(spark, tables.EVENTS).drop("position", "epoch", "batch_id", "ingest_time")
        contents.append(sorted(events.toJSON().collect()))
    assert contents[0] == contents[1]
    assert len(contents[0]) == 9


def test_a_file_changed_after_capture_is_refused_and_a_deleted_one_is_not(
    spark: SparkSession, captured_shop: Shop
) -> None:
    before = _tables_content(spark, captured_shop)
    (captured_shop.input / "a.jsonl").unlink()
    captured_shop.capture(spark)
    assert _tables_content(spark, captured_shop) == before
    changed_file = captured_shop.input / "b.jsonl"
    changed_file.write_text(changed_file.read_text() + "\n" + json.dumps(event(70)))
    os.utime(changed_file, (1_800_000_000, 1_800_000_000))
    with pytest.raises(Refused, match=r"1 file\(s\) changed after they were read"):
        captured_shop.capture(spark)
    captured_shop.capture(spark, accept_changed_units=True)
    assert _tables_content(spark, captured_shop) == before
    shutil.copy(changed_file, captured_shop.input / "b_again.jsonl")
    captured_shop.capture(spark, accept_changed_units=True)
    ids = {row[0] for row in captured_shop.read(spark, tables.EVENTS).select("event_id").collect()}
    assert ids == {"e0", "e1", "e2", "e3", "e4", "e5", "e70"}


def test_a_broken_file_stops_the_stage_and_can_be_skipped(spark: SparkSession, captured_shop: Shop) -> None:
    broken_file = captured_shop.write("c.jsonl.gz", b"\x1f\x8b\x08\x00broken")
    captured_shop.write("d.jsonl", json.dumps(event(60)))
    with pytest.raises(SourceUnreadable, match="a file cannot be read") as raised:
        captured_shop.capture(spark)
    assert str(broken_file) in raised.value.where
    captured_shop.capture(spark, skipped_units=(str(broken_file),))
    assert captured_shop.counts(spark) == (12, 7, 3, 2)
    row = (
        captured_shop.read(spark, tables.REJECTED_EVENTS)
        .where("rule = 'file_unreadable'")
        .select("position", "payload")
        .first()
    )
    assert row is not None
    assert row["position"].endswith("c.jsonl.gz")


def test_a_stopped_stage_is_continued_by_the_next_run(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    _write_two_files(shop)
    settings = shop.settings()
    query = ingest.query(settings, "shop")
    runner = QueryRunner(query, spark, settings, RunOptions())
    with runner.progress:
        runner.start(spark)
        runner.stop_when_idle()
    assert runner.failure() is None
    assert not runner.is_active()
    shop.capture(spark)
    assert shop.counts(spark) == (10, 6, 2, 2)
