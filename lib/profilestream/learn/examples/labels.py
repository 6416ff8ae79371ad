"""Labels declared in TOML: a statistic over the events of a user in `[t, t + horizon)`."""

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Frozen, Settings
from profilestream.derive import feature_checks, window_parts
from profilestream.derive.entity_features import EntityFeatures
from profilestream.derive.feature_declaration import DAY, HOUR, FeatureDefinition, window_micros
from profilestream.derive.fold import BATCH_HASH, Fold
from profilestream.derive.kernels.group_fold import WINDOWS
from profilestream.derive.table_declaration import DerivedTable, Key, Statistic, load_as

# Internal columns: the time of a row, and the start of a part, microseconds.
_AT, _PART = "_at", "_part"
# The events of a part are folded once for all rows. The longest part that divides all times and horizons is used, so
# each part is completely inside or outside of a horizon. Microseconds.
_PART_SIZES = (DAY, HOUR, 1)


class LabelDefinition(FeatureDefinition):
    """A statistic of a user over the events of a horizon."""

    @model_validator(mode="after")
    def _check_no_decay(self) -> Self:
        if self.statistic.half_life is not None:
            raise ValueError("a label weights all events of its horizon equally: remove half_life_days")
        return self


class Label(LabelDefinition):
    """A statistic over one or more horizons: the columns `<name>_<horizon>`.

    Args:
        horizons: `<n>h` or `<n>d`.
    """

    horizons: tuple[str, ...] = Field(min_length=1)

    @field_validator("horizons")
    @classmethod
    def _check_horizons(cls, horizons: tuple[str, ...]) -> tuple[str, ...]:
        malformed = [horizon for horizon in horizons if not re.fullmatch(r"[1-9]\d{0,4}[hd]", horizon)]
        if malformed or len(set(horizons)) < len(horizons):
            raise ValueError(f"horizons must be distinct and like 24h or 30d: {malformed or list(horizons)}")
        return horizons


class DeclaredLabels(Frozen):
    """All labels of a file."""

    labels: dict[str, Label] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_names(self) -> "DeclaredLabels":
        if malformed := [name for name in self.labels if not re.match(r"^[a-z][a-z0-9_]*$", name)]:
            raise ValueError(f"names may contain lowercase letters, digits and _ only: {malformed}")
        columns = [f"{name}_{horizon}" for name, one in self.labels.items() for horizon in one.horizons]
        if duplicates := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"two labels have the same columns: {duplicates}")
        return self

    @property
    def columns(self) -> dict[str, tuple[Label, str]]:
        """Label and horizon by column."""
        labels = self.labels.items()
        return {f"{name}_{horizon}": (label, horizon) for name, label in labels for horizon in label.horizons}


# By column, a label and its horizon.
SelectedLabels = Mapping[str, tuple[LabelDefinition, str]]


def load(path: str, names: dict[str, str]) -> DeclaredLabels:
    """The labels of a TOML file; `names` and errors as in table_declaration.load_as."""
    return load_as(DeclaredLabels, path, names)


def select_labels(settings: Settings, columns: Sequence[str] = ()) -> SelectedLabels:
    """Label and horizon by column, such as `purchase_7d`.

    Args:
        columns: names of columns; empty: all declared ones.

    Raises:
        BadSettings: no label file is configured, or a column is not declared.
    """
    file = settings.learn.examples.file
    if not file:
        raise BadSettings("no labels are declared", where="learn.examples.file", do="name a file such as labels.toml")
    declared = load(file, settings.derive.names).columns
    if unknown := [name for name in columns if name not in declared]:
        raise BadSettings(
            f"unknown labels {unknown}; declared labels: {list(declared)}",
            where="learn.examples.labels",
            do=f"name declared labels, or declare these in {file}",
        )
    return {name: declared[name] for name in columns or declared}


def check(spark: SparkSession, settings: Settings, labels: SelectedLabels) -> None:
    """Check the SQL of labels; writes nothing.

    Raises:
        BadSettings: an expression is invalid; names file and key.
    """
    events, file = spark.createDataFrame([], tables.EVENTS.schema), settings.learn.examples.file
    for column, (label, horizon) in labels.items():
        feature_checks.check_definition(spark, events, label, f"{file}, labels.{column.removesuffix(f'_{horizon}')}")


