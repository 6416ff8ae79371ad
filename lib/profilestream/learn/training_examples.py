"""learn_examples: training rows, features of users as of times and what the users did from then on.

Features are told by events before a time alone, labels by events at it or after it; a label is null until its horizon
has passed. Which users and times have a row hangs on nothing that happens after the time.
"""

import json
import uuid
from dataclasses import replace
from datetime import date

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import commits, locks, tables
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, Refused, SourceMissing
from profilestream.base.session import materialize
from profilestream.base.settings import Examples, Settings, fingerprint
from profilestream.base.tables import Table
from profilestream.derive import entity_features as chosen_features
from profilestream.derive import window_parts
from profilestream.derive.entity_features import Features
from profilestream.derive.feature_declaration import DAY, micros
from profilestream.derive.point_in_time import features_as_of
from profilestream.derive.statistics import Count
from profilestream.learn import labels

STAGE, NAME, ENTITY = "learn_examples", "training_examples", "user"
_KEY = ("set_name", "user_id", "at")
_OWN = ("matured_until", "events_version", "declaration")
_EPOCH = date(1970, 1, 1)
_SHARES = 1_000_000
_FIRST, _LAST, _DRAWN = "_first", "_last", "_drawn"


def table(settings: Settings) -> Table:
    """`training_examples`: a row a set, user and time; a column a feature and a label.

    Raises:
        BadSettings: features or labels are not declared, or two have one name.
    """
    features, told = _chosen(settings)
    kinds = features.types | {name: label.type for name, (label, _) in told.items()}
    return Table(
        name=NAME,
        ddl=",\n".join(
            [
                "set_name STRING NOT NULL", "user_id STRING NOT NULL", "at TIMESTAMP NOT NULL",
                *[f"{name} {kind.upper()}" for name, kind in kinds.items()],
                "matured_until TIMESTAMP NOT NULL", "events_version BIGINT NOT NULL", "declaration STRING NOT NULL",
            ]
        ),
        key=_KEY,
        partitioned_by=("set_name",),
        declaration=_declaration(features, told),
    )  # fmt: skip


def _chosen(settings: Settings) -> tuple[Features, labels.Chosen]:
    asked = settings.learn.examples
    told = labels.chosen(settings, asked.labels)
    features = chosen_features.chosen(settings, ENTITY, asked.features)
    if taken := sorted(told.keys() & {*features.columns, *_KEY, *_OWN}):
        raise BadSettings(
            f"labels that have the name of a feature or of a column of {NAME}: {taken}",
            where=f"{asked.file}, labels",
            do="give them other names",
        )
    return features, told


