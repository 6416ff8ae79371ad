"""Publishing: a version of the factors is copied, registered, and named champion when it is good enough.

A version is made in this order, and its alias comes last, so whoever goes by an alias never meets half of one:

1. it is registered (MLflow gives the number) with notes of what it is;
2. its rows are copied from a pinned version of `factors` to `published_factors`, in one commit;
3. the model that reads them is stored with its run, and the version is noted as kept;
4. aliases move: `champion` (then `previous` names the one before) or `challenger`.

A crash leaves a version without an alias. The next publishing makes a new one and removes the rows of all that no alias
names.
"""

import json
import uuid
from dataclasses import asdict, dataclass, replace

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, files, locks, tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, Refused, SourceMissing
from profilestream.base.settings import Settings
from profilestream.base.stream import checkpoint_path
from profilestream.base.tables import Table
from profilestream.learn import factors, tracking
from profilestream.learn.als import Params
from profilestream.learn.steps import globals_of
from profilestream.learn.tracking import Store, Version

STAGE = "learn_publish"
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
_KEPT, _REMOVED = "kept", "removed"


@dataclass(frozen=True)
class Published:
    """A version that can be scored with.

    Args:
        model_version: its number in the registry.
        state: of `factors` when it was published.
        params: by which it was learned, with the shares of its ranking.
        candidate: the ranking that it was judged by, one of catalogue.CANDIDATES.
    """

    model_version: int
    state: factors.State
    params: Params
    candidate: str


@dataclass(frozen=True)
class Quality:
    """The metric of a ranking over some judged batches.

    Args:
        value: mean by users; null when nothing was judged.
        since, until: event times, in microseconds, of the oldest and the newest state that was judged.
    """

    value: float | None
    since: int
    until: int


@dataclass(frozen=True)
class Notes:
    """What is noted of a version in the registry, beside its rows.

    Args:
        epoch, batch_id: the newest batch that it has learned from.
        factors_version: of the Delta table `factors`.
        candidate, metric, value: how good it was when it was published.
        params: JSON of als.Params.
        rows: `kept` while its rows are in `published_factors`; empty while they are still to come.
    """

    epoch: str
    batch_id: int
    factors_version: int
    candidate: str
    metric: str
    value: str
    params: str
    rows: str = ""

    def tags(self) -> dict[str, str]:
        """As MLflow keeps them."""
        return {f"profilestream.{name}": str(value) for name, value in asdict(self).items() if value != ""}

    @classmethod
    def of(cls, version: Version) -> "Notes":
        """Those of a registered version."""
        said = {name: version.notes.get(f"profilestream.{name}", "") for name in cls.__dataclass_fields__}
        numbers = {name: int(said.pop(name) or -1) for name in ("batch_id", "factors_version")}
        return cls(**said, **numbers)  # type: ignore[arg-type]


def table(settings: Settings) -> Table:
    """`published_factors`: rows of `factors` as they were when a version was published."""
    of = factors.table(settings)
    return replace(
        of,
        name="published_factors",
        ddl=f"{of.ddl.rstrip()},\n            model_version BIGINT NOT NULL\n",
        key=("model_version", *of.key),
        partitioned_by=("model_version", "side"),
        # Plain, so that every reader opens it; rows go by whole partitions.
        properties={"delta.dataSkippingStatsColumns": "key"},
        declaration="",
    )


def publish(spark: SparkSession, settings: Settings) -> str:
    """Make a version of what is learned now, name it, and say what became of it.

    Raises:
        SourceMissing: nothing was learned yet.
        Refused: `published_factors` holds versions of another registry.
    """
    paths, made, own = settings.paths, settings.learn.publish, factors.table(settings)
    with locks.held(paths.lock_folder, STAGE), tracking.store(settings) as store:
        epoch = _epoch(spark, settings)
        pinned = commits.version(spark, own, paths)
        rows = own.read(spark, paths, version=pinned)
        row = rows.where("side = 'global'").select("batch_id").first()
        if row is None:
            raise SourceMissing("nothing was learned yet", where=own.path(paths), do="capture events first")
        store.catch_up(spark, factors.LEARNER, epoch, settings.learn.factors.known)
        found = quality(spark, settings, made.candidate, epoch, up_to=row["batch_id"])
        value = "" if found.value is None else repr(found.value)
        params = json.dumps(asdict(factors.params(settings)))
        notes = Notes(epoch, row["batch_id"], pinned, made.candidate, made.metric, value, params)
        number = _made(spark, settings, store, rows, notes)
        told = _named(spark, settings, store, number, found)
        _prune(spark, settings, store)
    return f"version {number} {told}"


def _epoch(spark: SparkSession, settings: Settings) -> str:
    """Of the stage's checkpoint, and not of the rows: a sweep asked for by hand has one of its own."""
    own = factors.table(settings)
    checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, factors.STAGE))
    if checkpoint.is_new() or not own.exists(spark, settings.paths):
        raise SourceMissing(
            "nothing was learned yet", where=own.path(settings.paths), do=f"run jobs/{factors.STAGE}.py first"
        )
    own.check_stored(spark, settings.paths)
    return checkpoint.epoch()


