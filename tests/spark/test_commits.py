"""Append, merge and replace: each write of a batch takes effect once, also in a retry."""

from dataclasses import replace
from pathlib import Path

import pytest
from chispa import assert_df_equality
from delta.tables import DeltaTable
from profilestream.base import commits
from profilestream.base.columns import Column
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused, SchemaMismatch
from profilestream.base.settings import Paths
from pyspark.errors import AnalysisException
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


def test_a_log_folder_with_other_files_is_not_changed(spark: SparkSession, tmp_path: Path) -> None:
    log = tmp_path / "views" / "_delta_log"
    log.mkdir(parents=True)
    (log / "00000000000000000000.crc").write_text("{}")
    with pytest.raises(AnalysisException, match="DELTA_TABLE_NOT_FOUND"):
        VIEWS.create(spark, Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path)))
    assert [path.name for path in log.iterdir()] == ["00000000000000000000.crc"]


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
