"""A stage that derives declared tables from `events`: its query, its checks, its writes."""

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.errors import BadSettings, first_words
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Settings
from profilestream.base.tables import Table
from profilestream.derive import feature_declaration, population, table_declaration
from profilestream.derive.feature_declaration import Windows
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import Derived


def declared(settings: Settings) -> dict[str, Derived]:
    """All declared tables of the settings, by file, with the statistics that window features add to tiles.

    Raises:
        BadSettings: a declaration does not fit, two have one name, one is written in another way than its stage, or an
            entity has no tiles.
    """
    ways = {"append": settings.derive.features, "merge": settings.derive.profiles}
    found = {}
    for way, files in ways.items():
        for file in files:
            found[file] = derived = table_declaration.load(file, settings.derive.names)
            if derived.write != way:
                raise BadSettings(f"write = {derived.write!r}", where=f"{file}, write", do=f"write {way!r} here")
    names = [table.name for table in tables.ALL]
    names += [table.name for derived in found.values() for table in derived.tables]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadSettings(f"tables declared twice: {twice}", where="[derive]", do="give each another name")
    features = feature_declaration.declared(settings)
    return found if features is None else _with_windows(found, features, settings.derive.windows.file)


def _with_windows(found: dict[str, Derived], features: Windows, file: str) -> dict[str, Derived]:
    names = [derived.name for derived in found.values()]
    if lacking := {entity: tiles for entity, tiles in features.entities.items() if tiles not in names}:
        raise BadSettings(
            f"entities whose tiles are not declared: {lacking}",
            where=f"{file}, entities",
            do="add the files of these tables to derive.features, or leave the entities and their features out",
        )
    return {name: feature_declaration.extended(derived, features, file) for name, derived in found.items()}


def check_names(stage: str, made: tuple[Table, ...], settings: Settings) -> None:
    """Check that no declared table has the name of one that a stage makes itself.

    Raises:
        BadSettings: one has.
    """
    names = [table.name for table in made]
    for file, derived in declared(settings).items():
        if taken := [table.name for table in derived.tables if table.name in names]:
            what, where = f"{taken[0]} is the table of {stage}", f"{file}, name"
            raise BadSettings(what, where=where, do="give yours another name")


def query(stage: str, files: tuple[str, ...], settings: Settings) -> list[Query]:
    """The one query of a stage; none when it has no tables."""
    folds = [Fold.of(derived) for file, derived in declared(settings).items() if file in files]
    if not folds:
        return []
    text = "\n".join(fold.derived.settings for fold in folds)

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        """Of the tables whose rows a batch looks up, so that a replay finds them as they were."""
        looked_up = [fold.derived.table for fold in folds if fold.derived.write == "merge"]
        return {table.name: commits.version(spark, table, settings.paths) for table in looked_up}

    def write(events: DataFrame, batch: Batch) -> BatchResult:
        with batch.cached(events) as rows:
            if folds[0].derived.write == "append":
                _append_all(events, folds, batch)
            else:
                for fold in folds:
                    _merge(events, rows, fold, batch)
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


def _append_all(events: DataFrame, folds: list[Fold], batch: Batch) -> None:
    """Two tables at a time: one is planned while the other is computed.

    The last comes alone, after the others: it tells that the batch is whole (queries.Query.tables).
    """
    *others, last = folds
    with batch.in_background(at_once=2) as run:
        for one in others:
            run(_append, events, one, batch)
    _append(events, last, batch)


def _append(events: DataFrame, fold: Fold, batch: Batch) -> None:
    rows = commits.stamped(fold.partials(events), fold.derived.table, batch.txn)
    batch.append(by_folder(rows, fold.derived), fold.derived.table)


def by_folder(rows: DataFrame, derived: Derived) -> DataFrame:
    """Rows placed so that a batch writes at most two files a folder, not one for each task: a year's days are 305."""
    if not derived.partitioned_by:
        return rows
    return rows.repartition(*derived.partitioned_by, F.pmod(F.xxhash64(*derived.keys), F.lit(2)))


def _merge(events: DataFrame, count: int, fold: Fold, batch: Batch) -> None:
    table = fold.derived.table
    rows = commits.stamped(fold.partials(events), table, batch.txn)
    rows = batch.merge(rows, table, becomes=fold.sums)
    if fold.derived.population:
        was = table.read(batch.spark, batch.paths, version=batch.plan.versions[table.name])
        _count_population(rows, was, count, fold, batch)


def _count_population(rows: DataFrame, was: DataFrame, count: int, fold: Fold, batch: Batch) -> None:
    """Of the rows of the table before the batch only the vectors are read, and only those of its keys are joined."""
    derived = fold.derived
    assert derived.population is not None
    vectors = fold.alone(derived.population.of)
    keys = broadcast_if_small(rows.select(*derived.keys), count)
    before = vectors.narrowed(was).join(keys, list(derived.keys), "left_semi")
    touched = vectors.onto(before, vectors.narrowed(rows), derived.population.of)
    stored = derived.population_table.read(batch.spark, batch.paths)
    batch.append(population.after_batch(stored, touched, derived, batch.txn), derived.population_table)


def check(spark: SparkSession, files: tuple[str, ...], settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing.

    Raises:
        BadSettings: one is not understood; names file and key.
    """
    events = spark.createDataFrame([], tables.EVENTS.schema)
    for file, derived in declared(settings).items():
        if file not in files:
            continue
        for key, sql, is_condition in derived.expressions():
            kind = understood(events, sql, f"{file}, {key}", "the columns of the table events")
            if is_condition and kind != "boolean":
                raise BadSettings(f"{key} = {sql!r} is a {kind}", where=f"{file}, {key}", do="write a condition")
        plain = Fold.of(derived.model_copy(update={"readings": {}}))
        said = plain.read(spark.createDataFrame([], derived.table.schema)).withColumn("at", F.col("as_of"))
        for name, sql in derived.readings.items():
            understood(said, sql, f"{file}, readings.{name}", "the keys, `as_of`, `at` and what the statistics say")


def understood(frame: DataFrame, sql: str, where: str, columns: str) -> str:
    """The type of a SQL text over a frame's columns."""
    try:
        # Beside a column, so that an aggregate is not understood either.
        return str(frame.select(frame.columns[0], F.expr(sql)).schema[1].dataType.simpleString())
    except PySparkException as error:
        raise BadSettings(
            f"{where.split(', ')[-1]} = {sql!r} is not understood: {first_words(str(error))}",
            where=where,
            do=f"mend it; it may name {columns}",
        ) from None
