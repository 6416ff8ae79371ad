"""learn_factors: user and item vectors that are updated with every micro-batch, in one table with one commit per batch.

factors_batch.py computes a batch, with two shuffles: of its users with their stored events, and of their items.
"""

import json
import uuid
from collections.abc import Set
from dataclasses import fields, replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks, tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import fold_stage
from profilestream.learn import metrics
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.factors_batch import Evaluation, FactorsState
from profilestream.learn.factors.kernels import als_rows
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums
from profilestream.learn.metrics_reporter import MetricsReporter

STAGE, LEARNER = "learn_factors", "factors"
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
    factors, params = table(settings), als_params(settings)

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
            change, evaluation = state, Evaluation()
            if not is_learned:
                change, evaluation = factors_batch.learn(state, new, params, rows, batch.phase)
            metric_rows = _metric_rows(batch.spark, evaluation, state.global_sums.as_of, batch.txn)
            batch.append(metric_rows, tables.MODEL_METRICS)
            if state.is_rebuilt and not is_learned:
                change = state.updated(change)
            changed = commits.with_batch_columns(changed_rows(batch.spark, change), factors, batch.txn)
            batch.merge(changed, factors, count=None if state.is_rebuilt else rows, read_version=version)
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
    """Events with a user and an item, in the columns of als_rows.EVENT.

    Explicit: events with a finite rating, each with weight 1. Implicit: events whose type has a weight other than 0.
    """
    explicit = settings.learn.factors.mode == "explicit"
    weight = F.lit(1.0) if explicit else F.expr(settings.derive.names["event_weight"])
    columns = events.where(F.col("user_id").isNotNull() & F.col("item_id").isNotNull()).select(
        "user_id",
        "item_id",
        weight.cast("float").cast("double").alias("weight"),
        (F.col("rating") if explicit else F.lit(None)).cast("float").cast("double").alias("rating"),
        F.unix_micros("event_time").alias("time_micros"),
        "category",
    )
    return columns.where("rating = rating AND abs(rating) < double('infinity')" if explicit else "weight != 0")


def read_state(spark: SparkSession, settings: Settings, version: int | None = None) -> FactorsState[DataFrame]:
    """The state in a version of `factors`; null: in the latest version."""
    rows = table(settings).read(spark, settings.paths, version=version)
    return state_of(rows, als_params(settings))


def state_of(rows: DataFrame, params: AlsParams) -> FactorsState[DataFrame]:
    """The state in rows of `factors`; empty without a global row."""
    row = rows.where("side = 'global'").select("global_sums").first()
    sums = GlobalSums.zero(params.width)
    if row is not None:
        sums = als_rows.global_sums_from_bytes(bytes(row["global_sums"]), params.width)
    users, items = (
        rows.where(F.col("side") == side).select(*schema.names)
        for side, schema in (("user", als_rows.USER), ("item", als_rows.ITEM))
    )
    return FactorsState(users, items, sums)


def _full_passes_if_due(
    state: FactorsState[DataFrame], new: DataFrame, batch: Batch, settings: Settings
) -> tuple[FactorsState[DataFrame], bool]:
    """The state with which a batch begins, and whether that state contains the batch.

    The first batch gets full passes over its own events. Later, when the number of events has doubled, full passes run
    over all events before the batch. They wait for a batch that begins at a commit of `events`: within a commit the
    learned events are not a version of the table.
    """
    config, params = settings.learn.factors, als_params(settings)
    sums = state.global_sums
    if not sums.event_count:
        if not config.first_full_passes:
            return state, False
        return factors_batch.fit_full_passes(state, new, config.first_full_passes, params), True
    events_version = batch.plan.versions.get(tables.EVENTS.name)
    if events_version is None or not config.full_passes or sums.event_count < 2 * sums.full_pass_events:
        return state, False
    events = _interactions_until(batch.spark, events_version, settings)
    return factors_batch.fit_full_passes(state, events, config.full_passes, params), False


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
        state = factors_batch.fit_full_passes(read_state(spark, settings), events, passes, als_params(settings))
        if state.is_rebuilt:
            rows = changed_rows(spark, state)
            txn = Txn(f"full pass of {STAGE}", str(uuid.uuid4()), last_batch)
            commits.merge(commits.with_batch_columns(rows, factors, txn), factors, settings.paths, txn)
    return int(state.global_sums.event_count)


def changed_rows(spark: SparkSession, change: FactorsState[DataFrame]) -> DataFrame:
    """The rows of a change in the columns of `factors`, with the global row."""
    sides = [rows.withColumn("side", F.lit(side)) for side, rows in (("user", change.users), ("item", change.items))]
    rows = sides[0].unionByName(sides[1], allowMissingColumns=True)
    return rows.unionByName(_global_row(spark, change.global_sums), allowMissingColumns=True)


def _global_row(spark: SparkSession, global_sums: GlobalSums) -> DataFrame:
    return spark.range(1).select(
        F.lit("global").alias("side"),
        F.lit("all").alias("key"),
        F.lit(als_rows.global_sums_to_bytes(global_sums)).alias("global_sums"),
        F.timestamp_micros(F.lit(global_sums.as_of)).alias("as_of"),
    )


def _metric_rows(spark: SparkSession, evaluation: Evaluation, as_of: int, txn: Txn) -> DataFrame:
    """Rows of `model_metrics`: every metric of every ranker; none before the first state.

    Args:
        as_of: newest event time of the state before the batch, microseconds since 1970.
    """
    values = {ranker: sums.metrics() for ranker, sums in evaluation.by_ranker.items()}
    return metrics.metric_rows(spark, LEARNER, values, as_of, evaluation.times, txn)
