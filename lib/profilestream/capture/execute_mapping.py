"""Applies a mapping to raw records: explode, join side tables, evaluate the SQL of canonical columns, clean.

All functions build frames and columns; none runs a Spark action. The SQL of the mapping is evaluated by `guarded_sql`:
where an expression raises, its value is null, and `_failed` contains its key.
"""

from dataclasses import dataclass
from functools import cache, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import tables
from profilestream.base.columns import quoted
from profilestream.base.errors import BadSettings
from profilestream.base.session import conf_set
from profilestream.base.settings import Capture
from profilestream.capture import guarded_sql, placeholders
from profilestream.capture.conversion import TIME_FORMATS, convert, readable_text, text_of
from profilestream.capture.guarded_sql import Guarded
from profilestream.capture.mapping import (
    ID_COLUMNS,
    MAPPABLE_COLUMNS,
    NUMERIC_COLUMNS,
    TEXT_COLUMNS,
    Clip,
    Mapping,
    TextStep,
)
from profilestream.capture.number_text import number_text
from profilestream.capture.raw_records import INGEST_TIME
from profilestream.capture.text_parsers import (
    BLANKS,
    is_instant,
    parse_number,
    parse_time,
    trim_blanks,
    trim_characters,
)
from profilestream.capture.typed_values import is_nested

TYPES = {"event_time": "timestamp", "attributes": "map<string,string>", **dict.fromkeys(NUMERIC_COLUMNS, "double")}
NOTES = "_notes"
# Column `value` of events: price times quantity where the mapping has no value, in the reporting currency.
STORED_VALUE = "_stored_value"
# Keys of the expressions that raise on the row, separated by commas, and the reason for the first one.
FAILED, FAILURE = "_failed", "_failure"
# Producer and sequence number of the record, if the mapping has an audit.
PRODUCER, SEQUENCE = "_producer", "_sequence"
# Columns of a record that no expression changes.
_RECORD_COLUMNS = (
    "position", "payload", "payload_encoding", "payload_header", "fault", "fault_reason", "extra", "raw", FAILED,
    FAILURE, INGEST_TIME,
)  # fmt: skip
# SQL makes an instant of a time without a zone, or vice versa, in the time zone of the session. So an instant is equal
# in a session with another zone, and a wall-clock time that was computed from an instant is not.
_TIMESTAMPS = (T.TimestampType, T.TimestampNTZType)
_TIME_ELSEWHERE, _ELSEWHERE = "_time_elsewhere", "+01:00"
_CONTROL_CHARACTERS = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]"


def is_parsed() -> Column:
    """Whether the record could be parsed: the condition under which expressions are evaluated; never constant."""
    return F.col("fault").isNull()


@dataclass(frozen=True)
class ParsedColumn:
    """A canonical column.

    Args:
        text: that the value was parsed from; null if the SQL of the mapping returns no text.
        is_instant: of a time, if the time zone of the mapping is not UTC: whether the zone does not apply to it.
    """

    value: Column
    text: Column | None
    is_instant: Column | None = None


def explode(records: DataFrame, mapping: Mapping) -> DataFrame:
    """The records with their raw columns at top level, `_failed` and `_failure`.

    If the mapping explodes an array, there is one row per element. A record whose array is empty or missing remains one
    row, with the fault `nothing_to_explode`.
    """
    nothing = F.lit(None).cast("string")
    flat = records.select("*", "raw.*").withColumns({FAILED: nothing, FAILURE: nothing})
    spec = mapping.input
    if not spec.explode:
        return flat
    columns = [F.col(name) for name in records.columns if name not in ("position", "fault", "fault_reason", "raw")]
    element = F.col(quoted(spec.explode_as))
    attempt = guarded_sql.guarded(flat, {"input.explode": spec.explode}, is_parsed())["input.explode"]
    flat = flat.withColumns({"_elements": F.when(is_parsed(), attempt.value), **_failures([attempt])})
    wide = flat.select("*", F.posexplode_outer("_elements").alias("_index", spec.explode_as))
    is_empty = is_parsed() & F.col("_index").isNull() & F.col(FAILED).isNull()
    empty_reason = F.lit(f"{spec.explode} is empty or missing")
    raw_names = records.schema["raw"].dataType.names  # type: ignore[attr-defined]
    return wide.select(
        F.concat_ws("#", "position", F.col("_index") + 1).alias("position"),
        F.when(is_empty, "nothing_to_explode").otherwise(F.col("fault")).alias("fault"),
        F.when(is_empty, empty_reason).otherwise(F.col("fault_reason")).alias("fault_reason"),
        *columns,
        F.struct(F.col("raw.*"), element.alias(spec.explode_as)).alias("raw"),
        *[F.col(quoted(name)) for name in raw_names],
        element.alias(spec.explode_as),
        FAILED,
        FAILURE,
    )


