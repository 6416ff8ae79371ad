"""Publishing: copies the state of a learner as a version of a registered model, and promotes it if it passes the gate.

A version is created in this order. Its alias is set last, so an alias always points to a complete version:

1. The version is registered, with tags; MLflow assigns the number.
2. Its rows are copied from a pinned version of the learner's table to `published_...`, in one commit.
3. The model files are stored with the MLflow run, the model card as description, and the tag `rows` is set.
4. An alias is set: `champion` (then `previous` points to the champion before) or `challenger`.

A crash leaves a version without an alias. The next publishing creates a new version, and removes the rows of all
versions without an alias.
"""

import json
import uuid
from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, files, locks
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.errors import NothingToDo, Refused, SourceMissing
from profilestream.base.observe.operation_metrics import export_champion, export_labels
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.settings import Settings
from profilestream.learn import (
    champion_check,
    evaluated_batches,
    metric_drift,
    model_card,
    model_registry,
    state_check,
    version_aliases,
)
from profilestream.learn.model_registry import RegisteredModel, RegisteredVersion
from profilestream.learn.publication import STAGE, Publication, PublishedState
from profilestream.learn.tracking import MlflowStore
from profilestream.learn.version_aliases import CHALLENGER, CHAMPION, ROWS_REMOVED, ROWS_STORED, VersionTags


def publish(spark: SparkSession, settings: Settings, publication: Publication) -> str:
    """Create a version of the current state and set its alias; returns the message for the user.

    First, the champion is rolled back if its rows or its metric since its publication are bad.

    Raises:
        NothingToDo: nothing was learned yet.
        Refused: the published table contains versions of another registry.
    """
    with (
        locks.hold_lock(settings.paths.lock_folder, STAGE),
        model_registry.open_model(settings, publication.model_name) as model,
    ):
        epoch = _stage_epoch(spark, settings, publication)
        table_version = commits.version(spark, publication.table, settings.paths)
        state = publication.state(publication.table.read(spark, settings.paths, version=table_version), epoch)
        if state is None:
            raise _nothing_learned(settings, publication, f"capture more events, and run jobs/{publication.stage}.py")
        model.store.log_missing_metrics(spark, publication.learner, epoch, publication.run_params)
        metric = publication.gate_metric
        epochs = {epoch, *(VersionTags.of(one).epoch for one in model.versions() if one.aliases)}
        rows = evaluated_batches.collect(spark, settings, publication.learner, metric.metrics, sorted(epochs))
        lines = champion_check.roll_back_bad_champion(spark, settings, publication, model, rows)
        candidate = champion_check.batches_of_state(metric, rows, model.versions(), epoch, state.batch_id)
        tags = VersionTags(
            epoch, state.batch_id, table_version, metric.model, metric.name,
            "" if candidate.mean is None else repr(candidate.mean), json.dumps(publication.params),
            _iso_time(state.data_from), _iso_time(state.data_to), state.row_count,
            state.data_to if state.valid_from is None else state.valid_from,
            json.dumps(state_check.norms_of(state.rows, publication.table, publication.numbers)),
        )  # fmt: skip
        number = _create_version(spark, settings, publication, model, state, tags)
        champion = version_aliases.version_of_alias(model.versions(), CHAMPION)
        drought = champion_check.find_drought(spark, settings, publication, rows, tags)
        passes, reason = champion_check.decide(publication, rows, champion, candidate, tags, drought)
        if passes:
            version_aliases.set_champion(model, number)
        else:
            model.set_alias(CHALLENGER, number)
        _remove_rows_without_alias(spark, settings, publication, model)
    if passes:
        export_champion(settings, publication.model_name, number)
    drift = metric_drift.find_drift(metric, rows, epoch, state.batch_id)
    export_labels(settings, publication.model_name, is_drought=bool(drought), is_drifting=bool(drift))
    return "\n".join([*lines, f"version {number} is the {CHAMPION if passes else CHALLENGER}: {reason}", *drift])


def _iso_time(micros: int) -> str:
    return datetime.fromtimestamp(micros // 1_000_000, UTC).isoformat()


def _nothing_learned(settings: Settings, publication: Publication, do: str) -> NothingToDo:
    what = f"nothing was learned yet: {publication.table.name} has no {publication.required_rows}"
    return NothingToDo(what, where=publication.table.path(settings.paths), do=do)


def _stage_epoch(spark: SparkSession, settings: Settings, publication: Publication) -> str:
    """The epoch of the stage's checkpoint. Rows of a manual full pass have another epoch."""
    checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, publication.stage))
    if checkpoint.is_new() or not publication.table.exists(spark, settings.paths):
        raise _nothing_learned(settings, publication, f"run jobs/{publication.stage}.py first")
    publication.table.check_stored(spark, settings.paths)
    return checkpoint.epoch()


