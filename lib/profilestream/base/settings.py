"""Settings: frozen values, read once from TOML and `--set key=value`; all errors are reported together."""

import hashlib
import math
import os
import re
import tomllib
from dataclasses import fields
from datetime import date
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from profilestream.base.errors import BadSettings
from profilestream.base.language import ENGLISH, Language

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Model = TypeVar("Model", bound=BaseModel)
ParamsT = TypeVar("ParamsT", bound="DataclassInstance")

EVENT_WEIGHTS = {
    "cart": 3.0, "uncart": -3.0, "favorite": 3.0, "unfavorite": -3.0,
    "purchase": 5.0, "return": -5.0, "exposure": 0.0,
}  # fmt: skip
# The order of a purchase: its order id, or the event itself. The prefixes separate equal ids.
ORDER_SQL = "coalesce(concat('order:', order_id), concat('event:', event_id))"


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _check_zone(zone: str) -> str:
    if zone not in available_timezones():
        raise ValueError("not a time zone such as Europe/London")
    return zone


TimeZone = Annotated[str, AfterValidator(_check_zone)]


class Frozen(BaseModel):
    """Base of all settings: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Paths(Frozen):
    """Paths of data. Relative paths are relative to the working directory of the job.

    Spark cannot use a warehouse with a backtick or a backslash in its path, so such a path is an error.

    Args:
        warehouse: folder of the Delta tables.
        checkpoints: folder of the checkpoints.
        locks: local folder of lock files; empty: the folder of the checkpoints.
        catalog: schema of Spark's catalog in which the tables are also registered; empty: path tables only.
    """

    warehouse: str
    checkpoints: str
    locks: str = ""
    catalog: str = ""

    @field_validator("warehouse")
    @classmethod
    def _check_characters(cls, warehouse: str) -> str:
        if invalid := sorted({"`", "\\"} & set(_absolute(warehouse))):
            raise ValueError(f"Spark cannot use a path with {' or '.join(invalid)}")
        return warehouse

    @property
    def reader_warnings(self) -> list[str]:
        """Why some readers cannot open the tables at this path; usually empty."""
        codes = sorted(set(re.findall("%[0-9A-Fa-f]{2}", _absolute(self.warehouse))))
        if not codes or "://" in self.warehouse:
            return []
        return [
            f"the path of the warehouse contains {', '.join(codes)}: DuckDB, Polars and deltalake decode it as another "
            f"character, so they cannot open the tables; Spark can ({_absolute(self.warehouse)})"
        ]

    @property
    def lock_folder(self) -> str:
        """Folder of lock files."""
        return self.locks or self.checkpoints

    def output(self, name: str) -> str:
        """The default path of a file that a step or job writes: in the folder that contains the warehouse."""
        folder, slash, _ = self.warehouse.rstrip("/").rpartition("/")
        return f"{folder}{slash}{name}"


class Spark(Frozen):
    """The Spark session.

    Args:
        properties: a file as for spark-submit's --properties-file; leave it empty under spark-submit.
    """

    properties: str = ""


class Stream(Frozen):
    """Size of a micro-batch, and progress.

    Args:
        max_files_per_trigger: input files per micro-batch.
        max_bytes_per_trigger: input bytes per micro-batch; null: no limit.
        stage_batches_every_seconds: interval between two appends to `stage_batches`.
        local_max_rows: micro-batches with at most this number of rows are folded and appended in the process of the
            driver, if the warehouse is in a local file system; 0: never.
        local_max_keys: number of keys that a query holds in memory for such micro-batches: those of a table that is
            updated by key (16 MB per million), or the event ids of the dates in use (8 MB per million). With more keys,
            Spark processes the batch.
        restarts: how often a continuous run starts a failed stage again without a completed batch in between; 0: never.
        restart_seconds: delay before the first of these restarts; it doubles with each one, up to five minutes.
    """

    max_files_per_trigger: int = Field(default=64, ge=1)
    max_bytes_per_trigger: int | None = Field(default=None, ge=1)
    stage_batches_every_seconds: float = Field(default=60.0, gt=0)
    local_max_rows: int = Field(default=10_000, ge=0)
    local_max_keys: int = Field(default=5_000_000, ge=0)
    restarts: int = Field(default=5, ge=0)
    restart_seconds: float = Field(default=10.0, gt=0)


class ScheduleSettings(Frozen):
    """When a continuous run of the pipeline runs the steps.

    Args:
        timezone: time zone of cron expressions.
        steps: by name of the step: an interval such as `5m`, a cron expression of five fields, or `never`; steps that
            are not named have the schedule that flow.py declares.
    """

    timezone: TimeZone = "UTC"
    steps: dict[str, str] = {}


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


class Sessions(Frozen):
    """How events are split into sessions (docs/features.md).

    A change is refused while `sessions` contains rows computed with other values; `--rebuild` recomputes them.

    Args:
        enabled: whether `derive_sessions` runs.
        gap_minutes: a longer pause between two events of a user ends a session.
        max_hours: maximum length of a session; an event at or after this limit starts the next session.
        use_source_session_ids: events with a `session_id` of the log belong to the session with that id, however long
            it is; only events without an id are split by gap and maximum length.
        category: SQL over an event that returns its state in the session's category path; null: not part of the path.
        max_categories: number of categories per session that are separate states; later categories are `(other)`.
    """

    enabled: bool = False
    gap_minutes: float = Field(default=30.0, gt=0)
    max_hours: float = Field(default=24.0, gt=0)
    use_source_session_ids: bool = False
    category: str = "substring_index(category, '.', 1)"
    max_categories: int = Field(default=20, ge=1, le=1000)

    @property
    def gap_micros(self) -> int:
        """The gap in microseconds."""
        return round(self.gap_minutes * 60_000_000)

    @property
    def max_micros(self) -> int:
        """`max_hours` in microseconds."""
        return round(self.max_hours * 3_600_000_000)


class Transitions(Frozen):
    """Decayed counts of the transitions between states in sessions (docs/features.md).

    Args:
        enabled: whether `derive_transitions` runs; it reads the change feed of `sessions`.
        half_life_days: half-life of the weight of a session, in event time.
    """

    enabled: bool = False
    half_life_days: float = Field(default=30.0, gt=0)


class WindowFeatures(Frozen):
    """Window features (docs/features.md).

    Args:
        file: the TOML file that declares them; empty: none.
        enabled: whether `derive_windows` writes `user_features`.
        day_tiles_after_days: hour tiles older than the last day by more than this number of days are merged into day
            tiles; null: never.
    """

    file: str = ""
    enabled: bool = False
    day_tiles_after_days: int | None = Field(default=None, ge=1)


class Derive(Frozen):
    """Derived tables (docs/features.md).

    Args:
        features: files that declare tile tables; batches append to these tables.
        profiles: files that declare tables with one row per key; batches are merged into these tables.
        shop_timezone: time zone of the shop, for hours of the day and weekdays.
        event_weights: weight of an event type as a sign of preference; 1 for other types.
        max_files_per_trigger: files of `events`, or of a change feed, per micro-batch.
        min_interval_seconds: between the starts of two batches in a continuous run, at least, for all stages of this
            section except derive_profiles.
        sessions: sessions of users.
        transitions: counts of transitions in sessions.
        windows: window features.
    """

    features: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    shop_timezone: TimeZone = "UTC"
    event_weights: dict[str, float] = EVENT_WEIGHTS
    max_files_per_trigger: int = Field(default=1000, ge=1)
    min_interval_seconds: float = Field(default=5.0, ge=0)
    sessions: Sessions = Sessions()
    transitions: Transitions = Transitions()
    windows: WindowFeatures = WindowFeatures()

    @field_validator("event_weights")
    @classmethod
    def _check_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        if invalid := [name for name in weights if not name.replace("_", "").isalnum()]:
            raise ValueError(f"event types may contain letters, digits and _ only: {invalid}")
        if infinite := [name for name, weight in weights.items() if not math.isfinite(weight)]:
            raise ValueError(f"weights must be finite numbers: {infinite}")
        return EVENT_WEIGHTS | weights

    @model_validator(mode="after")
    def _transitions_need_sessions(self) -> "Derive":
        if self.transitions.enabled and not self.sessions.enabled:
            raise ValueError("transitions.enabled needs sessions.enabled: transitions are counted in sessions")
        return self

    @property
    def names(self) -> dict[str, str]:
        """What the SQL of a declaration may use as `${name}`."""
        cases = " ".join(f"WHEN '{name}' THEN {weight!r}D" for name, weight in sorted(self.event_weights.items()))
        weight = f"CASE event_type {cases} ELSE 1D END"
        return {"shop_timezone": self.shop_timezone, "event_weight": weight, "order": ORDER_SQL}


class Effect(StrEnum):
    """What another value of a learner's setting changes."""

    STATE = "all rows, so the stage must be rebuilt"
    LATER = "rows of later batches"
    EVALUATION = "metrics and rankings only"