def line_position() -> Column:
    """The position of the line that contains a record: its own position without the element number of `explode`."""
    return F.regexp_replace("position", "#[0-9]+$", "")


def join_side_tables(records: DataFrame, mapping: Mapping, side_tables: dict[str, DataFrame]) -> DataFrame:
    """Records with one struct column per side table; null where the side table lacks the key."""
    expressions = {f"lookup.{name}.on": lookup.on for name, lookup in mapping.lookup.items()}
    if not expressions:
        return records
    attempts = guarded_sql.guarded(records, expressions, is_parsed())
    records = with_failures(records, list(attempts.values()))
    for name, lookup in mapping.lookup.items():
        key = F.col(quoted(lookup.key))
        side = side_tables[name].select(key.alias("_key"), F.struct("*").alias(name))
        on = attempts[f"lookup.{name}.on"].value.try_cast(side.schema["_key"].dataType)
        records = records.join(F.broadcast(side), on == F.col("_key"), "left").drop("_key")
    return records


@dataclass(frozen=True)
class Expressions:
    """The canonical columns of a mapping. A run builds them once for all batches, since that takes 0.2 s.

    Args:
        time_elsewhere: the event time, to be evaluated in a session with another time zone; null if not needed.
        read: columns read from the record, as the SQL of the mapping returns them.
        columns: canonical columns over `read`.
        steps: columns that replace columns of the same name, applied in order.
    """

    time_elsewhere: Column | None
    read: list[Column]
    columns: list[Column]
    steps: list[dict[str, Column]]


def build_expressions(records: DataFrame, mapping: Mapping, capture: Capture) -> Expressions:
    """The expressions of the canonical columns, for records with these columns and types."""
    keys = {name: f"columns.{name}" for name in mapping.columns}
    attempts = guarded_sql.guarded(records, {keys[n]: sql for n, sql in mapping.columns.items()}, is_parsed())
    attempts = {name: attempts[key] for name, key in keys.items()}
    parsed_columns = {
        name: _parse(name, attempts[name], F.col(f"_read_{name}"), mapping)
        if name in mapping.columns
        else ParsedColumn(F.lit(None).cast(TYPES.get(name, "string")), None)
        for name in MAPPABLE_COLUMNS
    }
    read_columns = {name: F.col(name) for name in _RECORD_COLUMNS}
    read_columns |= _failures(list(attempts.values()))
    read_columns |= {f"_read_{name}": attempt.value for name, attempt in attempts.items()}
    time_elsewhere = None
    if mapping.timezone != "UTC" and isinstance(attempts["event_time"].data_type, _TIMESTAMPS):
        time_elsewhere, read_columns[_TIME_ELSEWHERE] = attempts["event_time"].value, F.col(_TIME_ELSEWHERE)
    read = [column.alias(name) for name, column in read_columns.items()]
    record_hash = [] if "event_id" in mapping.columns else [_record_hash(records, mapping).alias("_record_hash")]
    columns = [
        *[F.col(name) for name in _RECORD_COLUMNS],
        *[F.col("_record_hash") for _ in record_hash],
        *[column.value.alias(name) for name, column in parsed_columns.items()],
        *[column.text.alias(f"_text_{name}") for name, column in parsed_columns.items() if column.text is not None],
        *[c.is_instant.alias("_is_instant") for c in parsed_columns.values() if c.is_instant is not None],
    ]
    texts = {name: _apply_text_steps(F.col(name), steps) for name, steps in mapping.text.items()}
    scales = {name: _scaled(F.col(name), factor) for name, factor in mapping.scale.items()}
    steps = [_to_utc(mapping, parsed_columns["event_time"]), {**texts, **scales}]
    steps += [_without_placeholders(mapping, capture)]
    audit = _audit_columns(records, mapping)
    columns += [F.col(name) for name in audit]
    read += [*record_hash, *[column.alias(name) for name, column in audit.items()]]
    events = apply_expressions(records, Expressions(time_elsewhere, read, columns, [step for step in steps if step]))
    steps += [_fill(events, mapping), _clip(mapping)]
    steps += [{STORED_VALUE: F.coalesce("value", F.col("price") * F.col("quantity"))}]
    return Expressions(time_elsewhere, read, columns, [step for step in steps if step])


