"""learn_factors: user and item vectors that are updated with every micro-batch, in one table with one commit per batch.

A batch has two shuffles: first its users with their stored events, then the items that these users touched. Rows stay
on the executors; only the global sums (two Gram matrices and a few numbers) and the metrics are collected. The users'
step is `batch_delta` of learner.py, the shuffle is `merge`, and the items' step is `apply`. local_als.py runs the same
steps without Spark.
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
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import materialize
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import fold_stage
from profilestream.learn import als_rows, als_tasks, metrics
from profilestream.learn.als import AlsParams, GlobalSums
from profilestream.learn.evaluation_times import EvaluationTimes
from profilestream.learn.metrics_reporter import MetricsReporter
from profilestream.learn.ranking_metrics import RankingSums, sum_by_ranker
from profilestream.learn.sums import SumsT, total

STAGE, LEARNER = "learn_factors", "factors"
log = logging.getLogger(__name__)
# Settings of the evaluation and of the blend: no row of `factors` depends on them.
_RANKING_SETTINGS = ("eval_users", "popularity_weight", "category_weight", "neighbor_weight")
# Settings that change later rows of `factors` but are compatible with the rows that exist.
_COMPATIBLE_SETTINGS = (
    "full_passes",
    "first_full_passes",
    "reweighted_events",
    "max_events_per_user",
    "max_neighbors",
    "neighbor_history",
)
Step = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def als_params(settings: Settings) -> AlsParams:
    """The parameters of the factorization in the settings."""
    names = {field.name for field in fields(AlsParams)}
    values = settings.learn.factors.with_mode_defaults
    return AlsParams(**{name: value for name, value in values.items() if name in names})


def table(settings: Settings) -> Table:
    """`factors`, with the fingerprint of the settings that its rows depend on."""
    text = _settings_text(settings, without={*_RANKING_SETTINGS, *_COMPATIBLE_SETTINGS})
    return replace(tables.FACTORS, declaration=fingerprint(text))


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declared tables, and that Spark can analyze the event weights; writes nothing.

    Raises:
        BadSettings: a declaration is invalid.
    """
    if settings.learn.factors.enabled:
        fold_stage.declared_tables(settings)
        interactions(spark.createDataFrame([], tables.EVENTS.schema), settings)


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when the stage is not enabled."""
    if not settings.learn.factors.enabled:
        return []
    factors = table(settings)

    def versions(spark: SparkSession, checkpoint: Checkpoint, batch_id: int) -> dict[str, int]:
        events_version = checkpoint.last_complete_version(batch_id)
        of_events = {} if events_version is None else {tables.EVENTS.name: events_version}
        return commits.versions(spark, (factors,), settings.paths) | of_events

    def write(events: DataFrame, batch: Batch) -> BatchResult:
        with batch.cached(interactions(events, settings)) as (new, rows):
            version = batch.version_to_update(factors)  # in a retry, with the rows of a manual full pass
            state = read_state(batch.spark, settings, version)
            with batch.phase("full pass"):
                state, is_learned = _full_passes_if_due(state, new, batch, settings)
            update = learn_batch(new.limit(0) if is_learned else new, rows, state, batch, settings)
            batch.append(update.metric_rows, tables.MODEL_METRICS)
            count = None if is_learned else rows
            changed = commits.with_batch_columns(update.rows, factors, batch.txn)
            batch.merge(changed, factors, count=count, read_version=version)
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            STAGE,
            appended_rows(tables.EVENTS, "capture_events", settings.paths, settings.learn.max_files_per_trigger),
            (tables.MODEL_METRICS, factors),
            write,
            settings=_settings_text(settings),
            shared=(tables.MODEL_METRICS,),
            versions=versions,
            on_progress=MetricsReporter(settings, LEARNER, settings.learn.factors.with_mode_defaults),
        )
    ]


def _settings_text(settings: Settings, without: Set[str] = frozenset()) -> str:
    """All settings that change what is learned, as JSON."""
    values = settings.learn.factors.with_mode_defaults
    values = {name: value for name, value in values.items() if name not in without}
    return json.dumps({"factors": values, "event_weight": settings.derive.names["event_weight"]}, sort_keys=True)


def interactions(events: DataFrame, settings: Settings) -> DataFrame:
    """Events with a user and an item: user `key`, item `other_key`, `weight`, `rating`, `time_micros`, `category`.

    Explicit: events with a finite rating, each with weight 1. Implicit: events whose type has a weight other than 0.
    """
    explicit = settings.learn.factors.mode == "explicit"
    weight = F.lit(1.0) if explicit else F.expr(settings.derive.names["event_weight"])
    columns = events.where(F.col("user_id").isNotNull() & F.col("item_id").isNotNull()).select(
        F.col("user_id").alias("key"),
        F.col("item_id").alias("other_key"),
        weight.cast("float").cast("double").alias("weight"),
        (F.col("rating") if explicit else F.lit(None)).cast("float").cast("double").alias("rating"),
        F.unix_micros("event_time").alias("time_micros"),
        "category",
    )
    return columns.where("rating = rating AND abs(rating) < double('infinity')" if explicit else "weight != 0")


@dataclass(frozen=True)
class FactorsState:
    """The state of the learner.

    Args:
        rows: of `factors`, sides `user` and `item`.
        is_rebuilt: whether all rows were computed by a full pass and must all be written.
    """

    rows: DataFrame
    global_sums: GlobalSums
    is_rebuilt: bool = False


@dataclass(frozen=True)
class BatchUpdate:
    """What a batch writes.

    Args:
        rows: changed rows of `factors`.
        metric_rows: rows of `model_metrics`, evaluated with the state before the batch.
    """

    rows: DataFrame
    metric_rows: DataFrame


def read_state(spark: SparkSession, settings: Settings, version: int | None = None) -> FactorsState:
    """The state in a version of `factors`; null: in the latest version."""
    rows = table(settings).read(spark, settings.paths, version=version)
    width = als_params(settings).width
    row = rows.where("side = 'global'").select("global_sums").first()
    sums = GlobalSums.zero(width) if row is None else als_rows.global_sums_from_bytes(bytes(row["global_sums"]), width)
    return FactorsState(rows.where("side != 'global'"), sums)


def learn_batch(new: DataFrame, rows: int, state: FactorsState, batch: Batch, settings: Settings) -> BatchUpdate:
    """Evaluate the batch with the state before it, then learn it.

    Args:
        new: as `interactions` returns them.
        rows: their number, or more.
    """
    spark, params = batch.spark, als_params(settings)
    before = _with_mean_rating(state.global_sums, new, params)
    with batch.phase("users"):
        eval_share = _eval_share(new, rows, params) if before.as_of else 0.0
        users, collected = _update_users(state, new, before, params, eval_share=eval_share)
    after_users = total([before, *_sums(GlobalSums, collected, als_rows.CHANGE)], params.half_life_days)
    with batch.phase("items"):
        items, after = _update_items(state, users, after_users, params)
    changed = _updated_rows(users, items)
    if state.is_rebuilt:
        unchanged = state.rows.join(changed.select("side", "key"), ["side", "key"], "left_anti")
        changed = changed.unionByName(unchanged.select(*changed.columns))
    metric_rows = _metric_rows(spark, collected, before.as_of, batch.txn)
    return BatchUpdate(changed.unionByName(_global_row(spark, after), allowMissingColumns=True), metric_rows)


def fit_full_passes(state: FactorsState, events: DataFrame, passes: int, settings: Settings) -> FactorsState:
    """The state after `passes` full passes: each solves all users and then all items from all events.

    A full pass also uses events that were truncated from the users' history, and solves users again with the item
    vectors of later batches. The result is discarded with a warning if the vectors shrink to less than half of their
    size. That happens when the decayed sums become small in comparison with the regularization, which does not decay.

    Args:
        events: all events, as `interactions` returns them.
    """
    model, all_params = state, als_params(settings)
    for remaining in reversed(range(passes)):
        # Vectors do not depend on neighbors, so only the last pass computes neighbors.
        params = replace(all_params, max_neighbors=0) if remaining else all_params
        before = _with_mean_rating(model.global_sums, events, params)
        users, collected = _update_users(model, events, before, params, from_scratch=True)
        zero = replace(GlobalSums.zero(params.width), mean_rating=before.mean_rating)
        after_users = total([zero, *_sums(GlobalSums, collected, als_rows.CHANGE)], params.half_life_days)
        # Items are solved with the item count of the previous pass, then counted again.
        items, after = _update_items(None, users, replace(after_users, item_count=before.item_count), params)
        after = replace(after, item_count=after.item_count - before.item_count, full_pass_events=after.event_count)
        model = FactorsState(_updated_rows(users, items), after, is_rebuilt=True)
    if model.global_sums.has_shrunk_from(state.global_sums):
        size, size_before = (float(np.trace(one.global_sums.item_gram)) for one in (model, state))
        log.warning("full pass discarded: it shrank the item vectors from %.3g to %.3g", size_before, size)
        return replace(state, global_sums=replace(state.global_sums, full_pass_events=state.global_sums.event_count))
    return model


def _full_passes_if_due(
    state: FactorsState, new: DataFrame, batch: Batch, settings: Settings
) -> tuple[FactorsState, bool]:
    """The state with which a batch begins, and whether that state contains the batch.

    The first batch gets full passes over its own events. Later, when the number of events has doubled, full passes run
    over all events before the batch. They wait for a batch that begins at a commit of `events`: within a commit the
    learned events are not a version of the table.
    """
    config = settings.learn.factors
    sums = state.global_sums
    if not sums.event_count:
        if not config.first_full_passes:
            return state, False
        return fit_full_passes(state, new, config.first_full_passes, settings), True
    events_version = batch.plan.versions.get(tables.EVENTS.name)
    if events_version is None or not config.full_passes or sums.event_count < 2 * sums.full_pass_events:
        return state, False
    events = _interactions_until(batch.spark, events_version, settings)
    return fit_full_passes(state, events, config.full_passes, settings), False


def _interactions_until(spark: SparkSession, version: int, settings: Settings) -> DataFrame:
    """The interactions in a version of `events`."""
    return interactions(tables.EVENTS.read(spark, settings.paths, version=version), settings)


def run_full_passes(spark: SparkSession, settings: Settings) -> int:
    """Run full passes over all events that the stage has learned, and replace the state in one commit.

    Returns:
        The number of events.

    Raises:
        SourceMissing: nothing was learned yet.
        Refused: the last run ended within a commit of `events`.
    """
    factors = table(settings)
    checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, STAGE))
    last_batch = checkpoint.last_finished()
    if last_batch is None or not factors.exists(spark, settings.paths):
        raise SourceMissing("nothing was learned yet", where=checkpoint.path, do=f"run jobs/{STAGE}.py first")
    events_version = checkpoint.last_complete_version(last_batch + 1)
    if events_version is None:
        raise Refused(
            "the last run ended within a commit of events", where=checkpoint.path, do=f"run jobs/{STAGE}.py to its end"
        )
    with locks.hold_lock(settings.paths.lock_folder, STAGE):
        events = _interactions_until(spark, events_version, settings)
        passes = max(1, settings.learn.factors.full_passes)
        state = fit_full_passes(read_state(spark, settings), events, passes, settings)
        if state.is_rebuilt:
            rows = state.rows.unionByName(_global_row(spark, state.global_sums), allowMissingColumns=True)
            txn = Txn(f"full pass of {STAGE}", str(uuid.uuid4()), last_batch)
            commits.merge(commits.with_batch_columns(rows, factors, txn), factors, settings.paths, txn)
    return int(state.global_sums.event_count)


def _with_mean_rating(global_sums: GlobalSums, events: DataFrame, params: AlsParams) -> GlobalSums:
    """Explicit: with the mean rating of the first batch."""
    if not params.is_explicit or global_sums.mean_rating is not None:
        return global_sums
    row = events.agg(F.avg("rating")).first()
    return global_sums if row is None or row[0] is None else replace(global_sums, mean_rating=float(row[0]))


def _eval_share(events: DataFrame, rows: int, params: AlsParams) -> float:
    """Share of the users of a batch whose ranking is evaluated. The users of a batch with few rows are not counted."""
    if rows <= params.eval_users or not params.eval_users:
        return params.eval_share(rows)
    (row,) = events.agg(F.count_distinct("key")).collect()
    return params.eval_share(row[0])


def _update_users(
    state: FactorsState,
    events: DataFrame,
    before: GlobalSums,
    params: AlsParams,
    *,
    from_scratch: bool = False,
    eval_share: float = 0.0,
) -> tuple[DataFrame, list[Row]]:
    """The output of the users' step for the users of these events, and its rows that are collected.

    Args:
        from_scratch: ignore stored user rows and damaged items, as a full pass does.
        eval_share: share of the users whose ranking is evaluated.
    """
    tasks = task_count(events.sparkSession)
    items = packed_items(state.rows, tasks, before, params, skip_damaged=from_scratch)
    inputs = [events.withColumn("kind", F.lit(als_rows.NEW)), items]
    if not from_scratch:
        inputs.append(_touched_rows(state.rows, "user", events))
    step = partial(als_tasks.update_users, global_sums=before, params=params, eval_share=eval_share)
    users = run_step(inputs, tasks, step)
    return users, users.where(F.col("kind").isin(*als_rows.DRIVER_KINDS)).collect()


def _update_items(
    state: FactorsState | None, users: DataFrame, after_users: GlobalSums, params: AlsParams
) -> tuple[DataFrame, GlobalSums]:
    """The output of the items' step for the items with contributions, and the global sums after it.

    Args:
        state: null: items are solved from the contributions only, as in a full pass.
    """
    contributions = users.where(F.col("kind") == als_rows.CONTRIBUTION)
    inputs = [contributions.withColumn("kind", F.lit(als_rows.NEW))]
    if state is not None:
        inputs.append(_touched_rows(state.rows, "item", contributions))
    step = partial(als_tasks.update_items, global_sums=after_users, params=params)
    items = run_step(inputs, task_count(users.sparkSession), step)
    collected = items.where(F.col("kind") == als_rows.CHANGE).collect()
    return items, sum(_sums(GlobalSums, collected, als_rows.CHANGE), after_users)


def _updated_rows(users: DataFrame, items: DataFrame) -> DataFrame:
    """The updated rows of both steps, in the columns of `factors`."""
    sides = [
        frame.where(F.col("kind") == als_rows.UPDATED).withColumns(
            {"side": F.lit(side), "as_of": F.timestamp_micros("time_micros")}
        )
        for side, frame in (("user", users), ("item", items))
    ]
    return sides[0].unionByName(sides[1]).drop("kind", "time_micros", "other_key", "weight", "rating", "payload")


def _global_row(spark: SparkSession, global_sums: GlobalSums) -> DataFrame:
    return spark.range(1).select(
        F.lit("global").alias("side"),
        F.lit("all").alias("key"),
        F.lit(als_rows.global_sums_to_bytes(global_sums)).alias("global_sums"),
        F.timestamp_micros(F.lit(global_sums.as_of)).alias("as_of"),
    )


def _metric_rows(spark: SparkSession, collected: list[Row], as_of: int, txn: Txn) -> DataFrame:
    """Rows of `model_metrics`: every metric of every ranker; none before the first state.

    Args:
        as_of: newest event time of the state before the batch, microseconds since 1970.
    """
    rankers = [row["key"] for row in collected if row["kind"] == als_rows.EVALUATION]
    by_ranker = sum_by_ranker(zip(rankers, _sums(RankingSums, collected, als_rows.EVALUATION), strict=True))
    times = _sums(EvaluationTimes, collected, als_rows.EVALUATION_TIMES)
    values = {ranker: sums.metrics() for ranker, sums in by_ranker.items()}
    return metrics.metric_rows(spark, LEARNER, values, as_of, sum(times, EvaluationTimes()) if times else None, txn)


def _sums(cls: type[SumsT], collected: list[Row], kind: int) -> list[SumsT]:
    return [cls.from_cell(row["payload"]) for row in collected if row["kind"] == kind]


def _touched_rows(state: DataFrame, side: str, changes: DataFrame) -> DataFrame:
    """State rows of one side whose key occurs in the changes, as input of a step."""
    keys = F.broadcast(changes.select("key").distinct())
    rows = state.where(F.col("side") == side).join(keys, "key", "left_semi")
    return rows.withColumns({"kind": F.lit(als_rows.STATE), "time_micros": F.unix_micros("as_of")}).drop(
        "side", "as_of"
    )


def packed_items(
    state: DataFrame, tasks: int, global_sums: GlobalSums, params: AlsParams, *, skip_damaged: bool = False
) -> DataFrame:
    """All items, packed into a few rows, with one copy of these rows for each task."""
    names = ("key", "vector", "decayed_weight", "popularity", "category", "item_ids", "item_weights", "event_times")
    items = state.where("side = 'item'").select(*names, F.unix_micros("as_of").alias("time_micros"))
    pack = partial(als_tasks.pack_items, global_sums=global_sums, params=params, skip_damaged=skip_damaged)
    packed = items.mapInArrow(pack, als_rows.COLUMNS)
    return packed.crossJoin(F.broadcast(state.sparkSession.range(tasks).withColumnRenamed("id", "part")))


def task_count(spark: SparkSession) -> int:
    """The number of tasks of a step: the shuffle partitions of the session."""
    return int(str(spark.conf.get("spark.sql.shuffle.partitions")))


def run_step(inputs: list[DataFrame], tasks: int, step: Step, columns: str = als_rows.COLUMNS) -> DataFrame:
    """The output of a step, materialized; all input rows of a key are in one task.

    Args:
        inputs: frames with some of als_rows.COLUMNS. A column `part` contains the task of the row; without it the task
            is a hash of the key.
        columns: of the output, as DDL.
    """
    types = dict(column.split() for column in als_rows.COLUMNS.split(", "))
    by_key = F.pmod(F.xxhash64("key"), F.lit(tasks)).cast("int")

    def with_all_columns(frame: DataFrame) -> DataFrame:
        part = F.col("part").cast("int") if "part" in frame.columns else by_key
        cells = [F.col(n) if n in frame.columns else F.lit(None).cast(kind).alias(n) for n, kind in types.items()]
        return frame.select(part.alias("part"), *cells)

    rows = with_all_columns(inputs[0])
    for frame in inputs[1:]:
        rows = rows.unionByName(with_all_columns(frame))
    return materialize(rows.repartitionById(tasks, F.col("part")).drop("part").mapInArrow(step, columns))
