"""learn_factors: vectors of users and items that move with every micro-batch, kept in one table, one commit a batch.

A batch is two shuffles: its users with their kept events, then the items that they touched with what they are told.
Rows never come to the driver; the globals (two Gram matrices and a few numbers) do. The verbs of learner.py are the
users' step (batch_delta), the shuffle (merge), and the items' step with the globals (apply); memory.py has them without
Spark.
"""

import json
import logging
import uuid
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks, tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import frame_of_dicts, materialize
from profilestream.base.settings import Settings, fingerprint
from profilestream.base.tables import Table
from profilestream.derive import fold_stage
from profilestream.learn import als_tasks, tracking
from profilestream.learn.als import Globals, Params
from profilestream.learn.ranking_metrics import Sums, together

STAGE, LEARNER = "learn_factors", "factors"
log = logging.getLogger(__name__)
# These change no row of `factors`.
_JUDGING = ("eval_users", "popularity_share", "category_share", "neighbor_share")
# These change how rows come to be, but rows of both kinds go together.
_COURSE = (
    "full_passes",
    "first_full_passes",
    "reweighted_events",
    "max_events_per_user",
    "neighbors",
    "neighbor_history",
)
Step = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def params(settings: Settings) -> Params:
    """What the settings say of the factorization."""
    names = {field.name for field in fields(Params)}
    return Params(**{name: value for name, value in settings.learn.factors.known.items() if name in names})


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
            ratings BINARY,
            tail DOUBLE,
            equations BINARY,
            counted DOUBLE,
            popular DOUBLE,
            category STRING,
            as_of TIMESTAMP NOT NULL,
            epoch STRING NOT NULL,
            batch_id BIGINT NOT NULL
        """,
        key=("side", "key"),
        partitioned_by=("side",),
        properties={"delta.enableDeletionVectors": "true", "delta.dataSkippingStatsColumns": "key"},
        declaration=fingerprint(_said(settings, without={*_JUDGING, *_COURSE})),
    )


def check(spark: SparkSession, settings: Settings) -> None:
    """Check that no declared table has the name of this one, and that events can be rated; writes nothing.

    Raises:
        BadSettings: one has.
    """
    if settings.learn.factors.enabled:
        fold_stage.check_names(STAGE, (table(settings),), settings)
        rated(spark.createDataFrame([], tables.EVENTS.schema), settings)


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when it is not enabled."""
    if not settings.learn.factors.enabled:
        return []
    factors = table(settings)

    def versions(spark: SparkSession, checkpoint: Checkpoint, batch_id: int) -> dict[str, int]:
        whole = checkpoint.whole_version(batch_id)
        seen = {} if whole is None else {tables.EVENTS.name: whole}
        return {factors.name: commits.version(spark, factors, settings.paths), **seen}

    def write(events: DataFrame, batch: Batch) -> BatchResult:
        known = rated(events, settings)
        with batch.cached(known) as rows:
            state = read(batch.spark, settings, batch.plan.versions[factors.name])
            with batch.phase("sweep"):
                state, is_learned = _swept_when_due(state, known, batch, settings)
            learned = learn(known.limit(0) if is_learned else known, state, batch, settings)
            batch.append(learned.quality, tables.MODEL_METRICS)
            batch.merge(commits.stamped(learned.rows, factors, batch.txn), factors)
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            STAGE,
            appended_rows(tables.EVENTS, "capture_events", settings.paths, settings.learn.max_files_per_trigger),
            (tables.MODEL_METRICS, factors),
            write,
            settings=_said(settings),
            shared=(tables.MODEL_METRICS,),
            versions=versions,
            on_progress=tracking.MetricsReporter(settings, LEARNER, settings.learn.factors.known),
        )
    ]


def _said(settings: Settings, without: Set[str] = frozenset()) -> str:
    """All that changes what is learned, in readable form."""
    made = {name: value for name, value in settings.learn.factors.known.items() if name not in without}
    return json.dumps({"factors": made, "event_weight": settings.derive.names["event_weight"]}, sort_keys=True)