def _made(spark: SparkSession, settings: Settings, store: Store, rows: DataFrame, notes: Notes) -> int:
    """The number of a new version whose rows and files are in place; no alias names it yet."""
    paths, made, copies = settings.paths, settings.learn.publish, table(settings)
    copies.create(spark, paths)
    copies.register(spark, paths)
    copies.check_stored(spark, paths)
    run = store.run(factors.LEARNER, notes.epoch, settings.learn.factors.known)
    folder = f"published/{uuid.uuid4().hex}"
    number = store.register(run, folder, notes.tags())
    row = copies.read(spark, paths).agg(F.max("model_version")).first()
    if row is not None and row[0] is not None and row[0] >= number:
        raise Refused(
            f"published_factors holds version {row[0]}, but the registry has just given number {number}",
            where=f"{copies.path(paths)}, learn.tracking.uri = {store.uri}",
            do="name the registry that gave those numbers; or, when it is lost, remove the table",
        )
    stamped = rows.withColumn("model_version", F.lit(number).cast("bigint")).select(*copies.columns)
    # By key, so that a reader of a few users passes over most files and row groups.
    ordered = stamped.repartitionByRange("side", "key").sortWithinPartitions("side", "key")
    commits.append(ordered, copies, paths, Txn(STAGE, str(uuid.uuid4()), number))
    config = {
        "table": files.local_path(copies.uri(paths)) or copies.uri(paths),
        "model_version": number,
        "params": json.loads(notes.params),
        "candidate": made.candidate,
        "most": made.most,
    }
    store.put_files(run, folder, config)
    store.note(number, {"profilestream.rows": _KEPT})
    return number


def _named(spark: SparkSession, settings: Settings, store: Store, number: int, found: Quality) -> str:
    """Give the version its alias, and say which and why."""
    champion = _by_alias(store.versions(), CHAMPION)
    if champion is None:
        is_better, why = True, "there was none"
    else:
        is_better, why = judge(spark, settings, champion, found)
    if is_better:
        _crown(store, number)
        return f"is the champion: {why}"
    store.name(CHALLENGER, number)
    return f"is the challenger: {why}"


def judge(spark: SparkSession, settings: Settings, champion: Version, found: Quality) -> tuple[bool, str]:
    """Whether what is learned now, of this quality, should take the champion's place, and why.

    A champion of the same epoch is an earlier state of the same learner: it is fresher, so it only has to be no worse
    than that one was, but for `tolerance`. One of another epoch was learned otherwise: it has to be better by `margin`,
    over the same stretch of the log where the other epoch was judged on it too.
    """
    made, notes = settings.learn.publish, Notes.of(champion)
    is_same = notes.epoch == _epoch(spark, settings)
    old = quality(spark, settings, notes.candidate, notes.epoch, up_to=notes.batch_id).value
    if not is_same and found.value is not None:
        there = _over(spark, settings, notes.candidate, notes.epoch, found)
        old = old if there is None else there
    name = f"{made.metric} of {made.candidate}"
    if found.value is None or old is None:
        whose = "this version" if found.value is None else f"version {champion.number}"
        return False, f"{name} is not known of {whose}"
    sign = -1.0 if made.metric == "rmse" else 1.0
    needed = old + sign * (-made.tolerance if is_same else made.margin) * abs(old)
    is_better = sign * (found.value - needed) >= 0 if is_same else sign * (found.value - needed) > 0
    more = f"at {'least' if sign > 0 else 'most'}" if is_same else f"{'more' if sign > 0 else 'less'} than"
    return is_better, f"{name} is {found.value:.4f}, needed {more} {needed:.4f} (version {champion.number}: {old:.4f})"


def quality(spark: SparkSession, settings: Settings, candidate: str, epoch: str, *, up_to: int) -> Quality:
    """How good a ranking was over the newest judged batches of an epoch, up to one of them."""
    newest = _judged(spark, settings, candidate, epoch).where(F.col("batch_id") <= up_to)
    newest = newest.orderBy(F.desc("batch_id")).limit(settings.learn.publish.batches)
    row = newest.agg(_mean(), F.min("at"), F.max("at")).first()
    return Quality(None, 0, 0) if row is None or row[0] is None else Quality(*row)


def _over(spark: SparkSession, settings: Settings, candidate: str, epoch: str, stretch: Quality) -> float | None:
    """How good a ranking of an epoch was over a stretch; null unless the epoch has come to its end."""
    rows = _judged(spark, settings, candidate, epoch).where(F.col("at") >= stretch.since)
    within = F.expr(f"at <= {stretch.until}")
    row = rows.agg(_mean(within), F.max("at")).first()
    return None if row is None or row[1] is None or row[1] < stretch.until else row[0]