class LearnerSettings(Frozen):
    """Settings of a learner; a field without an `Effect` has Effect.STATE.

    Args:
        enabled: whether the stage of the learner runs.
    """

    enabled: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """All settings except `enabled`."""
        return self.model_dump(exclude={"enabled"})

    def params_of(self, kind: type[ParamsT]) -> ParamsT:
        """The parameters that a dataclass has as fields, as this dataclass."""
        return kind(**{each.name: self.parameters[each.name] for each in fields(kind)})

    def with_effect(self, effect: Effect) -> dict[str, Any]:
        """The parameters with an effect."""
        effects = {
            name: next((one for one in field.metadata if isinstance(one, Effect)), Effect.STATE)
            for name, field in type(self).model_fields.items()
        }
        return {name: value for name, value in self.parameters.items() if effects[name] == effect}


class Factors(LearnerSettings):
    """The factorization of users and items (docs/learners.md). Some defaults depend on the mode.

    Args:
        mode: `implicit` learns from weighted events; `explicit` learns from ratings and adds a bias to each vector.
        k: length of a vector, without the bias.
        unobserved_weight: implicit: total weight of the user-item pairs without an event, per user; one pair weighs at
            most 1.
        regularization: L2 penalty of a vector, times the total weight of its observations; explicit: times the square
            root of that weight. Default: implicit 0.015, explicit 1.
        bias_regularization: explicit: the same for a bias.
        half_life_days: half-life of an item's normal equations, in event time. Default: implicit 45, explicit no decay.
        popularity_half_life_days: half-life of an item's popularity, in event time.
        max_events_per_user: number of latest events stored per user; older ones are summarized in `tail_weight`.
            Default: implicit 100, explicit 200.
        reweighted_events: number of a user's latest stored events whose contributions to items are replaced when the
            user vector changes.
        popularity_weight, category_weight, neighbor_weight: weights of these rankers in the blend.
        max_neighbors: number of neighbors stored per item, those with the highest decayed counts; 0: none.
        neighbor_history: number of a user's latest items that become neighbors of the user's next new item.
        full_passes: number of full passes over all events whenever their number has doubled; 0: none.
        first_full_passes: number of full passes over the first batch; 0: none.
        eval_users: approximate number of users per batch whose ranking is evaluated before the batch is learned; 0:
            none.
    """

    mode: Literal["implicit", "explicit"] = "implicit"
    k: int = Field(default=32, ge=1, le=512)
    unobserved_weight: float = Field(default=800.0, gt=0)
    regularization: float | None = Field(default=None, gt=0)
    bias_regularization: float = Field(default=0.3, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    popularity_half_life_days: float = Field(default=14.0, gt=0)
    max_events_per_user: Annotated[int | None, Effect.LATER] = Field(default=None, ge=1)
    reweighted_events: Annotated[int, Effect.LATER] = Field(default=10, ge=0)
    popularity_weight: Annotated[float, Effect.EVALUATION] = Field(default=0.15, ge=0)
    category_weight: Annotated[float, Effect.EVALUATION] = Field(default=0.0, ge=0)
    neighbor_weight: Annotated[float, Effect.EVALUATION] = Field(default=0.03, ge=0)
    max_neighbors: Annotated[int, Effect.LATER] = Field(default=50, ge=0, le=1000)
    neighbor_history: Annotated[int, Effect.LATER] = Field(default=20, ge=1)
    full_passes: Annotated[int, Effect.LATER] = Field(default=2, ge=0, le=100)
    first_full_passes: Annotated[int, Effect.LATER] = Field(default=10, ge=0, le=100)
    eval_users: Annotated[int, Effect.EVALUATION] = Field(default=2000, ge=0)

    @property
    def parameters(self) -> dict[str, Any]:
        """With the defaults of the mode."""
        defaults: dict[str, Any] = {"regularization": 0.015, "half_life_days": 45.0, "max_events_per_user": 100}
        if self.mode == "explicit":
            defaults = {"regularization": 1.0, "half_life_days": None, "max_events_per_user": 200}
        values = super().parameters
        return values | {name: default for name, default in defaults.items() if values[name] is None}


class Segments(LearnerSettings):
    """Segments of users with similar profile vectors (docs/learners.md). Another k or half-life needs a rebuild.

    Args:
        k: number of segments.
        half_life_days: days of event time in which the weight of a user's contribution halves; inf: no decay.
        init_passes: assignment passes over the first batch.
        passes: assignment passes over every later batch.
        max_split_merges: maximum number of split/merge moves per batch.
        min_gain: a move must save at least this many times its cost.
        init_size: users of the first batch from which the initial centers are chosen; also the users in the sample for
            descriptions and --try-k.
        seed: seed of the hash that selects these users, and of the choice of centers.
    """

    k: int = Field(default=8, ge=2, le=500)
    half_life_days: float = Field(default=90.0, gt=0)
    init_passes: Annotated[int, Effect.LATER] = Field(default=10, ge=1, le=100)
    passes: Annotated[int, Effect.LATER] = Field(default=1, ge=1, le=10)
    max_split_merges: Annotated[int, Effect.LATER] = Field(default=2, ge=0, le=10)
    min_gain: Annotated[float, Effect.LATER] = Field(default=1.1, ge=1)
    init_size: Annotated[int, Effect.LATER] = Field(default=10_000, ge=100, le=100_000)
    seed: Annotated[int, Effect.LATER] = 0


class Rankers(LearnerSettings):
    """Rankings of items by decayed counts of baskets (docs/learners.md).

    Args:
        event_types: events of these types are counted, each with weight 1.
        basket_gap_minutes: a longer pause between two of these events of a user begins another basket.
        half_life_days: half-life of the counts of a user, of transitions and of rules, in event time.
        popularity_half_life_days: half-life of an item's popularity, in event time.
        max_items: number of items stored per user, those with the highest decayed counts.
        max_followers: number of followers stored per item, and of items in its rules, those with the highest decayed
            counts.
    """

    event_types: tuple[str, ...] = Field(default=("purchase",), min_length=1)
    basket_gap_minutes: float = Field(default=30.0, gt=0)
    half_life_days: float = Field(default=90.0, gt=0)
    popularity_half_life_days: float = Field(default=14.0, gt=0)
    max_items: Annotated[int, Effect.LATER] = Field(default=1000, ge=1)
    max_followers: Annotated[int, Effect.LATER] = Field(default=100, ge=1, le=1000)


class Demand(LearnerSettings):
    """Forecasts of units per item and week, and per category and day (docs/learners.md).

    Args:
        event_types: events of these types are sales; their quantity is the demand, 1 if it is missing.
        half_life_weeks: half-life of a week in the ridge regression of items, in event time.
        level_half_life_days: half-life of the level of a category, in event time.
        profile_half_life_weeks: half-life of the day-of-week profile of a category, in event time.
        history_days: forecasts are computed from this many days.
        error_days: the error of a forecast is measured over this many days.
    """

    event_types: tuple[str, ...] = Field(default=("purchase",), min_length=1)
    half_life_weeks: Annotated[float, Effect.LATER] = Field(default=26.0, gt=0)
    level_half_life_days: Annotated[float, Effect.LATER] = Field(default=10.0, gt=0)
    profile_half_life_weeks: Annotated[float, Effect.LATER] = Field(default=6.0, gt=0)
    history_days: Annotated[int, Effect.LATER] = Field(default=730, ge=28)
    error_days: Annotated[int, Effect.EVALUATION] = Field(default=91, ge=7)


class Outcomes(LearnerSettings):
    """Models of outcomes, such as a purchase in 28 days.

    Args:
        file: the declaration of labels, features and outcomes.
    """

    file: Annotated[str, Effect.LATER] = ""


class BatchModels(Frozen):
    """Models of outcomes that `learn_batch_models` fits again from stored examples (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` runs the step after its stages.
        kinds: `boosting`: small boosted trees; `mlp`: a neural network with one hidden layer.
        retrain_days: a version is fitted once in each period of this many days.
        history_days: a version learns the examples that have matured in this many days before it.
        max_rows: examples that a version learns at most, of users that are selected by a hash.
        min_rows: examples that a version, and a comparison with the linear model, need at least.
        margin: a kind is served if its loss is lower than that of the linear model by more than this share, at the
            lower end of the 90 % interval.
        seed: seed of the hash and of the network.
    """

    enabled: bool = False
    kinds: tuple[Literal["boosting", "mlp"], ...] = Field(default=("boosting", "mlp"), min_length=1)
    retrain_days: int = Field(default=28, ge=1)
    history_days: int = Field(default=364, ge=1)
    max_rows: int = Field(default=100_000, ge=100)
    min_rows: int = Field(default=1000, ge=100)
    margin: float = Field(default=0.005, ge=0)
    seed: int = Field(default=0, ge=0)


class Tracking(Frozen):
    """MLflow tracking of the rows of `model_metrics` (docs/learners.md). A failure of MLflow never stops a stage.

    Args:
        enabled: whether the learning stages send metrics; publishing uses MLflow in any case.
        uri: URI of the tracking server or database, which is also the model registry; empty: the SQLite file
            `mlflow.db` in the parent folder of the warehouse.
        artifact_location: folder of the model files; empty: `mlflow_artifacts` next to the SQLite file, or the default
            of the server. Used when the experiment is created.
        experiment: name of the MLflow experiment.
        interval_seconds: interval between two transfers while a stage runs; one more follows at its end.
        timeout_seconds: maximum time that a stage waits at its end for the last transfer.
    """

    enabled: bool = True
    uri: str = ""
    artifact_location: str = ""
    experiment: str = "profilestream"
    interval_seconds: float = Field(default=60.0, gt=0)
    timeout_seconds: float = Field(default=30.0, gt=0)


ModelName = Annotated[str, Field(pattern=r"^[\w -]+$")]


class Gate(Frozen):
    """The promotion gate: when a published version becomes the champion (docs/learners.md).

    Args:
        eval_batches: number of latest evaluated batches; the gate compares the weighted mean of the metric over them.
        min_weight: sum of the weights of the compared batches, at least: users, ratings, vectors or rows, as in
            `model_metrics`.
        margin: relative difference by which the version must be better than a champion of another epoch.
        tolerance: relative difference by which the version may be worse than a champion of the same epoch, and the
            champion since its publication worse than the version before at its time.
        drought_days: no version replaces the champion if the newest evaluated rows are older than this plus the delay
            of the label.
    """

    eval_batches: int = Field(default=20, ge=1)
    min_weight: float = Field(default=100.0, ge=0)
    margin: float = Field(default=0.01, ge=0)
    tolerance: float = Field(default=0.05, ge=0, lt=1)
    drought_days: float = Field(default=28.0, gt=0)


class Publish(Gate):
    """Publishing of the factors as a registered model.

    Args:
        name: name of the registered model.
        ranker: ranker of the registered model; the gate compares its metric.
        metric: metric that the gate compares; learn/metrics.py declares it.
        top_k: items per user that the registered model returns by default.
    """

    name: ModelName = "factors"
    ranker: Literal["blend", "factors", "neighbors", "popularity", "category"] = "blend"
    metric: Literal["recall_10", "recall_20", "ndcg_10", "mrr_20", "rmse"] = "recall_20"
    top_k: int = Field(default=20, ge=1)


class PublishSegments(Gate):
    """Publishing of the segments as a registered model.

    The gate compares their cost, divided by the cost of one center for all users.

    Args:
        name: name of the registered model.
    """

    name: ModelName = "segments"


class PublishRankers(Gate):
    """Publishing of the rankers as a registered model.

    Args:
        name: name of the registered model.
        ranker: default ranker of the registered model; the gate compares its metric basket_recall_10.
        top_k: items per user that the registered model returns by default.
    """

    name: ModelName = "rankers"
    ranker: Literal["own_counts", "due_counts", "transitions", "sequence_rules", "popularity"] = "own_counts"
    top_k: int = Field(default=20, ge=1)


class PublishOutcomes(Gate):
    """Publishing of the models of outcomes as one registered model.

    Args:
        name: name of the registered model.
        outcome: the gate compares the log loss (an amount: relative_mae) of this outcome; empty: of the first one.
    """

    name: ModelName = "outcomes"
    outcome: str = ""


class Examples(Frozen):
    """Training examples (docs/learners.md): point-in-time features of users, and labels from later events.

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
        file: the file that declares the labels; empty: none.
        set_name: name of the set of rows that a run replaces; rows of other sets are unchanged.
        features, labels: columns of the rows; empty: all declared ones.
        interval, offset: the times are `offset` after multiples of `interval` since 1970-01-01 00:00 UTC, a Thursday.
        since: first day of the times (UTC); null: no bound.
        until: first day after the times (UTC); null: no bound.
        active_within: a user has a row at a time t if the user has an event in this interval before t; `lifetime`: any
            event before t.
        sample_fraction: fraction of the pairs of user and time to keep, selected by a hash.
        max_times_per_user: maximum number of times per user, selected by the same hash; null: no limit.
        seed: seed of the hash.
        label_delay: a label is null until the newest event is this much later than the end of its horizon.
    """

    enabled: bool = False
    file: str = ""
    set_name: str = Field(default="all", pattern=r"^[a-z][a-z0-9_]*$")
    features: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    interval: str = Field(default="7d", pattern=r"^[1-9]\d{0,4}[hd]$")
    offset: str = Field(default="0h", pattern=r"^\d{1,5}[hd]$")
    since: date | None = None
    until: date | None = None
    active_within: str = Field(default="30d", pattern=r"^([1-9]\d{0,4}[hd]|lifetime)$")
    sample_fraction: float = Field(default=1.0, gt=0, le=1)
    max_times_per_user: int | None = Field(default=None, ge=1)
    seed: int = 0
    label_delay: str = Field(default="0h", pattern=r"^\d{1,5}[hd]$")

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(f"since must be before until: {self.since}, {self.until}")
        return self


class Learn(Frozen):
    """Settings of the learners and of training examples.

    Args:
        max_files_per_trigger: maximum number of files of `events` per micro-batch.
        min_interval_seconds: between the starts of two batches of a learner in a continuous run, at least.
    """

    max_files_per_trigger: int = Field(default=1000, ge=1)
    min_interval_seconds: float = Field(default=10.0, ge=0)
    factors: Factors = Factors()
    segments: Segments = Segments()
    rankers: Rankers = Rankers()
    demand: Demand = Demand()
    outcomes: Outcomes = Outcomes()
    batch_models: BatchModels = BatchModels()
    tracking: Tracking = Tracking()
    publish: Publish = Publish()
    publish_segments: PublishSegments = PublishSegments()
    publish_rankers: PublishRankers = PublishRankers()
    publish_outcomes: PublishOutcomes = PublishOutcomes()
    examples: Examples = Examples()

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> Self:
        names = ("publish", "publish_segments", "publish_rankers", "publish_outcomes")
        models = {name: getattr(self, name).name for name in names}
        for (one, model), (other, other_model) in combinations(models.items(), 2):
            if model == other_model:
                raise ValueError(f"{one}.name and {other}.name are the same: {model}")
        return self

    @model_validator(mode="after")
    def _published_ranker_has_the_metric(self) -> Self:
        """`rmse` exists for predicted ratings only, so the gate would never have a value."""
        if self.publish.metric == "rmse" and (self.publish.ranker, self.factors.mode) != ("factors", "explicit"):
            raise ValueError('publish.metric = "rmse" needs publish.ranker = "factors" and factors.mode = "explicit"')
        return self


class Scores(Frozen):
    """Recommendation lists of `serve_scores` (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` writes the lists after its stages.
        model: `newest`: the current version of the table `factors`; else an alias of a published version (`champion`).
        purposes: the lists that each user gets. `for_you`: items that are new to the user, by the factors. By the table
            `basket_counts`, if `learn.rankers` is enabled: `buy_again`, items of the user; `next_basket`, both;
            `next_in_session`, items that follow the user's latest items in sessions.
        top_k: items per user and purpose.
        active_within_days: only users with an event in this many days before the newest event; null: all users.
        exclude_bought: for_you: exclude items that the user ever bought and did not return completely.
        exclude_seen: for_you: exclude items for which the user's stored events have a positive total weight, such as
            viewed items; stored are the latest `learn.factors.max_events_per_user` events.
        max_item_age_days: exclude items without an event in this many days before the newest event; `inf`: none.
        max_per_category: for_you: maximum number of items of one category per list; null: no limit.
        max_share_per_item: for_you: maximum share of the lists of a run that contain the same item; null: no limit.
    """

    enabled: bool = False
    model: str = Field(default="newest", pattern=r"^[a-z][a-z0-9_-]*$")
    purposes: tuple[Literal["for_you", "buy_again", "next_basket", "next_in_session"], ...] = Field(
        default=("for_you", "buy_again", "next_basket", "next_in_session"), min_length=1
    )
    top_k: int = Field(default=10, ge=1, le=1000)
    active_within_days: float | None = Field(default=None, gt=0)
    exclude_bought: bool = True
    exclude_seen: bool = True
    max_item_age_days: float = Field(default=90.0, gt=0)
    max_per_category: int | None = Field(default=None, ge=1)
    max_share_per_item: float | None = Field(default=None, gt=0, le=1)


class OutcomeScores(Frozen):
    """Scores of outcomes by `serve_outcomes` (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
        active_within: a user has scores if the user has an event in this interval before the newest event; `lifetime`:
            all users.
        max_reasons: reasons per score, at most; with 0, scores are computed faster.
    """

    enabled: bool = False
    active_within: str = Field(default="lifetime", pattern=r"^([1-9]\d{0,4}[hd]|lifetime)$")
    max_reasons: int = Field(default=3, ge=0)


class Anomalies(Frozen):
    """Unusual days of users by `serve_anomalies` (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
        report_days: number of last days whose unusual days are written.
        history_days: only events of this many days before the newest event are read.
        half_life_days: half-life of the weight of an earlier day in a user's baseline.
        max_share: a day is unusual if at most this share of the days of all users has a score at least as high.
    """

    enabled: bool = False
    report_days: int = Field(default=28, ge=1)
    history_days: int = Field(default=365, ge=1)
    half_life_days: float = Field(default=90.0, gt=0)
    max_share: float = Field(default=0.001, gt=0, le=0.05)


class Tags(Frozen):
    """Tags with evidence, RFM segments, loyalty tiers and cohorts (docs/tags.md).

    Args:
        enabled: whether `run_pipeline` updates them after its stages.
        file: the declaration file; empty: none.
    """

    enabled: bool = False
    file: str = ""


class PlainTables(Frozen):
    """The tables `users` and `items` of `serve_tables` (docs/for_analysts.md).

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
    """

    enabled: bool = False


class AudienceFiles(Frozen):
    """The files of `serve_audience` (docs/audiences.md).

    Args:
        columns: columns of `users` in the files, in this order; `user_id` is one of them.
        suppression: files with a column `user_id`, `.csv` with a header or `.parquet`; these users are never exported.
    """

    columns: tuple[str, ...] = ("user_id",)
    suppression: tuple[str, ...] = ()

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if "user_id" not in columns or len(set(columns)) < len(columns):
            raise ValueError("user_id must be one of the columns, and each column may be listed once")
        return columns


class Report(Frozen):
    """The page of `serve_report`.

    Args:
        enabled: whether `run_pipeline` writes it after its stages.
        path: path of the page; empty: `report.html` in the parent folder of the warehouse.
    """

    enabled: bool = False
    path: str = ""


class Serve(Frozen):
    """The steps that serve results.

    Args:
        user_ids: whether a user id is a person (`people`) or a session (`sessions`, for a log without users). With
            sessions, tags, RFM segments, loyalty tiers and page sections that need people are left out.
        language: of the page of `serve_report`, and of the text and page of `serve_user`: `en` or `zh` (Chinese). Names
            from the data are not translated.
    """

    user_ids: Literal["people", "sessions"] = "people"
    language: Language = ENGLISH

    scores: Scores = Scores()
    outcomes: OutcomeScores = OutcomeScores()
    anomalies: Anomalies = Anomalies()
    tags: Tags = Tags()
    tables: PlainTables = PlainTables()
    audience: AudienceFiles = AudienceFiles()
    report: Report = Report()


class Observe(Frozen):
    """Exported metrics, alerts and log lines (docs/running.md#observability).

    Args:
        text_file: path of the file with the metrics; empty: `profilestream.prom` in the folder of the locks.
        port: port at which a continuous run serves the metrics; null: none.
        address: address of that port; `0.0.0.0` for all networks of the machine.
        otlp_endpoint: URL of a collector of OpenTelemetry that gets all metrics; empty: none.
        alerts: file of alert rules; empty: none.
        log_format: format of the lines on standard error.
    """

    text_file: str = ""
    port: int | None = Field(default=None, ge=1, le=65535)
    address: str = "127.0.0.1"
    otlp_endpoint: str = ""
    alerts: str = ""
    log_format: Literal["text", "json"] = "text"

    @field_validator("text_file")
    @classmethod
    def _check_name(cls, text_file: str) -> str:
        if text_file and not text_file.endswith(".prom"):
            raise ValueError("the node exporter reads files whose names end with .prom")
        return text_file


_MinFiles = Annotated[int, Field(ge=2)]
_SmallFileMb = Annotated[float, Field(gt=0)]
_KeepHours = Annotated[float, Field(ge=0)]


class Upkeep(Frozen):
    """How a table is maintained.

    Args:
        min_files: a partition with at least this number of small files is compacted.
        small_file_mb: files below this size in MB are small; combined ones have up to eight times this size.
        keep_hours: all versions of this many hours can be read; older ones only if a stage needs them. Must be longer
            than the longest batch, step or query.
    """

    min_files: _MinFiles = 20
    small_file_mb: _SmallFileMb = 16.0
    keep_hours: _KeepHours = 168.0


class UpkeepOfTable(Frozen):
    """Other values for one table; a value that is not set is that of all tables.

    Args:
        min_files, small_file_mb, keep_hours: as in `maintain`.
    """

    min_files: _MinFiles | None = None
    small_file_mb: _SmallFileMb | None = None
    keep_hours: _KeepHours | None = None


class Maintain(Upkeep):
    """Maintenance of the tables by `steward_maintain` (docs/running.md#maintenance).

    Args:
        enabled: whether `run_pipeline` runs it after its stages and steps.
        rejected_payload_days: payloads of rejected rows that were captured this many days ago become null, and the
            rows remain; null: never.
        tables: other values for some tables, by name of the table.
    """

    enabled: bool = False
    rejected_payload_days: float | None = Field(default=None, gt=0)
    tables: dict[str, UpkeepOfTable] = {}

    def of(self, table: str) -> Upkeep:
        """How a table is maintained, by its name."""
        own = self.tables.get(table, UpkeepOfTable()).model_dump(exclude_none=True)
        return Upkeep(**{name: own.get(name, getattr(self, name)) for name in Upkeep.model_fields})


class Settings(Frozen):
    """All settings of a config file."""

    paths: Paths
    spark: Spark = Spark()
    stream: Stream = Stream()
    capture: Capture
    derive: Derive = Derive()
    learn: Learn = Learn()
    serve: Serve = Serve()
    schedule: ScheduleSettings = ScheduleSettings()
    observe: Observe = Observe()
    maintain: Maintain = Maintain()
    config_file: str


def load(config: str, overrides: list[str]) -> Settings:
    """Settings from a TOML file, overridden by `key=value` texts such as `paths.warehouse=/tmp/w`.

    Relative names of mapping, declaration and properties files are relative to the folder of the config file.

    Raises:
        BadSettings: the file does not exist or is not TOML, or keys or values are invalid; all in one message.
    """
    document = read_toml(config)
    for override in overrides:
        _override(document, override)
    settings = validated(Settings, {**document, "config_file": config}, config)
    return _with_resolved_names(settings, Path(config).parent)


def fingerprint(text: str) -> str:
    """The first 16 hex digits of the SHA-256 hash of the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_toml(path: str) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise BadSettings(f"cannot read {path}: {error.strerror}", where=path, do="name an existing file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not TOML: {error}", where=path, do="correct the line in the message") from None


def validated(model: type[Model], document: dict[str, Any], path: str) -> Model:
    """The document as a value of `model`; one error lists every invalid key with the file."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        invalid = [
            f"  {'.'.join(map(str, e['loc'])) or '(file)'}: {_plain_text(e['msg'])}{_shown_input(e['loc'], e['input'])}"
            for e in error.errors()
        ]
        raise BadSettings(
            "\n".join([f"{path} has {len(invalid)} invalid setting(s)", *invalid]),
            where=path,
            do="correct the keys listed above",
        ) from None