def _audit_columns(records: DataFrame, mapping: Mapping) -> dict[str, Column]:
    """Producer and sequence number, also of records that cannot be parsed; null where the expression raises."""
    if mapping.audit is None:
        return {}
    has_place = F.length("position") > 0  # true, but not constant
    expressions = {PRODUCER: mapping.audit.producer, SEQUENCE: mapping.audit.sequence}
    producer, sequence = guarded_sql.guarded(records, expressions, has_place).values()
    return {
        PRODUCER: readable_text(producer.value, producer.data_type),
        SEQUENCE: convert(sequence.value, sequence.data_type, T.LongType()).value,
    }


def apply_expressions(records: DataFrame, expressions: Expressions) -> DataFrame:
    """Records with every canonical column, cleaned. The record's own columns remain, and these are added:

    `_text_<column>`   text that a number or time was parsed from, where the expression returns text
    `_local_time`      wall-clock time, where the time zone of the mapping is not UTC
    `_notes`           names of the placeholders, fills and clips that changed the row
    `_stored_value`    value, or price times quantity
    `_placeholder_<column>`  text of a user or event id that is a placeholder
    `_record_hash`     hash of the raw record, where the mapping has no event id
    """
    if expressions.time_elsewhere is not None:
        with conf_set(records.sparkSession, {"spark.sql.session.timeZone": _ELSEWHERE}):
            records = records.withColumn(_TIME_ELSEWHERE, expressions.time_elsewhere)
    return reduce(
        DataFrame.withColumns, expressions.steps, records.select(*expressions.read).select(*expressions.columns)
    )


def add_ids(events: DataFrame, mapping: Mapping) -> DataFrame:
    """Events with date, value, ids with their namespaces, and an event id (a hash of the record unless mapped)."""
    columns = {
        "user_id": _with_namespace(F.col("user_id"), mapping.user_namespace),
        "target_user_id": _with_namespace(F.col("target_user_id"), mapping.user_namespace),
        "item_id": _with_namespace(F.col("item_id"), mapping.item_namespace),
        "value": F.col(STORED_VALUE),
        "event_date": F.to_date("event_time"),
    }
    if "event_id" not in mapping.columns:
        columns["event_id"] = F.col("_record_hash")
    return events.withColumns(columns)


def with_failures(frame: DataFrame, attempts: list[Guarded]) -> DataFrame:
    """The frame whose `_failed` and `_failure` also cover these expressions."""
    failures = _failures(attempts)
    return frame.withColumns(failures) if failures else frame


def _failures(attempts: list[Guarded]) -> dict[str, Column]:
    """`_failed` and `_failure` with these expressions; empty when none can raise."""
    can_raise = [(attempt, attempt.failed) for attempt in attempts if attempt.failed is not None]
    if not can_raise:
        return {}
    keys = F.concat_ws(",", FAILED, *[F.when(failed, F.lit(attempt.key)) for attempt, failed in can_raise])
    reasons = [F.when(failed, attempt.reason) for attempt, failed in can_raise]
    return {FAILED: F.nullif(keys, F.lit("")), FAILURE: F.coalesce(FAILURE, *reasons)}


