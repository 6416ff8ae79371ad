"""Append, merge and replace: each write of a batch takes effect once, also in a retry."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chispa import assert_df_equality
from delta.tables import DeltaTable
from deltalake.exceptions import DeltaError
from profilestream.base import commits, tables
from profilestream.base.columns import Column
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table, log_entry
from profilestream.base.errors import Refused, SchemaMismatch, StateCorrupt
from profilestream.base.jvm import java_class
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.settings import Paths
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import DataFrame, SparkSession

VIEWS = Table(
    "views", (Column("user_id", "STRING NOT NULL", "The user."), Column("views", "BIGINT", "Views.")), key=("user_id",)
)


@pytest.fixture
def paths(spark: SparkSession, tmp_path: Path) -> Paths:
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    VIEWS.create(spark, paths)
    return paths


def _rows(spark: SparkSession, *rows: tuple[str | None, int | None]) -> DataFrame:
    return spark.createDataFrame(list(rows), "user_id string, views bigint")


def _stored(spark: SparkSession, paths: Paths) -> list[tuple[str, int]]:
    return sorted(tuple(row) for row in VIEWS.read(spark, paths).collect())


def _txn(batch_id: int) -> Txn:
    return Txn("derive/shop", "epoch-1", batch_id)


def _version(spark: SparkSession, paths: Paths) -> int:
    return int(DeltaTable.forPath(spark, VIEWS.path(paths)).history(1).collect()[0]["version"])


def test_a_retried_append_changes_nothing_and_another_epoch_is_another_writer(
    spark: SparkSession, paths: Paths
) -> None:
    commits.append(_rows(spark, ("a", 1)), VIEWS, paths, _txn(0))
    commits.append(_rows(spark, ("a", 1)), VIEWS, paths, _txn(0))
    assert _stored(spark, paths) == [("a", 1)]
    commits.append(_rows(spark, ("b", 2)), VIEWS, paths, Txn("derive/shop", "epoch-2", 0))
    assert _stored(spark, paths) == [("a", 1), ("b", 2)]
    assert commits.writers(spark, VIEWS, paths) == ["derive/shop/views/epoch-1", "derive/shop/views/epoch-2"]


def test_a_retried_merge_updates_inserts_and_deletes_once_in_one_commit(spark: SparkSession, paths: Paths) -> None:
    commits.append(_rows(spark, ("a", 1), ("b", 2)), VIEWS, paths, _txn(0))
    before = _version(spark, paths)
    changes = spark.createDataFrame(
        [("a", 10, False), ("b", None, True), ("c", 3, False), ("d", None, True)],
        "user_id string, views bigint, is_deleted boolean",
    )
    for _ in range(2):
        commits.merge(changes, VIEWS, paths, _txn(1), delete_flag="is_deleted")
    assert _stored(spark, paths) == [("a", 10), ("c", 3)]
    assert _version(spark, paths) == before + 1
    commits.merge(_rows(spark, ("a", 11)), VIEWS, paths, _txn(2))
    assert _stored(spark, paths) == [("a", 11), ("c", 3)]


def test_a_retried_merge_into_an_empty_table_is_one_append(spark: SparkSession, paths: Paths) -> None:
    before = _version(spark, paths)
    changes = spark.createDataFrame(
        [("a", 1, False), ("b", None, True)], "user_id string, views bigint, is_deleted boolean"
    )
    for _ in range(2):
        commits.merge(changes, VIEWS, paths, _txn(0), delete_flag="is_deleted")
    assert _stored(spark, paths) == [("a", 1)] and _version(spark, paths) == before + 1
    (last,) = DeltaTable.forPath(spark, VIEWS.path(paths)).history(1).collect()
    assert last["operation"] == "WRITE"


def test_a_merge_filters_the_table_by_the_keys_of_the_batch_before_a_shuffle(
    spark: SparkSession, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits.append(_rows(spark, ("a", 1), ("b", 2)), VIEWS, paths, _txn(0))
    min_size = "spark.sql.optimizer.runtime.bloomFilter.applicationSideScanSizeThreshold"
    monkeypatch.setattr(
        commits, "_MERGE_CONF", {**commits._MERGE_CONF, min_size: "0", "spark.sql.autoBroadcastJoinThreshold": "-1"}
    )
    status_store = spark._jsparkSession.sharedState().statusStore()
    # The id, not the number of executions: the number stops growing when Spark drops the oldest.
    last_id = status_store.executionsList().last().executionId()
    commits.merge(_rows(spark, ("a", 10), ("c", 3)), VIEWS, paths, _txn(1))
    assert _stored(spark, paths) == [("a", 10), ("b", 2), ("c", 3)]
    all_executions = status_store.executionsList()
    size = all_executions.size()
    executions = [all_executions.apply(n) for n in range(max(0, size - 100), size)]
    plans = [execution.physicalPlanDescription() for execution in executions if execution.executionId() > last_id]
    assert any("might_contain" in plan for plan in plans)


def test_a_retried_replace_changes_only_the_rows_of_its_condition_and_only_once(
    spark: SparkSession, paths: Paths
) -> None:
    commits.append(_rows(spark, ("a", 1), ("b", 2)), VIEWS, paths, _txn(0))
    for rows in ([("a", 5)], [("a", 6)]):
        commits.replace(_rows(spark, *rows), VIEWS, paths, _txn(1), where="user_id = 'a'")
    assert _stored(spark, paths) == [("a", 5), ("b", 2)]


def test_the_spark_settings_of_a_merge_are_removed_also_when_it_fails(spark: SparkSession, paths: Paths) -> None:
    commits.append(_rows(spark, ("a", 1)), VIEWS, paths, _txn(0))
    with pytest.raises(Exception, match="DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW"):
        commits.merge(_rows(spark, ("a", 2), ("a", 3)), VIEWS, paths, _txn(1))
    assert spark.conf.get("spark.databricks.delta.write.txnAppId", "none") == "none"
    commits.merge(_rows(spark, ("a", 4)), VIEWS, paths, _txn(1))
    assert _stored(spark, paths) == [("a", 4)]


def test_the_last_batch_of_a_writer_is_read_from_the_table(spark: SparkSession, paths: Paths) -> None:
    assert commits.last_batch(spark, VIEWS, paths, _txn(0).app_id(VIEWS)) is None
    commits.append(_rows(spark, ("a", 1)), VIEWS, paths, _txn(7))
    assert commits.last_batch(spark, VIEWS, paths, _txn(0).app_id(VIEWS)) == 7
    assert [commits.is_done(spark, VIEWS, paths, _txn(n)) for n in (6, 7, 8)] == [True, True, False]


def test_a_table_that_delta_rs_does_not_support_is_read_by_spark(
    spark: SparkSession, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits.append(_rows(spark, ("a", 1)), VIEWS, paths, _txn(7))

    def unsupported(folder: Path) -> None:
        raise DeltaError("Feature 'later' is not supported")

    monkeypatch.setattr("profilestream.base.delta_table.DeltaRsTable", unsupported)
    assert commits.last_batch(spark, VIEWS, paths, _txn(0).app_id(VIEWS)) == 7
    metadata = VIEWS.metadata(spark, paths)
    assert (metadata.schema, metadata.schema_version) == (VIEWS.schema, 1)


@pytest.mark.parametrize("leftover", ["_staged_commits/", ".00000000000000000000.json.7.tmp", ""])
def test_a_table_is_created_after_a_killed_attempt(spark: SparkSession, tmp_path: Path, leftover: str) -> None:
    log = tmp_path / "views" / "_delta_log"
    log.mkdir(parents=True)
    if leftover.endswith("/"):
        (log / leftover).mkdir()
    elif leftover:
        (log / leftover).write_text("{")
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    VIEWS.create(spark, paths)
    VIEWS.create(spark, paths)
    assert _version(spark, paths) == 0 and _stored(spark, paths) == []


@pytest.mark.parametrize("leftover", ["_delta_log/00000000000000000000.crc", "part-0.parquet", "day=1/part-0.parquet"])
def test_a_folder_of_a_lost_table_is_not_changed(spark: SparkSession, tmp_path: Path, leftover: str) -> None:
    file = tmp_path / "views" / leftover
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(StateCorrupt, match="has no log of a Delta table, but contains "):
        VIEWS.create(spark, Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path)))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


@pytest.mark.parametrize("table", [tables.EVENTS, tables.SESSIONS, tables.FACTORS, VIEWS], ids=lambda table: table.name)
def test_spark_would_create_the_same_table(spark: SparkSession, tmp_path: Path, table: Table) -> None:
    here, there = (Paths(warehouse=str(tmp_path / name), checkpoints=str(tmp_path)) for name in ("here", "there"))
    assert table.create(spark, here) and not table.create(spark, here)
    assert table._create_once(spark, table.uri(there))
    actions = [
        {name: value for action in log_entry(spark, table.path(paths), 0) or [] for name, value in action.items()}
        for paths in (here, there)
    ]
    for table_actions in actions:
        table_actions["metaData"] |= {
            "id": "",
            "createdTime": 0,
            "schemaString": json.loads(table_actions["metaData"]["schemaString"]),
        }
        for features in ("readerFeatures", "writerFeatures"):
            table_actions["protocol"][features] = sorted(table_actions["protocol"].get(features, []))
    assert actions[0]["metaData"] == actions[1]["metaData"]
    assert actions[0]["protocol"] == actions[1]["protocol"]


def _has_valid_checksum(spark: SparkSession, table: Table, paths: Paths, version: int) -> bool:
    """Whether the checksum file of the latest version equals the state that Spark computes from the whole log."""
    assert Path(table.path(paths), "_delta_log", f"{version:020d}.crc").exists()
    java_class(spark, "org.apache.spark.sql.delta.DeltaLog").clearCache()
    snapshot = table.log(spark, paths).unsafeVolatileSnapshot()
    assert snapshot.version() == version
    try:
        return bool(snapshot.validateChecksum(getattr(snapshot, "validateChecksum$default$1")()))
    except Py4JJavaError as error:
        assert "Number of files - Expected: 1 Computed: 7" in str(error)
        return False


def test_checksums_of_the_driver_are_those_of_spark(spark: SparkSession, tmp_path: Path) -> None:
    keyed = replace(VIEWS, name="keyed", properties={"delta.enableDeletionVectors": "true"})
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    for table in (keyed, VIEWS):
        table.create(spark, paths)
    for batch_id in range(6):
        rows = VIEWS.arrow_rows([{"user_id": f"u{n}", "views": batch_id} for n in range(batch_id, batch_id + 3)])
        if batch_id == 3:
            commits.merge(spark.createDataFrame(rows), keyed, paths, _txn(batch_id))
            commits.append(spark.createDataFrame(rows), VIEWS, paths, _txn(batch_id))
        else:
            index = KeyedRows(keyed, paths)
            assert index.refresh(100)
            commits.merge(rows, keyed, paths, _txn(batch_id), index=index)
            commits.append(rows, VIEWS, paths, _txn(batch_id))
        assert all(_has_valid_checksum(spark, table, paths, batch_id + 1) for table in (keyed, VIEWS))
    checksum = tmp_path / "views" / "_delta_log" / f"{6:020d}.crc"
    checksum.write_text(json.dumps({**json.loads(checksum.read_text()), "numFiles": 1}))
    assert not _has_valid_checksum(spark, VIEWS, paths, 6)


def test_the_error_for_a_frame_with_another_schema_names_every_wrong_column(spark: SparkSession, paths: Paths) -> None:
    frame = spark.createDataFrame([(1, "x")], "user_id bigint, x string")
    with pytest.raises(SchemaMismatch) as raised:
        commits.append(frame, VIEWS, paths, _txn(0))
    assert str(raised.value).splitlines() == [
        "frame does not fit table 'views'",
        "  user_id: expected string, got bigint",
        "  views: expected bigint, got no such column",
        "  not in the table: ['x']",
        "  where: table views",
        "  what to do: end the transform with a select of the columns of views, as its declaration lists them",
    ]
    assert_df_equality(VIEWS.read(spark, paths), _rows(spark), ignore_nullable=True, ignore_metadata=True)


def test_missing_columns_are_added_to_a_table_of_an_older_schema_version(spark: SparkSession, paths: Paths) -> None:
    commits.append(_rows(spark, ("anna", 1)), VIEWS, paths, _txn(0))
    likes = Column("likes", "MAP<STRING, STRUCT<n: BIGINT>>", "Likes by kind.")
    newer = replace(VIEWS, columns=(*VIEWS.columns, likes), schema_version=2)
    for _ in range(2):  # the second run has nothing to add
        newer.check_stored(spark, paths)
        newer.upgrade(spark, paths)
        assert newer.read(spark, paths).collect() == [("anna", 1, None)]
    with pytest.raises(Refused, match="table views has schema version 2; this code supports 1"):
        VIEWS.check_stored(spark, paths)
    renamed = Column("page_views", "BIGINT NOT NULL", "Views.")
    other = replace(newer, columns=(VIEWS.columns[0], renamed, likes), schema_version=3)
    with pytest.raises(SchemaMismatch, match="page_views: expected bigint, got no such column"):
        other.check_stored(spark, paths)
