"""Settings: frozen values, read once from TOML and `--set key=value`, with all errors told together."""

import hashlib
import math
import os
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from profilestream.base.errors import BadSettings

Model = TypeVar("Model", bound=BaseModel)

EVENT_WEIGHTS = {
    "cart": 3.0, "uncart": -3.0, "favorite": 3.0, "unfavorite": -3.0,
    "purchase": 5.0, "return": -5.0, "exposure": 0.0,
}  # fmt: skip


class Frozen(BaseModel):
    """Base of every settings value: unknown keys are errors, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Paths(Frozen):
    """Where things are. Relative paths are taken from the folder in which the job is started.

    `catalog` names a schema of Spark's catalog in which the tables are registered as well; empty: path tables only.
    """

    warehouse: str
    checkpoints: str
    locks: str = ""
    catalog: str = ""

    @property
    def lock_folder(self) -> str:
        """Folder of lock files; that of the checkpoints unless set."""
        return self.locks or self.checkpoints


class Spark(Frozen):
    """The session. `properties` names a file as for spark-submit's --properties-file; left out under spark-submit."""

    properties: str = ""


class Stream(Frozen):
    """How much a micro-batch takes and how progress is shown."""

    max_files_per_trigger: int = Field(default=64, ge=1)
    max_bytes_per_trigger: int | None = Field(default=None, ge=1)
    stage_batches_every_seconds: float = Field(default=60.0, gt=0)


class Source(Frozen):
    """One log: where it lies and the mapping that reads it."""

    path: str
    mapping: str
    max_files_per_trigger: int | None = Field(default=None, ge=1)


class Alarms(Frozen):
    """When a batch is unlike the earlier ones of its source (docs/running.md). Nothing here changes what a row becomes.

    Args:
        action: `warn` logs and keeps the alarm; `stop` refuses the batch before anything of it is written.
        limit: deviations from the mean of earlier batches above which there is an alarm.
        half_life_days: of what an earlier batch counts, in event time.
        min_batches: earlier batches before there is any alarm.
        min_rows: rows of a batch below which only its volume is looked at.
        least_deviation: of measures that are compared by ratio; 0.2 is a fifth more or less.
        least_share_deviation: the same of shares of rows; 0.02 is two rows in a hundred.
    """

    action: Literal["warn", "stop"] = "warn"
    limit: float = Field(default=4.0, gt=0)
    half_life_days: float = Field(default=60.0, gt=0)
    min_batches: int = Field(default=7, ge=1)
    min_rows: int = Field(default=10, ge=1)
    least_deviation: float = Field(default=0.2, gt=0)
    least_share_deviation: float = Field(default=0.02, gt=0, lt=0.5)


class Capture(Frozen):
    """Rules that hold for every source."""

    max_clock_skew_minutes: float = Field(default=10.0, ge=0)
    min_event_date: date = date(1995, 1, 1)
    max_line_bytes: int = Field(default=1_000_000, ge=1)
    alarms: Alarms = Alarms()
    sources: dict[str, Source] = Field(min_length=1)

    @field_validator("sources")
    @classmethod
    def _plain_names(cls, sources: dict[str, Source]) -> dict[str, Source]:
        odd = [name for name in sources if not name.replace("_", "").isalnum()]
        if odd:
            raise ValueError(f"source names may hold letters, digits and _ only: {odd}")
        return sources


class Sessions(Frozen):
    """What a session is (docs/features.md). Another value over old sessions is refused until they are derived again.

    Args:
        enabled: whether `derive_sessions` runs.
        gap_minutes: a longer pause between two events of a user ends a session.
        max_hours: a session takes no event so long after its first one or later; the next begins there.
        use_source_session_ids: a session is what the log calls so (`session_id`), however long; other events go by the gap.
        category: SQL over an event, its state in the session's path of categories; null has none.
        most_categories: states of a session's path of categories, the first ones; later ones are `(other)`.
    """

    enabled: bool = False
    gap_minutes: float = Field(default=30.0, gt=0)
    max_hours: float = Field(default=24.0, gt=0)
    use_source_session_ids: bool = False
    category: str = "substring_index(category, '.', 1)"
    most_categories: int = Field(default=20, ge=1, le=1000)

    @property
    def gap_micros(self) -> int:
        """The gap in microseconds."""
        return round(self.gap_minutes * 60_000_000)

    @property
    def most_micros(self) -> int:
        """The cap in microseconds."""
        return round(self.max_hours * 3_600_000_000)


