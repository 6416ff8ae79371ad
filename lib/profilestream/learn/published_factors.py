"""Publishing of the factors, and reading of a published version for scoring."""

import json
from dataclasses import asdict, dataclass

from pyspark.sql import DataFrame, SparkSession

from profilestream.base.settings import Settings
from profilestream.learn import factors, publishing
from profilestream.learn.als import AlsParams
from profilestream.learn.als_rows import global_sums_from_bytes
from profilestream.learn.model_registry import PyfuncModel
from profilestream.learn.promotion_gate import GateMetric
from profilestream.learn.publishing import LearnerState, PublishableLearner
from profilestream.learn.version_aliases import CHAMPION, VersionTags


@dataclass(frozen=True)
class PublishedFactors:
    """A published version of the factors.

    Args:
        model_version: its number in the registry.
        state: the rows of `factors` when it was published.
        params: that it was learned with, including the weights of the blend.
        ranker: that it was evaluated by; one of item_index.RANKERS.
    """

    model_version: int
    state: factors.FactorsState
    params: AlsParams
    ranker: str


def publishable(settings: Settings) -> PublishableLearner:
    """All rows of `factors`, compared by a metric of one ranker."""
    config, params = settings.learn.publish, asdict(factors.als_params(settings))
    model = PyfuncModel(
        code="recommender.py",
        inputs={"user_id": "string"},
        outputs={"item_ids": "array<string>", "scores": "array<double>"},
        example={"user_id": ["shop:1"]},
        config={"params": params, "ranker": config.ranker, "top_k": config.top_k},
        params={"top_k": config.top_k},
    )

    def state(rows: DataFrame, epoch: str) -> LearnerState | None:
        row = rows.where("side = 'global'").select("batch_id").first()
        items = rows.where("side = 'item'").count()
        has_other_items = f"side = 'user' AND size(array_distinct(item_ids)) < {items}"
        is_useful = not rows.where(has_other_items).isEmpty()
        return None if row is None or not is_useful else LearnerState(rows, row["batch_id"], model)

    return PublishableLearner(
        stage=factors.STAGE,
        model_name=config.name,
        table=factors.table(settings),
        gate_metric=GateMetric(factors.LEARNER, config.metric, config.ranker, config),
        run_params=settings.learn.factors.with_mode_defaults,
        params=json.dumps(params),
        required_rows="user to whom an item can be recommended",
        state=state,
    )


def read(spark: SparkSession, settings: Settings, which: str | int = CHAMPION) -> PublishedFactors:
    """A published version, by alias or number; raises as publishing.read."""
    version, rows = publishing.read(spark, settings, publishable(settings), which)
    tags = VersionTags.of(version)
    params = AlsParams(**json.loads(tags.params))
    (row,) = rows.where("side = 'global'").select("global_sums").collect()
    global_sums = global_sums_from_bytes(bytes(row["global_sums"]), params.width)
    state = factors.FactorsState(rows.where("side != 'global'"), global_sums)
    return PublishedFactors(version.number, state, params, tags.model)
