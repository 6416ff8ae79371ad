"""Labels as data: what users did after a time t, a statistic over the events in `[t, t + horizon)`, in TOML."""

import re
from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Frozen, Settings
from profilestream.derive import feature_checks, window_parts
from profilestream.derive.entity_features import Features
from profilestream.derive.feature_declaration import Question, micros
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import Derived, Key, load_as

_AT, _AHEAD = "_at", "_ahead"


class Label(Question):
    """A question about what comes: the columns `<name>_<horizon>`.

    Args:
        horizons: `<n>h` or `<n>d`.
    """

    horizons: tuple[str, ...] = Field(min_length=1)

    @field_validator("horizons")
    @classmethod
    def _known(cls, horizons: tuple[str, ...]) -> tuple[str, ...]:
        odd = [horizon for horizon in horizons if not re.fullmatch(r"[1-9]\d{0,4}[hd]", horizon)]
        if odd or len(set(horizons)) < len(horizons):
            raise ValueError(f"not different horizons such as 24h or 30d: {odd or list(horizons)}")
        return horizons

    @model_validator(mode="after")
    def _is_plain(self) -> "Label":
        if self.statistic.half_life is not None:
            raise ValueError("a label counts all of its horizon alike: no half_life_days")
        return self


class Labels(Frozen):
    """All labels of a file."""

    labels: dict[str, Label] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> "Labels":
        if odd := [name for name in self.labels if not re.match(r"^[a-z][a-z0-9_]*$", name)]:
            raise ValueError(f"names may hold small letters, digits and _ only: {odd}")
        columns = [f"{name}_{horizon}" for name, one in self.labels.items() for horizon in one.horizons]
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"columns that two labels have: {twice}")
        return self

    @property
    def columns(self) -> dict[str, tuple[Label, str]]:
        """By column: the label and its horizon."""
        every = self.labels.items()
        return {f"{name}_{horizon}": (label, horizon) for name, label in every for horizon in label.horizons}


Chosen = dict[str, tuple[Label, str]]


def load(path: str, names: dict[str, str]) -> Labels:
    """The labels of a TOML file, as declaration.load_as."""
    return load_as(Labels, path, names)


def chosen(settings: Settings, columns: Sequence[str] = ()) -> Chosen:
    """Labels by the names of their columns, such as `purchase_7d`; all of them when none is named.

    Raises:
        BadSettings: the settings name no file of labels, or one has no such column.
    """
    file = settings.learn.examples.file
    if not file:
        raise BadSettings("no labels are declared", where="learn.examples.file", do="name a file such as labels.toml")
    every = load(file, settings.derive.names).columns
    if foreign := [name for name in columns if name not in every]:
        raise BadSettings(
            f"there are no labels {foreign}, but {list(every)}",
            where="learn.examples.labels",
            do=f"name some of these, or declare them in {file}",
        )
    return {name: every[name] for name in columns or every}


def check(spark: SparkSession, settings: Settings, labels: Chosen) -> None:
    """Check the SQL of labels; writes nothing.

    Raises:
        BadSettings: an expression is not understood; names file and key.
    """
    events, file = spark.createDataFrame([], tables.EVENTS.schema), settings.learn.examples.file
    for column, (label, horizon) in labels.items():
        feature_checks.check_question(spark, events, label, f"{file}, labels.{column.removesuffix(f'_{horizon}')}")


def outcomes(spark: SparkSession, entity_times: DataFrame, labels: Chosen, features: Features, told: int) -> DataFrame:
    """What entities did from times on, each in `[at, at + horizon)`; only events at `at` or later are looked at.

    Args:
        entity_times: keys and `at`, each pair once.
        features: of the entity; they say which events are its own.
        told: microseconds up to which it is known what happened; a label whose horizon ends later is null.

    Returns:
        Keys, `at` and the labels, a row each. Of a horizon without events a label says what its kind says of nothing.
    """
    longest = max(_length(horizon) for _, horizon in labels.values())
    at = F.unix_micros("at")
    asked = entity_times.agg(F.count(F.lit(1)), F.coalesce(F.min(at), F.lit(0)), F.coalesce(F.max(at), F.lit(0))).head()
    assert asked is not None
    count, first, last = asked
    dates = F.col("event_date").between(window_parts.date_of(first), window_parts.date_of(last + longest))
    events = window_parts.keyed(features.read(spark, tables.EVENTS).where(dates), features)
    requests = entity_times.select(*[F.col(name).alias(f"_{name}") for name in features.keys], F.col("at").alias(_AT))
    joined = events.join(broadcast_if_small(requests, count), [f"_{name}" for name in features.keys])
    ahead = joined.withColumn(_AHEAD, F.unix_micros("event_time") - F.unix_micros(_AT))
    coming = ahead.where(F.col(_AHEAD).between(0, longest - 1))
    # The request itself stands beside its events, as one that counts for no label, so that none is without a row.
    rows = coming.unionByName(requests, allowMissingColumns=True)
    fold = _fold(labels, features)
    matured = {
        name: F.when(at + _length(horizon) <= told, label.value(f"_{name}"))
        for name, (label, horizon) in labels.items()
    }
    said = fold.read(fold.partials(rows)).withColumnRenamed(_AT, "at")
    return said.select(*features.keys, "at", *[value.alias(name) for name, value in matured.items()])


def _length(horizon: str) -> int:
    length = micros(horizon)
    assert length is not None
    return length


def _fold(labels: Chosen, features: Features) -> Fold:
    keys = {name: Key(of=f"_{name}", type=features.tiles.keys[name].type) for name in features.keys}
    statistics = {
        f"_{name}": label.statistic.model_copy(
            update={"where": f"({label.statistic.where}) AND {_AHEAD} < {_length(horizon)}"}
        )
        for name, (label, horizon) in labels.items()
    }
    return Fold.of(
        Derived(
            name="labels",
            write="append",
            keys={**keys, _AT: Key(of=_AT, type="timestamp")},
            statistics=statistics,
        )
    )