def rated(events: DataFrame, settings: Settings) -> DataFrame:
    """What users think of items: user `key`, item `other`, `weight`, `rating`, `at` in microseconds, `category`.

    Explicit: those with a rating, each of weight 1. Implicit: those whose type has a weight.
    """
    explicit = settings.learn.factors.mode == "explicit"
    weight = F.lit(1.0) if explicit else F.expr(settings.derive.names["event_weight"])
    said = events.where(F.col("user_id").isNotNull() & F.col("item_id").isNotNull()).select(
        F.col("user_id").alias("key"),
        F.col("item_id").alias("other"),
        weight.cast("float").cast("double").alias("weight"),
        (F.col("rating") if explicit else F.lit(None)).cast("float").cast("double").alias("rating"),
        F.unix_micros("event_time").alias("at"),
        "category",
    )
    return said.where("rating = rating AND abs(rating) < double('infinity')" if explicit else "weight != 0")


@dataclass(frozen=True)
class State:
    """All that was learned.

    Args:
        rows: of `factors`, sides user and item.
        is_new: whether all rows must be written: a sweep learned them anew.
    """

    rows: DataFrame
    known: Globals
    is_new: bool = False


@dataclass(frozen=True)
class Learned:
    """What a batch gives.

    Args:
        rows: of `factors` that it changes.
        quality: rows of `model_metrics`, judged by the state before it.
    """

    rows: DataFrame
    quality: DataFrame


def read(spark: SparkSession, settings: Settings, version: int | None = None) -> State:
    """What was learned, as of a version of `factors`."""
    rows = table(settings).read(spark, settings.paths, version=version)
    made = params(settings)
    row = rows.where("side = 'global'").select("equations").first()
    known = Globals.zero(made.width) if row is None else als_tasks.globals_of(bytes(row["equations"]), made.width)
    return State(rows.where("side != 'global'"), known)


def learn(known: DataFrame, state: State, batch: Batch, settings: Settings) -> Learned:
    """Judge the batch by the state before it, then learn from it."""
    spark, made = batch.spark, params(settings)
    before = _with_mean(state.known, known, made)
    with batch.phase("users"):
        users, small = _users(state, known, before, made)
    gone, came = (_shares(small, kind, made) for kind in (als_tasks.GONE, als_tasks.CAME))
    after_users = als_tasks.moved(before, gone, came, made)
    with batch.phase("items"):
        items, after = _items(state, users, after_users, made)
    changed = _rows_of_sides(users, items)
    if state.is_new:
        others = state.rows.join(changed.select("side", "key"), ["side", "key"], "left_anti")
        changed = changed.unionByName(others.select(*changed.columns))
    quality = commits.stamped(_quality(spark, small, before.now), tables.MODEL_METRICS, batch.txn)
    return Learned(changed.unionByName(_global_row(spark, after), allowMissingColumns=True), quality)


def swept(state: State, known: DataFrame, times: int, settings: Settings) -> State:
    """All users, then all items, solved anew from all events (as `rated` gives them), so many times.

    What history no longer holds is heard again, and items that were solved early hear of what came later. A sweep that
    makes the vectors shrink to half (sums that decay against a pull that does not) is thrown away.
    """
    whole, found = replace(params(settings), eval_users=0), state
    for left in reversed(range(times)):
        # No vector depends on neighbors, so they are looked for in the last sweep only.
        made = replace(whole, neighbors=0) if left else whole
        before = _with_mean(found.known, known, made)
        users, small = _users(found, known, before, made, from_nothing=True)
        fresh = replace(Globals.zero(made.width), mean=before.mean)
        after_users = als_tasks.moved(fresh, [], _shares(small, als_tasks.CAME, made), made)
        items, after = _items(None, users, replace(after_users, items=before.items), made)
        after = replace(after, items=after.items - before.items, swept=after.events)
        found = State(_rows_of_sides(users, items), after, is_new=True)
    if found.known.has_shrunk_from(state.known):
        trace, was = (float(np.trace(one.known.gram_items)) for one in (found, state))
        log.warning("a sweep was thrown away: it shrank the item vectors from %.3g to %.3g", was, trace)
        return replace(state, known=replace(state.known, swept=state.known.events))
    return found


