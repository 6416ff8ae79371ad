"""Law 8: features as of t equal those of plain Python over the events before t, for any log and any tiles."""

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
from profilestream.base import commits, locks, tables
from profilestream.base.checkpoints import Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, Refused
from profilestream.base.queries import Batch
from profilestream.base.settings import Settings
from profilestream.derive import compact_tiles, fold_stage, tiles
from profilestream.derive.entity_features import EntityFeatures, select_features
from profilestream.derive.point_in_time import features_as_of
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests import naive_windows as naive
from tests.builders import Shop
from tests.naive_windows import DAY, HOUR, MICROS, Event, Log

ROOT = Path(__file__).parent.parent.parent
START = 20_454 * DAY  # 2026-01-01
SECOND_INGEST = START + 1000 * DAY
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
    "price_mean": f'kind = "moments"\nof = "price"\n{PURCHASE}\noutput = "${{value}}.mean"\nnulls = "null"',
    "max_price": f'kind = "max"\nof = "price"\n{PURCHASE}',
    "last_purchase": f'kind = "max"\nof = "event_time"\ntype = "timestamp"\n{PURCHASE}',
    "event_types": 'kind = "top"\nof = "event_type"\nn = 20',
    "decayed_value": 'kind = "sum"\nof = "value"\nhalf_life_days = 3',
}
ENTITY_FEATURES = {
    "user": ("events", "value", "items", "price_mean", "last_purchase", "event_types", "decayed_value"),
    "item": ("events", "users", "max_price"),
    "pair": ("events", "value"),
}
WINDOWS = {"events": ("1h", "1d", "7d", "lifetime"), "value": ("1h", "3d", "7d"), "event_types": ("3d",)}
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
[derived.user.zscore]
question = "?"
unit = "?"
nulls = "null"
zscore_of = "events_7d"
[derived.user.double_zscore]
question = "?"
unit = "?"
nulls = "null"
sql = "2 * zscore"
"""


def _windows(name: str) -> tuple[str, ...]:
    return WINDOWS.get(name, ("3d", "lifetime"))


def _columns(names: tuple[str, ...]) -> list[str]:
    return [f"{name}_{window}" for name in names for window in _windows(name)]


def _feature_toml(entity: str, name: str) -> str:
    head = f'[features.{entity}.{name}]\nquestion = "?"\nunit = "?"\nwindows = {json.dumps(_windows(name))}\n'
    return f"{head}{FEATURES[name]}\n"


def feature_shop(home: Path, more: str = "", entities: tuple[str, ...] = ("user", "item", "pair")) -> Shop:
    """A shop with small tile tables of users, items and pairs of user and category, and with ENTITY_FEATURES."""
    home.mkdir(parents=True, exist_ok=True)
    tile_tables = {entity: ENTITIES[entity] for entity in entities}
    for name, keys in [(name, KEYS[name]) for name in tile_tables.values()]:
        where = " AND ".join(f"{key} IS NOT NULL" for key in keys)
        key_lines = "\n".join(f'{key} = {{ of = "{key}" }}' for key in keys)
        (home / f"{name}.toml").write_text(TILES.format(name=name, where=where, keys=key_lines))
    head = "".join(["[entities]\n", *(f'{entity} = "{name}"\n' for entity, name in tile_tables.items())])
    features = "".join(_feature_toml(entity, name) for entity in entities for name in ENTITY_FEATURES[entity])
    (home / "windows.toml").write_text(head + features + DERIVED)
    files = json.dumps([f"{home}/{name}.toml" for name in tile_tables.values()])
    return Shop(
        home, extra_settings=f'[derive]\nfeatures = {files}\n[derive.windows]\nfile = "{home}/windows.toml"\n{more}\n'
    )


class TileWarehouse:
    """`events` and the tile tables, written batch by batch without a stream."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark, self.settings, self.log = spark, settings, list[Event]()
        (self.query,) = tiles.queries(settings)
        self.batches = 0
        for table in (tables.EVENTS, *self.query.tables):
            table.create(spark, settings.paths)

    def write_batch(self, log: Log) -> None:
        """Append events to `events`, and their tiles to the tile tables."""
        events = naive.append_events(self.spark, log, self.settings)
        txn = Txn(tiles.STAGE, "one", self.batches)
        self.query.write(events, Batch(self.spark, self.settings.paths, txn, Plan("")))
        self.log += log
        self.batches += 1

    def versions(self) -> dict[str, int]:
        """Current versions of all tables."""
        all_tables = (tables.EVENTS, *self.query.tables)
        return {table.name: commits.version(self.spark, table, self.settings.paths) for table in all_tables}

    def features_as_of(
        self, requests: list[tuple[Any, ...]], features: EntityFeatures, **options: Any
    ) -> dict[tuple[Any, ...], Any]:
        """Features by keys and time; the times of the requests and of the result are microseconds."""
        columns = ", ".join([*(f"{key} string" for key in features.keys), "micros bigint"])
        frame = self.spark.createDataFrame(requests, columns).withColumn("at", F.timestamp_micros("micros"))
        return rows_by_key(features_as_of(self.spark, frame, features, **options), features.keys)


