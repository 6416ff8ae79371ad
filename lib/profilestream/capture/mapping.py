"""A source mapping: how the log of one shop becomes canonical events, declared in a TOML file.

Values are SQL expressions over the raw columns, and options. This module needs no Spark. `execute_mapping.py` builds
frames from a mapping; `capture_checks.py` checks its expressions on an empty frame at start.
"""

import json
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Frozen, read_toml, validated
from profilestream.base.tables import EVENTS

EVENT_TYPES = (
    "view", "click", "cart", "uncart", "favorite", "unfavorite", "purchase", "return", "search", "rate", "review",
    "complaint", "share", "follow", "identify", "exposure",
)  # fmt: skip
CAPTURE_COLUMNS = (
    "ingest_time", "event_date", "event_period", "extra", "warnings", "source", "position", "epoch", "batch_id",
)  # fmt: skip
MAPPABLE_COLUMNS = tuple(column for column in EVENTS.names if column not in CAPTURE_COLUMNS)
NUMERIC_COLUMNS = ("price", "quantity", "value", "rating")
TEXT_COLUMNS = tuple(c for c in MAPPABLE_COLUMNS if c not in (*NUMERIC_COLUMNS, "event_time", "attributes"))

ID_COLUMNS = ("event_id", "user_id", "item_id", "order_id", "session_id", "target_user_id")
TEXT_COLUMN = "line string"

TextStep = Literal["nfkc", "trim", "lower", "upper", "title"]


class TextFormat(Frozen):
    """How text files are read; the same keys for logs and side tables.

    Args:
        header: whether a CSV file starts with its column names: the first line that is neither blank nor a comment.
        separator, quote: of CSV cells. A quote inside a quoted cell is doubled.
        escape: character before a quote or separator that belongs to a CSV cell; empty: none.
        comment: CSV lines that start with this character are skipped; empty: none.
        skip_lines: lines at the start of each file that are skipped, before the header.
        encoding: name of a charset that Java knows, such as UTF-8, GBK or windows-1252.
    """

    header: bool = True
    separator: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    escape: str = Field(default="", max_length=1)
    comment: str = Field(default="", max_length=1)
    skip_lines: int = Field(default=0, ge=0, le=1000)
    encoding: str = "UTF-8"


@dataclass(frozen=True)
class AvroSchemas:
    """The texts of Avro schemas.

    Args:
        reader: the schema whose fields are the raw columns.
        by_id: schemas with which values were written, by the id in the wire format of Confluent; empty: values are
            written with the reader's schema, without an id.
    """

    reader: str
    by_id: dict[int, str]