def _swept_when_due(state: State, known: DataFrame, batch: Batch, settings: Settings) -> tuple[State, bool]:
    """The state that a batch begins with, and whether the batch is learned already.

    The first batch is swept over by itself. Later, when the events have doubled, all events before the batch are, if it
    begins with a commit of `events`: of a commit that came in parts one cannot tell what was learned.
    """
    made = settings.learn.factors
    if not state.known.events:
        return (
            (swept(state, known, made.first_full_passes, settings), True) if made.first_full_passes else (state, False)
        )
    whole = batch.plan.versions.get(tables.EVENTS.name)
    if whole is None or not made.full_passes or state.known.events < 2 * state.known.swept:
        return state, False
    return swept(state, _log(batch.spark, whole, settings), made.full_passes, settings), False


def _log(spark: SparkSession, version: int, settings: Settings) -> DataFrame:
    """What all events up to a version of `events` say."""
    return rated(tables.EVENTS.read(spark, settings.paths, version=version), settings)


def full_pass_now(spark: SparkSession, settings: Settings) -> int:
    """Sweep over all events that the stage has taken, and put the result in place, in one commit.

    Returns:
        The number of events that were swept over.

    Raises:
        SourceMissing: nothing was learned yet.
        Refused: the last run ended within a commit of `events`.
    """
    factors = table(settings)
    checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, STAGE))
    last = checkpoint.last_finished()
    if last is None or not factors.exists(spark, settings.paths):
        raise SourceMissing("nothing was learned yet", where=checkpoint.path, do=f"run jobs/{STAGE}.py first")
    whole = checkpoint.whole_version(last + 1)
    if whole is None:
        raise Refused(
            "the last run ended within a commit of events", where=checkpoint.path, do=f"run jobs/{STAGE}.py to its end"
        )
    with locks.held(settings.paths.lock_folder, STAGE):
        state = read(spark, settings)
        found = swept(state, _log(spark, whole, settings), max(1, settings.learn.factors.full_passes), settings)
        if found.is_new:
            rows = found.rows.unionByName(_global_row(spark, found.known), allowMissingColumns=True)
            txn = Txn(f"sweep of {STAGE}", str(uuid.uuid4()), last)
            commits.merge(commits.stamped(rows, factors, txn), factors, settings.paths, txn)
    return int(found.known.events)


def _with_mean(known: Globals, events: DataFrame, made: Params) -> Globals:
    """Explicit: with the mean rating of the first batch."""
    if not made.is_explicit or known.mean is not None:
        return known
    row = events.agg(F.avg("rating")).first()
    return known if row is None or row[0] is None else replace(known, mean=float(row[0]))


def _users(
    state: State, known: DataFrame, before: Globals, made: Params, *, from_nothing: bool = False
) -> tuple[DataFrame, list[Row]]:
    """What the users' step says of the events' users, and its rows that come to the driver."""
    count = tasks(known.sparkSession)
    items = catalogue(state.rows, count, before, made, mend=from_nothing)
    inputs = [known.withColumn("kind", F.lit(als_tasks.NEW)), items]
    if not from_nothing:
        inputs.append(_rows_of(state.rows, "user", known))
    users = stepped(inputs, count, partial(als_tasks.users, known=before, params=made))
    return users, users.where(F.col("kind").isin(als_tasks.GONE, als_tasks.CAME, als_tasks.JUDGED)).collect()


def _items(state: State | None, users: DataFrame, after_users: Globals, made: Params) -> tuple[DataFrame, Globals]:
    """What the items' step says of the items that were told something, and the globals after it."""
    told = users.where(F.col("kind") == als_tasks.CONTRIBUTION)
    inputs = [told.withColumn("kind", F.lit(als_tasks.NEW))]
    if state is not None:
        inputs.append(_rows_of(state.rows, "item", told))
    items = stepped(inputs, tasks(users.sparkSession), partial(als_tasks.items, known=after_users, params=made))
    came = _shares(items.where(F.col("kind") == als_tasks.CAME).collect(), als_tasks.CAME, made)
    return items, sum(came, after_users)


