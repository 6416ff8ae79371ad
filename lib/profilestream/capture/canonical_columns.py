"""Records to canonical columns, by a mapping: explode, look up, express, clean. Pure: frames and columns only."""

from dataclasses import dataclass
from functools import cache, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.capture.mapping import MAPPABLE, NUMBERS, TEXTS, Clip, Mapping, TextStep

TYPES = {"event_time": "timestamp", "attributes": "map<string,string>", **dict.fromkeys(NUMBERS, "double")}
NOTES = "_notes"
_BLANKS = (
    " \t\n\r\f\v\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)


@dataclass(frozen=True)
class Reading:
    """How the expression of a column is read: the canonical value, and the text it was made from (null if typed)."""

    value: Column
    text: Column | None


def exploded(records: DataFrame, mapping: Mapping) -> DataFrame:
    """One row a record, raw columns side by side; an element of an exploded array is a record of its own.

    A line whose array is empty or missing stays one record, with fault `nothing_to_explode`.
    """
    flat = records.select("*", "raw.*")
    shape = mapping.input
    if not shape.explode:
        return flat
    columns = [F.col(name) for name in records.columns if name not in ("position", "fault", "fault_reason", "raw")]
    element = F.col(f"`{shape.explode_as}`")
    wide = flat.select(
        "*",
        F.posexplode_outer(F.when(F.col("fault").isNull(), F.expr(shape.explode))).alias("_index", shape.explode_as),
    )
    none = F.col("fault").isNull() & F.col("_index").isNull()
    raw_names = records.schema["raw"].dataType.names  # type: ignore[attr-defined]
    return wide.select(
        F.concat_ws("#", "position", F.col("_index") + 1).alias("position"),
        F.when(none, "nothing_to_explode").otherwise(F.col("fault")).alias("fault"),
        F.when(none, F.lit(f"{shape.explode} is empty or missing"))
        .otherwise(F.col("fault_reason"))
        .alias("fault_reason"),
        *columns,
        F.struct(F.col("raw.*"), element.alias(shape.explode_as)).alias("raw"),
        *[F.col(f"`{name}`") for name in raw_names],
        element.alias(shape.explode_as),
    )


def trimmed(column: Column, characters: str) -> Column:
    """The text without these characters at its ends. Trimming by a set is slow, so only texts that need it are."""
    needs = F.left(column, F.lit(1)).isin(*characters) | F.right(column, F.lit(1)).isin(*characters)
    return F.when(needs, F.trim(column, F.lit(characters))).otherwise(column)


def line_position() -> Column:
    """The position of the line that a record stood in: its own, without the element's number that `exploded` adds."""
    return F.regexp_replace("position", "#[0-9]+$", "")


def looked_up(records: DataFrame, mapping: Mapping, sides: dict[str, DataFrame]) -> DataFrame:
    """Records with a struct per side table; null where the side table has no such key."""
    for name, lookup in mapping.lookup.items():
        key = F.col(f"`{lookup.key}`")
        side = sides[name].select(key.alias("_key"), F.struct("*").alias(name))
        on = F.expr(lookup.on).try_cast(side.schema["_key"].dataType)
        records = records.join(F.broadcast(side), on == F.col("_key"), "left").drop("_key")
    return records


@dataclass(frozen=True)
class Expressions:
    """A mapping's canonical columns. They hold for every batch, and building them takes 0.2 s: a run does it once.

    Args:
        columns: read from the record.
        steps: columns put in place of these, one step after the other.
    """

    columns: list[Column]
    steps: list[dict[str, Column]]


def expressions(records: DataFrame, mapping: Mapping) -> Expressions:
    """How the canonical columns are made from records with these columns and types."""
    kinds = records.select(*[F.expr(sql).alias(name) for name, sql in mapping.columns.items()]).schema
    readings = {
        name: _reading(name, mapping.columns[name], kinds[name].dataType, mapping)
        if name in mapping.columns
        else Reading(F.lit(None).cast(TYPES.get(name, "string")), None)
        for name in MAPPABLE
    }
    kept = ["position", "payload", "payload_encoding", "payload_header", "fault", "fault_reason", "extra", "raw"]
    columns = [
        *[F.col(name) for name in kept],
        *[reading.value.alias(name) for name, reading in readings.items()],
        *[r.text.alias(f"_text_{name}") for name, r in readings.items() if r.text is not None],
    ]
    texts = {name: _text(F.col(name), steps) for name, steps in mapping.text.items()}
    scales = {name: F.col(name) * F.lit(factor) for name, factor in mapping.scale.items()}
    steps = [_in_utc(mapping), {**texts, **scales}, _filled(mapping), _clipped(mapping)]
    return Expressions(columns, [step for step in steps if step])


def expressed(records: DataFrame, made: Expressions) -> DataFrame:
    """Records with every canonical column, cleaned. Beside them stay the record's own columns, and

    `_text_<column>`   what a number or time was read from, where the expression gives text
    `_local_time`      the wall-clock time, where the mapping's time zone is not UTC
    `_notes`           names of fills and clips that changed the row
    """
    return reduce(DataFrame.withColumns, made.steps, records.select(*made.columns))


def identified(events: DataFrame, mapping: Mapping) -> DataFrame:
    """Events with date, value, ids in their spaces and an event id (the hash of the columns unless mapped)."""
    spaced = {
        "user_id": _in_space(F.col("user_id"), mapping.user_space),
        "target_user_id": _in_space(F.col("target_user_id"), mapping.user_space),
        "item_id": _in_space(F.col("item_id"), mapping.item_space),
        "value": F.coalesce("value", F.col("price") * F.col("quantity")),
        "event_date": F.to_date("event_time"),
    }
    with_ids = events.withColumns(spaced)
    return (
        with_ids
        if "event_id" in mapping.columns
        else with_ids.withColumn("event_id", content_hash(tuple(said(mapping))))
    )


@cache
def content_hash(columns: tuple[str, ...]) -> Column:
    """Hex MD5 over what an event says: its mapped columns and `extra`, nulls told from empty texts.

    Numbers enter by their bits, since their decimal form differs between Java releases.

    Args:
        columns: what is hashed, such as `said(mapping)`.
    """
    parts = [_hashable(name) for name in columns]
    return F.md5(F.concat_ws("\x1f", *[F.coalesce(part, F.lit("\x00")) for part in parts]))


def _hashable(name: str) -> Column:
    column = F.col(name)
    if name in NUMBERS:
        return F.when(column.isNotNull(), F.xxhash64(column).cast("string"))
    if name == "event_time":
        return F.unix_micros(column).cast("string")
    if name in ("attributes", "extra"):
        return F.when(F.size(column) > 0, F.to_json(F.array_sort(F.map_entries(column))))
    return column


def _reading(name: str, sql: str, kind: T.DataType, mapping: Mapping) -> Reading:
    column = F.expr(sql)
    if name == "event_time" and isinstance(kind, T.NumericType):
        raise BadSettings(
            f"event_time = {sql!r} is a number ({kind.simpleString()})",
            where="mapping, columns.event_time",
            do='write timestamp_millis(x) or timestamp_seconds(x), and timezone = "UTC"',
        )
    if isinstance(kind, T.StringType) and name == "event_time":
        return Reading(_time(F.trim(column), mapping.time_format), column)
    if isinstance(kind, T.StringType) and name in NUMBERS:
        return Reading(_number(trimmed(column, '" ')), column)
    return Reading(column.cast("string") if name in TEXTS else column.try_cast(TYPES[name]), None)


def _time(text: Column, pattern: str) -> Column:
    """Without a pattern Spark also reads `now` and `10:30`, as times of today; so a year must come first."""
    if pattern:
        return F.try_to_timestamp(text, F.lit(pattern))
    return F.when(F.substring(text, 5, 1) == "-", F.try_to_timestamp(text))


def _number(text: Column) -> Column:
    """Spark follows Java, where `5d` and `5f` are numbers too."""
    return F.when(~F.right(text, F.lit(1)).isin("d", "D", "f", "F"), text.try_cast("double"))


def _in_utc(mapping: Mapping) -> dict[str, Column]:
    if mapping.timezone == "UTC":
        return {}
    local = F.col("event_time")
    return {"_local_time": local, "event_time": F.to_utc_timestamp(local, mapping.timezone)}


def _text(column: Column, steps: tuple[TextStep, ...]) -> Column:
    for step in steps:
        column = {"nfkc": _nfkc, "trim": _trim, "lower": F.lower, "upper": F.upper, "title": F.initcap}[step](column)
    return F.when(column != "", column)


def _trim(column: Column) -> Column:
    return trimmed(column, _BLANKS)


def _nfkc(column: Column) -> Column:
    """Unicode NFKC by the ICU library that Spark carries; only where a character is not ASCII."""
    other = F.length(column) != F.octet_length(column)
    compat = F.reflect(F.lit("com.ibm.icu.text.Normalizer"), F.lit("compose"), column, F.lit(True))
    return F.when(other, compat).otherwise(column)


def _filled(mapping: Mapping) -> dict[str, Column]:
    fills = {name: F.expr(sql).try_cast(TYPES.get(name, "string")) for name, sql in mapping.fill.items()}
    missing = {name: F.col(name).isNull() & value.isNotNull() for name, value in fills.items()}
    notes = F.concat(_no_notes(), *[noted(is_missing, f"filled_{name}") for name, is_missing in missing.items()])
    return {NOTES: notes, **{name: F.coalesce(F.col(name), value) for name, value in fills.items()}}


def _clipped(mapping: Mapping) -> dict[str, Column]:
    if not mapping.clip:
        return {}
    outside = {name: _outside(F.col(name), clip) for name, clip in mapping.clip.items()}
    notes = [noted(out, f"clipped_{name}") for name, out in outside.items()]
    originals = F.map_concat(
        F.coalesce("extra", F.create_map().cast("map<string,string>")),
        *[
            F.when(out, F.create_map(F.lit(f"{name}_before_clip"), F.col(name).cast("string"))).otherwise(
                F.create_map().cast("map<string,string>")
            )
            for name, out in outside.items()
        ],
    )
    any_outside = reduce(Column.__or__, outside.values())
    return {
        NOTES: F.concat(NOTES, *notes),
        "extra": F.when(any_outside, originals).otherwise(F.col("extra")),
        **{name: _bounded(F.col(name), clip) for name, clip in mapping.clip.items()},
    }


def noted(condition: Column, name: str) -> Column:
    """An array of the name where the condition holds, an empty one elsewhere."""
    return F.when(condition, F.array(F.lit(name))).otherwise(_no_notes())


def _no_notes() -> Column:
    return F.array().cast("array<string>")


def _outside(column: Column, clip: Clip) -> Column:
    below = F.lit(False) if clip.min is None else column < clip.min
    above = F.lit(False) if clip.max is None else column > clip.max
    return F.coalesce(below | above, F.lit(False)) & ~F.isnan(column)


def _bounded(column: Column, clip: Clip) -> Column:
    low = column if clip.min is None else F.greatest(column, F.lit(clip.min))
    bounded = low if clip.max is None else F.least(low, F.lit(clip.max))
    return F.when(column.isNotNull() & ~F.isnan(column), bounded).otherwise(column)


def _in_space(column: Column, space: str) -> Column:
    return F.concat(F.lit(f"{space}:"), column) if space else column


def said(mapping: Mapping) -> list[str]:
    """Columns in which events of a source can differ, beside their id: those mapped or filled, and `extra`."""
    named = {*mapping.columns, *mapping.fill} - {"event_id"}
    return [column for column in (*MAPPABLE, "extra") if column in named or column == "extra"]


def carried(mapping: Mapping) -> list[str]:
    """Columns of `events` that are made from the record; all others are null or stamped on when it is written."""
    made = {*said(mapping), "event_id", "value", "event_date", "warnings"}
    return [column for column in tables.EVENTS.columns if column in made]