def _create_version(
    spark: SparkSession,
    settings: Settings,
    publication: Publication,
    model: RegisteredModel,
    state: PublishedState,
    tags: VersionTags,
) -> int:
    """The number of a new version with rows and model files; no alias points to it yet."""
    paths, published = settings.paths, publication.published_table
    published.prepare(spark, paths)
    run = model.store.get_or_create_run(publication.learner, tags.epoch, publication.run_params)
    folder = f"published/{uuid.uuid4().hex}"
    number = model.create_version(run, folder, tags.as_dict())
    row = published.read(spark, paths).agg(F.max("model_version")).first()
    if row is not None and row[0] is not None and row[0] >= number:
        raise Refused(
            f"{published.name} contains version {row[0]}, but the registry has just assigned number {number}",
            where=f"{published.path(paths)}, learn.tracking.uri = {model.store.uri}",
            do="set learn.tracking.uri to the registry of those versions; if it is lost, remove the table",
        )
    rows = state.rows.withColumn("model_version", F.lit(number).cast("bigint")).select(*published.names)
    # Sorted by key, so that a reader of a few users skips most files and row groups.
    ordered = rows.repartitionByRange(*publication.table.key).sortWithinPartitions(*publication.table.key)
    commits.append(ordered, published, paths, Txn(STAGE, str(uuid.uuid4()), number))
    table = files.local_path(published.uri(paths)) or published.uri(paths)
    config = {
        "table": table, "model_version": number, "params": json.dumps(publication.params),
        "options": dict(publication.options),
    }  # fmt: skip
    model.log_model(run, folder, publication.predictor, state.example, config)
    model.set_description(number, model_card.create(spark, settings, publication, number, tags).markdown())
    version_aliases.set_tag(model, number, "rows", ROWS_STORED)
    return number


def _remove_rows_without_alias(
    spark: SparkSession, settings: Settings, publication: Publication, model: RegisteredModel
) -> None:
    """Remove the rows of versions without any alias, also without aliases of the user; their tags remain."""
    versions = model.versions()
    for version in versions:
        if not version.aliases and VersionTags.of(version).rows != ROWS_REMOVED:
            version_aliases.set_tag(model, version.number, "rows", ROWS_REMOVED)
    with_alias = ", ".join(str(version.number) for version in versions if version.aliases)
    commits.delete(spark, publication.published_table, settings.paths, where=f"model_version NOT IN ({with_alias})")


def read(
    spark: SparkSession, settings: Settings, publication: Publication, which: str | int
) -> tuple[RegisteredVersion, DataFrame]:
    """A published version, by alias or number, and its rows.

    Raises:
        NothingToDo: no version was published yet.
        SourceMissing: there is no such version, or its rows were removed.
    """
    do = _publish_command(publication)
    with model_registry.open_model(settings, publication.model_name) as model:
        versions = model.versions()
    if not versions:
        raise NothingToDo(f"{publication.model_name} has no published version", where=model.where, do=do)
    version = next((v for v in versions if which == v.number or which in v.aliases), None)
    if version is None or VersionTags.of(version).rows != ROWS_STORED:
        raise SourceMissing(f"{publication.model_name} has no published version {which!r}", where=model.where, do=do)
    return version, _stored_rows(spark, settings, publication, version)


def read_champion(
    spark: SparkSession, settings: Settings, publication: Publication
) -> tuple[RegisteredVersion, DataFrame] | None:
    """The champion and its rows; null: there is none.

    Raises:
        ProfilestreamError: a request to MLflow failed.
        SourceMissing: the rows of the champion were removed.
    """
    if not MlflowStore(settings).exists():
        return None
    with model_registry.open_model(settings, publication.model_name) as model:
        champion = version_aliases.version_of_alias(model.versions(), CHAMPION)
    return None if champion is None else (champion, _stored_rows(spark, settings, publication, champion))


def _stored_rows(
    spark: SparkSession, settings: Settings, publication: Publication, version: RegisteredVersion
) -> DataFrame:
    """The rows of a version.

    Raises:
        SourceMissing: there are none.
    """
    rows = publication.rows_of_version(spark, settings, version.number)
    if rows.isEmpty():
        published = publication.published_table
        what = f"{published.name} has no rows of version {version.number}"
        raise SourceMissing(what, where=published.path(settings.paths), do=_publish_command(publication))
    return rows


def _publish_command(publication: Publication) -> str:
    return f"publish a version: jobs/{STAGE}.py --learner {publication.learner}"
