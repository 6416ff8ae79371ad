"""The stage of every learner: reads the state, scores and learns a batch, and commits the changed rows."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks, runner
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.queries import Batch, BatchResult, Query, stage_query
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Settings
from profilestream.base.tables import MODEL_METRICS
from profilestream.learn import metrics
from profilestream.learn.kernels.arrays import IS_DELETED
from profilestream.learn.learner_spec import Learned, Learner, LearnerBatch, LearnerSpec
from profilestream.learn.metrics_reporter import MetricsReporter

# By table, the rows that the last batch of this run appended, and its transaction.
_Appended = dict[str, tuple[Txn, pa.Table]]


def queries(learner: Learner, settings: Settings) -> list[Query]:
    """The query of a learner's stage; empty when the settings do not enable the learner."""
    spec = learner(settings)
    if not spec.config.enabled:
        return []
    return [
        stage_query(
            spec.stage_name(),
            spec.reads(),
            (MODEL_METRICS, *spec.tables),
            partial(_write, spec, {}),
            settings=spec.settings_text,
            shared=(MODEL_METRICS,),
            versions=partial(_versions, spec),
            on_progress=MetricsReporter(settings, spec.name, spec.config.parameters),
            min_interval=settings.learn.min_interval_seconds,
            max_busy_share=settings.learn.max_busy_share,
        )
    ]


def check(learner: Learner, spark: SparkSession, settings: Settings) -> None:
    """Check the settings of a learner, if it is enabled; writes nothing.

    Raises:
        BadSettings: a setting or expression is invalid.
    """
    spec = learner(settings)
    if spec.config.enabled:
        spec.check(spark)


def _versions(spec: LearnerSpec, spark: SparkSession, checkpoint: Checkpoint, batch_id: int) -> dict[str, int]:
    pinned = commits.versions(spark, spec.updated_tables, spec.settings.paths)
    version = None if spec.history is None else checkpoint.last_complete_version(batch_id)
    return pinned if spec.history is None or version is None else {**pinned, spec.history.name: version}


def _write(spec: LearnerSpec, appended: _Appended, frame: DataFrame, batch: Batch) -> BatchResult:
    with batch.cached(spec.select(frame)) as (rows, count):
        if count:
            history = _history(spec, batch)
            in_driver = _StoredInDriver(spec, batch, appended)
            if _is_local(spec, count, batch) and not (history is not None and spec.needs_history(in_driver)):
                with batch.phase("learn"):
                    learned = spec.learn(LearnerBatch(rows.toArrow(), count, in_driver))
                _commit(spec, learned, in_driver, appended, batch)
            else:
                versions = {table.name: batch.version_to_update(table) for table in spec.updated_tables}
                stored = StoredFrames(batch.spark, spec, batch.txn, versions, count)
                learned = spec.learn(LearnerBatch(rows, count, stored, history, batch.phase))
                _commit(spec, learned, stored, appended, batch, count=None if learned.is_rebuilt else count)
    return BatchResult(rows_in=count)


def _is_local(spec: LearnerSpec, count: int, batch: Batch) -> bool:
    """Whether the driver processes the batch. A retry after a commit reads earlier versions, which only Spark does."""
    return batch.is_written_locally(count, spec.tables) and not any(batch.is_done(table) for table in spec.tables)


def _history(spec: LearnerSpec, batch: Batch) -> Callable[[], DataFrame] | None:
    """Reads the rows before the batch; null within a commit of the input, where they are no version of its table."""
    version = None if spec.history is None else batch.plan.versions.get(spec.history.name)
    return None if version is None else partial(_rows_until, spec, batch.spark, version)


def _rows_until(spec: LearnerSpec, spark: SparkSession, version: int) -> DataFrame:
    assert spec.history is not None
    return spec.select(spec.history.read(spark, spec.settings.paths, version=version))


def _commit(
    spec: LearnerSpec, learned: Learned, stored: "StoredFrames | _StoredInDriver", appended: _Appended, batch: Batch,
    count: int | None = None,
) -> None:  # fmt: skip
    """Commit metrics and state; the arguments of Batch.merge depend on who has read the state."""
    batch.append(metrics.metric_rows(spec.name, spec.metrics, learned.evaluation, batch.txn), MODEL_METRICS)
    for table in spec.tables:
        rows = learned.rows[table.name]
        flags = [IS_DELETED] if IS_DELETED in runner.column_names(rows) else []
        changed = commits.with_batch_columns(rows, table, batch.txn, *flags)
        if table.is_updated:
            batch.merge(changed, table, count=count, delete_flag="".join(flags), **stored.read_as(table))
        else:
            batch.append(changed, table)
            appended[table.name] = batch.txn, changed


