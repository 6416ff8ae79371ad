"""FactorsSpec: vectors of users and items in one table, with one commit per batch (factors_batch.py)."""

from dataclasses import asdict, fields
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.delta_table import Table
from profilestream.base.queries import QueryInput, appended_rows
from profilestream.base.runner import Rows
from profilestream.base.settings import Factors, Settings
from profilestream.derive import fold_stage
from profilestream.learn import metrics
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.factors_batch import FactorsState, RankerSums
from profilestream.learn.factors.item_recommender import ItemRecommender
from profilestream.learn.factors.kernels import als_rows
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums
from profilestream.learn.kernels.arrays import IS_DELETED
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec, StateTables
from profilestream.learn.metrics import Evaluation, Metric
from profilestream.learn.promotion_gate import GateMetric
from profilestream.learn.publishing import Publication, PublishedState

RMSE = Metric(
    "rmse", "rating units", "ratings", "Root of the mean squared error of the predicted ratings; mode explicit only.",
    is_lower_better=True, can_gate=True,
)  # fmt: skip


class FactorsSpec(LearnerSpec):
    """Incremental matrix factorization (kernels/als.py), with neighbors of items and a blend of rankers."""

    name = "factors"
    metrics = (*metrics.RANKING, RMSE)
    state_tables = (tables.FACTORS,)
    history = tables.EVENTS

    @property
    def config(self) -> Factors:
        return self.settings.learn.factors

    @property
    def table(self) -> Table:
        """`factors`: one row per user, per item, and for the global sums."""
        return self.tables[0]

    @cached_property
    def params(self) -> AlsParams:
        """The parameters of the factorization in the settings."""
        names = {field.name for field in fields(AlsParams)}
        return AlsParams(**{name: value for name, value in self.config.parameters.items() if name in names})

    @property
    def other_inputs(self) -> dict[str, Any]:
        return {"event_weight": self.settings.derive.names["event_weight"]}

    def check(self, spark: SparkSession) -> None:
        fold_stage.declared_tables(self.settings)
        self.select(spark.createDataFrame([], tables.EVENTS.schema))

    def reads(self) -> QueryInput:
        max_files = self.settings.learn.max_files_per_trigger
        return appended_rows(tables.EVENTS, "capture_events", self.settings.paths, max_files)

    def select(self, frame: DataFrame) -> DataFrame:
        """Events with a user and an item, in the columns of als_rows.EVENT.

        Explicit: events with a finite rating, each with weight 1. Implicit: events whose type has a weight other
        than 0.
        """
        explicit = self.params.is_explicit
        weight = F.lit(1.0) if explicit else F.expr(self.settings.derive.names["event_weight"])
        columns = frame.where(F.col("user_id").isNotNull() & F.col("item_id").isNotNull()).select(
            "user_id",
            "item_id",
            weight.cast("float").cast("double").alias("weight"),
            (F.col("rating") if explicit else F.lit(None)).cast("float").cast("double").alias("rating"),
            F.unix_micros("event_time").alias("time_micros"),
            "category",
        )
        return columns.where("rating = rating AND abs(rating) < double('infinity')" if explicit else "weight != 0")

    def state(self, stored: StateTables[Rows], events: Rows | None = None) -> FactorsState[Rows]:
        """The stored state.

        Args:
            events: rows with als_rows.EVENT; other users may be left out.
        """
        users = None if events is None else self._keys(events)
        global_rows = runner.collected(stored.rows(self.table, side="global").select(["global_sums"]))
        return FactorsState(
            stored.rows(self.table, users, side="user").select(als_rows.USER.names),
            stored.rows(self.table, side="item").select(als_rows.ITEM.names),
            _global_sums(global_rows, self.params),
        )

    def _keys(self, events: Rows) -> Rows:
        return runner.with_constant(runner.renamed(events, {"user_id": "key"}), "side", "user")

    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        """Score and learn the events; full passes come first if they are due.

        The first batch gets full passes over its own events. Later, when the number of events has doubled, full passes
        run over all events before the batch. They wait for a batch that begins at a commit of `events`.
        """
        state = self.state(batch.stored, batch.rows)
        sums = state.global_sums
        with batch.phase("full pass"):
            if not sums.event_count and self.config.first_full_passes:
                state = factors_batch.fit_full_passes(state, batch.rows, self.config.first_full_passes, self.params)
                return self._learned(state, RankerSums(), sums)
            is_due = sums.event_count and sums.event_count >= 2 * sums.full_pass_events
            if is_due and self.config.full_passes and batch.history is not None:
                state = factors_batch.fit_full_passes(state, batch.history(), self.config.full_passes, self.params)
        change, ranker_sums = factors_batch.learn(state, batch.rows, self.params, batch.count, batch.phase)
        before = state.global_sums
        return self._learned(state.updated(change) if state.is_rebuilt else change, ranker_sums, before)

    def learn_again(self, batch: LearnerBatch[Rows]) -> Learned:
        state, passes = self.state(batch.stored), max(1, self.config.full_passes)
        state = factors_batch.fit_full_passes(state, batch.rows, passes, self.params)
        return self._learned(state, RankerSums(), state.global_sums)

    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """Subtract what the users added, with their current vectors; docs/learners.md has what remains."""
        state = self.state(stored)
        return self._learned(factors_batch.remove(state, keys, events, self.params), RankerSums(), state.global_sums)

    def _learned(self, change: FactorsState[Rows], ranker_sums: RankerSums, before: GlobalSums) -> Learned:
        values = {ranker: sums.metrics() for ranker, sums in ranker_sums.by_ranker.items()}
        evaluation = Evaluation(values, ranker_sums.times, before.as_of)
        sums = change.global_sums
        global_values = {
            "side": "global", "key": "all", "global_sums": als_rows.global_sums_to_bytes(sums), "as_of": sums.as_of,
        }  # fmt: skip
        users, items = (
            runner.with_constant(rows, "side", side) for side, rows in (("user", change.users), ("item", change.items))
        )
        global_row = self.state_rows(self.table, [global_values])
        if IS_DELETED in runner.column_names(users):
            global_row = runner.with_constant(global_row, IS_DELETED, False)
        rows = runner.union(users, items, global_row)
        return Learned({self.table.name: rows}, evaluation, change.is_rebuilt)

    @property
    def publication(self) -> Publication:
        """All rows of `factors`, compared by a metric of one ranker."""
        config = self.settings.learn.publish
        return Publication(
            stage=self.stage_name(),
            model_name=config.name,
            table=self.table,
            gate_metric=GateMetric(self.name, self.metric(config.metric), config.ranker, config),
            run_params=self.config.parameters,
            params=asdict(self.params),
            required_rows="user to whom an item can be recommended",
            state=_published_state,
            predictor=ItemRecommender,
            options={"ranker": config.ranker, "top_k": config.top_k},
        )