def _shown_input(place: tuple[int | str, ...], value: Any) -> str:
    """The invalid value for an error message; nothing of the options of Kafka, among which a secret may be."""
    text = repr(value)
    return "" if "kafka" in place or "'kafka'" in text else f" (got {text:.80})"


def _plain_text(message: str) -> str:
    return "no such key" if message == "Extra inputs are not permitted" else message.removeprefix("Value error, ")


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadSettings(
            f"--set {override!r} is not key=value", where="--set", do="write it as --set paths.warehouse=/data/w"
        )
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.split(".")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise BadSettings(f"--set {key}: {table} is not a table", where="--set", do="use a key of the config file")
    document[name] = value


def _with_resolved_names(settings: Settings, folder: Path) -> Settings:
    def resolved(name: str) -> str:
        return name if not name or os.path.isabs(name) or "://" in name else str(folder / name)

    sources = {
        name: source.model_copy(update={"mapping": resolved(source.mapping)})
        for name, source in settings.capture.sources.items()
    }
    return settings.model_copy(
        update={
            "spark": settings.spark.model_copy(update={"properties": resolved(settings.spark.properties)}),
            "capture": settings.capture.model_copy(update={"sources": sources}),
            "derive": settings.derive.model_copy(
                update={
                    "features": tuple(map(resolved, settings.derive.features)),
                    "profiles": tuple(map(resolved, settings.derive.profiles)),
                    "windows": settings.derive.windows.model_copy(
                        update={"file": resolved(settings.derive.windows.file)}
                    ),
                }
            ),
            "observe": settings.observe.model_copy(update={"alerts": resolved(settings.observe.alerts)}),
            "serve": settings.serve.model_copy(
                update={
                    "tags": settings.serve.tags.model_copy(update={"file": resolved(settings.serve.tags.file)}),
                    "audience": settings.serve.audience.model_copy(
                        update={"suppression": tuple(map(resolved, settings.serve.audience.suppression))}
                    ),
                }
            ),
            "learn": settings.learn.model_copy(
                update={
                    "examples": settings.learn.examples.model_copy(
                        update={"file": resolved(settings.learn.examples.file)}
                    ),
                    "outcomes": settings.learn.outcomes.model_copy(
                        update={"file": resolved(settings.learn.outcomes.file)}
                    ),
                }
            ),
        }
    )
