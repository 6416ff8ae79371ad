"""What a derived table is: key columns, a filter and statistics, in TOML."""

import hashlib
import json
from string import Template
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from profilestream.base.settings import Frozen, read_toml, validated
from profilestream.base.tables import Table
from profilestream.derive.maps import Quantiles, Top
from profilestream.derive.statistics import Count, Distinct, Extreme, Histogram, Latest, Moments, Sum

_OWN = ("as_of", "epoch", "batch_id")

Statistic = Annotated[
    Count | Sum | Extreme | Latest | Moments | Histogram | Distinct | Top | Quantiles, Field(discriminator="kind")
]


class Key(Frozen):
    """A key column: SQL over an event, and its type. Events for which it is null are passed over."""

    of: str
    type: Literal["string", "timestamp", "date", "bigint"] = "string"


class Derived(Frozen):
    """A derived table.

    Args:
        write: `append`: a batch adds rows, a key may stand in several, and readers merge them; `merge`: one row a key.
        keys: in the order of the table.
        where: SQL condition; other events are passed over.
        partitioned_by: key columns that are folders.
        statistics: by column name; `facet.name` is a field of the struct column `facet`, a table in TOML.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    write: Literal["append", "merge"]
    where: str = "true"
    keys: dict[str, Key] = Field(min_length=1)
    partitioned_by: tuple[str, ...] = ()
    statistics: dict[str, Statistic] = Field(min_length=1)

    @field_validator("statistics", mode="before")
    @classmethod
    def _facets_by_path(cls, found: Any) -> Any:
        """`[statistics.behaviour] events = {...}` is `behaviour.events`."""
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
        return self

    @property
    def columns(self) -> dict[str, dict[str, Statistic]]:
        """Statistics by table column, then by field; the field is empty when the column is the statistic itself."""
        found: dict[str, dict[str, Statistic]] = {}
        for path, statistic in self.statistics.items():
            column, _, field = path.partition(".")
            found.setdefault(column, {})[field] = statistic
        return found

    def expressions(self) -> list[tuple[str, str, bool]]:
        """Every SQL text: where it stands, the text, and whether it is a condition."""
        keys = [(f"keys.{name}.of", key.of, False) for name, key in self.keys.items()]
        parts = [
            (f"statistics.{name}.{part}", getattr(statistic, part), part == "where")
            for name, statistic in self.statistics.items()
            for part in ("of", "where", "weight")
        ]
        return [("where", self.where, True), *keys, *parts]

    @property
    def fingerprint(self) -> str:
        """Changes when any row of the table could."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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
    """A declaration from a TOML file.

    Args:
        names: settings that its SQL may use: `${shop_timezone}`.

    Raises:
        BadSettings: no such file, not TOML, or keys or values that do not fit; all of them in one message.
    """
    text = Template(json.dumps(read_toml(path), default=str)).safe_substitute(names)
    return validated(Derived, json.loads(text), path)
