"""Checks of a source before anything is read: mapping, SQL expressions, paths. Nothing is written."""

import itertools
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.errors import BadSettings, SourceMissing, first_sentence
from profilestream.base.jvm import java_class
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.settings import Settings
from profilestream.capture import cleaning_rules, currency, execute_mapping, ingest, raw_records, side_tables
from profilestream.capture import mapping as mappings
from profilestream.capture.guarded_sql import MAX_CONSTANT_SIZE, largest_constant
from profilestream.capture.ingest import CaptureSource

log = logging.getLogger(__name__)


def check_sources(spark: SparkSession, settings: Settings, names: list[str] | None = None) -> None:
    """Check what the sources of a warehouse must have in common, and then each source.

    Args:
        names: of the sources to check; null: all.

    Raises:
        BadSettings: two sources read the same files, or have different namespaces. Or Spark does not accept a list of
            columns or an expression; the message names its key.
        SourceMissing: an input path or a side table does not exist.
        SourceUnreadable: a side table does not have the format that the mapping declares.
    """
    _check_paths(spark, settings)
    sources = [ingest.load_source(settings, name) for name in names or settings.capture.sources]
    for source in sources:
        _check_path(spark, source)
    check_namespaces(spark, settings)
    for source in sources:
        check_mapping(spark, source)


def _check_paths(spark: SparkSession, settings: Settings) -> None:
    """Refuse two sources that read the same files: every event would be stored twice."""
    _check_topics(settings)
    paths = {
        name: f"{files.qualified(config.path).rstrip('/')}/"
        for name, config in settings.capture.sources.items()
        if config.kafka is None
    }
    for (first, path), (second, other) in itertools.combinations(paths.items(), 2):
        is_nested = path.startswith(other) or other.startswith(path)
        if is_nested and _have_common_files(spark, settings, first, second):
            raise BadSettings(
                f"sources {first!r} and {second!r} read the same files",
                where=f"settings, capture.sources.{second}.path",
                do="give each source a folder of its own, or a pattern of file names in `input.glob`",
            )


def _check_topics(settings: Settings) -> None:
    """Refuse two sources that read the same topic."""
    topics = {name: config.kafka for name, config in settings.capture.sources.items() if config.kafka is not None}
    for (first, one), (second, other) in itertools.combinations(topics.items(), 2):
        servers = [set(kafka.bootstrap_servers.split(",")) for kafka in (one, other)]
        if (common := sorted({*one.topics} & {*other.topics})) and servers[0] & servers[1]:
            raise BadSettings(
                f"sources {first!r} and {second!r} read the same topics: {common}",
                where=f"settings, capture.sources.{second}.kafka.topics",
                do="name each topic in one source",
            )


def _have_common_files(spark: SparkSession, settings: Settings, first: str, second: str) -> bool:
    """Whether both sources select a file, or select files by the same pattern."""
    paths = {name: settings.capture.sources[name].path for name in (first, second)}
    globs = {name: mappings.load(settings.capture.sources[name].mapping).input.glob for name in (first, second)}
    if globs[first] == globs[second] or "" in globs.values():
        return True
    selected = [{*files.file_stats(spark, paths[name], globs[name])} for name in (first, second)]
    return bool(selected[0] & selected[1])


def _check_path(spark: SparkSession, source: CaptureSource) -> None:
    if source.config.kafka is not None:
        _check_values(spark, source)
        return source.reader.check_exists(spark)
    if source.mapping.input.format == "avro":
        raise BadSettings(
            "files have no format avro",
            where=f"{source.config.mapping}, input.format",
            do="choose another format, or read topics",
        )
    if not files.exists(spark, source.config.path):
        raise SourceMissing(
            f"there is no input at {source.config.path}",
            where=f"settings, capture.sources.{source.name}.path",
            do="correct the path, or copy the files there",
        )


def _check_values(spark: SparkSession, source: CaptureSource) -> None:
    """Check that the values of records can have the format of the mapping."""
    spec, where = source.mapping.input, f"{source.config.mapping}, input"
    if spec.format in ("parquet", "delta"):
        raise BadSettings(
            f"records of Kafka have no format {spec.format}", where=where, do="choose jsonl, csv, text or avro"
        )
    if spec.format == "csv" and spec.header:
        raise BadSettings(
            "records of Kafka have no header line", where=where,
            do="set header = false, and list the columns in the order of the cells",
        )  # fmt: skip
    if spec.encoding.upper() not in ("UTF-8", "UTF8"):
        raise BadSettings(f"records of Kafka are read as UTF-8, not {spec.encoding}", where=where, do="leave it out")
    try:
        source.reader.records_of_lines(spark.createDataFrame([], source.reader.line_schema), "")
    except PySparkException as error:
        message = first_sentence(str(error))
        raise BadSettings(
            f"records cannot be parsed: {message}", where=where, do="correct columns or schemas"
        ) from None