def _declaration(features: Features, told: labels.Chosen) -> str:
    """Changes when any row could, but for which users and times there are."""
    keys = {name: features.tiles.keys[name].of for name in features.keys}
    parts = {name: label.model_dump(mode="json", exclude={"question", "unit"}) for name, (label, _) in told.items()}
    return fingerprint(json.dumps([features.settings, features.tiles.where, keys, parts], sort_keys=True))


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the labels, and that there are the features; writes nothing.

    Raises:
        BadSettings: something does not fit; names file and key.
    """
    table(settings)
    labels.check(spark, settings, _chosen(settings)[1])


def run(spark: SparkSession, settings: Settings, *, rebuild: bool = False) -> int:
    """Put the rows of a set in place of those that it had, in one commit.

    Args:
        rebuild: empty the table first, with the rows of all sets; needed after a declaration changed.

    Returns:
        The number of rows.

    Raises:
        SourceMissing: there are no events or tiles.
        Refused: the tiles of users do not tell of the same events as `events`; or the table is of another declaration.
    """
    made, paths, asked = table(settings), settings.paths, settings.learn.examples
    with locks.held(paths.lock_folder, STAGE):
        features = pinned(spark, settings)
        if rebuild:
            made.empty(spark, paths)
        made.create(spark, paths)
        made.check_stored(spark, paths)
        made.register(spark, paths)
        rows = materialize(examples(spark, settings, features)).select(*made.columns)
        commits.replace(rows, made, paths, Txn(STAGE, str(uuid.uuid4()), 0), where=f"set_name = '{asked.set_name}'")
        return rows.count()


def pinned(spark: SparkSession, settings: Settings) -> Features:
    """The features of training rows, by the versions that the tables have now.

    Raises:
        SourceMissing: there are no events or tiles.
    """
    features, _ = _chosen(settings)
    sources = (features.tiles.table, tables.EVENTS)
    if lacking := [one.name for one in sources if not one.exists(spark, settings.paths)]:
        do = "run jobs/capture_events.py and jobs/derive_features.py first"
        raise SourceMissing(f"there are no tables {lacking}", where=settings.paths.warehouse, do=do)
    versions = {one.name: commits.version(spark, one, settings.paths) for one in sources}
    return replace(features, versions=versions)


def examples(spark: SparkSession, settings: Settings, features: Features) -> DataFrame:
    """The rows of the set that the settings ask for, as the table has them.

    Raises:
        Refused: the tiles do not tell of the same events as `events`.
    """
    asked, (_, told) = settings.learn.examples, _chosen(settings)
    matured = _newest(spark, features) - _micros(asked.lateness)
    shortest = min(_micros(horizon) for _, horizon in told.values())
    events = window_parts.keyed(features.read(spark, tables.EVENTS), features)
    named = events.select(*[F.col(f"_{name}").alias(name) for name in features.keys], "event_time").dropna()
    times = materialize(sampled(entity_times(named, features.keys, asked, matured - shortest), features.keys, asked))
    came = labels.outcomes(spark, times, told, features, matured)
    own = {
        "set_name": F.lit(asked.set_name),
        "matured_until": F.timestamp_micros(F.lit(matured)),
        "events_version": F.lit(features.versions[tables.EVENTS.name]).cast("bigint"),
        "declaration": F.lit(_declaration(features, told)),
    }
    rows = features_as_of(spark, times, features).join(came, [*features.keys, "at"]).withColumns(own)
    return rows.select(*_KEY, *features.columns, *told, *_OWN)


def entity_times(events: DataFrame, keys: list[str], asked: Examples, last: int) -> DataFrame:
    """The times at which entities stand: keys and `at`.

    Args:
        events: keys and `event_time`.
        last: microseconds; no time is later.
    """
    step, offset, reach = _micros(asked.every), _micros(asked.offset), micros(asked.active_within)
    last = last if asked.until is None else min(last, _start(asked.until) - 1)
    moment = F.unix_micros("event_time")
    # The first step after the event: an event at a time itself is not before it.
    first = moment - F.pmod(moment - offset, F.lit(step)) + step
    if asked.since is not None:
        since = _start(asked.since)
        first = F.greatest(first, F.lit(since + (offset - since) % step))
    end = F.lit(last) if reach is None else F.least(moment + reach, F.lit(last))
    spans = events.select(*keys, first.alias(_FIRST), end.alias(_LAST)).groupBy(*keys, _FIRST)
    widest = spans.agg(F.max(_LAST).alias(_LAST)).where(F.col(_FIRST) <= F.col(_LAST))
    steps = F.transform(F.sequence(_FIRST, _LAST, F.lit(step).cast("bigint")), F.timestamp_micros)
    return widest.select(*keys, F.explode(steps).alias("at")).distinct()


def sampled(times: DataFrame, keys: list[str], asked: Examples) -> DataFrame:
    """A share of entities and times by a hash of keys, time and seed, and of an entity at most so many."""
    drawn = times.withColumn(_DRAWN, F.xxhash64(*keys, F.unix_micros("at"), F.lit(asked.seed)))
    if asked.share < 1:
        drawn = drawn.where(F.pmod(F.col(_DRAWN), F.lit(_SHARES)) < round(asked.share * _SHARES))
    if asked.per_user is not None:
        place = F.row_number().over(Window.partitionBy(*keys).orderBy(_DRAWN, "at"))
        drawn = drawn.withColumn("_place", place).where(F.col("_place") <= asked.per_user)
    return drawn.select(*keys, "at")


def _micros(length: str) -> int:
    found = micros(length)
    assert found is not None
    return found


def _start(day: date) -> int:
    return (day - _EPOCH).days * DAY


def _newest(spark: SparkSession, features: Features) -> int:
    """Microseconds of the newest event.

    Raises:
        SourceMissing: there is none.
        Refused: the tiles do not count the events that there are.
    """
    events, of_tiles = features.read(spark, tables.EVENTS), features.read(spark, features.tiles.table)
    in_events, in_tiles = _counts(features)
    row = events.agg(F.max(F.unix_micros("event_time")), F.min("event_date"), F.count_if(in_events)).head()
    if row is None or row[0] is None:
        raise SourceMissing("events has no rows", where=tables.EVENTS.path(features.paths), do="capture some first")
    newest, first, have = row
    # Tiles may go further back than the events that are kept.
    told = of_tiles.where(F.col("date") >= F.lit(first)).agg(F.coalesce(F.sum(in_tiles), F.lit(0))).head()
    if told is None or told[0] != have:
        raise Refused(
            f"{features.tiles.name} counts {told and told[0]} events, and events has {have}",
            where=features.tiles.table.path(features.paths),
            do="run jobs/derive_features.py to its end, while nothing is captured",
        )
    return int(newest)


def _counts(features: Features) -> tuple[Column, Column]:
    """What an event, and what a row of tiles adds to a number of events that both know; nothing when there is none."""
    tiles = features.tiles
    plain = {path: one for path, one in tiles.statistics.items() if isinstance(one, Count)}
    known = [(path, one.where) for path, one in plain.items() if (one.of, one.weight) == ("1", "1")]
    path, where = known[0] if known else ("0", "false")
    keys = " AND ".join(f"({tiles.keys[name].of}) IS NOT NULL" for name in features.keys)
    return F.expr(f"({tiles.where}) AND ({where}) AND {keys}"), F.expr(path)
