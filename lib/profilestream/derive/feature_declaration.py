"""Window features as data: a statistic of an entity over windows `[t - w, t)`, and SQL over such features, in TOML.

An entity names the tile table that carries it. A feature whose statistic stands in that declaration already shares its
states; any other statistic is added to it, so stream, backfill and training rows go by one definition.
"""

import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Frozen, Settings
from profilestream.derive.array_statistics import Histogram, MeanVector
from profilestream.derive.latest_statistics import Latest, LatestByKey
from profilestream.derive.map_statistics import Frequent, Top
from profilestream.derive.statistics import Count, Distinct, Extreme, Sum
from profilestream.derive.table_declaration import Derived, Statistic, load_as

LIFETIME = "lifetime"
HOUR, DAY = 3_600_000_000, 86_400_000_000
TIMES = ("hour", "date")
VALUE = "${value}"
_NAME = r"^[a-z][a-z0-9_]*$"
_TAKEN = ("at", "as_of", "epoch", "batch_id")
_TYPE = r"^(bigint|double|string|boolean|timestamp)$"


def micros(window: str) -> int | None:
    """The length of a window such as `6h` or `30d` in microseconds; null for `lifetime`."""
    return None if window == LIFETIME else int(window[:-1]) * (HOUR if window[-1] == "h" else DAY)


class Question(Frozen):
    """What a statistic of an entity answers.

    Args:
        question: in words.
        unit: of its value.
        statistic: as in a declared table (declaration.py); in TOML its keys stand beside the others.
        reading: SQL over `${value}`, what the statistic says; by itself when empty.
        reading_type: SQL type of a reading.
        nulls: what it says without such events; by the kind of the statistic unless it has a reading.
    """

    question: str
    unit: str
    statistic: Statistic
    reading: str = ""
    reading_type: str = Field(default="double", pattern=_TYPE)
    nulls: str = ""

    @model_validator(mode="before")
    @classmethod
    def _statistic_apart(cls, found: Any) -> Any:
        if not isinstance(found, dict) or "statistic" in found:
            return found
        own = {key: value for key, value in found.items() if key in cls.model_fields}
        return own | {"statistic": {key: value for key, value in found.items() if key not in own}}

    @property
    def type(self) -> str:
        """SQL type of its columns."""
        return self.reading_type if self.reading else said_type(self.statistic)

    @model_validator(mode="after")
    def _reading_fits(self) -> Self:
        if self.reading and (VALUE not in self.reading or not self.nulls):
            raise ValueError("a reading names ${value}, and has `nulls`: what it says without such events")
        return self

    @property
    def of_nothing(self) -> str:
        """What it says of an entity without such events."""
        if self.nulls:
            return self.nulls
        if isinstance(self.statistic, Count | Sum | Distinct):
            return "0 without such events"
        is_list = isinstance(self.statistic, Top | Frequent | Histogram | LatestByKey)
        return "empty without such events" if is_list else "null without such events"

    def value(self, said: str) -> Column:
        """The value, over a column with what the statistic says."""
        return F.expr(self.reading.replace(VALUE, said)).try_cast(self.type) if self.reading else F.col(said)


