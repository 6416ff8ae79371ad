"""Segments, tags and preferences: tables to numbers."""

from itertools import groupby
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from profilestream.derive.table_declaration import Derived
from profilestream.learn import segments as learned
from profilestream.serve.report.view_model import Segment, Segments, Tag, Tags, Taste
from profilestream.serve.users import user_view
from profilestream.serve.users.user_frame import stored

_BATCHES, _MOVES, _SEGMENTS, _TASTES, _TAGS = 300, 20, 7, 12, 200


def segments(spark: SparkSession, settings: Settings) -> Segments | None:
    """Those of the newest epoch, with their sizes after its newest batches."""
    if _profiles(settings) is None:
        return None
    every = stored(spark, learned.table(settings), settings)
    newest = every.agg(F.max_by(F.struct("epoch", "batch_id"), F.struct("as_of", "batch_id"))).first()
    if newest is None or newest[0] is None:
        return None
    epoch, last = newest[0]
    own = every.where((F.col("epoch") == epoch) & (F.col("batch_id") > last - _BATCHES))
    now = own.where(F.col("batch_id") == last).select("segment_id", "users").collect()
    now.sort(key=lambda row: (-row["users"], row["segment_id"]))
    shown = [row["segment_id"] for row in now[:_SEGMENTS]]
    told = _described(stored(spark, learned.descriptions_table(), settings))
    unknown = ("", "", None, None)
    as_of, sizes = _sizes(own, shown)
    return Segments(
        now=tuple(Segment(*row, *told.get(row["segment_id"], unknown)) for row in now),
        as_of=as_of,
        sizes=sizes,
        moves=_moves(own),
    )


def _described(descriptions: DataFrame) -> dict[int, tuple[Any, ...]]:
    rows = descriptions.select("segment_id", "description", "rule", "precision", "recall").collect()
    return {row["segment_id"]: tuple(row)[1:] for row in rows}


def _sizes(own: DataFrame, shown: list[int]) -> tuple[tuple[Any, ...], dict[int, tuple[int, ...]]]:
    """The event times of the batches, and the users of each segment after each of them."""
    segment = F.when(F.col("segment_id").isin(shown), F.col("segment_id")).otherwise(Segments.OTHERS)
    rows = own.groupBy("batch_id", segment.alias("segment")).agg(F.max("as_of").alias("as_of"), F.sum("users"))
    found = sorted(rows.collect(), key=lambda row: row["batch_id"])
    batches = [(batch, list(group)) for batch, group in groupby(found, lambda row: row["batch_id"])]
    users = [{row["segment"]: row[3] for row in group} for _, group in batches]
    as_of = tuple(max(row["as_of"] for row in group) for _, group in batches)
    names = [*shown, *({Segments.OTHERS} & {name for batch in users for name in batch})]
    return as_of, {name: tuple(batch.get(name, 0) for batch in users) for name in names}


def _moves(own: DataFrame) -> tuple[tuple[Any, str], ...]:
    moved = own.where("parent IS NOT NULL OR size(absorbed) > 0").orderBy(F.desc("batch_id"), "segment_id")
    rows = moved.limit(_MOVES).select("as_of", "segment_id", "parent", "absorbed").collect()
    return tuple((row["as_of"], _move(row)) for row in rows)


def _move(row: Any) -> str:
    split = f"{row['segment_id']} was split from {row['parent']}" if row["parent"] is not None else ""
    names = ", ".join(map(str, row["absorbed"] or ()))
    return "; ".join(filter(None, [split, f"{names} became part of {row['segment_id']}" if names else ""]))


def tags(spark: SparkSession, settings: Settings) -> Tags | None:
    """How many hold each tag as of the newest event, most first."""
    users = stored(spark, tables.USER_GROUPS, settings).agg(F.max("as_of").alias("as_of"), F.count("user_id")).first()
    if users is None or users[0] is None:
        return None
    as_of = users["as_of"]
    now, before = F.lit(as_of), F.lit(as_of - Tags.LATELY)

    def lately(moment: Column) -> Column:
        return F.count_if((moment > before) & (moment <= now))

    counted = (
        stored(spark, tables.USER_TAGS, settings)
        .groupBy("tag")
        .agg(
            F.count_if((F.col("since") <= now) & (F.col("until").isNull() | (F.col("until") > now))).alias("users"),
            lately(F.col("since")).alias("gained"),
            lately(F.col("until")).alias("lost"),
        )
    )
    rows = counted.orderBy(F.desc("users"), "tag").limit(_TAGS).collect()
    return Tags(as_of, tuple(Tag(*row) for row in rows), users[1])


def tastes(spark: SparkSession, settings: Settings) -> tuple[Taste, ...]:
    """Each user counts once, whatever the number of events; what a user returned or disliked (below 0) does not."""
    declared = _profiles(settings)
    statistics = {} if declared is None else declared.statistics
    facets = [of for of in ("categories", "brands", "items") if f"preference.{of}" in statistics]
    if declared is None or not facets:
        return ()
    weights = [F.struct(F.lit(of).alias("of"), F.col("preference")[of]["weights"].alias("weights")) for of in facets]
    by_user = (
        stored(spark, declared.table, settings)
        .select(F.inline(F.array(*weights)))
        .select("of", F.map_filter("weights", lambda _, weight: weight > 0).alias("weights"))
    )
    total = F.aggregate(F.map_values("weights"), F.lit(0.0), lambda sums, weight: sums + weight)
    keys = by_user.withColumn("total", total).select("of", "total", F.explode("weights").alias("key", "weight"))
    by_key = keys.groupBy("of", "key").agg(F.sum(F.col("weight") / F.col("total")).alias("share"))
    whole = Window.partitionBy("of")
    placed = by_key.withColumns(
        {
            "users": F.sum("share").over(whole),
            "place": F.row_number().over(whole.orderBy(F.desc("share"), "key")),
        }
    )
    rows = placed.where(F.col("place") <= _TASTES).orderBy("place").collect()
    found = {of: [row for row in rows if row["of"] == of] for of in facets}
    kept = [of for of in ("categories", "brands") if found.get(of)] or [of for of in ("items",) if found.get(of)]
    return tuple(_taste(spark, settings, of, found[of]) for of in kept)


def _profiles(settings: Settings) -> Derived | None:
    try:
        return profiles.of_users(settings)
    except BadSettings:
        return None


def _taste(spark: SparkSession, settings: Settings, of: str, rows: list[Any]) -> Taste:
    users = rows[0]["users"]
    called = user_view.texts(spark, settings, [row["key"] for row in rows]) if of == "items" else {}
    shares = tuple((called.get(row["key"], row["key"]), row["share"] / users) for row in rows)
    return Taste(of, round(users), shares, max(0.0, 1 - sum(share for _, share in shares)))
