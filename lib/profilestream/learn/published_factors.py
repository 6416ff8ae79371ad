"""The factors as a registered model: what is published of them, and a version to score with."""

import json
from dataclasses import asdict, dataclass

from pyspark.sql import DataFrame, SparkSession

from profilestream.base.settings import Settings
from profilestream.learn import factors, publishing
from profilestream.learn.als import Params
from profilestream.learn.als_tasks import globals_of
from profilestream.learn.model_registry import Model
from profilestream.learn.model_versions import CHAMPION, VersionTags
from profilestream.learn.promotion import Measure
from profilestream.learn.publishing import Pinned, Publishable


@dataclass(frozen=True)
class Published:
    """A version that can be scored with.

    Args:
        model_version: its number in the registry.
        state: of `factors` when it was published.
        params: by which it was learned, with the shares of its ranking.
        ranker: the ranking that it was judged by, one of catalogue.RANKERS.
    """

    model_version: int
    state: factors.State
    params: Params
    ranker: str


def publishable(settings: Settings) -> Publishable:
    """`factors`, whole, judged by a ranking."""
    made, params = settings.learn.publish, asdict(factors.params(settings))
    model = Model(
        code="recommender.py",
        inputs={"user_id": "string"},
        outputs={"item_ids": "array<string>", "scores": "array<double>"},
        example={"user_id": ["shop:1"]},
        config={"params": params, "ranker": made.ranker, "top_k": made.top_k},
        params={"top_k": made.top_k},
    )

    def pin(rows: DataFrame, epoch: str) -> Pinned | None:
        row = rows.where("side = 'global'").select("batch_id").first()
        return None if row is None else Pinned(rows, row["batch_id"], model)

    return Publishable(
        stage=factors.STAGE,
        name=made.name,
        table=factors.table(settings),
        measure=Measure(factors.LEARNER, made.metric, made.ranker, made),
        known=settings.learn.factors.known,
        params=json.dumps(params),
        pin=pin,
    )


def read(spark: SparkSession, settings: Settings, which: str | int = CHAMPION) -> Published:
    """The version that an alias names, or that has a number; raises as publishing.read."""
    version, rows = publishing.read(spark, settings, publishable(settings), which)
    notes = VersionTags.of(version)
    params = Params(**json.loads(notes.params))
    (row,) = rows.where("side = 'global'").select("equations").collect()
    known = globals_of(bytes(row["equations"]), params.width)
    return Published(version.number, factors.State(rows.where("side != 'global'"), known), params, notes.ranker)
