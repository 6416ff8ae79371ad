"""Law 8: a feature as of t is what plain Python counts over the events before t, whatever the log and the tiles."""

import csv
import gzip
import io
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from profilestream.base import commits, tables
from profilestream.base.checkpoints import Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, Refused
from profilestream.base.queries import Batch
from profilestream.base.settings import Settings
from profilestream.derive import compact_tiles, fold_stage, tiles
from profilestream.derive.entity_features import Features, chosen
from profilestream.derive.point_in_time import features_as_of
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests import naive_windows as naive
from tests.builders import Shop
from tests.naive_windows import DAY, HOUR, MICROS, Event, Log

ROOT = Path(__file__).parent.parent.parent
FIRST = 20_454 * DAY  # 2026-01-01
SECOND_CAME = FIRST + 1000 * DAY
TILES = """
name = "{name}"
write = "append"
where = "{where}"
partitioned_by = ["date"]
[keys]
{keys}
hour = {{ of = "date_trunc('HOUR', event_time)", type = "timestamp" }}
date = {{ of = "event_date", type = "date" }}
[statistics]
events = {{ kind = "count" }}
"""
KEYS = {"user_hours": ("user_id",), "item_hours": ("item_id",), "pair_hours": ("user_id", "category")}
ENTITIES = {"user": "user_hours", "item": "item_hours", "pair": "pair_hours"}
PURCHASE = "where = \"event_type = 'purchase'\""
FEATURES = {
    "events": 'kind = "count"',
    "value": f'kind = "sum"\nof = "value"\n{PURCHASE}',
    "items": 'kind = "distinct"\nof = "item_id"',
    "users": 'kind = "distinct"\nof = "user_id"',
    "price_mean": f'kind = "moments"\nof = "price"\n{PURCHASE}\nreading = "${{value}}.mean"\nnulls = "null"',
    "dearest": f'kind = "max"\nof = "price"\n{PURCHASE}',
    "last_purchase": f'kind = "max"\nof = "event_time"\ntype = "timestamp"\n{PURCHASE}',
    "kinds": 'kind = "top"\nof = "event_type"\nn = 20',
    "fading": 'kind = "sum"\nof = "value"\nhalf_life_days = 3',
}
OF = {
    "user": ("events", "value", "items", "price_mean", "last_purchase", "kinds", "fading"),
    "item": ("events", "users", "dearest"),
    "pair": ("events", "value"),
}
LENGTHS = {"events": ("1h", "1d", "7d", "lifetime"), "value": ("1h", "3d", "7d"), "kinds": ("3d",)}
DERIVED = """
[derived.user.trend]
question = "?"
unit = "?"
nulls = "null"
sql = "try_divide(value_3d / 3, value_7d / 7)"
[derived.user.days_since_purchase]
question = "?"
unit = "days"
nulls = "null"
sql = "(unix_micros(at) - unix_micros(last_purchase_lifetime)) / 86400e6"
[derived.user.score]
question = "?"
unit = "?"
nulls = "null"
zscore_of = "events_7d"
[derived.user.score_twice]
question = "?"
unit = "?"
nulls = "null"
sql = "2 * score"
"""


def _lengths(name: str) -> tuple[str, ...]:
    return LENGTHS.get(name, ("3d", "lifetime"))


def _windows(entity: str, name: str) -> str:
    head = f'[features.{entity}.{name}]\nquestion = "?"\nunit = "?"\nwindows = {json.dumps(_lengths(name))}\n'
    return f"{head}{FEATURES[name]}\n"


def shop_of(home: Path, more: str = "", entities: tuple[str, ...] = ("user", "item", "pair")) -> Shop:
    """Small tiles of users, items and of users in categories, with the features of `OF`."""
    home.mkdir(parents=True, exist_ok=True)
    tiles = {entity: ENTITIES[entity] for entity in entities}
    for name, keys in [(name, KEYS[name]) for name in tiles.values()]:
        where = " AND ".join(f"{key} IS NOT NULL" for key in keys)
        declared = "\n".join(f'{key} = {{ of = "{key}" }}' for key in keys)
        (home / f"{name}.toml").write_text(TILES.format(name=name, where=where, keys=declared))
    head = "".join(["[entities]\n", *(f'{entity} = "{name}"\n' for entity, name in tiles.items())])
    features = "".join(_windows(entity, name) for entity in entities for name in OF[entity])
    (home / "windows.toml").write_text(head + features + DERIVED)
    files = json.dumps([f"{home}/{name}.toml" for name in tiles.values()])
    return Shop(
        home, extra_settings=f'[derive]\nfeatures = {files}\n[derive.windows]\nfile = "{home}/windows.toml"\n{more}\n'
    )


