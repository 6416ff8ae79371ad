"""learn_examples: training examples, which are features of users at times t and labels from events at or after t.

Features are computed from events before t only. A label is null until its horizon has passed. Whether a user has a row
at a time does not depend on later events.
"""

import json
from dataclasses import replace
from datetime import date

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import commits, locks, tables
from profilestream.base.columns import Column as TableColumn
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, Refused, SourceMissing
from profilestream.base.session import materialize
from profilestream.base.settings import Examples, Settings, fingerprint
from profilestream.derive import entity_features, point_in_time, window_parts
from profilestream.derive.entity_features import EntityFeatures
from profilestream.derive.feature_declaration import DAY, window_micros
from profilestream.derive.point_in_time import features_as_of
from profilestream.learn.examples import labels
from profilestream.learn.examples.labels import SelectedLabels

STAGE, NAME, ENTITY = "learn_examples", "training_examples", "user"
_KEY = ("set_name", "user_id", "at")
_OTHER_COLUMNS = ("labels_complete_until", "events_version", "declaration")
_EPOCH = date(1970, 1, 1)
_SAMPLE_BUCKETS = 1_000_000
_FIRST, _LAST, _HASH, _NUMBER = "_first", "_last", "_hash", "_number"


def table(settings: Settings) -> Table:
    """`training_examples`: one row per set, user and time, with one column per feature and label.

    Raises:
        BadSettings: features or labels are not declared, or a label has the name of another column.
    """
    features, selected = _features_and_labels(settings)
    label_columns = [
        TableColumn(name, label.type.upper(), f"Label. {label.question} Within {horizon} from `at`.", label.unit)
        for name, (label, horizon) in selected.items()
    ]
    return Table(
        name=NAME,
        meaning="One row per set, user and time: features before the time, labels from the time on.",
        writer=STAGE,
        retention="the rows of a set are replaced by each run",
        columns=(
            TableColumn("set_name", "STRING NOT NULL", "Name of the set of examples, such as a train or test set."),
            tables.USER_ID,
            TableColumn(
                "at", "TIMESTAMP NOT NULL", "The time t: features use events before it, labels from it on.", "UTC"
            ),
            *features.table_columns(),
            *label_columns,
            TableColumn(
                "labels_complete_until", "TIMESTAMP NOT NULL", "Labels whose horizon ends by then are set.", "UTC"
            ),
            TableColumn("events_version", "BIGINT NOT NULL", "Delta version of `events` that was read."),
            TableColumn("declaration", "STRING NOT NULL", "Fingerprint of the declarations of features and labels."),
        ),
        key=_KEY,
        partitioned_by=("set_name",),
        declaration=_declaration(features, selected),
    )


def _features_and_labels(settings: Settings) -> tuple[EntityFeatures, SelectedLabels]:
    config = settings.learn.examples
    selected = labels.select_labels(settings, config.labels)
    features = entity_features.select_features(settings, ENTITY, config.features)
    if duplicates := sorted(selected.keys() & {*features.columns, *_KEY, *_OTHER_COLUMNS}):
        raise BadSettings(
            f"labels with the name of a feature or of another column of {NAME}: {duplicates}",
            where=f"{config.file}, labels",
            do="rename these labels",
        )
    return features, selected


