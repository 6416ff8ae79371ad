"""Maintenance combines and removes files, and every reader still gets every row; a VACUUM of Delta would break them."""

import json
import logging
import os
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from delta.exceptions import ConcurrentDeleteReadException
from profilestream.base import commits, files, local_appends, streaming, tables
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.queries import Query, RunOptions
from profilestream.base.session import with_spark_session
from profilestream.base.settings import Paths, Settings
from profilestream.capture import ingest, reprocess
from profilestream.derive import fold_stage, profiles, sessions
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.predictor import PublishedRows
from profilestream.serve.users import user_explanations
from profilestream.steward import maintain
from profilestream.steward.maintenance_report import TableReport
from profilestream.steward.needed_versions import NeededVersion
from pyspark.sql import SparkSession

from jobs import steward_maintain
from tests.builders import SHOP, USER_PROFILES, Shop, event
from tests.open_readers import assert_all_readers_agree
from tests.spark.test_keyed_rows import TABLE as KEYED
from tests.spark.test_keyed_rows import _arrow, _stored, _vacuum

SETTINGS = "[maintain]\nmin_files = 2\nkeep_hours = 0\n[derive]\n"
LATER = timedelta(hours=1)


@pytest.fixture
def shop(spark: SparkSession, tmp_path: Path) -> Shop:
    """An empty table of events, a declared profile with the number of events, and sessions."""
    tmp_path.joinpath("profiles.toml").write_text(USER_PROFILES + '[statistics]\nn = { kind = "count" }\n')
    shop = Shop(tmp_path / "home")
    shop.extra_settings = SETTINGS + f'profiles = ["{tmp_path}/profiles.toml"]\n[derive.sessions]\nenabled = true\n'
    ingest.events_table(shop.settings().capture).create(spark, shop.settings().paths)
    return shop


def _append(shop: Shop, numbers: range, users: int = 3) -> None:
    """Append one event per commit to `events`, as small batches of capture do."""
    events, paths = ingest.events_table(shop.settings().capture), shop.settings().paths
    for n in numbers:
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=n)
        row = {
            "event_id": f"e{n}", "event_type": "view", "event_time": at, "ingest_time": at, "event_date": at.date(),
            "event_period": at.date(), "user_id": f"shop:u{n % users}", "source": "shop", "position": str(n),
            "epoch": "one", "batch_id": n,
        }  # fmt: skip
        local_appends.append(events.arrow_rows([row]), events, paths, ("capture", n))


def _run(spark: SparkSession, shop: Shop, queries: list[Query]) -> None:
    streaming.run(spark, queries, shop.settings(), RunOptions())


def _counts(spark: SparkSession, settings: Settings) -> dict[str, int]:
    rows = _profiles(settings).read(spark, settings.paths).select("user_id", "n").collect()
    return {row["user_id"]: row["n"] for row in rows}


def _profiles(settings: Settings) -> Table:
    (derived,) = fold_stage.declared_tables(settings).values()
    return derived.table


def _maintain(spark: SparkSession, shop: Shop, *names: str, **changes: Any) -> dict[str, TableReport]:
    """Maintenance an hour later, so that `keep_hours` needs no version."""
    report = maintain.run(spark, shop.settings(), datetime.now(UTC) + LATER, names, **changes)
    return {one.table: one for one in report.tables}


def _naive(spark: SparkSession, shop: Shop, table: Table) -> None:
    """What an operator without knowledge of the readers would do."""
    spark.sql(f"OPTIMIZE delta.`{table.uri(shop.settings().paths)}`")
    _vacuum(spark, table, shop.settings().paths)


def _all_files(shop: Shop) -> dict[str, tuple[int, int]]:
    """Files of tables and checkpoints."""
    folders = (shop.home / "warehouse", shop.home / "checkpoints")
    return {
        f"{folder.name}/{path}": status
        for folder in folders
        for path, status in files.listing(cast(SparkSession, None), str(folder)).items()
    }


def _data_files(shop: Shop, table: str) -> list[Path]:
    return sorted((shop.home / "warehouse" / table).glob("**/part-*.parquet"))


def _expected(numbers: range) -> Counter[str]:
    return Counter(f"shop:u{n % 3}" for n in numbers)