def rows_by_key(frame: DataFrame, keys: list[str]) -> dict[tuple[Any, ...], Any]:
    """Rows as dicts by keys and `at`, with times in microseconds."""
    times = {name: F.unix_micros(name) for name, sql_type in frame.dtypes if sql_type == "timestamp"}
    rows = [row.asDict() for row in frame.withColumns(times).collect()]
    by_key = {(*(row[key] for key in keys), row["at"]): row for row in rows}
    assert len(by_key) == len(rows), "several rows have the same keys and time"
    return by_key


def random_log() -> Log:
    """Twelve days of four users and guests; many times at whole hours and within a microsecond of them."""
    return naive.random_events(random.Random(5), 500, first=START, days=12)


def online_retail() -> Log:
    """Every 20th line of the first days of the shipped sample, as a few customers."""
    table = pq.read_table(ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet").slice(0, 12_000)
    rows = table.take(list(range(0, 12_000, 20))).to_pylist()
    return [
        log_event(n, f"o{row['InvoiceNo']}", f"{row['InvoiceDate']}", f"r{small_hash(row['CustomerID'], 9)}",
                f"r{small_hash(row['StockCode'], 5)}", "return" if row["InvoiceNo"][0] == "C" else "purchase",
                abs(float(row["UnitPrice"])), abs(float(row["Quantity"])))
        for n, row in enumerate(rows)
    ]  # fmt: skip


def rees46() -> Log:
    """Every 20th line of the shipped sample, as a few users."""
    (sample,) = (ROOT / "data" / "rees46").glob("*.csv.gz")
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(sample.read_bytes()).decode())))[::20]
    return [
        log_event(n, f"s{row['user_session']}", row["event_time"].removesuffix(" UTC"),
                f"s{small_hash(row['user_id'], 9)}", f"s{small_hash(row['product_id'], 5)}", row["event_type"],
                float(row["price"]), 1.0)
        for n, row in enumerate(rows)
    ]  # fmt: skip


def small_hash(text: str, size: int) -> int:
    """A number below `size`, the same in every run."""
    return sum(text.encode()) % size


def log_event(
    n: int, order: str, at: str, user: str, item: str, event_type: str, price: float, quantity: float
) -> Event:
    """An event of the n-th line of a log; a user whose name ends in 0 is a guest."""
    since_1970 = datetime.fromisoformat(at).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return Event(
        at=since_1970 // timedelta(microseconds=1), event_id=f"{user[0]}{n}", event_type=event_type,
        user_id=None if user.endswith("0") else user, item_id=item, category=f"c{item}", order_id=order, price=price,
        value=price * quantity,
    )  # fmt: skip


