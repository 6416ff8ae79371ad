"""Decisions of learn_publish: roll back a bad champion, and whether a new version replaces the champion."""

import pyarrow as pa
from pyspark.sql import SparkSession

from profilestream.base.observe.operation_metrics import export_champion
from profilestream.base.settings import Settings
from profilestream.base.tables import EVENTS
from profilestream.learn import event_days, promotion_gate, state_check, version_aliases
from profilestream.learn.evaluated_batches import EvaluatedBatches
from profilestream.learn.model_registry import RegisteredModel, RegisteredVersion
from profilestream.learn.promotion_gate import Decision, GateMetric, PairedLosses
from profilestream.learn.publication import Publication
from profilestream.learn.version_aliases import CHAMPION, VersionTags


def batches_of_state(
    metric: GateMetric, rows: pa.Table, versions: list[RegisteredVersion], epoch: str, batch_id: int
) -> EvaluatedBatches:
    """The last evaluated batches of a state.

    Batches up to the publication of a version that was rolled back are left out: they evaluated earlier, good states.
    With them the same bad state would pass.
    """
    tags = [VersionTags.of(version) for version in versions]
    bad = max((one.batch_id for one in tags if one.problem and one.epoch == epoch), default=-1)
    return metric.batches(rows, epoch).until(batch_id).since(bad, valid_from=0).last(metric.gate.eval_batches)


def decide(
    publication: Publication,
    rows: pa.Table,
    champion: RegisteredVersion | None,
    candidate: EvaluatedBatches,
    tags: VersionTags,
    drought: str,
) -> Decision:
    """Whether a version with these tags becomes the champion; the first reason that applies decides."""
    is_earlier_state = champion is not None and VersionTags.of(champion).epoch == tags.epoch
    good = VersionTags.of(champion).largest_norms if champion is not None and is_earlier_state else {}
    if problem := state_check.find_problem(tags.largest_norms, good, publication.max_growth):
        return Decision(False, problem)
    if champion is None:
        return Decision(True, "there was no champion")
    if drought:
        return Decision(False, drought)
    return promotion_gate.compare(publication.gate_metric, rows, champion, candidate, tags.epoch)


def find_drought(
    spark: SparkSession, settings: Settings, publication: Publication, rows: pa.Table, tags: VersionTags
) -> str:
    """As promotion_gate.find_drought, with the newest day of `events`."""
    has_events, metric = EVENTS.exists(spark, settings.paths), publication.gate_metric
    counts = event_days.count_by_day(EVENTS.read(spark, settings.paths)) if has_events else []
    evaluated = metric.batches(rows, tags.epoch).until(tags.batch_id)
    return promotion_gate.find_drought(metric, evaluated, tags.batch_id, event_days.newest_day(counts))


def roll_back_bad_champion(
    spark: SparkSession, settings: Settings, publication: Publication, model: RegisteredModel, rows: pa.Table
) -> list[str]:
    """Roll the champion back to the version before if it has a problem; returns the messages for the user."""
    versions = model.versions()
    champion = version_aliases.version_of_alias(versions, CHAMPION)
    previous = version_aliases.previous_champion(versions)
    if champion is None:
        return []
    tags, good = VersionTags.of(champion), None if previous is None else VersionTags.of(previous)
    norms = tags.largest_norms or state_check.norms_of(
        publication.rows_of_version(spark, settings, champion.number), publication.table, publication.numbers
    )
    is_earlier_state = good is not None and good.epoch == tags.epoch
    good_norms = good.largest_norms if good is not None and is_earlier_state else {}
    problem = state_check.find_problem(norms, good_norms, publication.max_growth)
    if previous is not None and not problem:
        paired = _paired_losses(spark, settings, publication, champion, previous)
        problem = promotion_gate.find_deterioration(publication.gate_metric, rows, champion, previous, paired)
    if not problem:
        return []
    problem = f"problem of the champion, version {champion.number}: {problem}"
    if previous is None:
        return [f"{problem}; there is no version before it"]
    version_aliases.set_tag(model, champion.number, "problem", problem)
    message = version_aliases.restore(model, previous)
    export_champion(settings, publication.model_name, previous.number, is_rollback=True)
    return [problem, message]


def _paired_losses(
    spark: SparkSession,
    settings: Settings,
    publication: Publication,
    champion: RegisteredVersion,
    previous: RegisteredVersion,
) -> PairedLosses | None:
    """The losses of both versions on rows that neither of them has learned; null if they cannot be compared."""
    times = [VersionTags.of(version).valid_from for version in (champion, previous)]
    if publication.paired_losses is None or min(times) < 0:
        return None
    one, other = (publication.rows_of_version(spark, settings, version.number) for version in (champion, previous))
    return publication.paired_losses(one, other, max(times))