class InputSpec(TextFormat):
    """Format and columns of the raw log.

    Args:
        format: `text` has one raw column, `line`. `avro`: values of Kafka.
        columns: raw columns as in CREATE TABLE (`user string, items array<struct<id: string>>`). CSV cells and
            partition values of folders (`date=2026-03-01/`) are strings. A column that a file lacks is null.
        glob: pattern of file names in the folder, such as `*.csv`; empty: all files.
        unknown_fields: `extra` stores raw columns and fields that `columns` lacks in `extra`; `ignore` drops them.
        schema_file: file of the Avro schema of the values. Relative names are relative to the folder of the mapping.
        schema_folder: folder of Avro schemas `<id>.avsc`, if values have the wire format of Confluent; empty: they have
            the schema of `schema_file`.
        explode: an array expression; each element becomes a record, with the element in the column `explode_as`.
    """

    format: Literal["jsonl", "csv", "text", "parquet", "delta", "avro"]
    columns: str = ""
    glob: str = ""
    schema_file: str = ""
    schema_folder: str = ""
    unknown_fields: Literal["extra", "ignore"] = "extra"
    explode: str = ""
    explode_as: str = "element"
    _timezone: str = PrivateAttr("UTC")
    _schemas: AvroSchemas | None = PrivateAttr(None)

    @property
    def timezone(self) -> str:
        """The time zone of the mapping."""
        return self._timezone

    @property
    def schemas(self) -> AvroSchemas | None:
        """The Avro schemas that the mapping names; null for other formats."""
        return self._schemas

    @model_validator(mode="before")
    @classmethod
    def _text_has_one_column(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("format") == "text" and "columns" not in values:
            return {**values, "columns": TEXT_COLUMN}
        return values

    @model_validator(mode="after")
    def _check_columns(self) -> "InputSpec":
        if not self.columns.strip():
            raise ValueError("columns is required: list the raw columns with their types")
        if (self.format == "avro") != bool(self.schema_file) or (self.schema_folder and not self.schema_file):
            raise ValueError('schema_file is required for format = "avro", and only there')
        return self


class Lookup(TextFormat):
    """A side table that is joined to every record; its columns are then called `<name>.<column>`.

    Args:
        key: column of the side table with unique values.
        on: SQL expression over the raw columns, equal to the key.
    """

    path: str
    format: Literal["parquet", "delta", "csv", "json"]
    key: str
    on: str


class Rule(Frozen):
    """A condition with a name. `when` is SQL over the canonical columns; raw columns are called `raw.<column>`."""

    when: str
    reason: str = ""


class Clip(Frozen):
    """Bounds of a number. A value outside is set to the bound; the original value is stored in `extra`."""

    min: float | None = None
    max: float | None = None


class Bots(Frozen):
    """Adds a warning to the events of users with more events in one minute of a micro-batch."""

    max_events_per_minute: int = Field(ge=1)


class Audit(Frozen):
    """Numbers that a producer gives its records, to find records that were lost before they reached the source.

    Args:
        producer: SQL over the raw columns: the id of the producer. A producer that starts again at a lower number needs
            another id.
        sequence: SQL over the raw columns: the number of the record, which grows by 1.
    """

    producer: str
    sequence: str


class Placeholders(Frozen):
    """Texts that a log writes instead of a missing id, such as `null` or `(not set)`.

    Args:
        replace: the patterns of this source instead of `capture.placeholders`; null: those of the settings.
        add: further patterns.
        user: what happens to a row whose user is a placeholder: it is rejected, or its user is null.
    """

    replace: tuple[str, ...] | None = None
    add: tuple[str, ...] = ()
    user: Literal["reject", "anonymous"] = "reject"


class Mapping(Frozen):
    """The mapping of one source.

    Args:
        timezone: of times without a zone. A text with an offset or a zone, a TIMESTAMP, an epoch number are instants.
        time_format: Spark pattern of a text `event_time`; empty: ISO 8601.
        anonymous: `keep` stores events without a user (they update item tables only); `reject` rejects them.
        user_namespace, item_namespace: prefix of stored ids. Sources of one shop share a namespace; different shops
            have different ones.
        event_types: types in addition to the built-in ones.
        columns: canonical column = SQL expression over the raw columns. `event_type` and `event_time` are required;
            without `event_id` the id is a hash of the raw record.
        identity: raw columns that identify an event, for a log without `event_id`; empty: all raw columns and `extra`.
        placeholders: texts that stand for a missing id.
        text, scale, fill, clip: cleaning by canonical column, applied in this order.
        reject, warn: rules by name. Rejected rows are stored in `rejected_events`; a warning adds the name of the rule
            to `warnings` of the event.
        bots: rule for users with too many events; null: none.
        audit: sequence numbers of producers; null: none.
    """

    input: InputSpec
    timezone: str = "UTC"
    time_format: str = ""
    anonymous: Literal["keep", "reject"] = "keep"
    user_namespace: str = Field(default="", pattern=r"^[\w.-]*$")
    item_namespace: str = Field(default="", pattern=r"^[\w.-]*$")
    event_types: tuple[str, ...] = ()
    lookup: dict[str, Lookup] = {}
    columns: dict[str, str]
    identity: tuple[str, ...] = ()
    placeholders: Placeholders = Placeholders()
    text: dict[str, tuple[TextStep, ...]] = {}
    scale: dict[str, float] = {}
    fill: dict[str, str] = {}
    clip: dict[str, Clip] = {}
    reject: dict[str, Rule] = {}
    warn: dict[str, Rule] = {}
    bots: Bots | None = None
    audit: Audit | None = None

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        if name not in zoneinfo.available_timezones():
            raise ValueError("no such time zone; write a name such as Europe/London")
        return name

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        _check_allowed(columns, MAPPABLE_COLUMNS)
        missing = [name for name in ("event_type", "event_time") if name not in columns]
        if missing:
            raise ValueError(f"expressions are required for {missing}")
        return columns

    @model_validator(mode="after")
    def _check_cleaning(self) -> "Mapping":
        _check_allowed(self.text, TEXT_COLUMNS)
        _check_allowed(self.scale, NUMERIC_COLUMNS)
        _check_allowed(self.clip, NUMERIC_COLUMNS)
        not_fillable = ("event_id", "event_type", "event_time", "user_id")
        _check_allowed(self.fill, tuple(c for c in MAPPABLE_COLUMNS if c not in not_fillable))
        if self.identity and "event_id" in self.columns:
            raise ValueError("identity is for logs without an event id, but columns.event_id is set")
        return self

    @model_validator(mode="after")
    def _pass_timezone_to_input(self) -> "Mapping":
        self.input._timezone = self.timezone
        return self

    @property
    def allowed_event_types(self) -> tuple[str, ...]:
        """Event types that a row of this source may have."""
        return (*EVENT_TYPES, *self.event_types)


def load(path: str) -> Mapping:
    """The mapping in a TOML file.

    Raises:
        BadSettings: keys or values do not fit; one message lists all of them with file and key.
    """
    mapping = validated(Mapping, read_toml(path), path)
    if mapping.input.format == "avro":
        mapping.input._schemas = _read_schemas(mapping.input, Path(path))
    return mapping


def _read_schemas(spec: InputSpec, mapping: Path) -> AvroSchemas:
    folder = mapping.parent / spec.schema_folder
    by_id = {int(file.stem): _read_schema(file) for file in sorted(folder.glob("*.avsc")) if file.stem.isdigit()}
    if spec.schema_folder and not by_id:
        raise BadSettings(
            f"{folder} contains no Avro schema", where=f"{mapping}, input.schema_folder",
            do="copy the schemas there, with their ids as names: 42.avsc",
        )  # fmt: skip
    return AvroSchemas(_read_schema(mapping.parent / spec.schema_file), by_id if spec.schema_folder else {})


def _read_schema(file: Path) -> str:
    """The text of an Avro schema, which must be a record."""
    try:
        schema = json.loads(file.read_text())
    except OSError as error:
        raise BadSettings(
            f"cannot read {file}: {error.strerror}", where=str(file), do="name an existing file"
        ) from None
    except ValueError as error:
        raise BadSettings(f"{file} is not JSON: {error}", where=str(file), do="correct the schema") from None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise BadSettings(f"the schema in {file} is not a record", where=str(file), do='write "type": "record"')
    return json.dumps(schema)


def _check_allowed(names: Iterable[str], allowed: tuple[str, ...]) -> None:
    not_allowed = [name for name in names if name not in allowed]
    if not_allowed:
        raise ValueError(f"not columns that can be set here: {not_allowed}; allowed: {', '.join(allowed)}")
