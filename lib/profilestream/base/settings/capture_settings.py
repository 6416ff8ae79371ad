"""Settings of capture: sources, Kafka, alarms and currencies."""

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from profilestream.base.settings.frozen_model import Frozen

# Options of Kafka that capture sets itself.
_OWN_OPTIONS = {
    "bootstrap.servers": "bootstrap_servers", "isolation.level": "isolation_level",
    **dict.fromkeys(
        ("auto.offset.reset", "enable.auto.commit", "group.id", "interceptor.classes", "key.deserializer",
         "value.deserializer"),
        "",
    ),
}  # fmt: skip
_SECRET_OPTION = re.compile(r"password|jaas|secret|token|\.key$|keystore\.certificate", re.IGNORECASE)
_SECRET_REFERENCE = re.compile(r"env:[A-Za-z_]\w*|file:/.+")


class Kafka(Frozen):
    """The topics of a source (docs/running.md#kafka-sources).

    Args:
        bootstrap_servers: `host:port` of some brokers, separated by commas.
        topics: names of the topics.
        starting_offsets: where a new checkpoint starts: `earliest`, `latest`, or offsets by topic and partition; other
            partitions start at their earliest offset.
        max_offsets_per_trigger: maximum number of offsets per micro-batch, over all partitions.
        isolation_level: whether records of transactions that are not committed are read.
        options: further options of Kafka's consumer, by name, such as `security.protocol`.
        secrets: options whose values are secret: `env:NAME` names an environment variable, `file:/PATH` a file.
    """

    bootstrap_servers: str = Field(pattern=r"^\S+:\d+$")
    topics: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")], ...] = Field(min_length=1)
    starting_offsets: Literal["earliest", "latest"] | dict[str, dict[str, Annotated[int, Field(ge=0)]]] = "earliest"
    max_offsets_per_trigger: int = Field(default=500_000, ge=1)
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    options: dict[str, str] = {}
    secrets: dict[str, str] = {}

    @field_validator("options", "secrets")
    @classmethod
    def _check_names(cls, options: dict[str, str]) -> dict[str, str]:
        if invalid := sorted({*options} & {*_OWN_OPTIONS}):
            instead = ", ".join(name for name in map(_OWN_OPTIONS.get, invalid) if name)
            raise ValueError(f"capture sets these options itself: {invalid}" + (f"; set {instead}" if instead else ""))
        return options

    @field_validator("options")
    @classmethod
    def _check_no_secret(cls, options: dict[str, str]) -> dict[str, str]:
        if secret := sorted(name for name in options if _SECRET_OPTION.search(name)):
            raise ValueError(f'values of {secret} are secret: name them in secrets, such as "env:NAME"')
        return options

    @field_validator("secrets")
    @classmethod
    def _check_references(cls, secrets: dict[str, str]) -> dict[str, str]:
        if invalid := sorted(name for name, value in secrets.items() if not _SECRET_REFERENCE.fullmatch(value)):
            raise ValueError(f'write "env:NAME" or "file:/PATH" instead of the value of {invalid}')
        return secrets

    @field_validator("starting_offsets")
    @classmethod
    def _check_partitions(cls, offsets: Any) -> Any:
        partitions = [p for by_partition in offsets.values() for p in by_partition] if isinstance(offsets, dict) else []
        if invalid := [partition for partition in partitions if not partition.isdigit()]:
            raise ValueError(f"partitions are numbers: {invalid}")
        return offsets


class Source(Frozen):
    """One source of capture: `path` or `kafka`.

    Args:
        kafka: topics of Kafka; null: files or a table.
        path: folder of files, or a Delta table; empty for topics.
        mapping: file that maps its records to canonical columns (docs/mappings.md).
        on_change: for a Delta table: what happens at a commit that removes or rewrites rows. `stop` refuses to go on;
            `skip` ignores the whole commit, also the rows that it adds.
        max_files_per_trigger: maximum number of files per micro-batch; null: the value of `stream`.
    """

    kafka: Kafka | None = None
    path: str = Field(default="", validate_default=True)
    mapping: str
    on_change: Literal["stop", "skip"] = "stop"
    max_files_per_trigger: int | None = Field(default=None, ge=1)

    @field_validator("path")
    @classmethod
    def _check_one_input(cls, path: str, info: ValidationInfo) -> str:
        if "kafka" in info.data and bool(path) == (info.data["kafka"] is not None):
            raise ValueError("path and kafka exclude each other" if path else "path or kafka is required")
        return path