class Feature(Question):
    """A question over windows: the columns `<name>_<window>`.

    Args:
        windows: `<n>h`, `<n>d` or `lifetime`.
    """

    windows: tuple[str, ...] = Field(min_length=1)

    @field_validator("windows")
    @classmethod
    def _known(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        odd = [window for window in windows if not re.fullmatch(r"[1-9]\d{0,4}[hd]|lifetime", window)]
        if odd or len(set(windows)) < len(windows):
            raise ValueError(f"not different windows such as 6h, 30d or lifetime: {odd or list(windows)}")
        return windows


class Combined(Frozen):
    """A feature over others of the same entity and time.

    Args:
        sql: over columns that stand before it, the entity's keys and `at`.
        zscore_of: instead of `sql`: how many standard deviations that feature lies from its mean over all entities that
            were known at the time; 0 where it does not vary.
        nulls: what it says when there is nothing to say.
        type: SQL type; a value that does not fit is null.
    """

    question: str
    unit: str
    nulls: str
    sql: str = ""
    zscore_of: str = ""
    type: str = Field(default="double", pattern=_TYPE)

    @model_validator(mode="after")
    def _one_of_both(self) -> "Combined":
        if bool(self.sql) == bool(self.zscore_of):
            raise ValueError("one of sql and zscore_of, not both")
        return self

    @property
    def names(self) -> set[str]:
        """Every word of the SQL that may be a column."""
        return {self.zscore_of} if self.zscore_of else set(re.findall(r"[A-Za-z_]\w*", self.sql))


class Windows(Frozen):
    """All window features.

    Args:
        entities: the tile table of each entity, with the entity's keys, `hour` and `date`.
        features, derived: by entity, then by name; `derived` in the order in which they are worked out.
    """

    entities: dict[str, str]
    features: dict[str, dict[str, Feature]]
    derived: dict[str, dict[str, Combined]] = {}

    @model_validator(mode="after")
    def _names_fit(self) -> "Windows":
        for part, found in (("features", self.features), ("derived", self.derived)):
            if foreign := sorted(found.keys() - self.entities.keys()):
                raise ValueError(f"{part} of entities that are not declared: {foreign}")
        for entity in self.entities:
            names = [*self.features.get(entity, {}), *self.derived.get(entity, {})]
            if odd := [name for name in names if not re.match(_NAME, name)]:
                raise ValueError(f"names of {entity} may hold small letters, digits and _ only: {odd}")
            columns = [*self.columns(entity), *self.derived.get(entity, {}), *_TAKEN]
            if twice := sorted({name for name in columns if columns.count(name) > 1}):
                raise ValueError(f"names of {entity} that stand twice or are taken: {twice}")
            self._check_order(entity)
        return self

    def _check_order(self, entity: str) -> None:
        known, later = set(self.columns(entity)), set(self.derived.get(entity, {}))
        for name, one in self.derived.get(entity, {}).items():
            if one.zscore_of and one.zscore_of not in known:
                raise ValueError(f"derived.{entity}.{name}.zscore_of names no feature before it: {one.zscore_of!r}")
            if ahead := sorted(one.names & later):
                raise ValueError(f"derived.{entity}.{name} names features that do not stand before it: {ahead}")
            known.add(name)
            later.discard(name)

    def columns(self, entity: str) -> dict[str, tuple[str, str]]:
        """Columns of the entity's features over windows: column -> (feature, window)."""
        features = self.features.get(entity, {})
        return {f"{name}_{window}": (name, window) for name, one in features.items() for window in one.windows}


def said_type(statistic: Statistic) -> str:
    """SQL type of what a statistic says."""
    if isinstance(statistic, Latest) and statistic.k > 1:
        return f"array<{statistic.type}>"
    if isinstance(statistic, Extreme | Latest):
        return statistic.type
    by_kind: dict[type[Any], str] = {
        Count: "bigint", Distinct: "bigint", Top: "map<string,double>", Frequent: "map<string,double>",
        LatestByKey: "map<string,string>", MeanVector: "map<string,double>", Histogram: "array<double>",
    }  # fmt: skip
    plain = "struct<mean:double,variance:double>" if statistic.kind == "moments" else "double"
    return by_kind.get(type(statistic), plain)


def load(path: str, names: dict[str, str]) -> Windows:
    """The window features of a TOML file, as declaration.load_as."""
    return load_as(Windows, path, names)


def declared(settings: Settings) -> Windows | None:
    """The window features of the settings; null when they name no file."""
    file = settings.derive.windows.file
    return load(file, settings.derive.names) if file else None


def extended(derived: Derived, windows: Windows, file: str) -> Derived:
    """A tile table with the statistics that its entities' features need and that it has not yet.

    Args:
        file: of the windows, for messages.

    Raises:
        BadSettings: the table has no hours, or another statistic or key of a feature's name.
    """
    statistics = dict(derived.statistics)
    for entity in [entity for entity, tiles in windows.entities.items() if tiles == derived.name]:
        if any(name not in derived.keys for name in TIMES) or derived.write != "append":
            raise BadSettings(
                f"{derived.name} is no table of hour tiles",
                where=f"{file}, entities.{entity}",
                do="name a table with write = 'append' and the keys hour and date",
            )
        for name, feature in windows.features.get(entity, {}).items():
            if feature.statistic in statistics.values():
                continue
            if name in statistics or name in derived.table.columns:
                raise BadSettings(
                    f"{derived.name} has a column {name} that is something else",
                    where=f"{file}, features.{entity}.{name}",
                    do="give the feature another name, or the very statistic of that column",
                )
            statistics[name] = feature.statistic
    return derived.model_copy(update={"statistics": statistics})
