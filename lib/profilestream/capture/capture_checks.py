"""Checks of a source before anything is read: mapping, SQL expressions, paths. Nothing is written."""

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.errors import BadSettings, SourceMissing, first_words
from profilestream.base.settings import Settings
from profilestream.capture import canonical_columns, cleaning_rules, ingest, raw_records, side_tables
from profilestream.capture.ingest import Log


def all_sources(spark: SparkSession, settings: Settings) -> None:
    """Check every source of the settings."""
    for name in settings.capture.sources:
        one_source(spark, settings, name)


def one_source(spark: SparkSession, settings: Settings, name: str) -> None:
    """Check one source.

    Raises:
        BadSettings: a column list or an expression that Spark does not understand, named by its key.
        SourceMissing: no input at the path, or no side table.
        SourceUnreadable: a side table of another form than the mapping says.
    """
    log = ingest.log_of(settings, name)
    if not files.exists(spark, log.source.path):
        raise SourceMissing(
            f"there is no input at {log.source.path}",
            where=f"settings, capture.sources.{name}.path",
            do="mend the path, or lay the files there",
        )
    expressions(spark, log)


def expressions(spark: SparkSession, log: Log) -> None:
    """Try a mapping's columns, lookups and expressions one by one on an empty frame."""
    mapping, file = log.mapping, log.source.mapping
    try:
        shape = raw_records.schema(mapping.input)
    except PySparkException as error:
        raise _bad("input.columns", mapping.input.columns, error, file) from None
    typed = [f.name for f in shape if f.dataType.typeName() != "string"]
    if mapping.input.format == "csv" and typed:
        raise BadSettings(
            f"CSV cells are text, but columns {typed} have other types",
            where=f"{file}, input.columns",
            do="declare them as string and cast in the column's expression: try_cast(x AS DOUBLE)",
        )
    _own_names(shape.names, log)
    if mapping.input.explode:
        _try(
            raw_records.empty(spark, mapping.input).select("raw.*"),
            "input.explode",
            f"posexplode_outer({mapping.input.explode})",
            file,
        )
    raw = canonical_columns.exploded(raw_records.empty(spark, mapping.input), mapping)
    for name, lookup in mapping.lookup.items():
        _try(raw, f"lookup.{name}.on", lookup.on, file)
        side_tables.check_start(spark, name, lookup, file)
    try:
        raw = canonical_columns.looked_up(raw, mapping, side_tables.side_tables(spark, mapping, {}))
    except PySparkException as error:
        raise _bad("lookup", str({n: k.on for n, k in mapping.lookup.items()}), error, file) from None
    for name, sql in mapping.columns.items():
        _try(raw, f"columns.{name}", sql, file)
    _time(spark, raw, log)
    events = canonical_columns.expressed(
        raw, canonical_columns.expressions(raw, mapping.model_copy(update={"fill": {}}))
    )
    for name, sql in mapping.fill.items():
        _try(events, f"fill.{name}", sql, file)
    for kind, named in (("reject", mapping.reject), ("warn", mapping.warn)):
        for name, rule in named.items():
            _try(events, f"{kind}.{name}.when", rule.when, file, wants="boolean")
    events = canonical_columns.expressed(raw, canonical_columns.expressions(raw, mapping))
    timed = events.withColumn("_ingest_time", F.current_timestamp())
    cleaning_rules.judged(timed, cleaning_rules.verdict(events.columns, mapping, log.capture))


def _own_names(columns: list[str], log: Log) -> None:
    """Expressions see raw columns, lookups and the record's own columns side by side: no name may stand twice."""
    shape = log.mapping.input
    named = [*raw_records.COLUMNS, *columns, *([shape.explode_as] if shape.explode else []), *log.mapping.lookup]
    small = [name.lower() for name in named]
    twice = sorted({name for name in small if small.count(name) > 1})
    if twice:
        raise BadSettings(
            f"names that stand twice, or that records have already: {twice}",
            where=f"{log.source.mapping}, input.columns",
            do="leave the column out, it is then kept in extra: write extra['name']; or rename explode_as, the lookup",
        )


def _time(spark: SparkSession, raw: DataFrame, log: Log) -> None:
    """An event time that is a number, or a pattern that is none; Spark would tell the second only of a row."""
    file, pattern = log.source.mapping, log.mapping.time_format
    try:
        canonical_columns.expressions(raw, log.mapping.model_copy(update={"fill": {}}))
    except BadSettings as error:
        raise BadSettings(error.what, where=f"{file}, columns.event_time", do=error.do) from None
    try:
        spark.range(1).select(F.try_to_timestamp(F.lit("x"), F.lit(pattern or "y"))).collect()
    except PySparkException as error:
        raise _bad("time_format", pattern, error, file) from None


def _try(frame: DataFrame, key: str, sql: str, file: str, *, wants: str = "") -> None:
    try:
        kind = frame.select(F.expr(sql)).schema[-1].dataType.simpleString()
    except PySparkException as error:
        raise _bad(key, sql, error, file) from None
    if wants and kind != wants:
        raise BadSettings(f"{key} = {sql!r} is a {kind}", where=f"{file}, {key}", do=f"write a condition ({wants})")


def _bad(key: str, sql: str, error: PySparkException, file: str) -> BadSettings:
    return BadSettings(
        f"{key} = {sql.strip()!r} is not understood: {first_words(str(error))}",
        where=f"{file}, {key}",
        do="mend it; raw columns are those of input.columns, rules see canonical columns and raw.<column>",
    )