def test_a_table_has_few_files_and_its_followers_read_each_row_once(spark: SparkSession, shop: Shop) -> None:
    for end in (12, 24, 36):
        _append(shop, range(end - 12, end))
        _run(spark, shop, profiles.queries(shop.settings()))
        report = _maintain(spark, shop, "events")["events"]
        assert report.before.rows == report.after.rows == end  # type: ignore[union-attr]
        assert report.before.files == 12 + (end > 12) and report.after.files == 1  # type: ignore[union-attr]
    assert _counts(spark, shop.settings()) == _expected(range(36))
    # The last batch of the stage starts after version 25; the last checkpoint before it is that of version 20.
    assert report.needed == NeededVersion(25, "derive_profiles") and report.latest == 39
    assert report.removed_files > 12 and len(_data_files(shop, "events")) == 1 + 12 + 12 + 2
    log = [path.name for path in (shop.home / "warehouse" / "events" / "_delta_log").glob("*.json")]
    assert min(log) == f"{20:020}.json"
    assert_all_readers_agree(spark, tables.EVENTS.path(shop.settings().paths), "")
    assert ingest.events_table(shop.settings().capture).read(spark, shop.settings().paths, version=20).count() == 19


def test_streams_and_change_feeds_skip_a_compaction(spark: SparkSession, tmp_path: Path) -> None:
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    KEYED.create(spark, paths)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(4):
        _update(KEYED, paths, {("a", at): float(n), (f"b{n}", at): float(n)}, n)
    feed = [("insert", 2), *[("insert", 1), ("update_postimage", 1), ("update_preimage", 1)] * 3]
    assert _feed(spark, paths, 1) == feed
    assert commits.compact(spark, KEYED, paths, small_file_bytes=1_000_000)
    _update(KEYED, paths, {("a", at): 9.0}, 4)
    assert _feed(spark, paths, 1) == [*feed, ("update_postimage", 1), ("update_preimage", 1)]
    counted = (
        spark.readStream.format("delta").option("readChangeFeed", True).load(KEYED.uri(paths)).groupBy("id").count()
    )
    query = (
        counted.writeStream.format("memory").queryName("fed").outputMode("complete").trigger(availableNow=True).start()
    )
    assert query.awaitTermination(60)
    assert {row["id"]: row["count"] for row in spark.table("fed").collect()} == {
        "a": 1,
        **{f"b{n}": 1 for n in range(4)},
    }


def _update(table: Table, paths: Paths, rows: dict[tuple[str, datetime], float], batch_id: int) -> None:
    index = KeyedRows(table, paths)
    assert index.refresh(1_000_000)
    index.update(_arrow(rows), "derive", batch_id)


def _feed(spark: SparkSession, paths: Paths, version: int) -> list[tuple[str, int]]:
    feed = spark.read.format("delta").option("readChangeFeed", True).option("startingVersion", version)
    counts = feed.load(KEYED.uri(paths)).groupBy("_commit_version", "_change_type").count()
    return [(row[1], row[2]) for row in counts.orderBy("_commit_version", "_change_type").collect()]


@pytest.mark.parametrize("is_naive", [False, True])
def test_a_lagging_follower_gets_the_files_of_its_next_batch(spark: SparkSession, shop: Shop, is_naive: bool) -> None:
    _append(shop, range(12))
    _run(spark, shop, profiles.queries(shop.settings()))
    _append(shop, range(12, 36))
    if is_naive:
        _naive(spark, shop, tables.EVENTS)
        with pytest.raises(Exception, match="FILE_NOT_EXIST"):
            _run(spark, shop, profiles.queries(shop.settings()))
        return
    for _ in range(3):
        report = _maintain(spark, shop, "events")["events"]
    assert report.needed == NeededVersion(12, "derive_profiles")
    _run(spark, shop, profiles.queries(shop.settings()))
    assert _counts(spark, shop.settings()) == _expected(range(36))


