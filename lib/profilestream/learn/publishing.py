"""Publishing: a version of what was learned is copied, registered, and named champion when it is good enough.

A version is made in this order, and its alias comes last, so whoever goes by an alias never meets half of one:

1. it is registered (MLflow gives the number) with notes of what it is;
2. its rows are copied from a pinned version of the learner's table to `published_...`, in one commit;
3. the model that reads them is stored with its run, and the version is noted as kept;
4. aliases move: `champion` (then `previous` names the one before) or `challenger`.

A crash leaves a version without an alias. The next publishing makes a new one and removes the rows of all that no alias
names.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, files, locks
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.settings import Settings
from profilestream.base.tables import Table
from profilestream.learn import model_registry, model_versions, promotion
from profilestream.learn.model_registry import Model, Registry, Version
from profilestream.learn.model_versions import CHALLENGER, CHAMPION, KEPT, REMOVED, VersionTags
from profilestream.learn.promotion import Measure

STAGE = "learn_publish"


@dataclass(frozen=True)
class Pinned:
    """The state of a learner, from one version of its table.

    Args:
        rows: of the table.
        batch_id: the newest batch that it has learned from.
        model: what MLflow loads of it.
    """

    rows: DataFrame
    batch_id: int
    model: Model


@dataclass(frozen=True)
class Publishable:
    """What is particular to a learner when it is published.

    Args:
        stage: the stage that learns.
        name: of the registered model.
        table: its own.
        measure: by what its versions are judged.
        known: the parameters of its run of MLflow.
        params: JSON that is noted of a version, by which its rows are read.
        pin: its state from the rows of its table and the epoch of its checkpoint; null when nothing was learned yet.
    """

    stage: str
    name: str
    table: Table
    measure: Measure
    known: Mapping[str, Any]
    params: str
    pin: Callable[[DataFrame, str], Pinned | None]

    @property
    def learner(self) -> str:
        """As `model_metrics` and the job name it."""
        return self.measure.learner

    @property
    def copies(self) -> Table:
        """`published_...`: rows of the table as they were when a version was published."""
        of = self.table
        # Plain, so that every reader opens it; rows go by whole partitions.
        properties = {name: value for name, value in of.properties.items() if not name.startswith("delta.enable")}
        return replace(
            of,
            name=f"published_{of.name}",
            ddl=f"{of.ddl.rstrip()},\n            model_version BIGINT NOT NULL\n",
            key=("model_version", *of.key),
            partitioned_by=("model_version", *of.partitioned_by),
            properties=properties,
            declaration="",
        )


def publish(spark: SparkSession, settings: Settings, of: Publishable) -> str:
    """Make a version of what is learned now, name it, and say what became of it.

    Raises:
        SourceMissing: nothing was learned yet.
        Refused: the published table holds versions of another registry.
    """
    with locks.held(settings.paths.lock_folder, STAGE), model_registry.opened(settings, of.name) as model:
        epoch = _epoch(spark, settings, of)
        version = commits.version(spark, of.table, settings.paths)
        pinned = of.pin(of.table.read(spark, settings.paths, version=version), epoch)
        if pinned is None:
            raise SourceMissing(
                "nothing was learned yet", where=of.table.path(settings.paths), do="capture events first"
            )
        model.store.catch_up(spark, of.learner, epoch, of.known)
        found = promotion.quality(spark, settings, of.measure, epoch, up_to=pinned.batch_id)
        value = "" if found.value is None else repr(found.value)
        notes = VersionTags(epoch, pinned.batch_id, version, of.measure.ranker, of.measure.name, value, of.params)
        number = _made(spark, settings, of, model, pinned, notes)
        champion = model_versions.by_alias(model.versions(), CHAMPION)
        is_better, why = True, "there was none"
        if champion is not None:
            is_better, why = promotion.judge(spark, settings, of.measure, champion, found)
        if is_better:
            model_versions.make_champion(model, number)
        else:
            model.name_version(CHALLENGER, number)
        _prune(spark, settings, of, model)
    return f"version {number} is the {CHAMPION if is_better else CHALLENGER}: {why}"


def _epoch(spark: SparkSession, settings: Settings, of: Publishable) -> str:
    """Of the stage's checkpoint, and not of the rows: a sweep asked for by hand has one of its own."""
    checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, of.stage))
    if checkpoint.is_new() or not of.table.exists(spark, settings.paths):
        raise SourceMissing(
            "nothing was learned yet", where=of.table.path(settings.paths), do=f"run jobs/{of.stage}.py first"
        )
    of.table.check_stored(spark, settings.paths)
    return checkpoint.epoch()


def _made(
    spark: SparkSession, settings: Settings, of: Publishable, model: Registry, pinned: Pinned, notes: VersionTags
) -> int:
    """The number of a new version whose rows and files are in place; no alias names it yet."""
    paths, copies = settings.paths, of.copies
    copies.create(spark, paths)
    copies.register(spark, paths)
    copies.check_stored(spark, paths)
    run = model.store.run(of.learner, notes.epoch, of.known)
    folder = f"published/{uuid.uuid4().hex}"
    number = model.register(run, folder, notes.tags())
    row = copies.read(spark, paths).agg(F.max("model_version")).first()
    if row is not None and row[0] is not None and row[0] >= number:
        raise Refused(
            f"{copies.name} holds version {row[0]}, but the registry has just given number {number}",
            where=f"{copies.path(paths)}, learn.tracking.uri = {model.store.uri}",
            do="name the registry that gave those numbers; or, when it is lost, remove the table",
        )
    stamped = pinned.rows.withColumn("model_version", F.lit(number).cast("bigint")).select(*copies.columns)
    # By key, so that a reader of a few users passes over most files and row groups.
    ordered = stamped.repartitionByRange(*of.table.key).sortWithinPartitions(*of.table.key)
    commits.append(ordered, copies, paths, Txn(STAGE, str(uuid.uuid4()), number))
    table = files.local_path(copies.uri(paths)) or copies.uri(paths)
    model.put_files(run, folder, pinned.model, {"table": table, "model_version": number})
    model_versions.note_rows(model, number, KEPT)
    return number


def _prune(spark: SparkSession, settings: Settings, of: Publishable, model: Registry) -> None:
    """Remove the rows of versions that no alias names, of anybody's aliases; what was noted of them stays."""
    known = model.versions()
    for version in known:
        if not version.aliases and VersionTags.of(version).rows != REMOVED:
            model_versions.note_rows(model, version.number, REMOVED)
    named = ", ".join(str(version.number) for version in known if version.aliases)
    commits.delete(spark, of.copies, settings.paths, where=f"model_version NOT IN ({named})")


def read(spark: SparkSession, settings: Settings, of: Publishable, which: str | int) -> tuple[Version, DataFrame]:
    """The version that an alias names, or that has a number, and its rows.

    Raises:
        SourceMissing: there is no such version, or its rows were removed.
    """
    do = f"publish a new one: jobs/{STAGE}.py --learner {of.learner}"
    with model_registry.opened(settings, of.name) as model:
        known = model.versions()
    found = next((one for one in known if which == one.number or which in one.aliases), None)
    if found is None or VersionTags.of(found).rows != KEPT:
        raise SourceMissing(f"there is no published version {which!r} of {of.name}", where=model.where, do=do)
    copies = of.copies
    rows = copies.read(spark, settings.paths).where(F.col("model_version") == found.number).drop("model_version")
    if rows.isEmpty():
        where = copies.path(settings.paths)
        raise SourceMissing(f"{copies.name} holds no rows of version {found.number}", where=where, do=do)
    return found, rows
