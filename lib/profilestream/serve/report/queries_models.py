"""Metrics and published versions for the report, from `model_metrics` and the model registry."""

import logging
import math
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import ProfilestreamError
from profilestream.base.language import translate
from profilestream.base.settings import Settings
from profilestream.learn import model_card, model_registry
from profilestream.learn.learners import LEARNERS
from profilestream.learn.model_card import ModelCard
from profilestream.learn.model_registry import RegisteredVersion
from profilestream.learn.publication import Publication
from profilestream.learn.tracking import MlflowStore
from profilestream.learn.version_aliases import CHAMPION, ROWS_STORED, VersionTags
from profilestream.serve.report.view_model import MetricPoint, PublishedVersion

log = logging.getLogger(__name__)
_MAX_POINTS = 2000


def metric_points(metrics: DataFrame, metric: str) -> tuple[MetricPoint, ...]:
    """The last finite values of a metric, oldest first.

    Args:
        metrics: `model_metrics`.
    """
    is_finite = F.abs("value") < float("inf")  # false for NaN too
    rows = metrics.where((F.col("metric") == metric) & (F.col("weight") > 0) & is_finite)
    last = rows.orderBy(F.desc("state_as_of"), F.desc("batch_id")).limit(_MAX_POINTS)
    points = last.select("learner", "model", "epoch", "batch_id", "state_as_of", "weight", "value").collect()
    return tuple(MetricPoint(*point) for point in reversed(points))


def published(
    spark: SparkSession, settings: Settings, metrics: DataFrame
) -> tuple[tuple[PublishedVersion, ...], tuple[ModelCard, ...]]:
    """Published versions by model, newest first, and the cards of the champions.

    Both are empty, with a warning in the log, when MLflow does not answer.

    Args:
        metrics: `model_metrics`; a version's `learned_until` is `state_as_of` of its last evaluated batch.
    """
    if not MlflowStore(settings).exists():
        return (), ()
    registered: list[tuple[Publication, RegisteredVersion, VersionTags]] = []
    try:
        for spec in (learner(settings) for learner in LEARNERS):
            if spec.has_input and (publication := spec.publication) is not None:
                with model_registry.open_model(settings, publication.model_name) as model:
                    registered += [(publication, version, VersionTags.of(version)) for version in model.versions()]
    except ProfilestreamError as error:
        log.warning("the report has no published versions: %s", error.what)
        return (), ()
    times = _times(metrics, [tags for _, _, tags in registered])
    versions = tuple(
        PublishedVersion(
            publication.model_name,
            version.number,
            version.aliases,
            translate("{metric} of {model}", metric=tags.metric, model=tags.model),
            value if tags.value and math.isfinite(value := float(tags.value)) else None,
            times.get((tags.epoch, tags.batch_id)),
            tags.rows == ROWS_STORED,
        )
        for publication, version, tags in registered
    )
    cards = tuple(
        model_card.create(spark, settings, publication, version.number, tags)
        for publication, version, tags in registered
        if CHAMPION in version.aliases
    )
    return versions, cards


def _times(metrics: DataFrame, tags: list[VersionTags]) -> dict[tuple[str, int], Any]:
    """`state_as_of` by epoch and batch id, for the batches of the versions."""
    epochs, batches = {each.epoch for each in tags}, {each.batch_id for each in tags}
    rows = metrics.where(F.col("epoch").isin(epochs) & F.col("batch_id").isin(batches)).groupBy("epoch", "batch_id")
    times = rows.agg(F.max("state_as_of").alias("state_as_of")).collect()
    return {(row["epoch"], row["batch_id"]): row["state_as_of"] for row in times}
