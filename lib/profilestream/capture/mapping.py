"""A source mapping: how one shop's log becomes canonical events, as data in a TOML file.

Every value is a SQL expression over the raw columns, or a switch. Nothing here needs Spark; `canonical.py` turns a
mapping into frames and `check` in the same room tries its expressions on an empty frame at start.
"""

import json
import zoneinfo
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator, model_validator

from profilestream.base.settings import Frozen, fingerprint, read_toml, validated
from profilestream.base.tables import EVENTS

EVENT_TYPES = (
    "view", "click", "cart", "uncart", "favorite", "unfavorite", "purchase", "return", "search", "rate", "review",
    "complaint", "share", "follow", "identify", "exposure",
)  # fmt: skip
WRITTEN_BY_US = ("ingest_time", "event_date", "extra", "warnings", "source", "position", "epoch", "batch_id")
MAPPABLE = tuple(column for column in EVENTS.columns if column not in WRITTEN_BY_US)
NUMBERS = ("price", "quantity", "value", "rating")
TEXTS = tuple(c for c in MAPPABLE if c not in (*NUMBERS, "event_time", "attributes"))

TextStep = Literal["nfkc", "trim", "lower", "upper", "title"]


class Input(Frozen):
    """What the raw log looks like.

    Args:
        columns: raw columns as in CREATE TABLE (`user string, items array<struct<id: string>>`). CSV cells are
            strings. A column missing in a file is null, one that is not named here goes to `extra`.
        glob: which files of the folder are taken, such as `*.csv`; all when empty.
        header: whether a CSV file begins with its column names; without it the order of `columns` holds.
        explode: an array expression; each element becomes a record of its own, called by the name `explode_as`.
    """

    format: Literal["jsonl", "csv", "parquet", "delta"]
    columns: str
    glob: str = ""
    header: bool = True
    separator: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    encoding: Literal["UTF-8", "ISO-8859-1"] = "UTF-8"
    explode: str = ""
    explode_as: str = "element"


class Lookup(Frozen):
    """A side table joined to every record; its columns are then called `<name>.<column>`.

    Args:
        key: column of the side table, unique in it.
        on: SQL expression over the raw columns, equal to the key.
    """

    path: str
    format: Literal["parquet", "delta", "csv", "json"]
    key: str
    on: str


class Rule(Frozen):
    """A named condition. `when` is SQL over the canonical columns; raw ones are called `raw.<column>`."""

    when: str
    reason: str = ""


class Clip(Frozen):
    """Bounds of a number; what lies outside is set to the bound, the original is kept in `extra`."""

    min: float | None = None
    max: float | None = None


class Bots(Frozen):
    """Warn on events of users with more events than this in one minute of a micro-batch."""

    max_events_per_minute: int = Field(ge=1)


class Mapping(Frozen):
    """One source's mapping.

    Args:
        timezone: of wall-clock times in `event_time`; an instant (epoch, or with an offset) needs "UTC".
        time_format: Spark pattern of a text `event_time`; ISO 8601 when empty.
        anonymous: whether events without user are kept (they feed item tables only) or rejected.
        user_space, item_space: prefix of stored ids; sources of one shop share a space, shops do not.
        event_types: types beside the built-in ones.
        columns: canonical column = SQL expression over the raw columns. `event_type` and `event_time` are needed;
            without `event_id` the id is a hash of the canonical columns.
        text, scale, fill, clip: cleaning by canonical column, applied in this order.
        reject, warn: rules by name; rejected rows go to rejected_events, warned ones keep the name in `warnings`.
    """

    input: Input
    timezone: str = "UTC"
    time_format: str = ""
    anonymous: Literal["keep", "reject"] = "keep"
    user_space: str = Field(default="", pattern=r"^[\w.-]*$")
    item_space: str = Field(default="", pattern=r"^[\w.-]*$")
    event_types: tuple[str, ...] = ()
    lookup: dict[str, Lookup] = {}
    columns: dict[str, str]
    text: dict[str, tuple[TextStep, ...]] = {}
    scale: dict[str, float] = {}
    fill: dict[str, str] = {}
    clip: dict[str, Clip] = {}
    reject: dict[str, Rule] = {}
    warn: dict[str, Rule] = {}
    bots: Bots | None = None

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        if name not in zoneinfo.available_timezones():
            raise ValueError("no such time zone; write a name such as Europe/London")
        return name

    @field_validator("columns")
    @classmethod
    def _needed_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        _all_in(columns, MAPPABLE)
        missing = [name for name in ("event_type", "event_time") if name not in columns]
        if missing:
            raise ValueError(f"expressions are needed for {missing}")
        return columns

    @model_validator(mode="after")
    def _cleaning_names_columns(self) -> "Mapping":
        _all_in(self.text, TEXTS)
        _all_in(self.scale, NUMBERS)
        _all_in(self.clip, NUMBERS)
        _all_in(self.fill, tuple(c for c in MAPPABLE if c not in ("event_id", "event_type", "event_time", "user_id")))
        return self

    @property
    def known_types(self) -> tuple[str, ...]:
        """Event types that a row of this source may have."""
        return (*EVENT_TYPES, *self.event_types)

    def fingerprint(self) -> str:
        """Changes when anything in the mapping does."""
        return fingerprint(json.dumps(self.model_dump(mode="json"), sort_keys=True))


def load(path: str) -> Mapping:
    """A mapping from its TOML file; every misfit is told with file and key."""
    return validated(Mapping, read_toml(path), path)


def _all_in(named: Iterable[str], allowed: tuple[str, ...]) -> None:
    odd = [name for name in named if name not in allowed]
    if odd:
        raise ValueError(f"not columns that can be set here: {odd}; these can: {', '.join(allowed)}")
