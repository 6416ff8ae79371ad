"""FactorsSpec: vectors of users and items in one table, with one commit per batch (factors_batch.py)."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Generic

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.delta_table import Table
from profilestream.base.language import message
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
from profilestream.learn.publication import Publication, PublishedState

RMSE = Metric(
    "rmse", message("rating units"), "ratings",
    "Root of the mean squared error of the predicted ratings; mode explicit only.",
    is_lower_better=True, can_gate=True,
)  # fmt: skip


class FactorsSpec(LearnerSpec):
    """Incremental matrix factorization (kernels/als.py), with neighbors of items and a blend of rankers."""

    name = "factors"
    metrics = (*metrics.RANKING, RMSE)
    state_tables = (tables.FACTORS,)
    history = tables.EVENTS
    limits = (
        message("A user without events in the learned data gets popular items only."),
        message("An item without events is never recommended."),
        message("The evaluation counts items that the user did not have before; repeated purchases are not measured."),
        message(
            "Recall measures what users chose from what they were shown, so items that were never shown have no chance."
        ),
    )

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
        return self.config.params_of(AlsParams)

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

    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        """Score and learn the events; full passes come first if they are due.

        The first batch gets full passes over its own events. Later, when the number of events has doubled, full passes
        run over all events before the batch. They wait for a batch that begins at a commit of `events`.
        """
        stored, sums, config = FactorsRows(batch.stored, self.table), self.global_sums(batch.stored), self.config
        rebuilt: FactorsState[Rows] | None = None
        with batch.phase("full pass"):
            if not sums.event_count and config.first_full_passes:
                passes = config.first_full_passes
                rebuilt = factors_batch.fit_full_passes(stored, sums, batch.rows, passes, self.params)
                assert rebuilt is not None  # there were no vectors that could shrink
                return self._learned(rebuilt, RankerSums(), sums, is_rebuilt=True)
            if batch.history is not None and self._has_doubled(sums):
                events = batch.history()
                rebuilt = factors_batch.fit_full_passes(stored, sums, events, config.full_passes, self.params)
                sums = replace(sums, full_pass_events=sums.event_count) if rebuilt is None else rebuilt.global_sums
        change, ranker_sums = factors_batch.learn(
            rebuilt or stored, sums, batch.rows, self.params, batch.count, batch.phase
        )
        after = change if rebuilt is None else rebuilt.updated(change)
        return self._learned(after, ranker_sums, sums, is_rebuilt=rebuilt is not None)

    def needs_history(self, stored: StateTables[Rows]) -> bool:
        return self._has_doubled(self.global_sums(stored))

    def _has_doubled(self, sums: GlobalSums) -> bool:
        """Whether the number of events has doubled since the last full passes, if there are any."""
        return bool(self.config.full_passes and sums.event_count and sums.event_count >= 2 * sums.full_pass_events)

    def learn_again(self, batch: LearnerBatch[Rows]) -> Learned | None:
        stored, sums = FactorsRows(batch.stored, self.table), self.global_sums(batch.stored)
        passes = max(1, self.config.full_passes)
        rebuilt = factors_batch.fit_full_passes(stored, sums, batch.rows, passes, self.params)
        return None if rebuilt is None else self._learned(rebuilt, RankerSums(), sums, is_rebuilt=True)

    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """Subtract what the users added, with their current vectors; docs/learners.md has what remains."""
        sums, users = self.global_sums(stored), FactorsRows(stored, self.table).users_of(keys)
        items = stored.rows(self.table, als_rows.ITEM.names, side="item")
        change = factors_batch.remove(FactorsState(users, items, sums), events, self.params)
        return self._learned(change, RankerSums(), sums, is_rebuilt=False)

    def global_sums(self, stored: StateTables[Rows]) -> GlobalSums:
        """The stored sums over all users and items."""
        return _global_sums(runner.collected(stored.rows(self.table, ["global_sums"], side="global")), self.params)

    def _learned(
        self, change: FactorsState[Rows], ranker_sums: RankerSums, before: GlobalSums, *, is_rebuilt: bool
    ) -> Learned:
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
        return Learned({self.table.name: rows}, evaluation, is_rebuilt)

    @property
    def publication(self) -> Publication:
        """All rows of `factors`, compared by a metric of one ranker."""
        config = self.settings.learn.publish
        return Publication(
            stage=self.stage_name(),
            model_name=config.name,
            table=self.table,
            gate_metric=GateMetric(self.name, self.metric(config.metric), config.ranker, config),
            metrics=self.metrics,
            limits=self.limits,
            run_params=self.config.parameters,
            params=asdict(self.params),
            required_rows="user to whom an item can be recommended",
            state=self._published_state,
            predictor=ItemRecommender,
            numbers=("vector",),
            options={"ranker": config.ranker, "top_k": config.top_k},
        )

    def _published_state(self, rows: DataFrame, epoch: str) -> PublishedState | None:
        row = rows.where("side = 'global'").select("batch_id", "global_sums").first()
        items = rows.where("side = 'item'").count()
        has_other_items = f"side = 'user' AND size(array_distinct(item_ids)) < {items}"
        if row is None or rows.where(has_other_items).isEmpty():
            return None
        sums = als_rows.global_sums_from_bytes(bytes(row["global_sums"]), self.params.width)
        learned = self.select(tables.EVENTS.read(rows.sparkSession, self.settings.paths))
        (oldest,) = learned.agg(F.min("time_micros")).collect()[0]
        example = {"user_id": ["shop:1"]}
        return PublishedState(rows, row["batch_id"], example, int(sums.event_count), oldest or 0, sums.as_of)


@dataclass(frozen=True)
class FactorsRows(Generic[Rows]):
    """The rows of `factors` before a batch, as factors_batch.StoredFactors."""

    stored: StateTables[Rows]
    table: Table

    def users_of(self, events: Rows) -> Rows:
        """Rows of the users of events."""
        keys = runner.renamed(events, {"user_id": "key"})
        return self.stored.rows(self.table, als_rows.USER.names, keys, side="user")

    def items_of(self, contributions: Rows) -> Rows:
        """Rows of the items of contributions."""
        keys = runner.renamed(contributions, {"item_id": "key"})
        return self.stored.rows(self.table, als_rows.ITEM.names, keys, side="item")

    def scored_items(self) -> Rows:
        """All items."""
        return self.stored.rows(self.table, als_rows.SCORED_ITEM.names, side="item")


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
