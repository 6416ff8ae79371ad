"""Stages that derive declared tables from `events`: their query, checks and writes."""

from dataclasses import dataclass, field

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, first_sentence
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.runner import Rows, rows_of
from profilestream.base.settings import Settings
from profilestream.derive import feature_declaration, population, table_declaration
from profilestream.derive.feature_declaration import DeclaredFeatures
from profilestream.derive.fold import Fold
from profilestream.derive.population import PopulationSums
from profilestream.derive.table_declaration import DerivedTable


def declared_tables(settings: Settings) -> dict[str, DerivedTable]:
    """All declared tables of the settings by file, with the statistics that window features add to tiles.

    Raises:
        BadSettings: a declaration is invalid, two tables have the same name, a name is reserved, a table is written in
            another way than its stage, or an entity has no tiles.
    """
    files_by_mode = {"append": settings.derive.features, "merge": settings.derive.profiles}
    declared: dict[str, DerivedTable] = {}
    for mode, files in files_by_mode.items():
        for file in files:
            declared[file] = derived = table_declaration.load(file, settings.derive.names)
            if derived.write != mode:
                raise BadSettings(f"write = {derived.write!r}", where=f"{file}, write", do=f"set it to {mode!r}")
            if reserved := sorted(tables.RESERVED_NAMES & {table.name for table in derived.tables}):
                what = f"{reserved[0]!r} is the name of a table of profilestream itself"
                raise BadSettings(what, where=f"{file}, name", do="choose another name")
    names = [table.name for derived in declared.values() for table in derived.tables]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise BadSettings(f"tables declared twice: {duplicates}", where="[derive]", do="choose another name for each")
    features = feature_declaration.declared_features(settings)
    return declared if features is None else _with_windows(declared, features, settings.derive.windows.file)


def _with_windows(declared: dict[str, DerivedTable], features: DeclaredFeatures, file: str) -> dict[str, DerivedTable]:
    return {
        name: feature_declaration.with_feature_statistics(derived, features, file) for name, derived in declared.items()
    }


def queries(stage: str, files: tuple[str, ...], settings: Settings) -> list[Query]:
    """The query of a stage that writes these declared tables; none without tables."""
    folds = [Fold(derived) for file, derived in declared_tables(settings).items() if file in files]
    if not folds:
        return []
    text = "\n".join(fold.derived.settings for fold in folds)

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        merged = [fold.derived.table for fold in folds if fold.derived.write == "merge"]
        return commits.versions(spark, merged, settings.paths)

    latest = _LatestPopulations()

    def write(frame: DataFrame, batch: Batch) -> BatchResult:
        with batch.cached(frame) as (events, rows):
            if folds[0].derived.write == "merge":
                for fold in folds:
                    _merge(events, rows, fold, batch, latest)
            else:
                parts = batch.select(events, [f.selection for f in folds], rows, [f.derived.table for f in folds])
                with batch.phase("fold"):
                    partials = [fold.fold_events(own) for fold, own in zip(folds, parts, strict=True)]
                append_partials(folds, partials, batch)
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            stage,
            appended_rows(tables.EVENTS, "capture_events", settings.paths, settings.derive.max_files_per_trigger),
            tuple(table for fold in folds for table in fold.derived.tables),
            write,
            settings=text,
            versions=versions,
        )
    ]


def append_partials(folds: list[Fold], partials: list[Rows], batch: Batch) -> None:
    """Append the partials of each fold to its table."""
    batch.append_all([
        (repartition_by_folder(commits.with_batch_columns(rows, fold.derived.table, batch.txn), fold.derived),
         fold.derived.table)
        for fold, rows in zip(folds, partials, strict=True)
    ])  # fmt: skip


def repartition_by_folder(rows: Rows, derived: DerivedTable) -> Rows:
    """Rows partitioned so that a batch writes at most two files per folder instead of one per task of Spark."""
    if not derived.partitioned_by or not isinstance(rows, DataFrame):
        return rows
    return rows.repartition(*derived.partitioned_by, F.pmod(F.xxhash64(*derived.keys), F.lit(2)))