def label_values(
    spark: SparkSession, entity_times: DataFrame, labels: SelectedLabels, features: EntityFeatures, complete_until: int
) -> DataFrame:
    """Labels of entities, each over the events in `[at, at + horizon)`; earlier events are not read into them.

    Args:
        entity_times: the entity's keys and `at`, distinct.
        features: of the entity; they define its keys and which events count.
        complete_until: microseconds; a label whose horizon ends later is null.

    Returns:
        One row per entity and time: keys, `at` and labels. Without matching events a label has the empty value of its
        kind, such as 0 for a count.
    """
    lengths = list(dict.fromkeys(_length(horizon) for _, horizon in labels.values()))
    paths = {one: f"_{n}" for n, one in enumerate(dict.fromkeys(label.statistic for label, _ in labels.values()))}
    windows = {
        f"_{name}": (paths[label.statistic], lengths.index(_length(horizon)))
        for name, (label, horizon) in labels.items()
    }
    requests = entity_times.select(*features.keys, F.col("at").alias(_AT))
    rows = _rows_in_horizons(spark, requests, lengths, features, _fold(paths, features, _PART, "bigint"))
    results = _fold(paths, features, _AT, "timestamp").read_windows(windows, _AT, rows, None)
    at = F.unix_micros("at")
    values = [
        F.when(at + _length(horizon) <= complete_until, label.value(f"_{name}")).alias(name)
        for name, (label, horizon) in labels.items()
    ]
    return results.withColumnRenamed(_AT, "at").select(*features.keys, "at", *values)


def _rows_in_horizons(
    spark: SparkSession, requests: DataFrame, lengths: Sequence[int], features: EntityFeatures, by_part: Fold
) -> DataFrame:
    """The rows to read for each request: parts of its horizons, and one row that is in no horizon.

    Args:
        requests: the entity's keys and _AT.
        lengths: of the horizons, microseconds, in the order of their bits in WINDOWS.
        by_part: the statistics by entity and _PART.
    """
    at, sizes = F.unix_micros(_AT), [size for size in _PART_SIZES if all(length % size == 0 for length in lengths)]
    numbers = [F.min(at), F.max(at), *[F.max(F.pmod(at, F.lit(size))) for size in sizes]]
    row = requests.agg(F.count(F.lit(1)), *[F.coalesce(number, F.lit(0)) for number in numbers]).head()
    assert row is not None
    count, first, last, *remainders = row
    size = next(size for size, remainder in zip(sizes, remainders, strict=True) if remainder == 0)
    dates = F.col("event_date").between(window_parts.utc_date(first), window_parts.utc_date(last + max(lengths)))
    events = window_parts.with_entity_keys(features.read(spark, tables.EVENTS).where(dates), features)
    time = F.unix_micros("event_time")
    parts = by_part.partials(events.withColumn(_PART, time - F.pmod(time, F.lit(size))))
    joined, after = parts.join(broadcast_if_small(requests, count), features.keys), F.col(_PART) - at
    bits = [F.when(after < length, F.lit(1 << n)).otherwise(0) for n, length in enumerate(lengths)]
    in_horizon = joined.where(after.between(0, max(lengths) - 1))
    in_horizon = in_horizon.withColumns({WINDOWS: reduce(Column.__add__, bits).cast("bigint"), BATCH_HASH: F.lit(0)})
    in_none = requests.withColumn(WINDOWS, F.lit(0).cast("bigint"))
    return in_horizon.drop(_PART).unionByName(in_none, allowMissingColumns=True)


def _length(horizon: str) -> int:
    length = window_micros(horizon)
    assert length is not None
    return length


def _fold(
    paths: Mapping[Statistic, str], features: EntityFeatures, time: str, sql_type: Literal["bigint", "timestamp"]
) -> Fold:
    """Statistics by entity and a time.

    Args:
        paths: paths of the statistics.
        time: column of the time.
    """
    keys = {name: Key(of=f"_{name}", type=features.tiles.keys[name].type) for name in features.keys}
    keys[time] = Key(of=time, type=sql_type)
    statistics = {path: statistic for statistic, path in paths.items()}
    return Fold(DerivedTable(name="labels", write="append", keys=keys, statistics=statistics))