@pytest.mark.parametrize("is_naive", [False, True])
def test_an_unfinished_batch_gets_the_versions_of_its_plan(
    spark: SparkSession, shop: Shop, is_naive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = sessions.table(shop.settings())
    # Spark reads the versions of the plan; the driver reads the newest rows.
    shop.overrides = ["derive.max_files_per_trigger=2", "stream.local_max_rows=0"]
    _append(shop, range(6), users=100)
    _run(spark, shop, sessions.queries(shop.settings()))
    _append(shop, range(6, 8), users=100)

    def crash(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full"):
        patch.setattr(commits, "merge", crash)
        _run(spark, shop, sessions.queries(shop.settings()))
    if is_naive:
        _naive(spark, shop, table)
        with pytest.raises(Exception, match="FILE_NOT_EXIST"):
            _run(spark, shop, sessions.queries(shop.settings()))
        return
    reports = _maintain(spark, shop)
    assert reports["sessions"].needed == NeededVersion(3, "derive_sessions, unfinished batch")
    assert reports["sessions"].latest == 4 and reports["sessions"].combined_files == 3
    _run(spark, shop, sessions.queries(shop.settings()))
    assert table.read(spark, shop.settings().paths).where("events = 1").count() == 8


@pytest.mark.parametrize("is_naive", [False, True])
def test_a_loaded_model_still_reads_the_rows_of_its_published_version(
    spark: SparkSession, shop: Shop, is_naive: bool
) -> None:
    settings = shop.settings()
    publication = FactorsSpec(settings).publication
    assert publication is not None
    published = publication.published_table
    published.create(spark, settings.paths)
    for n in range(3):
        row = {"side": "user", "key": f"shop:u{n}", "epoch": "e", "batch_id": 1, "as_of": 0, "model_version": 1}
        local_appends.append(published.arrow_rows([row]), published, settings.paths)
    rows = PublishedRows(published.path(settings.paths), 1)
    if is_naive:
        _naive(spark, shop, published)
        with pytest.raises(FileNotFoundError):
            rows.read()
        return
    report = _maintain(spark, shop, published.name)[published.name]
    assert report.combined_files == 0
    assert len(rows.read()) == 3


def test_commits_of_the_driver_and_compactions_alternate_without_a_lost_row(
    spark: SparkSession, tmp_path: Path
) -> None:
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    KEYED.create(spark, paths)
    at, index = datetime(2026, 1, 1, tzinfo=UTC), KeyedRows(KEYED, paths)
    expected: dict[tuple[str, datetime], float] = {}
    is_over, other_session = threading.Event(), spark.newSession()

    def compact() -> None:
        while not is_over.is_set():
            commits.compact(other_session, KEYED, paths, small_file_bytes=1_000_000)

    thread = threading.Thread(target=with_spark_session(other_session, compact))
    thread.start()
    for n in range(120):
        rows = {(f"u{key % 50}", at): float(n) for key in range(n, n + 5)}
        assert index.refresh(1_000_000)
        index.update(_arrow(rows), "derive", n)
        expected |= rows
    is_over.set()
    thread.join()
    assert _stored(spark, paths) == expected
    operations = spark.sql(f"DESCRIBE HISTORY delta.`{KEYED.uri(paths)}`").groupBy("operation").count().collect()
    assert {row[0]: row[1] for row in operations}["MERGE"] == 120
    assert {row[0]: row[1] for row in operations}["OPTIMIZE"] > 0


def test_an_update_of_rows_that_were_compacted_is_written_and_one_of_changed_rows_is_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    KEYED.create(spark, paths)
    at, index = datetime(2026, 1, 1, tzinfo=UTC), KeyedRows(KEYED, paths)
    for n in range(3):
        _update(KEYED, paths, {(f"u{n}", at): 0.0}, n)
    assert index.refresh(1_000_000)
    read = index.version
    assert commits.compact(spark, KEYED, paths, small_file_bytes=1_000_000)
    index.update(_arrow({("u1", at): 1.0}), "driver", 0, read_version=read)
    frame = spark.createDataFrame(_arrow({("u2", at): 2.0}))
    with pytest.raises(Refused, match="keyed changed"):
        commits.merge(frame, KEYED, paths, Txn("spark", "e", 0), read_version=read)
    with pytest.raises(Refused, match="keyed changed"):
        index.update(_arrow({("u0", at): 9.0}), "driver", 1, read_version=read)
    read = commits.version(spark, KEYED, paths)
    assert commits.compact(spark, KEYED, paths, small_file_bytes=1_000_000)
    commits.merge(frame, KEYED, paths, Txn("spark", "e", 0), read_version=read)
    assert _stored(spark, paths) == {("u0", at): 0.0, ("u1", at): 1.0, ("u2", at): 2.0}


def test_compacted_rows_of_a_keyed_table_have_small_row_groups(spark: SparkSession, tmp_path: Path) -> None:
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    KEYED.create(spark, paths)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(2):
        _update(KEYED, paths, {(f"u{key}", at + timedelta(hours=n)): key / 7 for key in range(20_000)}, n)
    assert commits.compact(spark, KEYED, paths, small_file_bytes=100_000_000)
    ((path, _),) = KEYED.files_by_date(spark, paths, commits.version(spark, KEYED, paths))
    metadata = pq.read_metadata(tmp_path / "keyed" / path)
    assert metadata.num_rows == 40_000 and metadata.num_row_groups > 1
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_commit_that_met_another_one_is_repeated_at_most_five_times() -> None:
    attempts = []

    def write() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConcurrentDeleteReadException("files were removed")

    commits.repeat_conflicts(write)
    assert len(attempts) == 3
    attempts = [1] * -9
    with pytest.raises(ConcurrentDeleteReadException):
        commits.repeat_conflicts(lambda: (_ for _ in ()).throw(ConcurrentDeleteReadException("again")))


def test_old_payloads_become_null_and_reprocessing_leaves_their_rows_out(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path, extra_settings="[maintain]\nrejected_payload_days = 30\n")
    shop.write("a.jsonl", "\n".join(json.dumps(row) for row in (event(1, kind="peek"), event(2, kind="peek"))))
    shop.capture(spark)
    now = datetime.now(UTC)
    rejected = tables.REJECTED_EVENTS
    assert (
        maintain.run(spark, shop.settings(), now + timedelta(days=29), ["rejected_events"]).tables[0].cleared_payloads
        == 0
    )
    before = shop.read(spark, rejected).drop("payload").orderBy("position").collect()
    (report,) = maintain.run(spark, shop.settings(), now + timedelta(days=31), ["rejected_events"]).tables
    assert report.cleared_payloads == 2
    rows = shop.read(spark, rejected).orderBy("position")
    assert rows.drop("payload").collect() == before
    assert [row["payload"] for row in rows.collect()] == [None, None]
    shop.write("b.jsonl", json.dumps(event(3, kind="peek")))
    shop.capture(spark)
    shop.mapping = SHOP.replace('event_type = "kind"', "event_type = \"replace(kind, 'peek', 'view')\"")
    with caplog.at_level(logging.WARNING):
        result = reprocess.run(spark, shop.settings(), "shop", None)
    assert (result.rows_in, result.rows_out) == (1, 1)
    (message,) = [record.getMessage() for record in caplog.records if "not reprocessed" in record.getMessage()]
    assert message.startswith("shop: 2 rejected rows are not reprocessed, because maintain.rejected_payload_days")


def test_a_dry_run_changes_nothing_and_reports_what_a_run_does(spark: SparkSession, shop: Shop) -> None:
    _append(shop, range(12))
    _maintain(spark, shop, "events")
    _append(shop, range(12, 24))
    before = _all_files(shop)
    planned = _maintain(spark, shop, "events", is_dry_run=True)["events"]
    assert _all_files(shop) == before
    done = _maintain(spark, shop, "events")["events"]
    assert planned.combined_files == done.combined_files == 13
    assert planned.removed_files > 12 and planned.removed_bytes > 0
    assert planned.after is None and planned.before == done.before
    assert done.after is not None and done.after.stored_files < done.before.stored_files


def test_a_crash_while_files_are_removed_leaves_a_table_that_the_next_run_completes(
    spark: SparkSession, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(spark, shop, profiles.queries(shop.settings()))
    for end in (12, 24):
        _append(shop, range(end - 12, end))
        _run(spark, shop, profiles.queries(shop.settings()))
        commits.compact(spark, tables.EVENTS, shop.settings().paths, small_file_bytes=1_000_000)
        tables.EVENTS.log(spark, shop.settings().paths).checkpoint()
    _append(shop, range(24, 25))
    _run(spark, shop, profiles.queries(shop.settings()))
    planned = _maintain(spark, shop, "events", is_dry_run=True)["events"].removed_files
    assert planned > 40
    remove, calls = files.delete, list[str]()
    for crash_at in (1, 20, planned - 25):

        def crashing(session: SparkSession, path: str, crash_at: int = crash_at) -> None:
            calls.append(path)
            if len(calls) == crash_at:
                raise OSError("killed")
            remove(session, path)

        calls.clear()
        with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
            patch.setattr(files, "delete", crashing)
            _maintain(spark, shop, "events")
        assert tables.EVENTS.read(spark, shop.settings().paths).count() == 25
    _maintain(spark, shop, "events")
    assert _maintain(spark, shop, "events", is_dry_run=True)["events"].removed_files == 0
    _append(shop, range(25, 36))
    _run(spark, shop, profiles.queries(shop.settings()))
    assert _counts(spark, shop.settings()) == _expected(range(36))


def test_files_of_a_crashed_writer_are_removed_after_a_day(spark: SparkSession, shop: Shop) -> None:
    _append(shop, range(10))
    folder = shop.home / "warehouse" / "events"
    old, new, other = (folder / f"part-{name}.parquet" for name in ("old", "new", "other"))
    log, temporary = folder / "_delta_log" / ".a.tmp", shop.home / "checkpoints" / "derive_profiles" / "epoch.1.tmp"
    temporary.parent.mkdir(parents=True)
    foreign = folder / "notes.txt"
    for path in (old, new, other, log, temporary, foreign):
        path.write_text("x")
    for path in (old, log, temporary, foreign):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    report = maintain.run(spark, shop.settings(), datetime.now(UTC), ["events"])
    assert not old.exists() and not log.exists() and not temporary.exists()
    assert new.exists() and other.exists() and foreign.exists()
    assert report.temporary_files == 1


def test_versions_of_the_last_hours_can_be_read_and_older_ones_give_a_clear_error(
    spark: SparkSession, shop: Shop
) -> None:
    shop.overrides = ["maintain.keep_hours=2"]
    _append(shop, range(12))
    _maintain(spark, shop, "events")
    assert tables.EVENTS.read(spark, shop.settings().paths, version=1).count() == 1
    middle = datetime.now(UTC)
    _append(shop, range(12, 24))
    shop.overrides = ["maintain.keep_hours=1"]
    report = maintain.run(spark, shop.settings(), middle + timedelta(hours=1), ["events"]).tables[0]
    assert report.needed == NeededVersion(13, "keep_hours")
    read = user_explanations.read_version_at(spark, tables.EVENTS, shop.settings(), middle)
    assert read is not None and read.count() == 12
    with pytest.raises(SourceMissing, match="versions of events before .* were removed"):
        user_explanations.read_version_at(spark, tables.EVENTS, shop.settings(), middle - timedelta(days=1))


def test_a_table_is_not_rebuilt_while_it_is_maintained(spark: SparkSession, shop: Shop) -> None:
    paths = shop.settings().paths
    with tables.EVENTS.maintenance_lock(paths), pytest.raises(Refused, match="maintain/events is already running"):
        tables.EVENTS.recreate(spark, paths)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--table", "evnts"], "there are no tables ['evnts']"),
        (["--set", "maintain.tables.evnts={ keep_hours = 1 }"], "there are no tables ['evnts']"),
        (["--set", "maintain.tables.events={ keep_hours = -1 }"], "maintain.tables.events.keep_hours"),
        (["--set", "maintain.min_files=1"], "maintain.min_files: Input should be greater than or equal to 2"),
        (["--set", "maintain.keep_days=1"], "maintain.keep_days: no such key"),
    ],
)
def test_bad_settings_exit_2_with_the_key(
    shop: Shop, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert steward_maintain.main(["--config", str(shop.config()), "--check", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_job_prints_a_line_per_table_and_json(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    _append(shop, range(3))
    config = ["--config", str(shop.config()), "--table", "events"]
    assert steward_maintain.main([*config, "--dry-run"]) == 0
    header, events, last = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["table", "rows", "files"]
    assert events.split()[:3] == ["events", "3", "3"] and events.endswith("of 3: keep_hours")
    assert last == "dry run: nothing was changed"
    assert steward_maintain.main([*config, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["tables"]
    assert (report["table"], report["before"]["files"], report["after"]["files"]) == ("events", 3, 1)
