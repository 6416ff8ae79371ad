"""What window features should say, in plain Python: every event in `[t - w, t)` looked at, for each time anew."""

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
    """An event as window features see it; times in microseconds."""

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
    came: int = 0

    @property
    def day(self) -> int:
        """Days since 1970."""
        return self.at // DAY


Log = list[Event]
TYPES = {"at": "bigint", "came": "bigint", "price": "double", "value": "double"}
DDL = ", ".join(f"{field.name} {TYPES.get(field.name, 'string')}" for field in fields(Event))


def arrive(spark: SparkSession, log: Log, settings: Settings) -> DataFrame:
    """Events that capture has written; gives them."""
    times = {"event_time": F.timestamp_micros("at"), "ingest_time": F.timestamp_micros("came"), "quantity": F.lit(1.0)}
    return log_files.arrive(spark.createDataFrame([astuple(event) for event in log], DDL).withColumns(times), settings)


def within(log: Log, at: int, window: str) -> Log:
    """Events of a window."""
    length = MICROS[window]
    return [e for e in log if e.at < at and (length is None or e.at >= at - length)]


def mean(log: Log) -> float | None:
    """Of the prices."""
    prices = [e.price for e in log if e.price is not None]
    return sum(prices) / len(prices) if prices else None


def bought(log: Log) -> Log:
    """Purchases."""
    return [e for e in log if e.event_type == "purchase"]


SAYS: dict[str, Callable[[Log], Any]] = {
    "events": len,
    "views": lambda log: sum(e.event_type in ("view", "click") for e in log),
    "purchases": lambda log: len(bought(log)),
    "returns": lambda log: sum(e.event_type == "return" for e in log),
    "value": lambda log: sum(e.value or 0.0 for e in bought(log)),
    "items": lambda log: len({e.item_id for e in log} - {None}),
    "users": lambda log: len({e.user_id for e in log} - {None}),
    "orders": lambda log: len({e.order_id for e in bought(log)} - {None}),
    "active_days": lambda log: len({e.day for e in log}),
    "price_mean": lambda log: mean(bought(log)),
    "dearest": lambda log: max((e.price for e in bought(log) if e.price is not None), default=None),
    "last_purchase": lambda log: max((e.at for e in bought(log)), default=None),
    "last_seen": lambda log: max((e.at for e in log), default=None),
    "first_seen": lambda log: min((e.at for e in log), default=None),
}


def said(log: Log, at: int, column: str) -> Any:
    """What a column `<feature>_<window>` says of an entity's events as of a time."""
    name, _, window = column.rpartition("_")
    return SAYS[name](within(log, at, window))


def seeded(dice: random.Random, count: int, *, first: int, days: int) -> Log:
    """Events of some users, guests among them, over so many days; many at whole hours, and at a microsecond beside."""

    def one(n: int) -> Event:
        at = first + dice.randrange(days * 24) * HOUR
        at += dice.choice([0, 0, 1, HOUR - 1, dice.randrange(HOUR)])
        kind, item = dice.choice(["view", "view", "cart", "purchase", "purchase", "return"]), dice.randrange(6)
        price = dice.choice([None, 0.5, 2.0, 4.25])
        return Event(
            at=at, event_id=f"e{n}", event_type=kind, user_id=dice.choice(["a", "b", "c", "d", None]),
            item_id=f"i{item}", category=f"c{item % 3}", brand=f"m{item % 2}", order_id=f"o{n // 2}", price=price,
            value=None if price is None else 2 * price,
        )  # fmt: skip

    return [one(n) for n in range(count)]
