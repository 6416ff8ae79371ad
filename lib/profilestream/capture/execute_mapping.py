"""Applies a mapping to raw records: explode, join side tables, evaluate the SQL of canonical columns, clean.

All functions build frames and columns; none runs a Spark action.
"""

from dataclasses import dataclass
from functools import cache, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.capture.mapping import MAPPABLE_COLUMNS, NUMERIC_COLUMNS, TEXT_COLUMNS, Clip, Mapping, TextStep

TYPES = {"event_time": "timestamp", "attributes": "map<string,string>", **dict.fromkeys(NUMERIC_COLUMNS, "double")}
NOTES = "_notes"
_BLANKS = (
    " \t\n\r\f\v\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)


@dataclass(frozen=True)
class ParsedColumn:
    """A canonical column: its value, and the text it was parsed from (null if the mapping's SQL returns no text)."""

    value: Column
    text: Column | None


def explode(records: DataFrame, mapping: Mapping) -> DataFrame:
    """The records with their raw columns at top level; one row per element if the mapping explodes an array.

    A record whose array is empty or missing remains one row, with the fault `nothing_to_explode`.
    """
    flat = records.select("*", "raw.*")
    spec = mapping.input
    if not spec.explode:
        return flat
    columns = [F.col(name) for name in records.columns if name not in ("position", "fault", "fault_reason", "raw")]
    element = F.col(f"`{spec.explode_as}`")
    elements = F.when(F.col("fault").isNull(), F.expr(spec.explode))
    wide = flat.select("*", F.posexplode_outer(elements).alias("_index", spec.explode_as))
    is_empty = F.col("fault").isNull() & F.col("_index").isNull()
    empty_reason = F.lit(f"{spec.explode} is empty or missing")
    raw_names = records.schema["raw"].dataType.names  # type: ignore[attr-defined]
    return wide.select(
        F.concat_ws("#", "position", F.col("_index") + 1).alias("position"),
        F.when(is_empty, "nothing_to_explode").otherwise(F.col("fault")).alias("fault"),
        F.when(is_empty, empty_reason).otherwise(F.col("fault_reason")).alias("fault_reason"),
        *columns,
        F.struct(F.col("raw.*"), element.alias(spec.explode_as)).alias("raw"),
        *[F.col(f"`{name}`") for name in raw_names],
        element.alias(spec.explode_as),
    )


def trim_characters(column: Column, characters: str) -> Column:
    """The text without these characters at both ends. Trims only where needed: a set is slow in Spark."""
    is_needed = F.left(column, F.lit(1)).isin(*characters) | F.right(column, F.lit(1)).isin(*characters)
    return F.when(is_needed, F.trim(column, F.lit(characters))).otherwise(column)


def line_position() -> Column:
    """The position of the line that contains a record: its own position without the element number of `explode`."""
    return F.regexp_replace("position", "#[0-9]+$", "")


def join_side_tables(records: DataFrame, mapping: Mapping, side_tables: dict[str, DataFrame]) -> DataFrame:
    """Records with one struct column per side table; null where the side table lacks the key."""
    for name, lookup in mapping.lookup.items():
        key = F.col(f"`{lookup.key}`")
        side = side_tables[name].select(key.alias("_key"), F.struct("*").alias(name))
        on = F.expr(lookup.on).try_cast(side.schema["_key"].dataType)
        records = records.join(F.broadcast(side), on == F.col("_key"), "left").drop("_key")
    return records


@dataclass(frozen=True)
class Expressions:
    """The canonical columns of a mapping. A run builds them once for all batches, since that takes 0.2 s.

    Args:
        columns: read from the record.
        steps: columns that replace columns of the same name, applied in order.
    """

    columns: list[Column]
    steps: list[dict[str, Column]]


def build_expressions(records: DataFrame, mapping: Mapping) -> Expressions:
    """The expressions of the canonical columns, for records with these columns and types."""
    schema = records.select(*[F.expr(sql).alias(name) for name, sql in mapping.columns.items()]).schema
    parsed_columns = {
        name: _parse(name, mapping.columns[name], schema[name].dataType, mapping)
        if name in mapping.columns
        else ParsedColumn(F.lit(None).cast(TYPES.get(name, "string")), None)
        for name in MAPPABLE_COLUMNS
    }
    record_columns = [
        "position", "payload", "payload_encoding", "payload_header", "fault", "fault_reason", "extra", "raw",
    ]  # fmt: skip
    columns = [
        *[F.col(name) for name in record_columns],
        *[column.value.alias(name) for name, column in parsed_columns.items()],
        *[column.text.alias(f"_text_{name}") for name, column in parsed_columns.items() if column.text is not None],
    ]
    texts = {name: _apply_text_steps(F.col(name), steps) for name, steps in mapping.text.items()}
    scales = {name: F.col(name) * F.lit(factor) for name, factor in mapping.scale.items()}
    steps = [_to_utc(mapping), {**texts, **scales}, _fill(mapping), _clip(mapping)]
    return Expressions(columns, [step for step in steps if step])


def apply_expressions(records: DataFrame, expressions: Expressions) -> DataFrame:
    """Records with every canonical column, cleaned. The record's own columns remain, and these are added:

    `_text_<column>`   text that a number or time was parsed from, where the expression returns text
    `_local_time`      wall-clock time, where the time zone of the mapping is not UTC
    `_notes`           names of the fills and clips that changed the row
    """
    return reduce(DataFrame.withColumns, expressions.steps, records.select(*expressions.columns))


def add_ids(events: DataFrame, mapping: Mapping) -> DataFrame:
    """Events with date, value, ids with their namespaces, and an event id (a hash of the content unless mapped)."""
    columns = {
        "user_id": _with_namespace(F.col("user_id"), mapping.user_namespace),
        "target_user_id": _with_namespace(F.col("target_user_id"), mapping.user_namespace),
        "item_id": _with_namespace(F.col("item_id"), mapping.item_namespace),
        "value": F.coalesce("value", F.col("price") * F.col("quantity")),
        "event_date": F.to_date("event_time"),
    }
    with_ids = events.withColumns(columns)
    if "event_id" in mapping.columns:
        return with_ids
    return with_ids.withColumn("event_id", content_hash(tuple(content_columns(mapping))))


@cache
def content_hash(columns: tuple[str, ...]) -> Column:
    """Hex MD5 of the content of an event; null and empty text differ.

    Numbers are hashed by their bits, since their decimal text differs between Java releases.

    Args:
        columns: columns to hash, such as `content_columns(mapping)`.
    """
    parts = [_hashable(name) for name in columns]
    return F.md5(F.concat_ws("\x1f", *[F.coalesce(part, F.lit("\x00")) for part in parts]))


def _hashable(name: str) -> Column:
    column = F.col(name)
    if name in NUMERIC_COLUMNS:
        return F.when(column.isNotNull(), F.xxhash64(column).cast("string"))
    if name == "event_time":
        return F.unix_micros(column).cast("string")
    if name in ("attributes", "extra"):
        return F.when(F.size(column) > 0, F.to_json(F.array_sort(F.map_entries(column))))
    return column


def _parse(name: str, sql: str, data_type: T.DataType, mapping: Mapping) -> ParsedColumn:
    column = F.expr(sql)
    if name == "event_time" and isinstance(data_type, T.NumericType):
        raise BadSettings(
            f"event_time = {sql!r} is a number ({data_type.simpleString()})",
            where="mapping, columns.event_time",
            do='write timestamp_millis(x) or timestamp_seconds(x), and timezone = "UTC"',
        )
    if isinstance(data_type, T.StringType) and name == "event_time":
        return ParsedColumn(_parse_time(F.trim(column), mapping.time_format), column)
    if isinstance(data_type, T.StringType) and name in NUMERIC_COLUMNS:
        return ParsedColumn(_parse_number(trim_characters(column, '" ')), column)
    return ParsedColumn(column.cast("string") if name in TEXT_COLUMNS else column.try_cast(TYPES[name]), None)


def _parse_time(text: Column, pattern: str) -> Column:
    """Without a pattern, null unless the text starts with a year: Spark parses `now` and `10:30` as times of today."""
    if pattern:
        return F.try_to_timestamp(text, F.lit(pattern))
    return F.when(F.substring(text, 5, 1) == "-", F.try_to_timestamp(text))


def _parse_number(text: Column) -> Column:
    """Null for `5d` and `5f`, which Spark would parse as Java literals."""
    return F.when(~F.right(text, F.lit(1)).isin("d", "D", "f", "F"), text.try_cast("double"))


def _to_utc(mapping: Mapping) -> dict[str, Column]:
    if mapping.timezone == "UTC":
        return {}
    local = F.col("event_time")
    return {"_local_time": local, "event_time": F.to_utc_timestamp(local, mapping.timezone)}


def _apply_text_steps(column: Column, steps: tuple[TextStep, ...]) -> Column:
    for step in steps:
        column = {"nfkc": _nfkc, "trim": _trim, "lower": F.lower, "upper": F.upper, "title": F.initcap}[step](column)
    return F.when(column != "", column)


def _trim(column: Column) -> Column:
    return trim_characters(column, _BLANKS)


def _nfkc(column: Column) -> Column:
    """Unicode NFKC by the ICU library that Spark ships; only for texts with a character that is not ASCII."""
    is_needed = F.length(column) != F.octet_length(column)
    normalized = F.reflect(F.lit("com.ibm.icu.text.Normalizer"), F.lit("compose"), column, F.lit(True))
    return F.when(is_needed, normalized).otherwise(column)


def _fill(mapping: Mapping) -> dict[str, Column]:
    fills = {name: F.expr(sql).try_cast(TYPES.get(name, "string")) for name, sql in mapping.fill.items()}
    missing = {name: F.col(name).isNull() & value.isNotNull() for name, value in fills.items()}
    notes = F.concat(_no_notes(), *[note_where(is_missing, f"filled_{name}") for name, is_missing in missing.items()])
    return {NOTES: notes, **{name: F.coalesce(F.col(name), value) for name, value in fills.items()}}


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
    """Columns in which events of a source can differ, apart from the id: mapped and filled columns, and `extra`."""
    mapped = {*mapping.columns, *mapping.fill} - {"event_id"}
    return [column for column in (*MAPPABLE_COLUMNS, "extra") if column in mapped or column == "extra"]


def mapped_columns(mapping: Mapping) -> list[str]:
    """Columns of `events` that are computed from the record. All others are null or constant in a batch."""
    mapped = {*content_columns(mapping), "event_id", "value", "event_date", "warnings"}
    return [column for column in tables.EVENTS.names if column in mapped]
