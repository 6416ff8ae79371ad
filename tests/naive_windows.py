"""Expected values of window features in plain Python: for each time, all events in `[t - w, t)` are read again."""

import random
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from typing import Any

from profilestream.base.settings import Settings
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests import log_files

HOUR, DAY = 3_600_000_000, 86_400_000_000
MICROS = {
    "1h": HOUR,
    "6h": 6 * HOUR,
    "1d": DAY,
    "3d": 3 * DAY,
    "7d": 7 * DAY,
    "30d": 30 * DAY,
    "90d": 90 * DAY,
    "lifetime": None,
}


@dataclass(frozen=True)
class Event:
    """The columns of an event that window features use; times in microseconds."""

    at: int
    event_id: str
    event_type: str
    user_id: str | None = None
    item_id: str | None = None
    category: str | None = None
    brand: str | None = None
    order_id: str | None = None
    price: float | None = None
    value: float | None = None
    ingested_at: int = 0

    @property
    def day(self) -> int:
        """Days since 1970."""
        return self.at // DAY


Log = list[Event]
TYPES = {"at": "bigint", "ingested_at": "bigint", "price": "double", "value": "double"}
DDL = ", ".join(f"{field.name} {TYPES.get(field.name, 'string')}" for field in fields(Event))


def append_events(spark: SparkSession, log: Log, settings: Settings) -> DataFrame:
    """Append to `events` as capture does; returns the rows."""
    derived = {
        "event_time": F.timestamp_micros("at"),
        "ingest_time": F.timestamp_micros("ingested_at"),
        # A purchase without a quantity is one unit.
        "quantity": F.lit(None),
    }
    rows = spark.createDataFrame([astuple(event) for event in log], DDL)
    return log_files.append_events(rows.withColumns(derived), settings)


def events_in_window(log: Log, at: int, window: str) -> Log:
    """The events in `[at - window, at)`."""
    length = MICROS[window]
    return [e for e in log if e.at < at and (length is None or e.at >= at - length)]


def mean_price(log: Log) -> float | None:
    """Mean of the prices; null without prices."""
    prices = [e.price for e in log if e.price is not None]
    return sum(prices) / len(prices) if prices else None


def purchases(log: Log) -> Log:
    """The purchase events."""
    return [e for e in log if e.event_type == "purchase"]


FEATURES: dict[str, Callable[[Log], Any]] = {
    "events": len,
    "views": lambda log: sum(e.event_type in ("view", "click") for e in log),
    "purchases": lambda log: len(purchases(log)),
    "returns": lambda log: sum(e.event_type == "return" for e in log),
    "value": lambda log: sum(e.value or 0.0 for e in purchases(log)),
    "items": lambda log: len({e.item_id for e in log} - {None}),
    "users": lambda log: len({e.user_id for e in log} - {None}),
    "orders": lambda log: len({e.order_id or e.event_id for e in purchases(log)}),
    "active_days": lambda log: len({e.day for e in log}),
    "price_mean": lambda log: mean_price(purchases(log)),
    "max_price": lambda log: max((e.price for e in purchases(log) if e.price is not None), default=None),
    "last_purchase": lambda log: max((e.at for e in purchases(log)), default=None),
    "last_seen": lambda log: max((e.at for e in log), default=None),
    "first_seen": lambda log: min((e.at for e in log), default=None),
}


def feature_value(log: Log, at: int, column: str) -> Any:
    """The value of a column `<feature>_<window>` over the events of an entity, as of a time."""
    name, _, window = column.rpartition("_")
    return FEATURES[name](events_in_window(log, at, window))


def random_events(dice: random.Random, count: int, *, first: int, days: int) -> Log:
    """Events of four users and guests over some days; many at whole hours and within a microsecond of them."""

    def random_event(n: int) -> Event:
        at = first + dice.randrange(days * 24) * HOUR
        at += dice.choice([0, 0, 1, HOUR - 1, dice.randrange(HOUR)])
        event_type = dice.choice(["view", "view", "cart", "purchase", "purchase", "return"])
        item = dice.randrange(6)
        price = dice.choice([None, 0.5, 2.0, 4.25])
        return Event(
            at=at, event_id=f"e{n}", event_type=event_type, user_id=dice.choice(["a", "b", "c", "d", None]),
            item_id=f"i{item}", category=f"c{item % 3}", brand=f"m{item % 2}", order_id=f"o{n // 2}", price=price,
            value=None if price is None else 2 * price,
        )  # fmt: skip

    return [random_event(n) for n in range(count)]
