"""How good models are, and which were published: tables and the registry to numbers."""

import logging
from collections.abc import Iterable
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from profilestream.base.errors import ProfilestreamError
from profilestream.base.settings import Settings
from profilestream.learn import factors, tracking
from profilestream.learn.gate import Notes
from profilestream.serve.report.numbers import Judged, Version

log = logging.getLogger(__name__)
_JUDGED = 2000


def judged(quality: DataFrame, metric: str) -> tuple[Judged, ...]:
    newest = quality.where(f"{metric} IS NOT NULL AND users > 0").orderBy(F.desc("as_of"), F.desc("batch_id"))
    columns = ("learner", "candidate", "epoch", "batch_id", "as_of", "users", metric)
    rows = newest.limit(_JUDGED).select(*columns).collect()
    return tuple(Judged(*row) for row in reversed(rows))


def versions(settings: Settings, judged: DataFrame) -> tuple[Version, ...]:
    """Versions in the registry, newest first; what one had learned is told by the batch that was judged last."""
    if not tracking.Store(settings).is_there():
        return ()
    try:
        with tracking.store(settings) as store:
            noted = [(version, Notes.of(version)) for version in store.versions()]
    except ProfilestreamError as error:
        log.warning("the page has no champions: %s", error.what)
        return ()
    times = _times(judged, {(notes.epoch, notes.batch_id) for _, notes in noted})
    return tuple(
        Version(
            version.number,
            version.aliases,
            notes.candidate,
            notes.metric,
            float(notes.value) if notes.value else None,
            times.get((notes.epoch, notes.batch_id)),
            notes.rows == "kept",
        )
        for version, notes in noted
    )


def _times(judged: DataFrame, batches: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Any]:
    wanted = F.struct("epoch", "batch_id").isin(
        [F.struct(F.lit(epoch), F.lit(batch).cast("bigint")) for epoch, batch in batches]
    )
    rows = judged.where((F.col("learner") == factors.LEARNER) & wanted).groupBy("epoch", "batch_id")
    return {(row["epoch"], row["batch_id"]): row["as_of"] for row in rows.agg(F.max("as_of").alias("as_of")).collect()}