@dataclass
class _LatestPopulations:
    """The population after the last batch of this run, by table and transaction, so that no batch reads it."""

    by_table: dict[str, tuple[Txn, PopulationSums]] = field(default_factory=dict)

    def append(self, change: PopulationSums, derived: DerivedTable, batch: Batch) -> None:
        """Append the population after the batch."""
        table, txn = derived.population_table, batch.txn
        last, before = self.by_table.get(table.name, (txn, None))
        if before is None or last.epoch != txn.epoch or last.batch_id >= txn.batch_id:
            before = population.before_batch(table.read(batch.spark, batch.paths), derived, txn)
        after = before.plus(change)
        batch.append(after.row(derived, txn), table)
        self.by_table[table.name] = txn, after


def _merge(events: DataFrame, count: int, fold: Fold, batch: Batch, latest: _LatestPopulations) -> None:
    """Fold the events into the rows of their keys; on a retry after the commit, only the population is left to do."""
    derived, table = fold.derived, fold.derived.table
    if batch.is_done(table):
        version = commits.version_before(batch.spark, table, batch.paths, batch.txn)
        rows = table.read(batch.spark, batch.paths).where(
            (F.col("epoch") == batch.txn.epoch) & (F.col("batch_id") == batch.txn.batch_id)
        )
        stored = rows_of(rows, table.read(batch.spark, batch.paths, version=version), table.key)
    else:
        (new,) = batch.select(events, [fold.selection], count, [table])
        before = batch.stored(table, new)
        with batch.phase("fold"):
            updated = commits.with_batch_columns(fold.update(before.rows, new), table, batch.txn)
        rows, stored = batch.merge(updated, table, stored=before), before.rows
    if derived.population and batch.has_commits:
        latest.append(population.change(rows, stored, derived), derived, batch)


def check(spark: SparkSession, files: tuple[str, ...], settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing.

    Raises:
        BadSettings: an expression is invalid; the message names file and key.
    """
    events = spark.createDataFrame([], tables.EVENTS.schema)
    for file, derived in declared_tables(settings).items():
        if file not in files:
            continue
        for key, sql, is_condition in derived.expressions():
            kind = sql_type(events, sql, f"{file}, {key}", "the columns of the table events")
            if is_condition and kind != "boolean":
                raise BadSettings(f"{key} = {sql!r} is a {kind}", where=f"{file}, {key}", do="write a condition")
        plain = Fold(derived.model_copy(update={"readings": {}}))
        values = plain.read(spark.createDataFrame([], derived.table.schema)).withColumn("at", F.col("as_of"))
        for name, reading in derived.readings.items():
            sql = f"try_cast(({reading.sql}) AS {reading.type})"
            sql_type(values, sql, f"{file}, readings.{name}", "the keys, `as_of`, `at` and the statistics")


def sql_type(frame: DataFrame, sql: str, where: str, columns: str, *, is_aggregate: bool = False) -> str:
    """The type of a SQL expression over a frame's columns.

    Args:
        where: place of the expression, for the message.
        columns: the columns that it may use, for the message.
        is_aggregate: whether it is an aggregate over all rows.

    Raises:
        BadSettings: Spark cannot analyze the expression.
    """
    try:
        if is_aggregate:
            return str(frame.agg(F.expr(sql)).schema[0].dataType.simpleString())
        # With a column next to it, an aggregate is an error too.
        return str(frame.select(frame.columns[0], F.expr(sql)).schema[1].dataType.simpleString())
    except PySparkException as error:
        raise BadSettings(
            f"{where.split(', ')[-1]} = {sql!r} is not valid: {first_sentence(str(error))}",
            where=where,
            do=f"correct it; it may use {columns}",
        ) from None
