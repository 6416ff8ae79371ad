"""What a derived table is: key columns, a filter and statistics, in TOML."""

import json
from string import Template
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from profilestream.base.settings import Frozen, Model, fingerprint, read_toml, validated
from profilestream.base.tables import Table
from profilestream.derive.array_statistics import Histogram, MeanVector
from profilestream.derive.latest_statistics import Latest, LatestByKey
from profilestream.derive.map_statistics import Frequent, Quantiles, Top
from profilestream.derive.statistics import Count, Distinct, Extreme, Moments, Sum

_OWN = ("as_of", "at", "epoch", "batch_id")

Scalar = Count | Sum | Extreme | Moments | Distinct | Latest | LatestByKey | Histogram | MeanVector
Mapped = Top | Frequent | Quantiles
Statistic = Annotated[Scalar | Mapped, Field(discriminator="kind")]


class Key(Frozen):
    """A key column: SQL over an event, and its type. Events for which it is null are passed over."""

    of: str
    type: Literal["string", "timestamp", "date", "bigint"] = "string"


class Population(Frozen):
    """Mean and variance of a vector over all rows of a table, kept with every batch in a table of its own.

    Args:
        name: of that table.
        of: a mean_vector statistic of the declared table.
        weights: what a dimension counts in a row's vector (population.py); 1 unless named.
        words: by dimension, what is said of who lies below and above all rows in it; `low` and `high` with its name
            unless named.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    of: str
    weights: dict[str, float] = {}
    words: dict[str, tuple[str, str]] = {}


class Derived(Frozen):
    """A derived table.

    Args:
        write: `append`: a batch adds rows, a key may stand in several, and readers merge them; `merge`: one row a key.
        keys: in the order of the table.
        where: SQL condition; other events are passed over.
        partitioned_by: key columns that are folders.
        statistics: by column name; `facet.name` is a field of the struct column `facet`, a table in TOML.
        readings: SQL over what the statistics say, `as_of` and `at`, by name; worked out when a row is read.
        population: kept beside a table of one row a key.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    write: Literal["append", "merge"]
    where: str = "true"
    keys: dict[str, Key] = Field(min_length=1)
    partitioned_by: tuple[str, ...] = ()
    statistics: dict[str, Statistic] = Field(min_length=1)
    readings: dict[str, str] = {}
    population: Population | None = None

    @field_validator("statistics", "readings", mode="before")
    @classmethod
    def _facets_by_path(cls, found: Any) -> Any:
        """`[statistics.behavior] events = {...}` is `behavior.events`."""
        if not isinstance(found, dict):
            return found
        flat: dict[str, Any] = {}
        for name, one in found.items():
            is_facet = isinstance(one, dict) and "kind" not in one
            flat |= {f"{name}.{field}": value for field, value in one.items()} if is_facet else {name: one}
        return flat

    @model_validator(mode="after")
    def _names_fit(self) -> "Derived":
        twice = [name for name in self.columns if name in self.keys or name in _OWN]
        taken = [name for name in self.keys if name in _OWN]
        if twice or taken:
            raise ValueError(f"names that are already taken: {twice + taken}")
        foreign = [name for name in self.partitioned_by if name not in self.keys]
        if foreign:
            raise ValueError(f"partitioned_by may name key columns only: {foreign}")
        again = [name for name in self.readings if name in self.statistics]
        if again:
            raise ValueError(f"readings that are statistics already: {again}")
        return self

    @model_validator(mode="after")
    def _population_fits(self) -> "Derived":
        if self.population is None:
            return self
        if self.write != "merge":
            raise ValueError("a population is kept beside a table with write = 'merge' only")
        of = self.statistics.get(self.population.of)
        if not isinstance(of, MeanVector):
            raise ValueError(f"population.of = {self.population.of!r} is not a mean_vector of this table")
        for key in ("weights", "words"):
            if foreign := [name for name in getattr(self.population, key) if name not in of.dimensions]:
                raise ValueError(f"population.{key} names no dimension of {self.population.of}: {foreign}")
        return self

    @property
    def columns(self) -> dict[str, dict[str, Statistic]]:
        """Statistics by table column, then by field; the field is empty when the column is the statistic itself."""
        found: dict[str, dict[str, Statistic]] = {}
        for path, statistic in self.statistics.items():
            column, _, field = path.partition(".")
            found.setdefault(column, {})[field] = statistic
        return found

    @property
    def vector(self) -> MeanVector:
        """The statistic whose population is kept."""
        assert self.population is not None
        return cast(MeanVector, self.statistics[self.population.of])

    def expressions(self) -> list[tuple[str, str, bool]]:
        """Every SQL text: where it stands, the text, and whether it is a condition."""
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
        """All that changes the rows of its tables, in readable form."""
        told = self.model_dump(mode="json", exclude={"readings": True, "population": {"weights", "words"}})
        return json.dumps(told, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Changes when any row of its tables could."""
        return fingerprint(self.settings)

    @property
    def tables(self) -> tuple[Table, ...]:
        """All Delta tables, in the order in which a batch writes them."""
        return (self.table,) if self.population is None else (self.table, self.population_table)

    @property
    def population_table(self) -> Table:
        """One row a batch: users counted, and sums, means and variances by dimension after the batch."""
        assert self.population is not None
        maps = [f"{name} MAP<STRING, DOUBLE> NOT NULL" for name in ("sums", "squares", "means", "variances")]
        own = ["epoch STRING NOT NULL", "batch_id BIGINT NOT NULL"]
        return Table(
            name=self.population.name,
            ddl=",\n".join(["as_of TIMESTAMP", "users BIGINT NOT NULL", *maps, *own]),
            key=("epoch", "batch_id"),
            declaration=self.fingerprint,
        )

    @property
    def table(self) -> Table:
        """The Delta table: keys, `as_of` (the newest event time merged into the row), a state a statistic."""
        keys = [f"{name} {key.type.upper()} NOT NULL" for name, key in self.keys.items()]
        states = [f"{column} {_ddl(fields)}" for column, fields in self.columns.items()]
        own = ["epoch STRING NOT NULL", "batch_id BIGINT NOT NULL"]
        merged = {"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"}
        return Table(
            name=self.name,
            ddl=",\n".join([*keys, "as_of TIMESTAMP NOT NULL", *states, *own]),
            key=tuple(self.keys),
            partitioned_by=self.partitioned_by,
            properties=merged if self.write == "merge" else {},
            declaration=self.fingerprint,
        )


def _ddl(fields: dict[str, Statistic]) -> str:
    if "" in fields:
        return fields[""].ddl
    return f"STRUCT<{', '.join(f'{field}: {statistic.ddl}' for field, statistic in fields.items())}>"


def load(path: str, names: dict[str, str]) -> Derived:
    """A declared table from a TOML file, as load_as."""
    return load_as(Derived, path, names)


def load_as(model: type[Model], path: str, names: dict[str, str]) -> Model:
    """What a TOML file declares.

    Args:
        names: settings that its SQL may use: `${shop_timezone}`.

    Raises:
        BadSettings: no such file, not TOML, or keys or values that do not fit; all of them in one message.
    """
    text = Template(json.dumps(read_toml(path), default=str)).safe_substitute(names)
    return validated(model, json.loads(text), path)