@dataclass(frozen=True)
class StoredFrames:
    """The state before a batch, read by Spark.

    Args:
        versions: of the updated tables, by name, that the state is read from.
        count: number of rows of the batch.
    """

    spark: SparkSession
    spec: LearnerSpec
    txn: Txn
    versions: Mapping[str, int]
    count: int

    def rows(
        self, table: Table, columns: Sequence[str], keys: DataFrame | None = None, **values: str | Sequence[int]
    ) -> DataFrame:
        """As StateTables.rows."""
        rows = table.read(self.spark, self.spec.settings.paths, version=self.versions[table.name])
        for name, value in values.items():
            rows = rows.where(F.col(name) == value if isinstance(value, str) else F.col(name).isin(list(value)))
        if keys is not None:
            rows = rows.join(broadcast_if_small(keys.distinct(), self.count), keys.columns, "left_semi")
        return rows.select(*columns)

    def last_batch(self, table: Table) -> pa.Table:
        """As StateTables.last_batch."""
        return self.spec.last_rows(self.spark, table, self.txn.epoch, self.txn.batch_id)

    def read_as(self, table: Table) -> dict[str, Any]:
        """Arguments of commits.merge: the commit is refused if the table has changed since it was read."""
        return {"read_version": self.versions[table.name]}


@dataclass(frozen=True)
class _StoredInDriver:
    """The state before a small batch, read in the process of the driver.

    Args:
        appended: the rows that each table got from the last batch of this run.
    """

    spec: LearnerSpec
    batch: Batch
    appended: _Appended

    def rows(
        self, table: Table, columns: Sequence[str], keys: pa.Table | None = None, **values: str | Sequence[int]
    ) -> pa.Table:
        """As StateTables.rows."""
        index = self.batch.indexes[table.name]
        if keys is None:
            return index.scan(tuple(columns), **values)
        for name, value in values.items():
            assert isinstance(value, str)
            keys = runner.with_constant(keys, name, value)
        return index.find(keys.select(list(table.key)), columns).rows

    def last_batch(self, table: Table) -> pa.Table:
        """As StateTables.last_batch."""
        txn, rows = self.appended.get(table.name, (None, None))
        now = self.batch.txn
        if txn is None or rows is None or txn.epoch != now.epoch or txn.batch_id >= now.batch_id:
            return self.spec.last_rows(self.batch.spark, table, now.epoch, now.batch_id)
        return rows

    def read_as(self, table: Table) -> dict[str, Any]:
        """Arguments of commits.merge."""
        index = self.batch.indexes[table.name]
        return {"index": index, "read_version": index.version}


def run_full_pass(spark: SparkSession, settings: Settings, learner: Learner) -> int:
    """Run full passes over all rows that a stage has learned, and replace the state in one commit per table.

    Returns:
        The number of rows.

    Raises:
        SourceMissing: nothing was learned yet.
        Refused: the last run ended within a commit of the input.
    """
    spec = learner(settings)
    stage, paths = spec.stage_name(), settings.paths
    checkpoint = Checkpoint(spark, checkpoint_path(paths, stage))
    last_batch = checkpoint.last_finished()
    if last_batch is None or not all(table.exists(spark, paths) for table in spec.tables):
        raise SourceMissing("nothing was learned yet", where=checkpoint.path, do=f"run jobs/{stage}.py first")
    version = checkpoint.last_complete_version(last_batch + 1)
    if version is None:
        raise Refused(
            "the last run ended within a commit of its input", where=checkpoint.path, do=f"run jobs/{stage}.py again"
        )
    with locks.hold_lock(paths.lock_folder, stage):
        rows = _rows_until(spec, spark, version)
        count = rows.count()
        next_txn = Txn(stage, checkpoint.epoch(), last_batch + 1)
        versions = commits.versions(spark, spec.updated_tables, paths)
        learned = spec.learn_again(LearnerBatch(rows, count, StoredFrames(spark, spec, next_txn, versions, count)))
        if learned is not None:
            txn = Txn(f"full pass of {stage}", str(uuid.uuid4()), last_batch)
            for table in spec.updated_tables:
                changed = commits.with_batch_columns(learned.rows[table.name], table, txn)
                commits.merge(changed, table, paths, txn, read_version=versions[table.name])
    return count