def _rows_of_sides(users: DataFrame, items: DataFrame) -> DataFrame:
    sides = [
        frame.where(F.col("kind") == als_tasks.ROW).withColumns(
            {"side": F.lit(side), "as_of": F.timestamp_micros("at")}
        )
        for side, frame in (("user", users), ("item", items))
    ]
    return sides[0].unionByName(sides[1]).drop("kind", "at", "other", "weight", "rating")


def _global_row(spark: SparkSession, known: Globals) -> DataFrame:
    return spark.range(1).select(
        F.lit("global").alias("side"),
        F.lit("all").alias("key"),
        F.lit(als_tasks.globals_as_bytes(known)).alias("equations"),
        F.timestamp_micros(F.lit(known.now)).alias("as_of"),
    )


def _quality(spark: SparkSession, small: list[Row], as_of: int) -> DataFrame:
    """A row a ranker; none when nobody could be judged."""
    judged = [row for row in small if row["kind"] == als_tasks.JUDGED]
    found = together((row["key"], Sums.of_bytes(row["weights"], row["times"])) for row in judged)
    values = [{"ranker": name, **sums.means()} for name, sums in sorted(found.items())]
    own = {"learner": F.lit(LEARNER), "as_of": F.timestamp_micros(F.lit(as_of))}
    return frame_of_dicts(spark, values, tables.MODEL_METRICS.schema).withColumns(own)


def _shares(small: list[Row], kind: int, made: Params) -> list[Globals]:
    return [als_tasks.globals_of(bytes(row["equations"]), made.width) for row in small if row["kind"] == kind]


def _rows_of(state: DataFrame, side: str, touched: DataFrame) -> DataFrame:
    """Rows of a side of the state whose keys stand in the batch."""
    keys = F.broadcast(touched.select("key").distinct())
    rows = state.where(F.col("side") == side).join(keys, "key", "left_semi")
    return rows.withColumns({"kind": F.lit(als_tasks.STATE), "at": F.unix_micros("as_of")}).drop("side", "as_of")


def catalogue(state: DataFrame, copies: int, before: Globals, made: Params, *, mend: bool = False) -> DataFrame:
    """All items, packed into a few rows, once for each of so many tasks."""
    names = ("key", "vector", "counted", "popular", "category", "others", "weights", "times")
    items = state.where("side = 'item'").select(*names, F.unix_micros("as_of").alias("at"))
    packed = items.mapInArrow(partial(als_tasks.pack_items, known=before, params=made, mend=mend), als_tasks.COLUMNS)
    return packed.crossJoin(F.broadcast(state.sparkSession.range(copies).withColumnRenamed("id", "part")))


def tasks(spark: SparkSession) -> int:
    """How many tasks a step has."""
    return int(str(spark.conf.get("spark.sql.shuffle.partitions")))


def stepped(inputs: list[DataFrame], count: int, step: Step, columns: str = als_tasks.COLUMNS) -> DataFrame:
    """The inputs together, all of a key in one of so many tasks, put through a step; computed once, here."""
    kinds = dict(column.split() for column in als_tasks.COLUMNS.split(", "))
    of_key = F.pmod(F.xxhash64("key"), F.lit(count)).cast("int")

    def shaped(frame: DataFrame) -> DataFrame:
        part = F.col("part").cast("int") if "part" in frame.columns else of_key
        cells = [F.col(n) if n in frame.columns else F.lit(None).cast(kind).alias(n) for n, kind in kinds.items()]
        return frame.select(part.alias("part"), *cells)

    whole = shaped(inputs[0])
    for frame in inputs[1:]:
        whole = whole.unionByName(shaped(frame))
    return materialize(whole.repartitionById(count, F.col("part")).drop("part").mapInArrow(step, columns))