def _record_hash(records: DataFrame, mapping: Mapping) -> Column:
    """Hex MD5 of the raw record, or of the raw columns that the mapping names as its identity."""
    raw = records.schema["raw"].dataType
    assert isinstance(raw, T.StructType)
    chosen = [field for field in raw if not mapping.identity or field.name in mapping.identity]
    parts = [_hashable_raw(F.col("raw")[field.name], field.dataType) for field in chosen]
    parts += [] if mapping.identity else [_hashable("extra")]
    return _md5(parts)


def _hashable_raw(column: Column, data_type: T.DataType) -> Column:
    if isinstance(data_type, (T.FloatType, T.DoubleType)):
        return F.when(column.isNotNull(), F.xxhash64(column.cast("double")).cast("string"))
    # to_json writes bytes that are the key of a map as the address of a Java object.
    has_bytes = "binary" in data_type.simpleString()
    return F.to_json(column, TIME_FORMATS) if is_nested(data_type) and not has_bytes else text_of(column, data_type)


def _md5(parts: list[Column]) -> Column:
    return F.md5(F.concat_ws("\x1f", *[F.coalesce(part, F.lit("\x00")) for part in parts]))


@cache
def content_hash(columns: tuple[str, ...]) -> Column:
    """Hex MD5 of the content of an event; null and empty text differ.

    Numbers are hashed by their bits, since their decimal text differs between Java releases.

    Args:
        columns: columns to hash, such as `content_columns(mapping)`.
    """
    return _md5([_hashable(name) for name in columns])


def _hashable(name: str) -> Column:
    column = F.col(name)
    if name in NUMERIC_COLUMNS:
        return F.when(column.isNotNull(), F.xxhash64(column).cast("string"))
    if name == "event_time":
        return F.unix_micros(column).cast("string")
    if name in ("attributes", "extra"):
        return F.when(F.size(column) > 0, F.to_json(F.array_sort(F.map_entries(column))))
    return column


def _parse(name: str, attempt: Guarded, read: Column, mapping: Mapping) -> ParsedColumn:
    data_type = attempt.data_type
    if name == "event_time" and isinstance(data_type, T.NumericType):
        raise BadSettings(
            f"event_time = {mapping.columns[name]!r} is a number ({data_type.simpleString()})",
            where="mapping, columns.event_time",
            do='write timestamp_millis(x) or timestamp_seconds(x), and timezone = "UTC"',
        )
    if isinstance(data_type, T.StringType) and name == "event_time":
        text = trim_blanks(read)
        has_zone = None if mapping.timezone == "UTC" else is_instant(text, mapping.time_format)
        return ParsedColumn(parse_time(text, mapping.time_format), read, has_zone)
    if name == "event_time" and mapping.timezone != "UTC" and isinstance(data_type, _TIMESTAMPS):
        is_same = read == F.col(_TIME_ELSEWHERE)
        is_ntz = isinstance(data_type, T.TimestampNTZType)
        return ParsedColumn(read.try_cast("timestamp"), None, ~is_same if is_ntz else is_same)
    if isinstance(data_type, T.StringType) and name in NUMERIC_COLUMNS:
        return ParsedColumn(_without_sign_of_zero(parse_number(trim_characters(read, BLANKS + '"'))), read)
    if name in NUMERIC_COLUMNS:
        return ParsedColumn(_without_sign_of_zero(convert(read, data_type, T.DoubleType()).value), None)
    if name in ID_COLUMNS:
        return ParsedColumn(_id_text(read, data_type, mapping), None)
    if name in TEXT_COLUMNS:
        return ParsedColumn(readable_text(read, data_type), None)
    if isinstance(data_type, T.MapType):
        return ParsedColumn(_text_map(read, data_type), None)
    return ParsedColumn(read.try_cast(TYPES[name]), None)