class Alarms(Frozen):
    """Alarms for batches that differ from the earlier batches of their source (docs/running.md).

    These settings change no stored event.

    Args:
        action: `warn` logs and stores the alarm; `stop` refuses the batch before any of its rows is written.
        max_deviations: number of deviations from the mean of earlier batches above which an alarm is raised.
        half_life_days: half-life of the weight of an earlier batch, in event time.
        min_batches: number of earlier batches that are needed to raise an alarm.
        min_rows: for a batch with fewer rows, only the volume is measured.
        min_deviation: lower bound of a deviation, for measures that are compared by ratio; 0.2 is about 20 %.
        min_share_deviation: the same for shares of rows; 0.02 is two percentage points.
    """

    action: Literal["warn", "stop"] = "warn"
    max_deviations: float = Field(default=4.0, gt=0)
    half_life_days: float = Field(default=60.0, gt=0)
    min_batches: int = Field(default=7, ge=1)
    min_rows: int = Field(default=10, ge=1)
    min_deviation: float = Field(default=0.2, gt=0)
    min_share_deviation: float = Field(default=0.02, gt=0, lt=0.5)


PLACEHOLDERS = (
    "null", "(null)", "<null>", "[null]", "\\N", "__HIVE_DEFAULT_PARTITION__", "undefined", "(undefined)",
    "<undefined>", "[undefined]", "none", "(none)", "<none>", "[none]", "nan", "nil", "(nil)", "<nil>", "[nil]", "n/a",
    "(n/a)", "<n/a>", "n.a.", "na", "<na>", "#n/a", "#na", "#ref!", "#value!", "#name?", "#null!", "#num!", "#div/0!",
    "anonymous", "unknown", "(unknown)", "<unknown>", "[unknown]", "guest", "(not set)", "not set", "<not set>",
    "(not provided)", "not provided", "(not available)", "not available", "(data not available)", "(blank)", "(empty)",
    "<empty>", "missing", "(missing)", "0", "0.0", "-1", "-", "--", "---", "\u2013", "\u2014", "?", "??", "???", "[]",
    "()", "<>", "00000000-0000-0000-0000-000000000000", "{00000000-0000-0000-0000-000000000000}",
    "00000000000000000000000000000000",
    # MD5, SHA-1 and SHA-256 of an empty text: a missing id that was hashed.
    "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "[object *]", "${*}", "{*}", "%%*%%",
)  # fmt: skip


PartitionBy = Literal["day", "month", "year"]


class ReportingCurrency(Frozen):
    """The currency in which `value` of all events is stored.

    Args:
        reporting: code of the currency, such as EUR.
        rates: table with the columns `currency`, `valid_from` (date) and `rate`: one unit of the currency in units of
            the reporting currency, from this date to the next one of the table.
        format: format of the table.
    """

    reporting: str = Field(min_length=1)
    rates: str
    format: Literal["parquet", "delta", "csv", "json"] = "csv"


class Capture(Frozen):
    """Settings of all sources.

    Args:
        max_clock_skew_minutes: how much later than the time of capture an event time may be; later ones are rejected
            as `event_time_in_future`.
        min_event_date: events before this date (UTC) are rejected as `event_time_before_min_date`.
        partition_by: length of the partitions of `events` and of tile tables. A partition with few rows costs more time
            than its rows: choose `month` or `year` for a long log with few events per day. Fixed by the first run.
        max_line_bytes: longer lines are rejected as `line_too_long`.
        max_number: numbers above it are rejected as `number_absurd`, and so are numbers other than 0 below its inverse.
        placeholders: patterns of texts that stand for a missing id, category or brand. Capital letters, blanks and
            quotes around the text do not matter; `*` stands for any characters. A mapping can replace or extend them.
        currency: the reporting currency; null: values are stored in the currency of the event.
        alarms: alarms for batches that differ from earlier ones.
        sources: by name; the name is stored in the column `source`.
    """

    max_clock_skew_minutes: float = Field(default=10.0, ge=0)
    min_event_date: date = date(1995, 1, 1)
    partition_by: PartitionBy = "day"
    max_line_bytes: int = Field(default=1_000_000, ge=1)
    max_number: float = Field(default=1e15, gt=1)
    placeholders: tuple[str, ...] = PLACEHOLDERS
    currency: ReportingCurrency | None = None
    alarms: Alarms = Alarms()
    sources: dict[str, Source] = Field(min_length=1)

    @field_validator("sources")
    @classmethod
    def _plain_names(cls, sources: dict[str, Source]) -> dict[str, Source]:
        invalid = [name for name in sources if not name.replace("_", "").isalnum()]
        if invalid:
            raise ValueError(f"source names may contain letters, digits and _ only: {invalid}")
        return sources
