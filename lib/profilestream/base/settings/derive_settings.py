"""Settings of derived tables, and the SQL that their declarations may use by name."""

import math

from pydantic import Field, field_validator, model_validator

from profilestream.base.settings.frozen_model import Frozen, TimeZone

EVENT_WEIGHTS = {
    "cart": 3.0, "uncart": -3.0, "favorite": 3.0, "unfavorite": -3.0,
    "purchase": 5.0, "return": -5.0, "exposure": 0.0,
}  # fmt: skip
# The order of a purchase: its order id, or the event itself. The prefixes separate equal ids.
ORDER_SQL = "coalesce(concat('order:', order_id), concat('event:', event_id))"
# The units of an event, such as a purchase or return: its quantity, 1 if it is missing.
UNITS_SQL = "coalesce(quantity, 1)"


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
        return {"shop_timezone": self.shop_timezone, "event_weight": weight, "order": ORDER_SQL, "units": UNITS_SQL}
