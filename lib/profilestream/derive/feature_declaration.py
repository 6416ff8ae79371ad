"""Declarations of window features in TOML: statistics of an entity over windows `[t - w, t)`, and SQL over them.

Each entity names the tile table that stores its statistics. If the statistic of a feature is already in that table, the
feature reads its states. Any other statistic is added to the table's declaration. So the stream, a backfill and
training examples use one definition.
"""

import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Frozen, Settings
from profilestream.derive.table_declaration import DerivedTable, Statistic, load_as

LIFETIME = "lifetime"
HOUR, DAY = 3_600_000_000, 86_400_000_000  # microseconds
TILE_KEYS = ("hour", "date")  # every table of hour tiles has them
TIME_KEYS = (*TILE_KEYS, "period")
VALUE = "${value}"
_NAME = r"^[a-z][a-z0-9_]*$"
_RESERVED = ("at", "as_of", "epoch", "batch_id")
_TYPE = r"^(bigint|double|string|boolean|timestamp)$"


def window_micros(window: str) -> int | None:
    """The length of a window such as `6h` or `30d` in microseconds; null for `lifetime`."""
    return None if window == LIFETIME else int(window[:-1]) * (HOUR if window[-1] == "h" else DAY)


class FeatureDefinition(Frozen):
    """A statistic of an entity, and how its result is presented.

    Args:
        question: the question that the value answers, for the documentation.
        unit: of the value.
        statistic: as in a declared table (table_declaration.py); in TOML its keys are next to these.
        output: SQL over `${value}`, the result of the statistic; empty: the result itself.
        output_type: SQL type of `output`.
        nulls: the value without matching events, in words. Required with `output`; otherwise the kind implies it.
    """

    question: str
    unit: str
    statistic: Statistic
    output: str = ""
    output_type: str = Field(default="double", pattern=_TYPE)
    nulls: str = ""

    @model_validator(mode="before")
    @classmethod
    def _nest_statistic(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "statistic" in values:
            return values
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        return own | {"statistic": {key: value for key, value in values.items() if key not in own}}

    @property
    def type(self) -> str:
        """SQL type of the columns."""
        return self.output_type if self.output else self.statistic.result_ddl.lower()

    @model_validator(mode="after")
    def _check_output(self) -> Self:
        if self.output and (VALUE not in self.output or not self.nulls):
            raise ValueError("output must contain ${value} and needs `nulls`: the value without matching events")
        return self

    @property
    def empty_value(self) -> str:
        """The value without matching events, in words."""
        return self.nulls or f"{self.statistic.empty_value} without matching events"

    def value(self, result: str) -> Column:
        """The value.

        Args:
            result: the column with the result of the statistic.
        """
        return F.expr(self.output.replace(VALUE, result)).try_cast(self.type) if self.output else F.col(result)


class WindowFeature(FeatureDefinition):
    """A statistic over one or more windows: the columns `<name>_<window>`.

    Args:
        windows: `<n>h`, `<n>d` or `lifetime`.
    """

    windows: tuple[str, ...] = Field(min_length=1)

    @field_validator("windows")
    @classmethod
    def _check_windows(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        malformed = [window for window in windows if not re.fullmatch(r"[1-9]\d{0,4}[hd]|lifetime", window)]
        if malformed or len(set(windows)) < len(windows):
            raise ValueError(f"windows must be distinct and like 6h, 30d or lifetime: {malformed or list(windows)}")
        return windows


class DerivedFeature(Frozen):
    """A feature computed from other features of the same entity and time.

    Args:
        question, unit: as in FeatureDefinition.
        nulls: when the value is null, in words.
        sql: over columns declared before this one, the entity's keys and `at`.
        zscore_of: instead of `sql`: the standard score of that feature among all entities with an event before the
            time; 0 if the feature has the same value for all of them.
        type: SQL type; a value that cannot be cast to it is null.
    """

    question: str
    unit: str
    nulls: str
    sql: str = ""
    zscore_of: str = ""
    type: str = Field(default="double", pattern=_TYPE)

    @model_validator(mode="after")
    def _check_source(self) -> "DerivedFeature":
        if bool(self.sql) == bool(self.zscore_of):
            raise ValueError("exactly one of sql and zscore_of is required")
        return self

    @property
    def names(self) -> set[str]:
        """Every identifier of the SQL, so every name that may be a column."""
        return {self.zscore_of} if self.zscore_of else set(re.findall(r"[A-Za-z_]\w*", self.sql))


class DeclaredFeatures(Frozen):
    """All features of a file.

    Args:
        entities: by entity, its tile table; the keys are those of the entity, `hour` and `date`.
        features: by entity, then by name.
        derived: by entity, then by name, in the order of computation.
    """

    entities: dict[str, str]
    features: dict[str, dict[str, WindowFeature]]
    derived: dict[str, dict[str, DerivedFeature]] = {}

    @model_validator(mode="after")
    def _check_names(self) -> "DeclaredFeatures":
        for section, by_entity in (("features", self.features), ("derived", self.derived)):
            if undeclared := sorted(by_entity.keys() - self.entities.keys()):
                raise ValueError(f"{section} of entities that are not declared: {undeclared}")
        for entity in self.entities:
            names = [*self.features.get(entity, {}), *self.derived.get(entity, {})]
            if malformed := [name for name in names if not re.match(_NAME, name)]:
                raise ValueError(f"names of {entity} may contain lowercase letters, digits and _ only: {malformed}")
            columns = [*self.columns(entity), *self.derived.get(entity, {}), *_RESERVED]
            if duplicates := sorted({name for name in columns if columns.count(name) > 1}):
                raise ValueError(f"duplicate or reserved names of {entity}: {duplicates}")
            self._check_order(entity)
        return self

    def _check_order(self, entity: str) -> None:
        available, later = set(self.columns(entity)), set(self.derived.get(entity, {}))
        for name, feature in self.derived.get(entity, {}).items():
            if feature.zscore_of and feature.zscore_of not in available:
                raise ValueError(
                    f"derived.{entity}.{name}.zscore_of is not a feature declared before it: {feature.zscore_of!r}"
                )
            if unavailable := sorted(feature.names & later):
                raise ValueError(
                    f"derived.{entity}.{name} uses features that are not declared before it: {unavailable}"
                )
            available.add(name)
            later.discard(name)

    def columns(self, entity: str) -> dict[str, tuple[str, str]]:
        """Columns of the entity's window features: column -> (feature, window)."""
        features = self.features.get(entity, {})
        return {f"{name}_{window}": (name, window) for name, one in features.items() for window in one.windows}


def load(path: str, names: dict[str, str]) -> DeclaredFeatures:
    """The features of a TOML file; `names` and errors as in table_declaration.load_as."""
    return load_as(DeclaredFeatures, path, names)


def declared_features(settings: Settings) -> DeclaredFeatures | None:
    """The features of the settings' file; null if the settings name no file."""
    file = settings.derive.windows.file
    return load(file, settings.derive.names) if file else None


def with_feature_statistics(derived: DerivedTable, features: DeclaredFeatures, file: str) -> DerivedTable:
    """A declared table with the statistics that features need and that it does not have yet.

    Args:
        file: of the features, for messages.

    Raises:
        BadSettings: the table of an entity is not a table of hour tiles, or a feature has the name of another column.
    """
    statistics = dict(derived.statistics)
    for entity in [entity for entity, tiles in features.entities.items() if tiles == derived.name]:
        if any(name not in derived.keys for name in TILE_KEYS) or derived.write != "append":
            raise BadSettings(
                f"{derived.name} is not a table of hour tiles",
                where=f"{file}, entities.{entity}",
                do="name a table with write = 'append' and the keys hour and date",
            )
        for name, feature in features.features.get(entity, {}).items():
            if feature.statistic in statistics.values():
                continue
            if name in statistics or name in derived.table.names:
                raise BadSettings(
                    f"{derived.name} already has a different column {name}",
                    where=f"{file}, features.{entity}.{name}",
                    do="rename the feature, or declare the same statistic as that column",
                )
            statistics[name] = feature.statistic
    return derived.model_copy(update={"statistics": statistics})