class Tiled:
    """`events` and tiles, written batch by batch without a stream."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark, self.settings, self.log = spark, settings, list[Event]()
        (self.query,) = tiles.queries(settings)
        self.batches = 0
        for table in (tables.EVENTS, *self.query.tables):
            table.create(spark, settings.paths)

    def take(self, log: Log) -> None:
        """Capture writes the events, and the tiles take them."""
        events = naive.arrive(self.spark, log, self.settings)
        txn = Txn(tiles.STAGE, "one", self.batches)
        self.query.write(events, Batch(self.spark, self.settings.paths, txn, Plan("")))
        self.log += log
        self.batches += 1

    def versions(self) -> dict[str, int]:
        """Of all tables, now."""
        every = (tables.EVENTS, *self.query.tables)
        return {table.name: commits.version(self.spark, table, self.settings.paths) for table in every}

    def asked(self, rows: list[tuple[Any, ...]], features: Features, **more: Any) -> dict[tuple[Any, ...], Any]:
        """Features by keys and microseconds; times in microseconds."""
        named = ", ".join([*(f"{key} string" for key in features.keys), "micros bigint"])
        frame = self.spark.createDataFrame(rows, named).withColumn("at", F.timestamp_micros("micros"))
        return by_key(features_as_of(self.spark, frame, features, **more), features.keys)


def by_key(found: DataFrame, keys: list[str]) -> dict[tuple[Any, ...], Any]:
    """Rows by keys and time; a row is a dict, a time in microseconds."""
    times = {name: F.unix_micros(name) for name, kind in found.dtypes if kind == "timestamp"}
    rows = [row.asDict() for row in found.withColumns(times).collect()]
    by = {(*(row[key] for key in keys), row["at"]): row for row in rows}
    assert len(by) == len(rows), "a request stands twice"
    return by


def seeded() -> Log:
    """Twelve days of four users and guests; times at whole hours and a microsecond beside them."""
    return naive.seeded(random.Random(5), 500, first=FIRST, days=12)


def online_retail() -> Log:
    """Every 20th line of the first days of the shipped sample, as a few customers."""
    table = pq.read_table(ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet").slice(0, 12_000)
    rows = table.take(list(range(0, 12_000, 20))).to_pylist()
    return [
        line_of(n, f"o{row['InvoiceNo']}", f"{row['InvoiceDate']}", f"r{hash_of(row['CustomerID'], 9)}",
              f"r{hash_of(row['StockCode'], 5)}", "return" if row["InvoiceNo"][0] == "C" else "purchase",
              abs(float(row["UnitPrice"])), abs(float(row["Quantity"])))
        for n, row in enumerate(rows)
    ]  # fmt: skip


def rees46() -> Log:
    """Every 20th line of the shipped sample, as a few users."""
    (sample,) = (ROOT / "data" / "rees46").glob("*.csv.gz")
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(sample.read_bytes()).decode())))[::20]
    return [
        line_of(n, f"s{row['user_session']}", row["event_time"].removesuffix(" UTC"), f"s{hash_of(row['user_id'], 9)}",
              f"s{hash_of(row['product_id'], 5)}", row["event_type"], float(row["price"]), 1.0)
        for n, row in enumerate(rows)
    ]  # fmt: skip


def hash_of(text: str, size: int) -> int:
    """A small number, the same in every run."""
    return sum(text.encode()) % size


def line_of(n: int, order: str, at: str, user: str, item: str, kind: str, price: float, quantity: float) -> Event:
    """An event of a line of a log; a user whose name ends in 0 is a guest."""
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return Event(
        at=moment // timedelta(microseconds=1), event_id=f"{user[0]}{n}", event_type=kind,
        user_id=None if user.endswith("0") else user, item_id=item, category=f"c{item}", order_id=order, price=price,
        value=price * quantity,
    )  # fmt: skip


def _requests(log: Log, dice: random.Random) -> list[int]:
    """Times at which something enters or leaves a window, a microsecond beside, whole hours and days, and any."""
    found = []
    for e in dice.sample(log, 4):
        length = MICROS[dice.choice(["1h", "1d", "3d", "7d"])] or 0
        found += [e.at, e.at + 1, e.at + length, e.at + length + 1, e.at // HOUR * HOUR + HOUR, e.at // DAY * DAY + DAY]
        found += [e.at + dice.randrange(12 * DAY)]
    return found


def _assert_said(tiled: Tiled, entity: str, log: Log, dice: random.Random, **more: Any) -> int:
    """Every feature of some entities at some times is what plain Python says."""
    columns = [f"{name}_{length}" for name in OF[entity] for length in _lengths(name)]
    features = chosen(tiled.settings, entity, columns)

    def of(e: Event) -> tuple[Any, ...]:
        return tuple(getattr(e, key) for key in features.keys)

    keys = sorted({of(e) for e in log if None not in of(e)})
    rows = []
    for key in [*dice.sample(keys, min(len(keys), 12)), ("nobody",) * len(features.keys)]:
        mine = [e for e in log if of(e) == key] or log
        rows += [(*key, at) for at in _requests(mine * 4, dice)]
    found = tiled.asked(rows, features, **more)
    assert found.keys() == set(rows)
    for row, got in found.items():
        _assert_row(got, [e for e in log if of(e) == row[:-1]], row[-1], columns)
    return len(rows)


def _assert_row(got: dict[str, Any], mine: Log, at: int, columns: list[str]) -> None:
    for column in columns:
        want = _said(mine, at, column)
        assert got[column] == (want and pytest.approx(want, rel=1e-9, abs=1e-9)), f"{column} at {at}"


def _assert_one_time_for_all(tiled: Tiled, dice: random.Random, *names: str) -> None:
    """Features of all users as of one time, which is then a constant and no column of a join."""
    columns = [f"{name}_{length}" for name in names for length in _lengths(name)]
    at = dice.choice(_requests([e for e in tiled.log if FIRST + 7 * DAY < e.at < FIRST + 10 * DAY], dice))
    rows = [(user, at) for user in sorted({e.user_id for e in tiled.log if e.user_id})]
    found = tiled.asked(rows, chosen(tiled.settings, "user", columns))
    assert found.keys() == set(rows)
    for (user, _), got in found.items():
        _assert_row(got, [e for e in tiled.log if e.user_id == user], at, columns)


def _said(log: Log, at: int, column: str) -> Any:
    name, _, window = column.rpartition("_")
    part = naive.within(log, at, window)
    if name == "kinds":
        return {kind: float(sum(e.event_type == kind for e in part)) for kind in {e.event_type for e in part}}
    if name == "fading":
        return sum((e.value or 0.0) * 2.0 ** (-(at - e.at) / DAY / 3) for e in part)
    return naive.said(log, at, column)


def test_features_as_of_any_time_are_what_plain_python_counts_and_day_tiles_change_nothing(
    spark: SparkSession, tmp_path: Path
) -> None:
    dice = random.Random(11)
    tiled = Tiled(spark, shop_of(tmp_path, "day_tiles_after_days = 4").settings())
    log = [*seeded(), *online_retail(), *rees46()]
    dice.shuffle(log)
    batches = [[replace(e, came=came) for e in log[n::2]] for n, came in ((0, FIRST), (1, SECOND_CAME))]
    tiled.take(batches[0])
    then = tiled.versions()
    tiled.take(batches[1])
    assert _assert_said(tiled, "user", tiled.log, dice) > 200
    _assert_said(tiled, "item", tiled.log, dice)
    _assert_known_by(tiled, batches[0], then, dice)
    _assert_combined(tiled, dice)
    _assert_one_time_for_all(tiled, dice, "events", "value", "fading", "price_mean", "last_purchase")
    before = {name: tiled.spark.read.format("delta").load(f"{tmp_path}/warehouse/{name}").count() for name in KEYS}
    compact_tiles.run(spark, tiled.settings)
    for derived in fold_stage.declared(tiled.settings).values():
        assert derived.table.read(spark, tiled.settings.paths).count() < before[derived.name]
    tiled.take([replace(e, event_id=f"late-{e.event_id}", at=e.at + 1) for e in batches[1][:50]])
    _assert_said(tiled, "user", tiled.log, dice)
    _assert_said(tiled, "pair", tiled.log, dice)
    _assert_one_time_for_all(tiled, dice, *OF["user"])
    compact_tiles.run(spark, tiled.settings)
    again = tiled.versions()
    compact_tiles.run(spark, tiled.settings)
    assert tiled.versions() == again
    _assert_refused_where_events_are_gone(tiled)


def _assert_known_by(tiled: Tiled, early: Log, then: dict[str, int], dice: random.Random) -> None:
    """What had come in by a time is what the tables said at that time."""
    by = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=SECOND_CAME - 1)
    _assert_said(tiled, "user", early, dice, known_by=by)
    features = chosen(tiled.settings, "item")
    rows = [(f"i{n}", e.at) for n in range(6) for e in early[:20]]
    assert tiled.asked(rows, features, known_by=by) == tiled.asked(rows, replace(features, versions=then))


def _assert_combined(tiled: Tiled, dice: random.Random) -> None:
    """Features over others; a score is against all users seen before its time, whoever is asked for."""
    times = [FIRST + 5 * DAY, FIRST + 9 * DAY + 1]
    rows = [(user, at) for user in ("a", "b", "nobody") for at in times]
    found = tiled.asked(rows, chosen(tiled.settings, "user", ["score_twice", "trend", "days_since_purchase"]))
    alone = tiled.asked(rows, chosen(tiled.settings, "user", ["score"]))
    for (user, at), got in found.items():
        assert got["score_twice"] == (alone[user, at]["score"] and 2 * alone[user, at]["score"])
        events: dict[str, int] = {}
        for e in tiled.log:
            if e.user_id and e.at < at:
                events[e.user_id] = events.get(e.user_id, 0) + (e.at >= at - 7 * DAY)
        mean = sum(events.values()) / len(events)
        deviation = (sum((n - mean) ** 2 for n in events.values()) / len(events)) ** 0.5
        score = 2 * (events[user] - mean) / deviation if user in events else None
        assert got["score_twice"] == (score and pytest.approx(score, rel=1e-9))
        mine = [e for e in tiled.log if e.user_id == user]
        week, last = (naive.said(mine, at, name) for name in ("value_7d", "last_purchase_lifetime"))
        trend = naive.said(mine, at, "value_3d") / 3 / (week / 7) if week else None
        assert got["trend"] == (trend and pytest.approx(trend, rel=1e-9))
        assert got["days_since_purchase"] == (last and pytest.approx((at - last) / DAY, rel=1e-9))


def _assert_refused_where_events_are_gone(tiled: Tiled) -> None:
    paths = tiled.settings.paths
    commits.delete(tiled.spark, tables.EVENTS, paths, where="event_date < '2026-01-07'")
    features = chosen(tiled.settings, "user", ["events_1d", "events_lifetime"])
    midnight = FIRST + 5 * DAY
    got = tiled.asked([("a", midnight)], features)["a", midnight]
    mine = [e for e in tiled.log if e.user_id == "a"]
    assert [got[name] for name in features.columns] == [naive.said(mine, midnight, name) for name in features.columns]
    with pytest.raises(Refused, match="a window begins or ends inside 2026-01-05, of which there are tiles") as raised:
        tiled.asked([("a", midnight + HOUR)], features)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("was", "becomes", "where", "words"),
    [
        ('of = "value"\n', 'of = "valeu"\n', "features.user.value.of", "of = 'valeu' is not understood"),
        ("event_type = 'purchase'", "price", "features.user.value.where", "where = 'price' is a double"),
        ('"${value}.mean"', '"${value}.meen"', "features.user.price_mean.reading", "reading = 'value.meen' is not"),
        ("value_3d / 3", "value_4d / 3", "derived.user.trend.sql", "is not understood"),
        ('"2 * score"', '"avg(score)"', "derived.user.score_twice.sql", "is not understood"),
        ('"events_7d"', '"kinds_3d"', "derived.user.score.zscore_of", "'kinds_3d' is a map<string,double>"),
        ('pair = "pair_hours"', 'pair = "pairs"', "entities", "tiles are not declared: {'pair': 'pairs'}"),
    ],
)  # fmt: skip
def test_what_spark_does_not_understand_is_refused_at_the_start_with_file_and_key(
    spark: SparkSession, tmp_path: Path, was: str, becomes: str, where: str, words: str
) -> None:
    settings = shop_of(tmp_path).settings()
    file = tmp_path / "windows.toml"
    assert was in file.read_text()
    file.write_text(file.read_text().replace(was, becomes, 1))
    with pytest.raises(BadSettings) as raised:
        tiles.check(spark, settings)
    assert words in raised.value.what and raised.value.where == f"{file}, {where}"


def test_features_that_are_not_there_are_named(tmp_path: Path) -> None:
    settings = shop_of(tmp_path).settings()
    with pytest.raises(BadSettings, match=r"user has no features \['events_2d'\]"):
        chosen(settings, "user", ["events_7d", "events_2d"])
    with pytest.raises(BadSettings, match=r"no window features of 'shop', but of \['user', 'item', 'pair'\]"):
        chosen(settings, "shop")
