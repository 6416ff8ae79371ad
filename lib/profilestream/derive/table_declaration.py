"""The declaration of a derived table in TOML: key columns, a filter and statistics."""

import json
from string import Template
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from profilestream.base.columns import BATCH_ID, EPOCH, Column, as_of
from profilestream.base.delta_table import Table
from profilestream.base.language import Language
from profilestream.base.settings import Frozen, Model, fingerprint, read_toml, validated
from profilestream.derive import statistic_columns
from profilestream.derive.statistics import (
    Count,
    Distinct,
    Extreme,
    Heaviest,
    Histogram,
    Latest,
    LatestByKey,
    MeanVector,
    Moments,
    Quantiles,
    Reading,
    Sum,
)

# A change of this number requires tables to be derived again. 2: theta sketches of serial version 3.
_STATE_FORMAT = 2
STATE = "state"
_RESERVED_COLUMNS = ("as_of", "at", STATE, "epoch", "batch_id")

Statistic = Annotated[
    Count | Sum | Extreme | Moments | Distinct | Latest | LatestByKey | Histogram | MeanVector | Heaviest | Quantiles,
    Field(discriminator="kind"),
]


class Key(Frozen):
    """A key column: SQL over an event, and its type. Events with a null key are ignored."""

    of: str
    type: Literal["string", "timestamp", "date", "bigint"] = "string"