class Chains(Frozen):
    """Decayed counts of what follows what in sessions (docs/features.md).

    Args:
        enabled: whether `derive_chains` runs; it follows `sessions`.
        half_life_days: in which a session loses half its weight, in event time.
    """

    enabled: bool = False
    half_life_days: float = Field(default=30.0, gt=0)


class WindowFeatures(Frozen):
    """Features over windows of time (docs/features.md).

    Args:
        file: that declares them; empty: none.
        enabled: whether `derive_windows` keeps `user_features`.
        day_tiles_after_days: hour tiles so much older than the newest become day tiles; null: never.
    """

    file: str = ""
    enabled: bool = False
    day_tiles_after_days: int | None = Field(default=None, ge=1)


class Derive(Frozen):
    """What is derived from events.

    Args:
        features: files that declare tiles, which are appended (docs/features.md).
        profiles: files that declare tables of one row a key, which are merged.
        shop_timezone: where the shop is, for hours of the day and weekdays.
        event_weights: what an event of a type counts as a sign of preference; 1 unless named.
        max_files_per_trigger: files of `events`, or of the change feed it follows, that a micro-batch takes at most.
        sessions: what a session is, and whether there are any.
        chains: how transitions in sessions are counted, and whether they are.
        windows: features over windows of time.
    """

    features: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    shop_timezone: str = "UTC"
    event_weights: dict[str, float] = EVENT_WEIGHTS
    max_files_per_trigger: int = Field(default=1000, ge=1)
    sessions: Sessions = Sessions()
    chains: Chains = Chains()
    windows: WindowFeatures = WindowFeatures()

    @field_validator("shop_timezone")
    @classmethod
    def _known(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError("not a time zone such as Europe/London")
        return zone

    @field_validator("event_weights")
    @classmethod
    def _event_types(cls, weights: dict[str, float]) -> dict[str, float]:
        odd = [name for name in weights if not name.replace("_", "").isalnum()]
        if odd:
            raise ValueError(f"event types may hold letters, digits and _ only: {odd}")
        endless = [name for name, weight in weights.items() if not math.isfinite(weight)]
        if endless:
            raise ValueError(f"weights must be finite numbers: {endless}")
        return EVENT_WEIGHTS | weights

    @model_validator(mode="after")
    def _chains_have_sessions(self) -> "Derive":
        if self.chains.enabled and not self.sessions.enabled:
            raise ValueError("chains.enabled needs sessions.enabled: transitions are counted in sessions")
        return self

    @property
    def names(self) -> dict[str, str]:
        """What the SQL of a declaration may use as `${name}`."""
        cases = " ".join(f"WHEN '{name}' THEN {weight!r}D" for name, weight in sorted(self.event_weights.items()))
        return {"shop_timezone": self.shop_timezone, "event_weight": f"CASE event_type {cases} ELSE 1D END"}


class Factors(Frozen):
    """The factorization of users and items (docs/learners.md). What is null has a default that depends on the mode.

    Args:
        enabled: whether `learn_factors` runs.
        mode: `implicit` learns from what was done, `explicit` from ratings.
        k: length of a vector.
        unobserved_weight: implicit: weight of everything that was not seen, all items together; for one item at most 1.
        regularization: pull towards zero, times the weight behind a vector; implicit 0.015; explicit 1, times its root.
        bias_regularization: explicit: the same of a bias.
        half_life_days: of what an item has been told, in event time; implicit 45, explicit for ever.
        popularity_half_life_days: of an item's decayed count.
        max_events_per_user: newest events kept of a user, what is older counts as a prior; implicit 100, explicit 200.
        reweighted_events: of a user's newest kept events, how many have their share in the item replaced when the user moves.
        popularity_share, category_share, neighbor_share: of each ranking in the score of a user and an item.
        neighbors: kept with an item: the items that its users came from, the most frequent ones; 0 for none.
        neighbor_history: of a user's items, how many of the newest are neighbors of its next one.
        full_passes: over the whole log, whenever the events have doubled; 0 for none.
        first_full_passes: the same, the first time.
        eval_users: users a task and batch whose ranking is judged before it is learned from; 0 for none.
    """

    enabled: bool = False
    mode: Literal["implicit", "explicit"] = "implicit"
    k: int = Field(default=32, ge=1, le=512)
    unobserved_weight: float = Field(default=800.0, gt=0)
    regularization: float | None = Field(default=None, gt=0)
    bias_regularization: float = Field(default=0.3, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    popularity_half_life_days: float = Field(default=14.0, gt=0)
    max_events_per_user: int | None = Field(default=None, ge=1)
    reweighted_events: int = Field(default=10, ge=0)
    popularity_share: float = Field(default=0.15, ge=0)
    category_share: float = Field(default=0.0, ge=0)
    neighbor_share: float = Field(default=0.03, ge=0)
    neighbors: int = Field(default=50, ge=0, le=1000)
    neighbor_history: int = Field(default=20, ge=1)
    full_passes: int = Field(default=2, ge=0, le=100)
    first_full_passes: int = Field(default=10, ge=0, le=100)
    eval_users: int = Field(default=500, ge=0)

    @property
    def known(self) -> dict[str, Any]:
        """All but `enabled`, with the defaults of the mode."""
        by_mode: dict[str, Any] = {"regularization": 0.015, "half_life_days": 45.0, "max_events_per_user": 100}
        if self.mode == "explicit":
            by_mode = {"regularization": 1.0, "half_life_days": None, "max_events_per_user": 200}
        made = self.model_dump(exclude={"enabled"})
        return made | {name: default for name, default in by_mode.items() if made[name] is None}


class Segments(Frozen):
    """Groups of users who are alike, by their profile vectors (docs/learners.md). Other values need a rebuild.

    Args:
        enabled: whether `learn_segments` runs; it follows the profile table that keeps a population.
        k: number of segments.
        half_life_days: in which what a user's profile last said loses half its weight, in event time; inf: never.
        first_passes: over the first batch, each from assigning its users anew; later batches take `passes`.
        max_split_merges: a batch makes at most: a segment is split in two while two others become one.
        min_gain: a move must save so many times what it costs.
        sample: users of the first batch, by a hash, among whom the first centers are chosen.
        seed: of the hash, and of the choice.
    """

    enabled: bool = False
    k: int = Field(default=8, ge=2, le=500)
    half_life_days: float = Field(default=90.0, gt=0)
    first_passes: int = Field(default=10, ge=1, le=100)
    passes: int = Field(default=1, ge=1, le=10)
    max_split_merges: int = Field(default=2, ge=0, le=10)
    min_gain: float = Field(default=1.1, ge=1)
    sample: int = Field(default=10_000, ge=100, le=100_000)
    seed: int = 0


class Tracking(Frozen):
    """What MLflow is told of `model_metrics` (docs/learners.md). No stage waits for it longer than stated here.

    Args:
        enabled: whether it is told; publishing needs it whatever this says.
        uri: of the tracking server or database; empty: the SQLite file `mlflow.db` beside the warehouse.
        artifacts: where files of models lie; empty: `mlflow_artifacts` beside the SQLite file, or as the server has it.
        experiment: its name there.
        every_seconds: between two times while a stage runs; it is always told at the end.
        timeout_seconds: at most waited for at the end.
    """

    enabled: bool = True
    uri: str = ""
    artifacts: str = ""
    experiment: str = "profilestream"
    every_seconds: float = Field(default=60.0, gt=0)
    timeout_seconds: float = Field(default=30.0, gt=0)


ModelName = Annotated[str, Field(pattern=r"^[\w -]+$")]


class Gate(Frozen):
    """When a version of what was learned becomes the champion (docs/learners.md).

    Args:
        batches: the newest judged batches over which the metric is taken, mean by users.
        margin: share by which it must be better than a champion that was learned otherwise (another epoch).
        tolerance: share by which it may be worse than a champion of the same epoch, which it continues.
    """

    batches: int = Field(default=20, ge=1)
    margin: float = Field(default=0.01, ge=0)
    tolerance: float = Field(default=0.05, ge=0, lt=1)


class Publish(Gate):
    """The factors as a registered model.

    Args:
        name: of the model.
        ranker, metric: the ranking that is published, and the column of `model_metrics` that it is judged by.
        top_k: items recommended by the registered model unless it is asked for another number.
    """

    name: ModelName = "factors"
    ranker: Literal["blend", "factors", "neighbors", "popularity", "category"] = "blend"
    metric: Literal["recall_10", "recall_20", "ndcg_10", "mrr_20", "rmse"] = "recall_20"
    top_k: int = Field(default=20, ge=1)


class PublishSegments(Gate):
    """The segments as a registered model; they are judged by their cost over that of one center for all.

    Args:
        name: of the model.
    """

    name: ModelName = "segments"


class Examples(Frozen):
    """Training rows (docs/learners.md): features of users as of times, and what the users did then.

    Args:
        enabled: whether `run_pipeline` makes them at its end.
        file: that declares the labels; empty: none.
        set_name: of the rows that a run makes; those of other sets stay.
        features, labels: columns of the rows; all that are declared when empty.
        every, offset: the times are whole steps of `every` after 1970-01-01 00:00 UTC, a Thursday, and `offset`.
        since, until: only times from this day on, and before this day (UTC); null: all.
        active_within: a user has rows at times at most so long after an event of its own; `lifetime`: at all after it.
        share: of users and times that is taken, by a hash.
        per_user: times that are taken of a user at most, by that hash; null: all.
        seed: of the hash.
        lateness: a label is told when the newest event is by so much later than its horizon ends.
    """

    enabled: bool = False
    file: str = ""
    set_name: str = Field(default="all", pattern=r"^[a-z][a-z0-9_]*$")
    features: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    every: str = Field(default="7d", pattern=r"^[1-9]\d{0,4}[hd]$")
    offset: str = Field(default="0h", pattern=r"^\d{1,5}[hd]$")
    since: date | None = None
    until: date | None = None
    active_within: str = Field(default="30d", pattern=r"^([1-9]\d{0,4}[hd]|lifetime)$")
    share: float = Field(default=1.0, gt=0, le=1)
    per_user: int | None = Field(default=None, ge=1)
    seed: int = 0
    lateness: str = Field(default="0h", pattern=r"^\d{1,5}[hd]$")

    @model_validator(mode="after")
    def _has_days(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(f"no day lies from since to until: {self.since}, {self.until}")
        return self


class Learn(Frozen):
    """What is learned from events.

    Args:
        max_files_per_trigger: files of `events` that a micro-batch takes at most.
    """

    max_files_per_trigger: int = Field(default=1000, ge=1)
    factors: Factors = Factors()
    segments: Segments = Segments()
    tracking: Tracking = Tracking()
    publish: Publish = Publish()
    publish_segments: PublishSegments = PublishSegments()
    examples: Examples = Examples()

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> Self:
        if self.publish.name == self.publish_segments.name:
            raise ValueError(f"publish.name and publish_segments.name are the same: {self.publish.name}")
        return self


class Scores(Frozen):
    """What `serve_scores` recommends (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` makes the lists when the stages have come to their end.
        model: `newest` reads `factors` as it is; `champion` the published version of that alias, or another alias.
        top_n: items a user.
        active_days: users seen in so many days before the newest event; null for all.
        exclude_bought: leave out what a user has: everything with more given than taken back among its kept events.
        gone_after_days: leave out items without an event for so long before the newest event; null for none.
        most_per_category: items of one category in a user's list; null for any number.
    """

    enabled: bool = False
    model: str = Field(default="newest", pattern=r"^[a-z][a-z0-9_-]*$")
    top_n: int = Field(default=10, ge=1, le=1000)
    active_days: float | None = Field(default=None, gt=0)
    exclude_bought: bool = True
    gone_after_days: float | None = Field(default=90.0, gt=0)
    most_per_category: int | None = Field(default=None, ge=1)


class Tags(Frozen):
    """Tags with evidence, RFM, loyalty and cohorts (docs/tags.md).

    Args:
        enabled: whether `run_pipeline` works them out when the stages have come to their end.
        file: that declares them; empty: none.
    """

    enabled: bool = False
    file: str = ""


class Report(Frozen):
    """The page of `serve_report`.

    Args:
        enabled: whether `run_pipeline` makes it at its end.
        path: of the page; empty: `report.html` beside the warehouse.
    """

    enabled: bool = False
    path: str = ""


class Serve(Frozen):
    """What is made of what is known."""

    scores: Scores = Scores()
    tags: Tags = Tags()
    report: Report = Report()


class Settings(Frozen):
    """All that a job reads from its config file."""

    paths: Paths
    spark: Spark = Spark()
    stream: Stream = Stream()
    capture: Capture
    derive: Derive = Derive()
    learn: Learn = Learn()
    serve: Serve = Serve()
    config_file: str


def load(config: str, overrides: list[str]) -> Settings:
    """Settings from a TOML file, with `key=value` overrides (`paths.warehouse=/tmp/w`) on top.

    File names inside the config (mappings, properties) are taken from the config file's own folder.

    Raises:
        BadSettings: no such file, not TOML, or any keys or values that do not fit; all of them in one message.
    """
    document = read_toml(config)
    for override in overrides:
        _put(document, override)
    settings = validated(Settings, {**document, "config_file": config}, config)
    return _with_resolved_names(settings, Path(config).parent)


def fingerprint(text: str) -> str:
    """Sixteen hex digits that change when the text does."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_toml(path: str) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise BadSettings(f"cannot read {path}: {error.strerror}", where=path, do="name a file that exists") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not TOML: {error}", where=path, do="mend the line it names") from None


def validated(model: type[Model], document: dict[str, Any], path: str) -> Model:
    """The document as a value of `model`; every misfit is named with file and key in one error."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        misfits = [
            f"  {'.'.join(map(str, e['loc'])) or '(file)'}: {_words(e['msg'])} (got {e['input']!r:.80})"
            for e in error.errors()
        ]
        raise BadSettings(
            "\n".join([f"{path} has {len(misfits)} setting(s) that do not fit", *misfits]),
            where=path,
            do="mend the keys named above",
        ) from None


def _words(message: str) -> str:
    return "no such key" if message == "Extra inputs are not permitted" else message.removeprefix("Value error, ")


def _put(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadSettings(
            f"--set {override!r} is not key=value", where="--set", do="write --set paths.warehouse=/data/w"
        )
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.split(".")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise BadSettings(
                f"--set {key}: {table} is not a table", where="--set", do="name a key as in the config file"
            )
    document[name] = value


def _with_resolved_names(settings: Settings, folder: Path) -> Settings:
    def beside(name: str) -> str:
        return name if not name or os.path.isabs(name) else str(folder / name)

    sources = {
        name: source.model_copy(update={"mapping": beside(source.mapping)})
        for name, source in settings.capture.sources.items()
    }
    return settings.model_copy(
        update={
            "spark": settings.spark.model_copy(update={"properties": beside(settings.spark.properties)}),
            "capture": settings.capture.model_copy(update={"sources": sources}),
            "derive": settings.derive.model_copy(
                update={
                    "features": tuple(map(beside, settings.derive.features)),
                    "profiles": tuple(map(beside, settings.derive.profiles)),
                    "windows": settings.derive.windows.model_copy(
                        update={"file": beside(settings.derive.windows.file)}
                    ),
                }
            ),
            "serve": settings.serve.model_copy(
                update={"tags": settings.serve.tags.model_copy(update={"file": beside(settings.serve.tags.file)})}
            ),
            "learn": settings.learn.model_copy(
                update={
                    "examples": settings.learn.examples.model_copy(
                        update={"file": beside(settings.learn.examples.file)}
                    )
                }
            ),
        }
    )