def _judged(spark: SparkSession, settings: Settings, candidate: str, epoch: str) -> DataFrame:
    """The judged batches of a ranking: `batch_id`, `at` (of the state, microseconds), `users`, `value` (the metric)."""
    rows = tables.MODEL_QUALITY.read(spark, settings.paths)
    its = (F.col("learner") == factors.LEARNER) & (F.col("epoch") == epoch) & (F.col("candidate") == candidate)
    value = F.col(settings.learn.publish.metric).alias("value")
    return rows.where(its).select("batch_id", F.unix_micros("as_of").alias("at"), "users", value).where("users > 0")


def _mean(within: Column | None = None) -> Column:
    """By users; a row without a value does not count."""
    counts = F.col("value").isNotNull() if within is None else F.col("value").isNotNull() & within
    return F.try_divide(F.sum(F.when(counts, F.col("value") * F.col("users"))), F.sum(F.when(counts, F.col("users"))))


def crown(settings: Settings, number: int) -> str:
    """Let `champion` name a version, whatever its quality, and say so."""
    with tracking.store(settings) as store:
        known = {version.number: Notes.of(version) for version in store.versions()}
        if number not in known or known[number].rows != _KEPT:
            kept = [one for one, notes in known.items() if notes.rows == _KEPT]
            raise BadSettings(
                f"there is no version {number} with its rows",
                where=f"model {settings.learn.publish.name}, learn.tracking.uri = {store.uri}",
                do=f"name one of {kept}" if kept else "publish one first",
            )
        _crown(store, number)
    return f"version {number} is the champion"


def _crown(store: Store, number: int) -> None:
    versions = store.versions()
    champion, challenger = _by_alias(versions, CHAMPION), _by_alias(versions, CHALLENGER)
    if champion is not None and champion.number != number:
        store.name(PREVIOUS, champion.number)
    store.name(CHAMPION, number)
    if challenger is not None and challenger.number == number:
        store.name(CHALLENGER, None)


def roll_back(settings: Settings) -> str:
    """Let `champion` name the version before, and `challenger` the one that it named; say so."""
    with tracking.store(settings) as store:
        versions = store.versions()
        champion, previous = _by_alias(versions, CHAMPION), _by_alias(versions, PREVIOUS)
        if champion is None or previous is None or previous.number == champion.number:
            raise BadSettings(
                "there is no champion before this one",
                where=f"model {settings.learn.publish.name}, learn.tracking.uri = {store.uri}",
                do="see what there is: --list",
            )
        store.name(CHALLENGER, champion.number)
        store.name(CHAMPION, previous.number)
        store.name(PREVIOUS, None)
    return f"version {previous.number} is the champion again, in place of version {champion.number}"


def listed(settings: Settings) -> list[str]:
    """A line a version, newest first."""
    with tracking.store(settings) as store:
        versions = store.versions()
    return [_line(version) for version in versions] or ["no version was published yet"]


def _line(version: Version) -> str:
    notes = Notes.of(version)
    named = ", ".join(version.aliases) or "-"
    value = f"{float(notes.value):.4f}" if notes.value else "unknown"
    return (
        f"version {version.number}  {named}  {notes.candidate} {notes.metric} {value}  "
        f"batch {notes.batch_id} of epoch {notes.epoch}  rows {notes.rows or 'unfinished'}"
    )


def published(spark: SparkSession, settings: Settings, which: str | int = CHAMPION) -> Published:
    """The version that an alias names, or that has a number, to score with.

    Raises:
        SourceMissing: there is no such version, or its rows were removed.
    """
    with tracking.store(settings) as store:
        versions = store.versions()
    found = next((one for one in versions if which == one.number or which in one.aliases), None)
    if found is None or Notes.of(found).rows != _KEPT:
        raise SourceMissing(
            f"there is no published version {which!r} of {settings.learn.publish.name}",
            where=f"learn.tracking.uri = {store.uri}",
            do="publish one: jobs/learn_publish.py",
        )
    notes = Notes.of(found)
    params = Params(**json.loads(notes.params))
    rows = table(settings).read(spark, settings.paths).where(F.col("model_version") == found.number)
    row = rows.where("side = 'global'").select("equations").first()
    if row is None:
        raise SourceMissing(
            f"published_factors holds no rows of version {found.number}",
            where=table(settings).path(settings.paths),
            do="publish a new one: jobs/learn_publish.py",
        )
    known = globals_of(bytes(row["equations"]), params.width)
    rows = rows.where("side != 'global'").drop("model_version")
    return Published(found.number, factors.State(rows, known), params, notes.candidate)


def _by_alias(versions: list[Version], alias: str) -> Version | None:
    return next((version for version in versions if alias in version.aliases), None)


def _prune(spark: SparkSession, settings: Settings, store: Store) -> None:
    """Remove the rows of versions that no alias names, of anybody's aliases; what was noted of them stays."""
    versions = store.versions()
    for version in versions:
        if not version.aliases and Notes.of(version).rows != _REMOVED:
            store.note(version.number, {"profilestream.rows": _REMOVED})
    named = ", ".join(str(version.number) for version in versions if version.aliases)
    commits.delete(spark, table(settings), settings.paths, where=f"model_version NOT IN ({named})")