def read_state(spark: SparkSession, settings: Settings, version: int | None = None) -> FactorsState[DataFrame]:
    """The state in a version of `factors`; null: in the latest version."""
    spec = FactorsSpec(settings)
    return state_of(spec.table.read(spark, settings.paths, version=version), spec.params)


def state_of(rows: DataFrame, params: AlsParams) -> FactorsState[DataFrame]:
    """The state in rows of `factors`; empty without a global row."""
    users, items, global_rows = (rows.where(F.col("side") == side) for side in ("user", "item", "global"))
    sums = _global_sums(global_rows.select("global_sums").toArrow(), params)
    return FactorsState(users.select(*als_rows.USER.names), items.select(*als_rows.ITEM.names), sums)


def _global_sums(rows: pa.Table, params: AlsParams) -> GlobalSums:
    cells = rows["global_sums"].to_pylist()
    return als_rows.global_sums_from_bytes(cells[0], params.width) if cells else GlobalSums.zero(params.width)


def _published_state(rows: DataFrame, epoch: str) -> PublishedState | None:
    row = rows.where("side = 'global'").select("batch_id").first()
    items = rows.where("side = 'item'").count()
    has_other_items = f"side = 'user' AND size(array_distinct(item_ids)) < {items}"
    if row is None or rows.where(has_other_items).isEmpty():
        return None
    return PublishedState(rows, row["batch_id"], {"user_id": ["shop:1"]})