def _without_sign_of_zero(number: Column) -> Column:
    return number + F.lit(0.0)


def _text_map(column: Column, data_type: T.MapType) -> Column:
    """A map of texts, each as readable_text returns it."""
    if isinstance(data_type.keyType, T.StringType) and isinstance(data_type.valueType, T.StringType):
        return column
    keys = F.transform(F.map_keys(column), lambda key: readable_text(key, data_type.keyType))
    values = F.transform(F.map_values(column), lambda value: readable_text(value, data_type.valueType))
    return F.map_from_arrays(keys, values)


def _id_text(column: Column, data_type: T.DataType, mapping: Mapping) -> Column:
    """An id without blanks at its ends.

    A CSV cell has no type, so there a whole number with a point or in scientific notation (`12345678.0`, `1.2345678E7`)
    is written as digits, like a number of the other formats.
    """
    text = trim_blanks(readable_text(column, data_type))
    if mapping.input.format not in ("csv", "text") or not isinstance(data_type, T.StringType):
        return text
    is_number = text.rlike(r"^-?([0-9]+\.0+|[0-9](\.[0-9]+)?[eE]\+?[0-9]+|0)$")
    can_change = text.contains(".") | F.upper(text).contains("E") | (text == "-0")
    return F.when(can_change & is_number, number_text(text)).otherwise(text)


def _to_utc(mapping: Mapping, event_time: ParsedColumn) -> dict[str, Column]:
    """Wall-clock times as instants; `_local_time` is null for a time that states its zone.

    Times near the bounds of Spark's type are moved inside: a conversion would raise an error. Rules reject all of them.
    """
    if mapping.timezone == "UTC":
        return {}
    first, last = (F.lit(day).cast("timestamp") for day in ("0001-01-04", "9999-12-28"))
    time = F.when(F.col("event_time").isNotNull(), F.greatest(F.least("event_time", last), first))
    instant = F.lit(False) if event_time.is_instant is None else F.coalesce("_is_instant", F.lit(False))
    return {
        "_local_time": F.when(~instant, time),
        "event_time": F.when(instant, time).otherwise(F.to_utc_timestamp(time, mapping.timezone)),
    }


def _scaled(column: Column, factor: float) -> Column:
    """The product to 15 significant digits, which a double keeps exactly: 1999 times 0.01 is 19.99."""
    return F.format_string("%.14e", column * F.lit(factor)).try_cast("double")


def _without_placeholders(mapping: Mapping, capture: Capture) -> dict[str, Column]:
    """Columns without placeholders; see `placeholders`."""
    patterns, warned = placeholders.patterns_of(mapping, capture), placeholders.warned_columns(mapping)
    columns: dict[str, Column] = {}
    notes = [_no_notes()]
    for name in placeholders.COLUMNS:
        if name not in mapping.columns:
            continue
        is_placeholder = F.coalesce(placeholders.is_placeholder(F.col(name), patterns), F.lit(False))
        columns[name] = F.when(~is_placeholder, F.col(name))
        if name in warned:
            notes.append(note_where(is_placeholder, f"placeholder_{name}"))
        else:
            columns[f"_placeholder_{name}"] = F.when(is_placeholder, F.col(name))
    texts = [name for name in TEXT_COLUMNS if name in mapping.columns and name != "event_type"]
    # One search in all texts together.
    notes.append(note_where(F.concat_ws("", *texts).rlike(_CONTROL_CHARACTERS), "control_characters"))
    return {NOTES: F.concat(*notes), **columns}


def _apply_text_steps(column: Column, steps: tuple[TextStep, ...]) -> Column:
    for step in steps:
        column = {"nfkc": _nfkc, "trim": trim_blanks, "lower": F.lower, "upper": F.upper, "title": F.initcap}[step](
            column
        )
    return F.when(column != "", column)