class Population(Frozen):
    """Mean and variance of a vector over all rows of a table; every batch appends a row to a separate table.

    Args:
        name: of that table.
        of: a mean_vector statistic of the declared table.
        weights: weight of a dimension in the profile vector (population.py); 1 by default.
        words: by dimension, descriptions of a segment below and above all rows; by default `low` and `high` with the
            name of the dimension.
        translated_words: the same in other languages of the pages, by language; `words` where one is missing.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    of: str
    weights: dict[str, float] = {}
    words: dict[str, tuple[str, str]] = {}
    translated_words: dict[Language, dict[str, tuple[str, str]]] = {}

    def words_in(self, language: Language) -> dict[str, tuple[str, str]]:
        """The words in a language, or those of `words`."""
        return self.words | self.translated_words.get(language, {})


class DerivedTable(Frozen):
    """A derived table.

    Args:
        write: `append`: a batch appends rows of states, a key may have several rows, and readers merge them. `merge`:
            one row per key, with the values of the statistics and readings at `as_of`. The column `state` has the
            states that are not values themselves.
        keys: in the order of the columns.
        where: SQL condition; other events are ignored.
        partitioned_by: key columns that are partition columns.
        statistics: by column name; `facet.name` is a field of the struct column `facet`, which is a table in TOML.
        readings: values computed from those of the statistics, by name; they are columns of a table with one row per
            key.
        population: maintained for a table with one row per key.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    write: Literal["append", "merge"]
    where: str = "true"
    keys: dict[str, Key] = Field(min_length=1)
    partitioned_by: tuple[str, ...] = ()
    statistics: dict[str, Statistic] = Field(min_length=1)
    readings: dict[str, Reading] = {}
    population: Population | None = None

    @field_validator("statistics", "readings", mode="before")
    @classmethod
    def _facets_by_path(cls, values: Any) -> Any:
        """`[statistics.behavior] events = {...}` is `behavior.events`."""
        if not isinstance(values, dict):
            return values
        flat: dict[str, Any] = {}
        for name, value in values.items():
            is_facet = isinstance(value, dict) and not {"kind", "sql"} & value.keys()
            flat |= {f"{name}.{field}": item for field, item in value.items()} if is_facet else {name: value}
        return flat

    @model_validator(mode="after")
    def _check_names(self) -> "DerivedTable":
        names = {path.partition(".")[0] for path in (*self.statistics, *self.readings)}
        duplicates = sorted(name for name in names if name in self.keys or name in _RESERVED_COLUMNS)
        reserved = [name for name in self.keys if name in _RESERVED_COLUMNS]
        if duplicates or reserved:
            raise ValueError(f"names that are already used: {duplicates + reserved}")
        if not_keys := [name for name in self.partitioned_by if name not in self.keys]:
            raise ValueError(f"partitioned_by may contain key columns only: {not_keys}")
        if statistics := [name for name in self.readings if name in self.statistics]:
            raise ValueError(f"readings with the name of a statistic: {statistics}")
        return self

    @model_validator(mode="after")
    def _check_population(self) -> "DerivedTable":
        if self.population is None:
            return self
        if self.write != "merge":
            raise ValueError("a population needs a table with write = 'merge'")
        of = self.statistics.get(self.population.of)
        if not isinstance(of, MeanVector):
            raise ValueError(f"population.of = {self.population.of!r} is not a mean_vector of this table")
        names = {"weights": set(self.population.weights), "words": set(self.population.words)}
        names |= {f"translated_words.{key}": set(words) for key, words in self.population.translated_words.items()}
        for key, dimensions in names.items():
            if unknown := sorted(dimensions - of.dimensions.keys()):
                raise ValueError(
                    f"population.{key} contains names that are not dimensions of {self.population.of}: {unknown}"
                )
        return self

    @property
    def has_values(self) -> bool:
        """Whether its rows contain values for users, with the other states in the column `state`."""
        return self.write == "merge"

    def rest_of(self, path: str) -> str:
        """Path of the weight that was cut from a list of heaviest values."""
        return f"{STATE}.{path}" if self.has_values else f"{path}.rest"

    @property
    def vector_state(self) -> str:
        """Path of the state of the population's vector in a row of the table."""
        assert self.population is not None
        return f"{STATE}.{self.population.of}"

    @property
    def vector(self) -> MeanVector:
        """The statistic with the population's vector."""
        assert self.population is not None
        return cast(MeanVector, self.statistics[self.population.of])

    def expressions(self) -> list[tuple[str, str, bool]]:
        """Every SQL expression: its TOML path, its text, and whether it is a condition."""
        keys = [(f"keys.{name}.of", key.of, False) for name, key in self.keys.items()]
        parts = [
            (f"statistics.{name}.{part}", getattr(statistic, part), part == "where")
            for name, statistic in self.statistics.items()
            for part in ("of", "where", "weight")
        ]
        cells = [
            (f"statistics.{name}.dimensions.{dimension}", sql, False)
            for name, statistic in self.statistics.items()
            if isinstance(statistic, MeanVector)
            for dimension, sql in statistic.dimensions.items()
        ]
        return [("where", self.where, True), *keys, *parts, *cells]

    @property
    def settings(self) -> str:
        """All settings that change the rows of its tables, as text."""
        values = self.model_dump(mode="json", exclude={"population": {"weights", "words", "translated_words"}})
        return json.dumps(values | {"states": _STATE_FORMAT}, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Changes when `settings` does."""
        return fingerprint(self.settings)

    @property
    def tables(self) -> tuple[Table, ...]:
        """All Delta tables, in the order in which a batch writes them."""
        return (self.table,) if self.population is None else (self.table, self.population_table)

    @property
    def population_table(self) -> Table:
        """One row per batch: the population after the batch."""
        assert self.population is not None
        return Table(
            name=self.population.name,
            meaning=f"One row per batch of `{self.name}`: mean and variance of its vectors over all rows.",
            writer="derive_profiles",
            columns=(
                Column("as_of", "TIMESTAMP", "Newest event time of the rows; null before the first row.", "UTC"),
                Column("users", "BIGINT NOT NULL", "Rows with a vector.", "rows"),
                Column("sums", "MAP<STRING, DOUBLE> NOT NULL", "Sum of the vectors, by dimension."),
                Column("squares", "MAP<STRING, DOUBLE> NOT NULL", "Sum of the squared vectors, by dimension."),
                Column("means", "MAP<STRING, DOUBLE> NOT NULL", "Mean of the vectors, by dimension."),
                Column("variances", "MAP<STRING, DOUBLE> NOT NULL", "Variance of the vectors, by dimension."),
                EPOCH,
                BATCH_ID,
            ),
            key=("epoch", "batch_id"),
            declaration=self.fingerprint,
        )

    @property
    def table(self) -> Table:
        """The Delta table: keys, `as_of`, and the statistics."""
        keys = [
            Column(name, f"{key.type.upper()} NOT NULL", f"Key: {statistic_columns.sql_text(key.of)}.",
                   subject=statistic_columns.subject(key.of))
            for name, key in self.keys.items()
        ]  # fmt: skip
        if self.has_values:
            columns = statistic_columns.value_columns({**self.statistics, **self.readings})
            columns += statistic_columns.hidden_columns(STATE, self.statistics)
        else:
            columns = statistic_columns.state_columns(self.statistics)
        rows = "One row per" if self.has_values else "Partial rows, merged when read, per"
        return Table(
            name=self.name,
            meaning=f"{rows} {', '.join(self.keys)}: the declared statistics.",
            writer="derive_profiles" if self.has_values else "derive_features",
            columns=(*keys, as_of(), *columns, EPOCH, BATCH_ID),
            key=tuple(self.keys),
            partitioned_by=self.partitioned_by,
            properties={"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"}
            if self.has_values
            else {},
            declaration=self.fingerprint,
        )


def load(path: str, names: dict[str, str]) -> DerivedTable:
    """A declared table from a TOML file, as load_as."""
    return load_as(DerivedTable, path, names)


def load_as(model: type[Model], path: str, names: dict[str, str]) -> Model:
    """The declaration in a TOML file.

    Args:
        names: values that its SQL may use, such as `${shop_timezone}`.

    Raises:
        BadSettings: the file does not exist or is not TOML, or keys or values are invalid; all in one message.
    """
    text = Template(json.dumps(read_toml(path), default=str)).safe_substitute(names)
    return validated(model, json.loads(text), path)
