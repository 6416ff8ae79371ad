"""Publishing of the segments, and reading of a published version for assigning users."""

import json
from dataclasses import asdict, dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.settings import Settings
from profilestream.learn import publishing, segments
from profilestream.learn.model_registry import PyfuncModel
from profilestream.learn.promotion_gate import GateMetric
from profilestream.learn.publishing import LearnerState, PublishableLearner
from profilestream.learn.version_aliases import CHAMPION


@dataclass(frozen=True)
class PublishedSegments:
    """A published version of the segments.

    Args:
        model_version: its number in the registry.
        rows: of `segments` when it was published, one per segment.
    """

    model_version: int
    rows: DataFrame


def publishable(settings: Settings) -> PublishableLearner:
    """The segments after the last batch, compared by their cost relative to the cost of one center for all users."""
    config, params = settings.learn.publish_segments, asdict(segments.params(settings))
    return PublishableLearner(
        stage=segments.STAGE,
        model_name=config.name,
        table=segments.table(settings),
        gate_metric=GateMetric(segments.LEARNER, "cost", "kmeans", config, baseline="mean"),
        run_params=params,
        params=json.dumps(params),
        required_rows="second segment",
        state=_state,
    )


def _state(rows: DataFrame, epoch: str) -> LearnerState | None:
    last = rows.where(F.col("epoch") == epoch).orderBy(F.desc("batch_id")).select("batch_id", "location").first()
    if last is None:
        return None
    of_batch = rows.where((F.col("epoch") == epoch) & (F.col("batch_id") == last["batch_id"]))
    if of_batch.count() < 2:
        return None
    return LearnerState(of_batch, last["batch_id"], _pyfunc_model(last["location"]))


def _pyfunc_model(location: dict[str, float]) -> PyfuncModel:
    """The model whose input is a user's mean vector, with one column per dimension in order of name."""
    dimensions = sorted(location)
    return PyfuncModel(
        code="segment_assigner.py",
        inputs=dict.fromkeys(dimensions, "double"),
        outputs={"segment_id": "long", "distance": "double"},
        example={name: [location[name]] for name in dimensions},
    )


def read(spark: SparkSession, settings: Settings, which: str | int = CHAMPION) -> PublishedSegments:
    """A published version, by alias or number; raises as publishing.read."""
    version, rows = publishing.read(spark, settings, publishable(settings), which)
    return PublishedSegments(version.number, rows)