def _declaration(features: EntityFeatures, selected: SelectedLabels) -> str:
    """Fingerprint of all settings that change a value; not of those that select users and times."""
    keys = {name: features.tiles.keys[name].of for name in features.keys}
    parts = {name: label.model_dump(mode="json", exclude={"question", "unit"}) for name, (label, _) in selected.items()}
    return fingerprint(json.dumps([features.settings, features.tiles.where, keys, parts], sort_keys=True))


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the selected features and the SQL of the labels; writes nothing.

    Raises:
        BadSettings: a declaration or a setting is invalid; names file and key.
    """
    table(settings)
    labels.check(spark, settings, _features_and_labels(settings)[1])


def run(spark: SparkSession, settings: Settings, *, rebuild: bool = False) -> int:
    """Replace the rows of a set, in one commit; no commit when the latest rows are from the same inputs.

    Args:
        rebuild: empty the table first, including all other sets; required after a declaration changed.

    Returns:
        The number of rows.

    Raises:
        SourceMissing: the table of events or of tiles does not exist.
        Refused: tiles and `events` do not contain the same events, or the table has another declaration.
    """
    examples, paths, set_name = table(settings), settings.paths, settings.learn.examples.set_name
    with locks.hold_lock(paths.lock_folder, STAGE):
        features = features_at_current_versions(spark, settings)
        if rebuild:
            examples.recreate(spark, paths)
        examples.prepare(spark, paths)
        inputs = repr((settings.learn.examples, _declaration(*_features_and_labels(settings)), features.versions))
        where = f"set_name = '{set_name}'"
        txn = commits.next_txn(spark, examples, paths, STAGE, inputs)
        if txn is None:
            return examples.read(spark, paths).where(where).count()
        rows = materialize(compute_examples(spark, settings, features)).select(*examples.names)
        commits.replace(rows, examples, paths, txn, where=where)
        return rows.count()


def features_at_current_versions(spark: SparkSession, settings: Settings) -> EntityFeatures:
    """The selected features, with the current versions of their tables fixed.

    Raises:
        SourceMissing: the table of events or of tiles does not exist.
    """
    features, _ = _features_and_labels(settings)
    sources = (features.tiles.table, tables.EVENTS)
    if missing := [one.name for one in sources if not one.exists(spark, settings.paths)]:
        do = "run jobs/capture_events.py and jobs/derive_features.py first"
        raise SourceMissing(f"there are no tables {missing}", where=settings.paths.warehouse, do=do)
    return replace(features, versions=commits.versions(spark, sources, settings.paths))


def compute_examples(spark: SparkSession, settings: Settings, features: EntityFeatures) -> DataFrame:
    """The rows of the set that the settings describe, with the columns of the table; none without events.

    Raises:
        Refused: tiles and `events` do not contain the same events.
    """
    config, (_, selected) = settings.learn.examples, _features_and_labels(settings)
    newest_event = _newest_event(spark, features)
    if newest_event is None:
        return spark.createDataFrame([], table(settings).schema)
    complete_until = newest_event - _micros(config.label_delay)
    shortest = min(_micros(horizon) for _, horizon in selected.values())
    events = window_parts.with_entity_keys(features.read(spark, tables.EVENTS), features)
    own_events = events.select(*[F.col(f"_{name}").alias(name) for name in features.keys], "event_time").dropna()
    all_times = entity_times(own_events, features.keys, config, complete_until - shortest)
    times = materialize(sample_times(all_times, features.keys, config))
    values = labels.label_values(spark, times, selected, features, complete_until)
    constants = {
        "set_name": F.lit(config.set_name),
        "labels_complete_until": F.timestamp_micros(F.lit(complete_until)),
        "events_version": F.lit(features.versions[tables.EVENTS.name]).cast("bigint"),
        "declaration": F.lit(_declaration(features, selected)),
    }
    rows = features_as_of(spark, times, features).join(values, [*features.keys, "at"]).withColumns(constants)
    return rows.select(*_KEY, *features.columns, *selected, *_OTHER_COLUMNS)


def entity_times(events: DataFrame, keys: list[str], config: Examples, last: int) -> DataFrame:
    """The times at which entities have a row: keys and `at`, distinct.

    Args:
        events: keys and `event_time`.
        last: the last possible time, microseconds.
    """
    interval, offset = _micros(config.interval), _micros(config.offset)
    active_within = window_micros(config.active_within)
    last = last if config.until is None else min(last, _start_of_day(config.until) - 1)
    event_time = F.unix_micros("event_time")
    # The first time after the event: an event at a time t is not before t.
    first = event_time - F.pmod(event_time - offset, F.lit(interval)) + interval
    if config.since is not None:
        since = _start_of_day(config.since)
        first = F.greatest(first, F.lit(since + (offset - since) % interval))
    end = F.lit(last) if active_within is None else F.least(event_time + active_within, F.lit(last))
    spans = events.select(*keys, first.alias(_FIRST), end.alias(_LAST)).groupBy(*keys, _FIRST)
    longest_spans = spans.agg(F.max(_LAST).alias(_LAST)).where(F.col(_FIRST) <= F.col(_LAST))
    times = F.transform(F.sequence(_FIRST, _LAST, F.lit(interval).cast("bigint")), F.timestamp_micros)
    return longest_spans.select(*keys, F.explode(times).alias("at")).distinct()


def sample_times(times: DataFrame, keys: list[str], config: Examples) -> DataFrame:
    """The fraction and the number per entity that the settings keep, selected by a hash of keys, time and seed."""
    sample = times.withColumn(_HASH, F.xxhash64(*keys, F.unix_micros("at"), F.lit(config.seed)))
    if config.sample_fraction < 1:
        bucket = F.pmod(F.col(_HASH), F.lit(_SAMPLE_BUCKETS))
        sample = sample.where(bucket < round(config.sample_fraction * _SAMPLE_BUCKETS))
    if config.max_times_per_user is not None:
        number = F.row_number().over(Window.partitionBy(*keys).orderBy(_HASH, "at"))
        sample = sample.withColumn(_NUMBER, number).where(F.col(_NUMBER) <= config.max_times_per_user)
    return sample.select(*keys, "at")


def _micros(length: str) -> int:
    micros = window_micros(length)
    assert micros is not None
    return micros


def _start_of_day(day: date) -> int:
    return (day - _EPOCH).days * DAY


def _newest_event(spark: SparkSession, features: EntityFeatures) -> int | None:
    """Time of the newest event, microseconds; null when there are no events.

    Raises:
        Refused: the number of events differs from the one in the tiles.
    """
    row = features.read(spark, tables.EVENTS).agg(F.max(F.unix_micros("event_time"))).head()
    if row is None or row[0] is None:
        return None
    in_tiles, in_events = point_in_time.counted_events(spark, features)
    if in_tiles != in_events:
        raise Refused(
            f"{features.tiles.name} counts {in_tiles} events, but events contains {in_events}",
            where=features.tiles.table.path(features.paths),
            do="run jobs/derive_features.py until it ends, while no capture is running",
        )
    return int(row[0])