def check_namespaces(spark: SparkSession, settings: Settings) -> None:
    """Check that all sources of the warehouse have the same namespaces: those in the settings, and captured ones.

    Lists, segments and quintiles compare all users and all items of a warehouse, so it must contain one shop.

    Raises:
        BadSettings: two sources have different user namespaces, or different item namespaces.
    """
    seen: dict[str, tuple[str, str]] = {}
    for where, mapping in _mappings(spark, settings):
        for key, columns in (("user_namespace", ("user_id", "target_user_id")), ("item_namespace", ("item_id",))):
            if key not in mapping or not any(column in mapping["columns"] for column in columns):
                continue
            namespace = mapping[key]
            first, expected = seen.setdefault(key, (where, namespace))
            if namespace != expected:
                raise BadSettings(
                    f"the sources of a warehouse need one {key}, because lists and segments compare all its users and "
                    f"items: {first} has {expected!r}, {where} has {namespace!r}",
                    where=f"settings, capture.sources; {settings.paths.warehouse}",
                    do=f"write the same {key} in all mappings of a shop; capture another shop into a second warehouse, "
                    "with its own paths.warehouse and paths.checkpoints",
                )


def _mappings(spark: SparkSession, settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mappings that wrote the last finished batch of each captured source, and those in the settings.

    A mapping in the settings that is not valid is left out; it is reported when its source is checked.
    """
    folder = checkpoint_path(settings.paths, ingest.STAGE)
    for name in sorted(files.names(spark, folder)):
        checkpoint = Checkpoint(spark, f"{folder}/{name}")
        finished = checkpoint.last_finished()
        plan = None if finished is None else checkpoint.plan(finished)
        if plan is not None:
            yield f"captured source {name!r}", json.loads(plan.settings)["mapping"]
    for name, config in settings.capture.sources.items():
        with suppress(BadSettings):
            yield f"source {name!r}", mappings.load(config.mapping).model_dump(mode="json")


def check_mapping(spark: SparkSession, source: CaptureSource) -> None:
    """Check the columns, lookups and expressions of a mapping one by one on an empty frame; raises as check_sources."""
    mapping, file = source.mapping, source.config.mapping
    _check_input_columns(source)
    _check_encoding(spark, mapping.input.encoding, f"{file}, input.encoding")
    if mapping.input.explode:
        raw = raw_records.empty(spark, mapping.input).select("raw.*")
        _check_expression(raw, "input.explode", f"posexplode_outer({mapping.input.explode})", file)
    raw = execute_mapping.explode(raw_records.empty(spark, mapping.input), mapping)
    raw = raw.withColumn(raw_records.INGEST_TIME, F.current_timestamp())
    for name, lookup in mapping.lookup.items():
        _check_encoding(spark, lookup.encoding, f"{file}, lookup.{name}.encoding")
        _check_expression(raw, f"lookup.{name}.on", lookup.on, file)
        side_tables.check_lookup(spark, name, lookup, file)
    try:
        raw = execute_mapping.join_side_tables(raw, mapping, side_tables.read_all(spark, mapping, {}))
    except PySparkException as error:
        raise _invalid_sql("lookup", str({n: k.on for n, k in mapping.lookup.items()}), error, file) from None
    for name, sql in mapping.columns.items():
        _check_expression(raw, f"columns.{name}", sql, file)
    for key, sql in ({} if mapping.audit is None else mapping.audit.model_dump()).items():
        _check_expression(raw, f"audit.{key}", sql, file)
    _check_event_time(spark, raw, source)
    _check_currency(spark, source)
    without_fill = execute_mapping.build_expressions(raw, mapping.model_copy(update={"fill": {}}), source.capture)
    events = execute_mapping.apply_expressions(raw, without_fill)
    for name, sql in mapping.fill.items():
        _check_expression(events, f"fill.{name}", sql, file)
    for kind, rules in (("reject", mapping.reject), ("warn", mapping.warn)):
        for name, rule in rules.items():
            _check_expression(events, f"{kind}.{name}.when", rule.when, file, expected_type="boolean")
    expressions = execute_mapping.build_expressions(raw, mapping, source.capture)
    events = execute_mapping.apply_expressions(raw, expressions)
    cleaning_rules.evaluate(events, cleaning_rules.build_rules(events, mapping, source.capture))


def _check_input_columns(source: CaptureSource) -> None:
    spec, file = source.mapping.input, source.config.mapping
    try:
        schema = raw_records.schema(spec)
    except PySparkException as error:
        raise _invalid_sql("input.columns", spec.columns, error, file) from None
    typed = [f.name for f in schema if f.dataType.typeName() != "string"]
    if spec.format == "csv" and typed:
        raise BadSettings(
            f"CSV cells are text, but columns {typed} have other types",
            where=f"{file}, input.columns",
            do="declare them as string and cast in the column's expression: try_cast(x AS DOUBLE)",
        )
    unknown = [name for name in source.mapping.identity if name not in schema.names]
    if unknown:
        raise BadSettings(
            f"identity names columns that are not raw columns: {unknown}",
            where=f"{file}, identity",
            do=f"name some of {schema.names}",
        )
    _check_unique_names(schema.names, source)


def _check_currency(spark: SparkSession, source: CaptureSource) -> None:
    """Check the rates; without them, ask for a decision if events can have different currencies."""
    if source.capture.currency is not None:
        currency.check_rates(spark, source.capture.currency)
    elif currency.has_currencies(source.mapping):
        log.warning(
            "%s: columns.currency can have several values, and values of different currencies cannot be added up; "
            "decide: one constant currency, or a reporting currency with rates (docs/mappings.md#currencies)",
            source.config.mapping,
        )


def _check_encoding(spark: SparkSession, name: str, where: str) -> None:
    try:
        java_class(spark, "java.nio.charset.Charset").forName(name)
    except Py4JJavaError:
        raise BadSettings(
            f"Java has no charset {name!r}", where=where, do="write a name such as UTF-8, GBK or windows-1252"
        ) from None


def _check_unique_names(columns: list[str], source: CaptureSource) -> None:
    """Raw columns, lookups and the columns of a record are at the same level in expressions: names must be unique."""
    spec = source.mapping.input
    element = [spec.explode_as] if spec.explode else []
    names = [
        name.lower()
        for name in (*raw_records.COLUMNS, raw_records.INGEST_TIME, *columns, *element, *source.mapping.lookup)
    ]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BadSettings(
            f"column names that are repeated or reserved: {repeated}",
            where=f"{source.config.mapping}, input.columns",
            do="leave the column out and write extra['name'] instead; or rename explode_as or the lookup",
        )


def _check_event_time(spark: SparkSession, raw: DataFrame, source: CaptureSource) -> None:
    """Refuse a numeric event time and an invalid time format. Spark would report the format at the first row only."""
    file, pattern = source.config.mapping, source.mapping.time_format
    try:
        execute_mapping.build_expressions(raw, source.mapping.model_copy(update={"fill": {}}), source.capture)
    except BadSettings as error:
        raise BadSettings(error.what, where=f"{file}, columns.event_time", do=error.do) from None
    try:
        spark.range(1).select(F.try_to_timestamp(F.lit("x"), F.lit(pattern or "y"))).collect()
    except PySparkException as error:
        raise _invalid_sql("time_format", pattern, error, file) from None


def _check_expression(frame: DataFrame, key: str, sql: str, file: str, *, expected_type: str = "") -> None:
    try:
        selected = frame.select(F.expr(sql))
        data_type = selected.schema[-1].dataType.simpleString()
    except PySparkException as error:
        raise _invalid_sql(key, sql, error, file) from None
    if (size := largest_constant(selected, sql)) > MAX_CONSTANT_SIZE:
        raise BadSettings(
            f"{key} = {sql.strip()!r} has a constant of {size:,} elements or characters",
            where=f"{file}, {key}",
            do=f"use at most {MAX_CONSTANT_SIZE:,}: Spark computes constants in the driver's memory",
        )
    if expected_type and data_type != expected_type:
        raise BadSettings(
            f"{key} = {sql!r} is a {data_type}", where=f"{file}, {key}", do=f"write a condition ({expected_type})"
        )


def _invalid_sql(key: str, sql: str, error: PySparkException, file: str) -> BadSettings:
    return BadSettings(
        f"{key} = {sql.strip()!r} is not valid: {first_sentence(str(error))}",
        where=f"{file}, {key}",
        do="correct it; raw columns are those of input.columns, and rules can use canonical columns and raw.<column>",
    )
