"""learn_outcome_examples: appends the examples of outcomes whose horizon has passed to `outcome_examples`.

An example is a user at a time t of a weekly grid, with features of the events before t and labels of the events from t
on. All examples with the same time and horizon are a cell. A cell is appended once, when the .999 quantile of event
time has reached its maturity time, and later events do not change it (docs/decisions/0044-outcomes.md).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks, tables
from profilestream.base.errors import BadSettings, NothingToDo, Refused
from profilestream.base.session import materialize
from profilestream.base.settings import Settings
from profilestream.derive import feature_checks, fold_stage, point_in_time, window_parts
from profilestream.derive.entity_features import EntityFeatures
from profilestream.derive.feature_declaration import DAY
from profilestream.learn import event_days
from profilestream.learn.examples import labels
from profilestream.learn.outcomes import outcome_declaration, outcome_features
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes

STEP, TABLE = "learn_outcome_examples", tables.OUTCOME_EXAMPLES
# Examples that are computed and committed together.
_MAX_ROWS = 500_000
_EPOCH_DAY = date(1970, 1, 1)
_HORIZON = "horizon_days"
_FIRST = "_first"  # internal column: the first day, since 1970, on which a user can have an example
# Horizons that have matured, by time in days since 1970.
_Times = Mapping[int, Sequence[int]]


def check(spark: SparkSession, settings: Settings) -> None:
    """Check features, labels and populations; writes nothing.

    Raises:
        BadSettings: user ids are sessions, or a declaration is invalid; names file and key.
    """
    settings.require_people("outcomes")
    declared, file = outcome_declaration.load(settings), settings.learn.outcomes.file
    features = outcome_features.select_features(settings, declared)
    events = spark.createDataFrame([], tables.EVENTS.schema)
    for name, label in declared.labels.items():
        feature_checks.check_definition(spark, events, label, f"{file}, labels.{name}")
    rows = spark.createDataFrame([], ", ".join(f"{name} {sql_type}" for name, sql_type in features.types.items()))
    for name, outcome in declared.outcomes.items():
        where = f"{file}, outcomes.{name}.population"
        sql_type = fold_stage.sql_type(rows, outcome.population, where, "the declared features")
        if sql_type != "boolean":
            raise BadSettings(f"{outcome.population!r} is a {sql_type}", where=where, do="write a condition")


def run(spark: SparkSession, settings: Settings, *, rebuild: bool = False) -> int:
    """Append the examples of all cells that have matured since the last run, in order of time.

    Args:
        rebuild: empty the table first; then derive the models again: learn_outcomes --rebuild.

    Returns:
        The number of new examples.

    Raises:
        NothingToDo: there are no tables of events or tiles, or the tiles do not contain all events yet.
        Refused: the stored examples have other features than the declaration; features can only be added at the end.
    """
    declared, paths = outcome_declaration.load(settings), settings.paths
    with locks.hold_lock(paths.lock_folder, STEP):
        if rebuild:
            TABLE.recreate(spark, paths)
        TABLE.prepare(spark, paths)
        features = outcome_features.select_features(settings, declared)
        sources = (features.tiles.table, tables.EVENTS)
        if missing := [one.name for one in sources if not one.exists(spark, paths)]:
            do = "run jobs/capture_events.py and jobs/derive_features.py first"
            raise NothingToDo(f"there are no tables {missing}", where=paths.warehouse, do=do)
        features = replace(features, versions=commits.versions(spark, sources, paths))
        due = _due(spark, declared, features, _last_times(spark, settings, declared))
        if not due:
            return 0
        users = materialize(_first_days(spark, features))
        count = 0
        for times in _groups(due, users):
            _check_tiles(spark, features, max(times))
            inputs = repr((declared.model_dump(mode="json"), features.settings, times))
            txn = commits.next_txn(spark, TABLE, paths, STEP, inputs)
            assert txn is not None, "the table contains these times"
            rows = materialize(_examples(spark, declared, features, users, times))
            commits.append(commits.with_batch_columns(rows, TABLE, txn), TABLE, paths, txn)
            count += rows.count()
        return count


def _last_times(spark: SparkSession, settings: Settings, declared: DeclaredOutcomes) -> dict[int, int]:
    """The newest stored time of each horizon, in days since 1970.

    Raises:
        Refused: features were removed, renamed or moved; stored arrays have them in their old order.
    """
    newest = F.floor(F.unix_micros(F.max("at")) / DAY)
    stored = TABLE.read(spark, settings.paths).groupBy(_HORIZON).agg(newest, F.collect_set("feature_names")).collect()
    names = list(declared.features)
    for text in {text for _, _, texts in stored for text in texts}:
        old = text.split(",")
        if names[: len(old)] != old:
            raise Refused(
                f"stored examples have the features {old}, and the declaration has {names[: len(old)]} at their place",
                where=f"{settings.learn.outcomes.file}, features",
                do=f"add new features at the end, or run jobs/{STEP}.py --rebuild and jobs/learn_outcomes.py --rebuild",
            )
    return {horizon: day for horizon, day, _ in stored}


def _first_days(spark: SparkSession, features: EntityFeatures) -> DataFrame:
    """`user_id`, and the first day on which the user can have an example: the one after the first event."""
    events = window_parts.with_entity_keys(features.read(spark, tables.EVENTS), features)
    day = F.floor(F.unix_micros("event_time") / DAY) + 1
    firsts = events.select(F.col("_user_id").alias("user_id"), day.alias(_FIRST)).dropna().groupBy("user_id")
    return firsts.agg(F.min(_FIRST).alias(_FIRST))


def _due(spark: SparkSession, declared: DeclaredOutcomes, features: EntityFeatures, last: Mapping[int, int]) -> _Times:
    """The times whose cells have matured and are not stored.

    A cell before a stored one is not due: it had no examples, and must not get any later.

    Args:
        last: newest stored time of each horizon.
    """
    days = event_days.count_by_day(features.read(spark, tables.EVENTS))
    horizons: dict[int, list[int]] = defaultdict(list)
    mature_until, interval = event_days.newest_day(days), declared.interval_days
    if mature_until is None:
        return horizons
    for horizon in sorted({one.horizon_days for one in declared.outcomes.values()}):
        begin = last.get(horizon, days[0][0]) + 1
        begin += (declared.offset_days - begin) % interval
        for at in range(begin, mature_until - horizon - declared.label_grace_days + 1, interval):
            horizons[at].append(horizon)
    return horizons


def _groups(due: _Times, users: DataFrame) -> Iterator[_Times]:
    """The times at which there are users, in order, in groups with at most _MAX_ROWS examples or with one time."""
    new_users = {row[0]: row[1] for row in users.groupBy(_FIRST).count().collect()}
    group: dict[int, Sequence[int]] = {}
    rows = 0
    for at in sorted(due):
        at_rows = len(due[at]) * sum(count for first, count in new_users.items() if first <= at)
        if group and rows + at_rows > _MAX_ROWS:
            yield group
            group, rows = {}, 0
        if at_rows:
            group[at] = due[at]
            rows += at_rows
    if group:
        yield group


def _check_tiles(spark: SparkSession, features: EntityFeatures, last: int) -> None:
    """Compare the events before a day, since 1970, with those that the tiles count."""
    counted = point_in_time.counted_events(spark, features, _EPOCH_DAY + timedelta(last))
    if counted.in_tiles != counted.in_events:
        raise NothingToDo(
            f"{features.tiles.name} counts {counted.in_tiles} of {counted.in_events} events before the newest time of "
            "examples",
            where=features.tiles.table.path(features.paths),
            do="run jobs/derive_features.py until it ends",
        )


def _examples(
    spark: SparkSession, declared: DeclaredOutcomes, features: EntityFeatures, users: DataFrame, times: _Times
) -> DataFrame:
    """The examples, with the columns of the table except those of the batch. Users without a label have none."""
    days = spark.createDataFrame([(day, list(one)) for day, one in times.items()], "day INT, horizons ARRAY<INT>")
    pairs = users.join(F.broadcast(days), F.col(_FIRST) <= F.col("day"))
    at = F.timestamp_micros(F.col("day").cast("bigint") * DAY)
    requests = materialize(pairs.select("user_id", at.alias("at"), "horizons"))
    selected = {name: (declared.labels[one.label], f"{one.horizon_days}d") for name, one in declared.outcomes.items()}
    complete_until = max(day + max(one) for day, one in times.items()) * DAY
    keys = ["user_id", "at"]
    values = labels.label_values(spark, requests.select(*keys), selected, features, complete_until)
    names = {name: f"_label_{name}" for name in selected}
    values = values.select(*keys, *[F.col(name).cast("double").alias(label) for name, label in names.items()])
    rows = point_in_time.features_as_of(spark, requests.select(*keys), features).join(values, keys).join(requests, keys)
    rows = rows.withColumn(_HORIZON, F.explode("horizons"))
    matures_at = F.unix_micros("at") + (F.col(_HORIZON) + declared.label_grace_days) * F.lit(DAY)
    rows = rows.withColumn("_populations", outcome_features.populations(declared))
    by_name: list[Column] = []
    for number, (name, outcome) in enumerate(declared.outcomes.items()):
        is_learned = F.col("_populations")[number] & (F.col(_HORIZON) == outcome.horizon_days)
        by_name += [F.lit(name), F.when(is_learned, F.col(names[name]))]
    label_map = F.map_filter(F.create_map(*by_name), lambda _, value: value.isNotNull())
    return rows.select(
        _HORIZON,
        *keys,
        F.timestamp_micros(matures_at.cast("bigint")).alias("matures_at"),
        outcome_features.feature_values(declared).alias("features"),
        label_map.alias("labels"),
        F.lit(",".join(declared.features)).alias("feature_names"),
    ).where(F.size("labels") > 0)
