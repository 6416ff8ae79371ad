"""RankersSpec: decayed counts of baskets in one table, with one commit per batch (rankers_batch.py)."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.language import message
from profilestream.base.queries import QueryInput, appended_rows
from profilestream.base.runner import Rows
from profilestream.base.settings import Rankers
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec, StateTables
from profilestream.learn.metrics import SHARE, Evaluation, Metric
from profilestream.learn.promotion_gate import GateMetric
from profilestream.learn.publication import Publication, PublishedState
from profilestream.learn.rankers import rankers_batch
from profilestream.learn.rankers.basket_recommender import BasketRecommender
from profilestream.learn.rankers.kernels.basket_evaluation import METRICS
from profilestream.learn.rankers.kernels.basket_rows import BLEND, ITEM, USER, RankerParams
from profilestream.learn.rankers.kernels.blend import BlendState

_RANKED_ITEMS = {
    "basket": "all items in the first basket that a user starts in the batch",
    "repeat": "the earlier bought items in the first basket that a user starts in the batch",
    "new": "the items that the user never bought before in the first basket that a user starts in the batch",
    "next_item": "the last items of the first baskets that users start in the batch",
}
_DEFINITIONS = {
    "recall": "Share of {} that are among the first 10 ranked.",
    "ndcg": "Discounted gain of the first 10 ranked, divided by that of the best order, for {}.",
}


def _metric(name: str) -> Metric:
    """From a name such as `basket_recall_10`."""
    kind, measure, _ = name.rsplit("_", 2)
    return Metric(name, SHARE, "users", _DEFINITIONS[measure].format(_RANKED_ITEMS[kind]))


class RankersSpec(LearnerSpec):
    """Own counts, transitions between baskets, rules in sessions, and popularity (kernels/count_rankers.py)."""

    name = "rankers"
    metrics = tuple(_metric(name) for name in METRICS)
    state_tables = (tables.BASKET_COUNTS,)
    limits = (
        message("Quantities and prices are not used, and returns do not reduce a count."),
        message("The weights of the blend depend on the split into batches."),
    )

    @property
    def config(self) -> Rankers:
        return self.settings.learn.rankers

    @property
    def params(self) -> RankerParams:
        """The parameters of the counts in the settings."""
        return self.config.params_of(RankerParams)

    def check(self, spark: SparkSession) -> None:
        """All settings are checked when they are read."""

    def reads(self) -> QueryInput:
        max_files = self.settings.learn.max_files_per_trigger
        return appended_rows(tables.EVENTS, "capture_events", self.settings.paths, max_files)

    def select(self, frame: DataFrame) -> DataFrame:
        """Events of the counted types with a user and an item, in the columns of EVENT."""
        rows = frame.where(F.col("event_type").isin(*self.config.event_types))
        return rows.select("user_id", F.unix_micros("event_time").alias("time_micros"), "item_id").dropna()

    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        users, items = self._users(batch.stored, batch.rows), self._items(batch.stored)
        blend = self._blend(batch.stored)
        learned = rankers_batch.learn(users, items, batch.rows, blend, self.params, batch.phase)
        changed = BLEND.empty_table() if learned.blend is blend else learned.blend.row
        rows, sums = self._rows(learned.users, learned.items, changed), learned.sums
        return Learned(rows, Evaluation() if sums is None else Evaluation(sums.metrics(), sums.times, sums.state_as_of))

    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """Subtract the counts of the users. Transitions of late events, and counts that were cut, are not exact.

        The sums of the blend are unchanged: they do not contain which users added to them.
        """
        users, items = self._users(stored, keys), self._items(stored)
        removed = rankers_batch.remove(users, items, events, self.params)
        return Learned(self._rows(*removed, BLEND.empty_table()))

    def _users(self, stored: StateTables[Rows], rows: Rows) -> Rows:
        """The rows of the users of rows with a column `user_id`."""
        keys = runner.renamed(rows, {"user_id": "key"})
        return stored.rows(self.tables[0], USER.names, keys, side="user")

    def _items(self, stored: StateTables[Rows]) -> Rows:
        return stored.rows(self.tables[0], ITEM.names, side="item")

    def _blend(self, stored: StateTables[Rows]) -> BlendState:
        return BlendState.from_rows(runner.collected(stored.rows(self.tables[0], BLEND.names, side="blend")))

    def _rows(self, users: Rows, items: Rows, blend: pa.Table) -> dict[str, Any]:
        sides = (runner.with_constant(rows, "side", side) for rows, side in ((users, "user"), (items, "item")))
        return {self.tables[0].name: runner.union(*sides, runner.with_constant(blend, "side", "blend"))}

    @property
    def publication(self) -> Publication:
        """All rows of `basket_counts`, compared by the recall of one ranker."""
        config = self.settings.learn.publish_rankers
        return Publication(
            stage=self.stage_name(),
            model_name=config.name,
            table=self.tables[0],
            gate_metric=GateMetric(self.name, self.metric("basket_recall_10"), config.ranker, config),
            metrics=self.metrics,
            limits=self.limits,
            run_params=self.config.parameters,
            params=asdict(self.params),
            required_rows="item",
            state=self._published_state,
            predictor=BasketRecommender,
            numbers=("counts", "popularity"),
            # Counts grow with the log.
            max_growth=float("inf"),
            options={"ranker": config.ranker, "top_k": config.top_k},
        )

    def _published_state(self, rows: DataFrame, epoch: str) -> PublishedState | None:
        last = rows.agg(F.max("batch_id")).collect()[0][0]
        if last is None:
            return None
        events = self.select(tables.EVENTS.read(rows.sparkSession, self.settings.paths))
        count, *times = events.agg(F.count("*"), F.min("time_micros"), F.max("time_micros")).collect()[0]
        return PublishedState(rows, last, {"user_id": ["shop:1"]}, count, *(time or 0 for time in times))
