"""The learners that can be published, and reading of published factors for scoring."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.settings import Settings
from profilestream.learn import publishing
from profilestream.learn.factors import factors_spec
from profilestream.learn.factors.factors_batch import FactorsState
from profilestream.learn.factors.item_recommender import ItemRecommender
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.promotion_gate import GateMetric
from profilestream.learn.publishing import LearnerState, Publication
from profilestream.learn.segments import segments_spec
from profilestream.learn.segments.segment_assigner import SegmentAssigner
from profilestream.learn.version_aliases import CHAMPION, VersionTags


def factors_publication(settings: Settings) -> Publication:
    """All rows of `factors`, compared by a metric of one ranker."""
    config = settings.learn.publish
    return Publication(
        stage=factors_spec.STAGE,
        model_name=config.name,
        table=factors_spec.table(settings),
        gate_metric=GateMetric(factors_spec.LEARNER, config.metric, config.ranker, config),
        run_params=settings.learn.factors.with_mode_defaults,
        params=asdict(factors_spec.als_params(settings)),
        required_rows="user to whom an item can be recommended",
        state=_factors_state,
        predictor=ItemRecommender,
        options={"ranker": config.ranker, "top_k": config.top_k},
    )


def _factors_state(rows: DataFrame, epoch: str) -> LearnerState | None:
    row = rows.where("side = 'global'").select("batch_id").first()
    items = rows.where("side = 'item'").count()
    has_other_items = f"side = 'user' AND size(array_distinct(item_ids)) < {items}"
    if row is None or rows.where(has_other_items).isEmpty():
        return None
    return LearnerState(rows, row["batch_id"], {"user_id": ["shop:1"]})


def segments_publication(settings: Settings) -> Publication:
    """The segments after the last batch, compared by their cost relative to the cost of one center for all users."""
    config, params = settings.learn.publish_segments, asdict(segments_spec.params(settings))
    return Publication(
        stage=segments_spec.STAGE,
        model_name=config.name,
        table=segments_spec.table(settings),
        gate_metric=GateMetric(segments_spec.LEARNER, "cost", "kmeans", config, baseline="mean"),
        run_params=params,
        params=params,
        required_rows="second segment",
        state=_segments_state,
        predictor=SegmentAssigner,
    )


def _segments_state(rows: DataFrame, epoch: str) -> LearnerState | None:
    last = rows.where(F.col("epoch") == epoch).orderBy(F.desc("batch_id")).select("batch_id", "location").first()
    if last is None:
        return None
    of_batch = rows.where((F.col("epoch") == epoch) & (F.col("batch_id") == last["batch_id"]))
    # The input of the model is a user's mean vector, with one column per dimension in order of name.
    example = {name: [value] for name, value in sorted(last["location"].items())}
    return None if of_batch.count() < 2 else LearnerState(of_batch, last["batch_id"], example)


PUBLICATIONS: dict[str, Callable[[Settings], Publication]] = {
    factors_spec.LEARNER: factors_publication,
    segments_spec.LEARNER: segments_publication,
}


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
    state: FactorsState[DataFrame]
    params: AlsParams
    ranker: str


def read_factors(spark: SparkSession, settings: Settings, which: str | int = CHAMPION) -> PublishedFactors:
    """A published version, by alias or number; raises as publishing.read."""
    version, rows = publishing.read(spark, settings, factors_publication(settings), which)
    tags = VersionTags.of(version)
    params = AlsParams(**json.loads(tags.params))
    return PublishedFactors(version.number, factors_spec.state_of(rows, params), params, tags.model)