def _edge_times(log: Log, dice: random.Random) -> list[int]:
    """Times at which an event enters or leaves a window, a microsecond later, whole hours and days, and random ones."""
    times = []
    for e in dice.sample(log, 4):
        length = MICROS[dice.choice(["1h", "1d", "3d", "7d"])] or 0
        times += [e.at, e.at + 1, e.at + length, e.at + length + 1, e.at // HOUR * HOUR + HOUR, e.at // DAY * DAY + DAY]
        times += [e.at + dice.randrange(12 * DAY)]
    return times


def _assert_features(warehouse: TileWarehouse, entity: str, log: Log, dice: random.Random, **options: Any) -> int:
    """All features of some entities at some times equal those of plain Python; returns the number of requests."""
    columns = _columns(ENTITY_FEATURES[entity])
    features = select_features(warehouse.settings, entity, columns)

    def key_of(e: Event) -> tuple[Any, ...]:
        return tuple(getattr(e, key) for key in features.keys)

    keys = sorted({key_of(e) for e in log if None not in key_of(e)})
    requests = []
    for key in [*dice.sample(keys, min(len(keys), 12)), ("unknown",) * len(features.keys)]:
        entity_log = [e for e in log if key_of(e) == key] or log
        requests += [(*key, at) for at in _edge_times(entity_log * 4, dice)]
    rows = warehouse.features_as_of(requests, features, **options)
    assert rows.keys() == set(requests)
    for request, row in rows.items():
        _assert_row(row, [e for e in log if key_of(e) == request[:-1]], request[-1], columns)
    return len(requests)


def _assert_row(row: dict[str, Any], entity_log: Log, at: int, columns: list[str]) -> None:
    for column in columns:
        expected = _feature_value(entity_log, at, column)
        assert row[column] == (expected and pytest.approx(expected, rel=1e-9, abs=1e-9)), f"{column} at {at}"


def _assert_features_at_one_time(warehouse: TileWarehouse, dice: random.Random, *names: str) -> None:
    """Features of all users as of one time equal those of plain Python. The time is then a literal in the plan."""
    columns = _columns(names)
    at = dice.choice(_edge_times([e for e in warehouse.log if START + 7 * DAY < e.at < START + 10 * DAY], dice))
    requests = [(user, at) for user in sorted({e.user_id for e in warehouse.log if e.user_id})]
    rows = warehouse.features_as_of(requests, select_features(warehouse.settings, "user", columns))
    assert rows.keys() == set(requests)
    for (user, _), row in rows.items():
        _assert_row(row, [e for e in warehouse.log if e.user_id == user], at, columns)


def _feature_value(log: Log, at: int, column: str) -> Any:
    name, _, window = column.rpartition("_")
    events = naive.events_in_window(log, at, window)
    if name == "event_types":
        return {kind: float(sum(e.event_type == kind for e in events)) for kind in {e.event_type for e in events}}
    if name == "decayed_value":
        return sum((e.value or 0.0) * 2.0 ** (-(at - e.at) / DAY / 3) for e in events)
    return naive.feature_value(log, at, column)


def test_features_as_of_any_time_equal_plain_python_before_and_after_compaction(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(11)
    warehouse = TileWarehouse(spark, feature_shop(tmp_path, "day_tiles_after_days = 4").settings())
    log = [*random_log(), *online_retail(), *rees46()]
    dice.shuffle(log)
    batches = [
        [replace(e, ingested_at=ingested_at) for e in log[n::2]] for n, ingested_at in ((0, START), (1, SECOND_INGEST))
    ]
    warehouse.write_batch(batches[0])
    first_versions = warehouse.versions()
    warehouse.write_batch(batches[1])
    assert _assert_features(warehouse, "user", warehouse.log, dice) > 200
    _assert_features(warehouse, "item", warehouse.log, dice)
    _assert_ingest_time_cutoff(warehouse, batches[0], first_versions, dice)
    _assert_derived_features(warehouse)
    one_time = ("events", "value", "decayed_value", "price_mean", "last_purchase")
    _assert_features_at_one_time(warehouse, dice, *one_time)
    before = {name: warehouse.spark.read.format("delta").load(f"{tmp_path}/warehouse/{name}").count() for name in KEYS}
    compact_tiles.run(spark, warehouse.settings)
    for derived in fold_stage.declared_tables(warehouse.settings).values():
        assert derived.table.read(spark, warehouse.settings.paths).count() < before[derived.name]
    warehouse.write_batch([replace(e, event_id=f"late-{e.event_id}", at=e.at + 1) for e in batches[1][:50]])
    _assert_features(warehouse, "user", warehouse.log, dice)
    _assert_features(warehouse, "pair", warehouse.log, dice)
    _assert_features_at_one_time(warehouse, dice, *ENTITY_FEATURES["user"])
    rewrite, late = commits.rewrite, [[replace(e, event_id=f"later-{e.event_id}") for e in batches[1][:50]]]

    def append_and_rewrite(*args: Any, **how: Any) -> None:
        if late:
            warehouse.write_batch(late.pop())
        rewrite(*args, **how)

    monkeypatch.setattr(commits, "rewrite", append_and_rewrite)
    with locks.hold_lock(warehouse.settings.paths.lock_folder, tiles.STAGE):  # the stage is running
        compact_tiles.run(spark, warehouse.settings)
    _assert_features(warehouse, "user", warehouse.log, dice)
    compact_tiles.run(spark, warehouse.settings)
    versions = warehouse.versions()
    compact_tiles.run(spark, warehouse.settings)
    assert warehouse.versions() == versions
    _assert_deleted_events_are_refused(warehouse)


def _assert_ingest_time_cutoff(
    warehouse: TileWarehouse, first_batch: Log, first_versions: dict[str, int], dice: random.Random
) -> None:
    """Features of the events ingested by a time equal the features of the tables as they were at that time."""
    known_by = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=SECOND_INGEST - 1)
    _assert_features(warehouse, "user", first_batch, dice, known_by=known_by)
    features = select_features(warehouse.settings, "item")
    requests = [(f"i{n}", e.at) for n in range(6) for e in first_batch[:20]]
    old_tables = replace(features, versions=first_versions)
    by_ingest_time = warehouse.features_as_of(requests, features, known_by=known_by)
    assert by_ingest_time == warehouse.features_as_of(requests, old_tables)


def _assert_derived_features(warehouse: TileWarehouse) -> None:
    """DerivedTable features are correct; a standard score compares with all users before its time, requested or not."""
    times = [START + 5 * DAY, START + 9 * DAY + 1]
    requests = [(user, at) for user in ("a", "b", "unknown") for at in times]
    names = ["double_zscore", "trend", "days_since_purchase"]
    rows = warehouse.features_as_of(requests, select_features(warehouse.settings, "user", names))
    zscores = warehouse.features_as_of(requests, select_features(warehouse.settings, "user", ["zscore"]))
    for (user, at), row in rows.items():
        assert row["double_zscore"] == (zscores[user, at]["zscore"] and 2 * zscores[user, at]["zscore"])
        counts: dict[str, int] = {}
        for e in warehouse.log:
            if e.user_id and e.at < at:
                counts[e.user_id] = counts.get(e.user_id, 0) + (e.at >= at - 7 * DAY)
        mean = sum(counts.values()) / len(counts)
        stddev = (sum((n - mean) ** 2 for n in counts.values()) / len(counts)) ** 0.5
        zscore = 2 * (counts[user] - mean) / stddev if user in counts else None
        assert row["double_zscore"] == (zscore and pytest.approx(zscore, rel=1e-9))
        user_log = [e for e in warehouse.log if e.user_id == user]
        week = naive.feature_value(user_log, at, "value_7d")
        trend = naive.feature_value(user_log, at, "value_3d") / 3 / (week / 7) if week else None
        assert row["trend"] == (trend and pytest.approx(trend, rel=1e-9))
        last = naive.feature_value(user_log, at, "last_purchase_lifetime")
        assert row["days_since_purchase"] == (last and pytest.approx((at - last) / DAY, rel=1e-9))


def _assert_deleted_events_are_refused(warehouse: TileWarehouse) -> None:
    commits.delete(warehouse.spark, tables.EVENTS, warehouse.settings.paths, where="event_date < '2026-01-07'")
    features = select_features(warehouse.settings, "user", ["events_1d", "events_lifetime"])
    midnight = START + 5 * DAY
    row = warehouse.features_as_of([("a", midnight)], features)["a", midnight]
    user_log = [e for e in warehouse.log if e.user_id == "a"]
    for name in features.columns:
        assert row[name] == naive.feature_value(user_log, midnight, name)
    with pytest.raises(Refused, match="a window starts or ends inside 2026-01-05, a day with tiles") as raised:
        warehouse.features_as_of([("a", midnight + HOUR)], features)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ('of = "value"\n', 'of = "valeu"\n', "features.user.value.of", "of = 'valeu' is not valid"),
        ("event_type = 'purchase'", "price", "features.user.value.where", "where = 'price' is a double"),
        ('"${value}.mean"', '"${value}.meen"', "features.user.price_mean.output", "output = 'value.meen' is not"),
        ("value_3d / 3", "value_4d / 3", "derived.user.trend.sql", "is not valid"),
        ('"2 * zscore"', '"avg(zscore)"', "derived.user.double_zscore.sql", "is not valid"),
        ('"events_7d"', '"event_types_3d"', "derived.user.zscore.zscore_of", "'event_types_3d' is a map<string, doub"),
    ],
)  # fmt: skip
def test_invalid_sql_is_rejected_at_the_start_with_file_and_key(
    spark: SparkSession, tmp_path: Path, old: str, new: str, where: str, message: str
) -> None:
    settings = feature_shop(tmp_path).settings()
    file = tmp_path / "windows.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(BadSettings) as raised:
        tiles.check(spark, settings)
    assert message in raised.value.what and raised.value.where == f"{file}, {where}"


def test_unknown_features_and_entities_are_rejected_with_their_names(tmp_path: Path) -> None:
    settings = feature_shop(tmp_path).settings()
    with pytest.raises(BadSettings, match=r"user has no features \['events_2d'\]"):
        select_features(settings, "user", ["events_7d", "events_2d"])
    with pytest.raises(BadSettings, match=r"'shop' has no window features; .* \['user', 'item', 'pair'\]"):
        select_features(settings, "shop")
    file = tmp_path / "windows.toml"
    file.write_text(file.read_text().replace('pair = "pair_hours"', 'pair = "pairs"', 1))
    with pytest.raises(BadSettings, match="features of 'pair' are read from pairs, which is not declared"):
        select_features(settings, "pair")
    assert select_features(settings, "user", ["events_7d"]).columns == ("events_7d",)
