"""The segments as a registered model: what is published of them, and a version to assign users by."""

import json
from dataclasses import asdict, dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.settings import Settings
from profilestream.learn import publishing, segments
from profilestream.learn.model_registry import Model
from profilestream.learn.model_versions import CHAMPION
from profilestream.learn.promotion import Measure
from profilestream.learn.publishing import Pinned, Publishable


@dataclass(frozen=True)
class Published:
    """A version that users can be assigned by.

    Args:
        model_version: its number in the registry.
        rows: of `segments`, a row a segment, as they were when it was published.
    """

    model_version: int
    rows: DataFrame


def publishable(settings: Settings) -> Publishable:
    """The segments of the newest batch, judged by their cost over that of one center for all."""
    made, known = settings.learn.publish_segments, asdict(segments.params(settings))
    return Publishable(
        stage=segments.STAGE,
        name=made.name,
        table=segments.table(settings),
        measure=Measure(segments.LEARNER, "cost", "kmeans", made, over="mean"),
        known=known,
        params=json.dumps(known),
        pin=_pin,
    )


def _pin(rows: DataFrame, epoch: str) -> Pinned | None:
    newest = rows.where(F.col("epoch") == epoch).orderBy(F.desc("batch_id")).select("batch_id", "location").first()
    if newest is None:
        return None
    own = rows.where((F.col("epoch") == epoch) & (F.col("batch_id") == newest["batch_id"]))
    return Pinned(own, newest["batch_id"], _model(newest["location"]))


def _model(location: dict[str, float]) -> Model:
    """Its input is a user's mean vector, a column a dimension, by name."""
    dimensions = sorted(location)
    return Model(
        code="segment_assigner.py",
        inputs=dict.fromkeys(dimensions, "double"),
        outputs={"segment_id": "long", "distance": "double"},
        example={name: [location[name]] for name in dimensions},
    )


def read(spark: SparkSession, settings: Settings, which: str | int = CHAMPION) -> Published:
    """The version that an alias names, or that has a number; raises as publishing.read."""
    version, rows = publishing.read(spark, settings, publishable(settings), which)
    return Published(version.number, rows)
