"""RankersSpec: decayed counts of baskets in one table, with one commit per batch (rankers_batch.py)."""

from dataclasses import asdict, fields

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.queries import QueryInput, appended_rows
from profilestream.base.runner import Rows
from profilestream.base.settings import Rankers
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec
from profilestream.learn.metrics import Evaluation, Metric
from profilestream.learn.promotion_gate import GateMetric
from profilestream.learn.publishing import Publication, PublishedState
from profilestream.learn.rankers import rankers_batch
from profilestream.learn.rankers.basket_recommender import BasketRecommender
from profilestream.learn.rankers.kernels.count_rankers import ITEM, METRICS, USER, RankerParams

_ITEMS = ("all items", "the earlier bought items", "the items that the user never bought before")


class RankersSpec(LearnerSpec):
    """Own counts, transitions between baskets, and popularity (kernels/count_rankers.py)."""

    name = "rankers"
    metrics = tuple(
        Metric(
            name, "share, 0 to 1", "users",
            f"Share of {items} in the first basket that a user starts in the batch that are among the first 10 ranked.",
        )
        for name, items in zip(METRICS, _ITEMS, strict=True)
    )  # fmt: skip
    state_tables = (tables.BASKET_COUNTS,)
    limits = ("Quantities and prices are not used, and returns do not reduce a count.",)

    @property
    def config(self) -> Rankers:
        return self.settings.learn.rankers

    @property
    def params(self) -> RankerParams:
        """The parameters of the counts in the settings."""
        return RankerParams(**{field.name: getattr(self.config, field.name) for field in fields(RankerParams)})

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
        (table,) = self.tables
        keys = runner.with_constant(runner.renamed(batch.rows, {"user_id": "key"}), "side", "user")
        users = batch.stored.rows(table, keys, side="user").select(USER.names)
        items = batch.stored.rows(table, side="item").select(ITEM.names)
        users, items, parts = rankers_batch.learn(users, items, batch.rows, self.params, batch.phase)
        sides = (runner.with_constant(rows, "side", side) for rows, side in ((users, "user"), (items, "item")))
        rows = {table.name: runner.union(*sides)}
        if not parts:
            return Learned(rows)
        sums = sum(parts[1:], parts[0])
        return Learned(rows, Evaluation(sums.metrics(), sums.times, sums.state_as_of))

    @property
    def publication(self) -> Publication:
        """All rows of `basket_counts`, compared by the recall of one ranker."""
        config = self.settings.learn.publish_rankers
        return Publication(
            stage=self.stage_name(),
            model_name=config.name,
            table=self.tables[0],
            gate_metric=GateMetric(self.name, self.metric("basket_recall_10"), config.ranker, config),
            run_params=self.config.parameters,
            params=asdict(self.params),
            required_rows="item",
            state=_published_state,
            predictor=BasketRecommender,
            options={"ranker": config.ranker, "top_k": config.top_k},
        )


def _published_state(rows: DataFrame, epoch: str) -> PublishedState | None:
    last = rows.agg(F.max("batch_id")).collect()[0][0]
    return None if last is None else PublishedState(rows, last, {"user_id": ["shop:1"]})
