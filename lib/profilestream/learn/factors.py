"""learn_factors: vectors of users and items that move with every micro-batch, kept in one table, one commit a batch.

A batch is two shuffles: its users with their kept events, then the items that they touched with what they are told.
Rows never come to the driver; the globals (two Gram matrices and a few numbers) do.
"""

import json
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import commits, tables
from profilestream.base.settings import Settings, fingerprint
from profilestream.base.stream import Batch, Done, Query
from profilestream.base.tables import Table
from profilestream.derive.stage import new_events
from profilestream.learn import steps
from profilestream.learn.als import Globals, Params
from profilestream.learn.quality import Sums

STAGE = "learn_factors"
_JUDGING = ("judged", "popularity_share")  # these change no vector
Step = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def params(settings: Settings) -> Params:
    """What the settings say of the factorization."""
    return Params(**settings.learn.factors.model_dump(exclude={"enabled"}))


def table(settings: Settings) -> Table:
    """`factors`: a row a user, a row an item, and one row of what they all are to each other (side `global`)."""
    return Table(
        name="factors",
        ddl="""
            side STRING NOT NULL,
            key STRING NOT NULL,
            vector BINARY,
            others ARRAY<STRING>,
            weights BINARY,
            times BINARY,
            tail DOUBLE,
            equations BINARY,
            counted DOUBLE,
            popular DOUBLE,
            as_of TIMESTAMP NOT NULL,
            epoch STRING NOT NULL,
            batch_id BIGINT NOT NULL
        """,
        key=("side", "key"),
        partitioned_by=("side",),
        properties={"delta.enableDeletionVectors": "true", "delta.dataSkippingStatsColumns": "key"},
        declaration=fingerprint(_said(settings, without={"enabled", *_JUDGING})),
    )


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when it is not enabled."""
    if not settings.learn.factors.enabled:
        return []
    factors = table(settings)

    def write(events: DataFrame, batch: Batch) -> Done:
        known = rated(events, settings)
        with batch.kept(known) as rows:
            learned = learn(known, batch, settings)
            batch.append(learned.quality, tables.MODEL_QUALITY)
            batch.merge(learned.rows, factors)
        return Done(rows_in=rows)

    return [
        Query(
            stage=STAGE,
            source="",
            lock=STAGE,
            tables=(tables.MODEL_QUALITY, factors),
            shared=(tables.MODEL_QUALITY,),
            settings=_said(settings),
            read=lambda spark: new_events(spark, settings),
            write=write,
            versions=lambda spark: {factors.name: commits.version(spark, factors, settings.paths)},
        )
    ]


def _said(settings: Settings, without: Set[str] = frozenset()) -> str:
    """All that changes what is learned, in readable form."""
    made = settings.learn.factors.model_dump(exclude=set(without))
    return json.dumps({"factors": made, "event_weight": settings.derive.names["event_weight"]}, sort_keys=True)


def rated(events: DataFrame, settings: Settings) -> DataFrame:
    """Events that say what a user thinks of an item: user `key`, item `other`, `weight`, `at` in microseconds."""
    weight = F.expr(settings.derive.names["event_weight"])
    said = events.where(F.col("user_id").isNotNull() & F.col("item_id").isNotNull()).select(
        F.col("user_id").alias("key"),
        F.col("item_id").alias("other"),
        weight.cast("float").cast("double").alias("weight"),
        F.unix_micros("event_time").alias("at"),
    )
    return said.where("weight != 0")


@dataclass(frozen=True)
class Learned:
    """What a batch gives.

    Args:
        rows: of `factors` that it changes.
        quality: rows of `model_quality`, judged by the state before it.
    """

    rows: DataFrame
    quality: DataFrame


def learn(known: DataFrame, batch: Batch, settings: Settings) -> Learned:
    """Judge the batch by the state before it, then learn from it."""
    spark, made = batch.spark, params(settings)
    factors = table(settings)
    state = factors.read(spark, batch.paths, version=batch.plan.versions[factors.name])
    before = _globals(state, made)
    tasks = int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    with batch.phase("users"):
        users = _stepped(
            [_rows_of(state, "user", known), known.withColumn("kind", F.lit(steps.NEW)),
             _catalogue(state, tasks, before, made)],
            tasks, partial(steps.users, known=before, params=made),
        )  # fmt: skip
        small = users.where(F.col("kind").isin(steps.GONE, steps.CAME, steps.JUDGED)).collect()
    gone, came = (_share(small, kind, made) for kind in (steps.GONE, steps.CAME))
    after_users = (before + gone).aged(came.now, made.half_life_days) + came
    told = users.where(F.col("kind") == steps.CONTRIBUTION)
    with batch.phase("items"):
        items = _stepped(
            [_rows_of(state, "item", told), told.withColumn("kind", F.lit(steps.NEW))],
            tasks, partial(steps.items, known=after_users, params=made),
        )  # fmt: skip
        after = after_users + _share(items.where(F.col("kind") == steps.CAME).collect(), steps.CAME, made)
    sums = F.lit(steps.globals_as_bytes(after)).alias("equations")
    one = spark.range(1).select(F.lit("global").alias("side"), F.lit("implicit").alias("key"), sums)
    rows = [
        frame.where(F.col("kind") == steps.ROW).withColumn("side", F.lit(side)).drop("kind", "at")
        for side, frame in (("user", users), ("item", items))
    ]
    changed = rows[0].unionByName(rows[1]).unionByName(one, allowMissingColumns=True)
    stamp = {"epoch": F.lit(batch.txn.epoch), "batch_id": F.lit(batch.txn.batch_id).cast("bigint")}
    return Learned(
        changed.withColumns({"as_of": F.timestamp_micros(F.lit(after.now)), **stamp}).select(*factors.columns),
        _quality(spark, small, before.now).withColumns(stamp).select(*tables.MODEL_QUALITY.columns),
    )


def _quality(spark: SparkSession, small: list[Row], as_of: int) -> DataFrame:
    """A row a candidate; none when nobody could be judged."""
    found: dict[str, Sums] = {}
    for row in small:
        if row["kind"] == steps.JUDGED:
            sums = Sums.of_bytes(bytes(row["weights"]), bytes(row["times"]))
            found[row["key"]] = found[row["key"]] + sums if row["key"] in found else sums
    values = [
        {
            "candidate": name, "users": int(s.users), "recall_10": s.recall_10 / s.users,
            "recall_20": s.recall_20 / s.users, "ndcg_10": s.ndcg_10 / s.users, "mrr_20": s.reciprocal_rank / s.users,
            "coverage": float(s.items.mean()), "novelty": s.novelty / s.users,
        }
        for name, s in sorted(found.items())
        if s.users
    ]  # fmt: skip
    # By Spark itself, as in capture: rows made from Python objects start Python workers.
    told = F.from_json(F.lit(json.dumps(values)), T.ArrayType(tables.MODEL_QUALITY.schema))
    own = {"learner": F.lit("factors"), "as_of": F.timestamp_micros(F.lit(as_of))}
    return spark.range(1).select(F.inline(told)).withColumns(own)


def _globals(state: DataFrame, made: Params) -> Globals:
    row = state.where("side = 'global'").select("equations").first()
    return Globals.zero(made.k) if row is None else steps.globals_of(bytes(row["equations"]), made.k)


def _share(small: list[Row], kind: int, made: Params) -> Globals:
    of_kind = [steps.globals_of(bytes(row["equations"]), made.k) for row in small if row["kind"] == kind]
    return sum(of_kind, Globals.zero(made.k))


def _rows_of(state: DataFrame, side: str, touched: DataFrame) -> DataFrame:
    """Rows of a side of the state whose keys stand in the batch."""
    keys = F.broadcast(touched.select("key").distinct())
    rows = state.where(F.col("side") == side).join(keys, "key", "left_semi")
    return rows.withColumns({"kind": F.lit(steps.STATE), "at": F.unix_micros("as_of")}).drop("side", "as_of")


def _catalogue(state: DataFrame, tasks: int, before: Globals, made: Params) -> DataFrame:
    """All items, packed into a few rows, once for each task."""
    items = state.where("side = 'item'").select("key", "vector", "popular", F.unix_micros("as_of").alias("at"))
    packed = items.mapInArrow(partial(steps.pack_items, known=before, params=made), steps.COLUMNS)
    return packed.crossJoin(F.broadcast(state.sparkSession.range(tasks).withColumnRenamed("id", "part")))


def _stepped(inputs: list[DataFrame], tasks: int, step: Step) -> DataFrame:
    """The inputs together, all of a key in one task, put through a step; computed once, here."""
    kinds = dict(column.split() for column in steps.COLUMNS.split(", "))
    of_key = F.pmod(F.xxhash64("key"), F.lit(tasks)).cast("int")

    def shaped(frame: DataFrame) -> DataFrame:
        part = F.col("part").cast("int") if "part" in frame.columns else of_key
        cells = [F.col(n) if n in frame.columns else F.lit(None).cast(kind).alias(n) for n, kind in kinds.items()]
        return frame.select(part.alias("part"), *cells)

    whole = shaped(inputs[0])
    for frame in inputs[1:]:
        whole = whole.unionByName(shaped(frame))
    return whole.repartitionById(tasks, F.col("part")).drop("part").mapInArrow(step, steps.COLUMNS).localCheckpoint()
