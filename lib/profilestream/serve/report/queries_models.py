"""How good models are, and which were published: tables and the registry to numbers."""

import logging
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from profilestream.base.errors import ProfilestreamError
from profilestream.base.settings import Settings
from profilestream.learn import model_registry, tracking
from profilestream.learn.model_versions import KEPT, VersionTags
from profilestream.serve.report.view_model import Judged, Version

log = logging.getLogger(__name__)
_JUDGED = 2000


def judged(quality: DataFrame, metric: str) -> tuple[Judged, ...]:
    """What a column of `model_metrics` says of the newest judged batches, oldest first."""
    newest = quality.where(f"{metric} IS NOT NULL AND users > 0").orderBy(F.desc("as_of"), F.desc("batch_id"))
    columns = ("learner", "ranker", "epoch", "batch_id", "as_of", "users", metric)
    rows = newest.limit(_JUDGED).select(*columns).collect()
    return tuple(Judged(*row) for row in reversed(rows))


def versions(settings: Settings, quality: DataFrame) -> tuple[Version, ...]:
    """Versions in the registry by model, newest first; how far one had learned is told by the batch judged last."""
    if not tracking.Store(settings).is_there():
        return ()
    noted: list[tuple[str, model_registry.Version, VersionTags]] = []
    try:
        for name in (settings.learn.publish.name, settings.learn.publish_segments.name):
            with model_registry.opened(settings, name) as model:
                noted += [(name, version, VersionTags.of(version)) for version in model.versions()]
    except ProfilestreamError as error:
        log.warning("the page has no champions: %s", error.what)
        return ()
    times = _times(quality, [notes for _, _, notes in noted])
    return tuple(
        Version(
            name,
            version.number,
            version.aliases,
            f"{notes.metric} of {notes.ranker}",
            float(notes.value) if notes.value else None,
            times.get((notes.epoch, notes.batch_id)),
            notes.rows == KEPT,
        )
        for name, version, notes in noted
    )


def _times(quality: DataFrame, noted: list[VersionTags]) -> dict[tuple[str, int], Any]:
    """When batches of epochs ended, in event time."""
    epochs, batches = ({getattr(notes, name) for notes in noted} for name in ("epoch", "batch_id"))
    rows = quality.where(F.col("epoch").isin(epochs) & F.col("batch_id").isin(batches)).groupBy("epoch", "batch_id")
    return {(row["epoch"], row["batch_id"]): row["as_of"] for row in rows.agg(F.max("as_of").alias("as_of")).collect()}