def _nfkc(column: Column) -> Column:
    """Unicode NFKC by the ICU library that Spark ships; only for texts with a character that is not ASCII."""
    is_needed = F.length(column) != F.octet_length(column)
    normalized = F.reflect(F.lit("com.ibm.icu.text.Normalizer"), F.lit("compose"), column, F.lit(True))
    return F.when(is_needed, normalized).otherwise(column)


def _fill(events: DataFrame, mapping: Mapping) -> dict[str, Column]:
    attempts = guarded_sql.guarded(events, {f"fill.{n}": sql for n, sql in mapping.fill.items()}, is_parsed())
    fills = {n: _fill_value(n, attempts[f"fill.{n}"]) for n in mapping.fill}
    missing = {name: F.col(name).isNull() & value.isNotNull() for name, value in fills.items()}
    if not missing:
        return {}
    notes = F.concat(NOTES, *[note_where(is_missing, f"filled_{name}") for name, is_missing in missing.items()])
    filled = {name: F.coalesce(F.col(name), value) for name, value in fills.items()}
    return {NOTES: notes, **_failures(list(attempts.values())), **filled}


def _fill_value(name: str, attempt: Guarded) -> Column:
    if name in TEXT_COLUMNS:
        return readable_text(attempt.value, attempt.data_type)
    return attempt.value.try_cast(TYPES[name])


def _clip(mapping: Mapping) -> dict[str, Column]:
    if not mapping.clip:
        return {}
    outside = {name: _is_outside(F.col(name), clip) for name, clip in mapping.clip.items()}
    notes = [note_where(is_outside, f"clipped_{name}") for name, is_outside in outside.items()]
    originals = F.map_concat(
        F.coalesce("extra", F.create_map().cast("map<string,string>")),
        *[
            F.when(is_outside, F.create_map(F.lit(f"{name}_before_clip"), F.col(name).cast("string"))).otherwise(
                F.create_map().cast("map<string,string>")
            )
            for name, is_outside in outside.items()
        ],
    )
    any_outside = reduce(Column.__or__, outside.values())
    return {
        NOTES: F.concat(NOTES, *notes),
        "extra": F.when(any_outside, originals).otherwise(F.col("extra")),
        **{name: _clip_to_bounds(F.col(name), clip) for name, clip in mapping.clip.items()},
    }


def note_where(condition: Column, name: str) -> Column:
    """An array with the name where the condition is true, else an empty array."""
    return F.when(condition, F.array(F.lit(name))).otherwise(_no_notes())


def _no_notes() -> Column:
    return F.array().cast("array<string>")


def _is_outside(column: Column, clip: Clip) -> Column:
    below = F.lit(False) if clip.min is None else column < clip.min
    above = F.lit(False) if clip.max is None else column > clip.max
    return F.coalesce(below | above, F.lit(False)) & ~F.isnan(column)


def _clip_to_bounds(column: Column, clip: Clip) -> Column:
    above_min = column if clip.min is None else F.greatest(column, F.lit(clip.min))
    in_bounds = above_min if clip.max is None else F.least(above_min, F.lit(clip.max))
    return F.when(column.isNotNull() & ~F.isnan(column), in_bounds).otherwise(column)


def _with_namespace(column: Column, namespace: str) -> Column:
    return F.concat(F.lit(f"{namespace}:"), column) if namespace else column


def content_columns(mapping: Mapping) -> list[str]:
    """Columns in which events with the same mapped id can differ: mapped and filled columns.

    Without a mapped id, equal ids mean equal records, so there are none.
    """
    mapped = {*mapping.columns, *mapping.fill} - {"event_id"}
    return [name for name in MAPPABLE_COLUMNS if name in mapped] if "event_id" in mapping.columns else []


def mapped_columns(mapping: Mapping) -> list[str]:
    """Columns of `events` that are computed from the record. All others are null or constant in a batch."""
    mapped = {*mapping.columns, *mapping.fill, "event_id", "value", "event_date", "extra", "warnings"}
    return [column for column in tables.EVENTS.names if column in mapped]
