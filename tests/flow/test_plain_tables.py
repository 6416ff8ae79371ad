"""serve_tables: `users` and `items` of a small shop against plain Python, and what later runs write."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from profilestream.base import commits, streaming, tables
from profilestream.base.delta_table import Table
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.plain_tables import users_table, write_plain_tables
from profilestream.steward import status
from pyspark.sql import SparkSession

from jobs import serve_tables
from tests.builders import SHOP, USER_PROFILES, Shop
from tests.open_readers import assert_all_readers_agree

ROOT = Path(__file__).parent.parent.parent
MAPPING = SHOP.replace(
    'quantity = "quantity"',
    'quantity = "quantity"\norder_id = "basket"\ncategory = "kind_of_item"\nbrand = "maker"\ntext = "words"\n'
    'currency = "money"',
)
SETTINGS = f"""
[derive]
profiles = ["{ROOT}/conf/derive/user_profiles.toml"]
[learn.outcomes]
file = "{{home}}/outcomes.toml"
[learn.segments]
enabled = true
[learn.rankers]
enabled = true
[serve.tags]
enabled = true
file = "{ROOT}/conf/tags.toml"
[serve.scores]
enabled = true
[serve.outcomes]
enabled = true
"""
OUTCOMES = """
entity = "user"
[labels.purchase]
question = "Does the user buy?"
unit = "true or false"
kind = "count"
[features.events_1d]
[outcomes.purchase_7d]
label = "purchase"
horizon_days = 7
[outcomes.purchase_28d]
label = "purchase"
horizon_days = 28
"""
NAMES = {"i0": "दार्जिलिंग चाय", "i1": "茶杯", "i2": "Käsemesser", "i3": "مصباح"}
START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=80)
_PRICED = ("purchase", "return")


@dataclass(frozen=True)
class Event:
    """A clean event of the shop, without namespaces."""

    number: int
    at: datetime
    kind: str
    who: str | None
    what: str
    quantity: float | None = 1.0
    price: float = 2.5
    words: str | None = None

    @property
    def raw(self) -> dict[str, Any]:
        """The raw event."""
        item = int(self.what[1:])
        return {
            "id": f"e{self.number}", "kind": self.kind, "at": self.at.isoformat(), "who": self.who, "what": self.what,
            "price": str(self.price), "quantity": None if self.quantity is None else str(self.quantity),
            "basket": f"o{self.number // 2}" if self.kind in _PRICED else None, "kind_of_item": f"c{item % 3}",
            "maker": f"m{item % 2}", "words": self.words, "money": "INR",
        }  # fmt: skip

    @property
    def value(self) -> float | None:
        """Price times quantity."""
        return None if self.quantity is None else self.price * self.quantity


def _log() -> list[Event]:
    """Events of 9 users and guests; an item has two names, and the later one counts."""
    dice = random.Random(5)
    kinds = ["view", "view", "cart", "purchase", "purchase", "return"]
    log = []
    for n in range(240):
        item = f"i{dice.randrange(6)}"
        name = NAMES.get(item)
        log.append(
            Event(
                n, START + timedelta(days=75 * dice.random()), dice.choice(kinds), dice.choice([*"abcdefghi", None]),
                item, dice.choice([1.0, 2.0, 3.0, None]), round(1 + 10 * dice.random(), 2),
                name if name is None or dice.random() < 0.5 else f"old {name}",
            )
        )  # fmt: skip
    last = [Event(240 + n, END - timedelta(hours=1), "view", None, item, words=name) for n, (item, name) in
            enumerate(NAMES.items())]  # fmt: skip
    return [*log, *last, Event(250, END, "view", None, "i5")]


def _heaviest(events: Sequence[Event], key: Callable[[Event], str], weights: dict[str, float]) -> list[str]:
    totals: dict[str, float] = defaultdict(float)
    for e in events:
        totals[key(e)] += weights.get(e.kind, 1.0) * 0.5 ** ((END - e.at) / timedelta(days=60))
    return sorted((one for one in totals if totals[one] > 0), key=lambda one: -totals[one])[:5]


def _name(item: str) -> str:
    return NAMES.get(item, f"shop:{item}")


def _total(events: Sequence[Event], kind: str) -> float:
    return sum(e.value or 0.0 for e in events if e.kind == kind)


def _expected_users(log: Sequence[Event], settings: Settings) -> dict[str, dict[str, Any]]:
    """The columns that are computed from events, by user."""
    weights, rows = settings.derive.event_weights, {}
    for user in sorted({e.who for e in log if e.who}):
        own = [e for e in log if e.who == user]
        orders = len({e.raw["basket"] for e in own if e.kind == "purchase"})
        is_priced = any(e.kind in _PRICED and e.value is not None for e in own)
        gross = _total(own, "purchase") if is_priced else None
        rows[f"shop:{user}"] = {
            "first_seen": min(e.at for e in own), "last_seen": max(e.at for e in own), "orders": orders,
            "spent_net": None if gross is None else gross - _total(own, "return"), "spent_gross": gross,
            "currency": "INR", "average_order": gross / orders if orders and gross is not None else None,
            "favorite_categories": _heaviest(own, lambda e: e.raw["kind_of_item"], weights),
            "favorite_brands": _heaviest(own, lambda e: e.raw["maker"], weights),
            "favorite_items": [_name(item) for item in _heaviest(own, lambda e: e.what, weights)],
            "as_of": max(e.at for e in own),
        }  # fmt: skip
    return rows


def _expected_items(log: Sequence[Event]) -> dict[str, dict[str, Any]]:
    end, rows = max(e.at for e in log), {}

    def units(events: Sequence[Event], kind: str, first: float, last: float = 0.0) -> float:
        days = [(end - e.at) / timedelta(days=1) for e in events]
        return sum((1.0 if e.quantity is None else e.quantity) for e, age in zip(events, days, strict=True)
                   if e.kind == kind and last <= age < first)  # fmt: skip

    for item in sorted({e.what for e in log}):
        own = sorted((e for e in log if e.what == item), key=lambda e: (e.at, f"e{e.number}"))
        sold = [e for e in own if e.kind == "purchase"]
        number, all_units, before = int(item[1:]), units(own, "purchase", math.inf), units(own, "purchase", 56, 28)
        in_days = {7: timedelta(days=7), 28: timedelta(days=28)}
        rows[f"shop:{item}"] = {
            "name": NAMES.get(item), "category": f"c{number % 3}", "brand": f"m{number % 2}", "price": own[-1].price,
            "currency": "INR", "buyers": len({e.who for e in sold} - {None}),
            "units_7d": units(own, "purchase", 7), "units_28d": units(own, "purchase", 28), "units_all": all_units,
            **{f"revenue_{n}d": _total([e for e in sold if end - e.at < days], "purchase")
               for n, days in in_days.items()},
            "revenue_all": _total(sold, "purchase"),
            "trend": units(own, "purchase", 28) / before if before else None,
            "return_rate": units(own, "return", math.inf) / all_units if all_units else None,
            "first_sold": sold[0].at, "last_sold": sold[-1].at,
        }  # fmt: skip
    return rows


def _write(spark: SparkSession, table: Table, settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Append rows; missing columns are null, or a value of their type if they must not be."""
    table.create(spark, settings.paths)
    filler = {"STRING": "x", "BIGINT": 0, "INT": 0, "DOUBLE": 0.0, "TIMESTAMP": START}
    filled = [
        tuple(row.get(c.name, None if c.is_nullable else filler.get(c.sql_type, [])) for c in table.columns)
        for row in rows
    ]
    frame = spark.createDataFrame(filled, table.schema)
    frame.write.format("delta").mode("append").save(table.path(settings.paths))


# By user: probability, band by the terciles .3 and .6 of nine users.
PROBABILITIES = {
    user: (round(0.1 + 0.1 * n, 1), ("low", "middle", "high")[n // 3]) for n, user in enumerate("abcdefghi")
}


def _write_other_inputs(spark: SparkSession, settings: Settings) -> None:
    """Rows of the tables of learners and other steps, of some users."""
    group = {
        "recency_quintile": 5, "frequency_quintile": 4, "monetary_quintile": 3, "rfm_segment": "champions",
        "loyalty_tier": "gold",
    }  # fmt: skip
    _write(spark, tables.USER_GROUPS, settings, [{"user_id": "shop:a", **group}])
    tags = [("a", "weekly", None), ("a", "abroad", None), ("a", "old", END), ("b", "weekly", END)]
    _write(spark, tables.USER_TAGS, settings, [
        {"user_id": f"shop:{user}", "tag": tag, "valid_to": valid_to} for user, tag, valid_to in tags
    ])  # fmt: skip
    _write(spark, SegmentsSpec(settings).users_table, settings, [{"user_id": "shop:a", "segment_id": 7}])
    _write(spark, tables.SEGMENT_DESCRIPTIONS, settings, [{"segment_id": 7, "description": "many views"}])
    lists = [
        ("a", "for_you", ["i5"]), ("a", "next_basket", ["i3", "i0", "i4"]), ("a", "buy_again", ["i2"]),
        ("b", "for_you", ["i1", "i0"]),
    ]  # fmt: skip
    _write(spark, tables.RECOMMENDATIONS, settings, [
        {"user_id": f"shop:{user}", "purpose": purpose, "rank": rank, "item_id": f"shop:{item}"}
        for user, purpose, items in lists for rank, item in enumerate(items, 1)
    ])  # fmt: skip
    _write(spark, tables.USER_SCORES, settings, [
        {"user_id": f"shop:{user}", "outcome": "purchase_7d", "score": 9.0, "probability": probability}
        for user, (probability, _) in PROBABILITIES.items()
    ])  # fmt: skip
    rules = {"i0": ["i0", "i2", "i5", "i1"], "i1": []}
    _write(spark, tables.BASKET_COUNTS, settings, [
        {"side": "item", "key": f"shop:{item}", "rule_items": [f"shop:{one}" for one in others]}
        for item, others in rules.items()
    ])  # fmt: skip


def _derive(spark: SparkSession, settings: Settings) -> None:
    streaming.run(spark, profiles.queries(settings), settings, RunOptions())


def _rows(spark: SparkSession, table: Table, settings: Settings) -> dict[str, dict[str, Any]]:
    rows = [row.asDict() for row in table.read(spark, settings.paths).collect()]
    return {row.pop(table.key[0]): {name: _comparable(value) for name, value in row.items()} for row in rows}


def _comparable(value: Any) -> Any:
    """Times in UTC, as other readers return them."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _assert_equal(actual: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert actual.keys() == expected.keys()
    for key, row in expected.items():
        for name, value in row.items():
            wanted = pytest.approx(value) if isinstance(value, float) else value
            assert actual[key][name] == wanted, (key, name)


def test_users_and_items_equal_plain_python_and_a_later_run_writes_only_what_changed(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outcomes.toml").write_text(OUTCOMES)
    shop = Shop(tmp_path, mapping=MAPPING, extra_settings=SETTINGS.format(home=tmp_path))
    settings, log = shop.settings(), _log()
    users = users_table.table(settings)
    shop.append_events(spark, [e.raw for e in log])
    _derive(spark, settings)
    _write_other_inputs(spark, settings)

    config = ["--config", str(shop.config())]
    assert serve_tables.main(config) == 0
    assert capsys.readouterr().out.endswith("/warehouse: 9 in users, 6 in items\n")
    actual, items = _rows(spark, users, settings), _rows(spark, tables.ITEMS, settings)
    _assert_equal(actual, _expected_users(log, settings))
    _assert_equal(items, _expected_items(log))
    goes_with = [NAMES["i2"], "shop:i5", NAMES["i1"]]
    assert {item: row["goes_with"] for item, row in items.items()} == {
        "shop:i0": goes_with, **{f"shop:i{n}": [] for n in range(1, 6)},
    }  # fmt: skip
    _assert_equal({"a": actual["shop:a"], "b": actual["shop:b"]}, {
        "a": {
            "recency_quintile": 5, "frequency_quintile": 4, "monetary_quintile": 3, "rfm_segment": "champions",
            "loyalty_tier": "gold", "segment": "many views", "tags": ["abroad", "weekly"],
            "next_items": [NAMES["i3"], NAMES["i0"], "shop:i4"],
        },
        "b": {"recency_quintile": None, "segment": None, "tags": [], "next_items": [NAMES["i1"], NAMES["i0"]]},
    })  # fmt: skip
    scores = {user: (actual[f"shop:{user}"]["purchase_7d"], actual[f"shop:{user}"]["purchase_7d_band"]) for user in
              PROBABILITIES}  # fmt: skip
    assert scores == PROBABILITIES
    assert {(row["purchase_28d"], row["purchase_28d_band"]) for row in actual.values()} == {(None, None)}
    _assert_all_readers_return_all_columns(spark, users, actual, settings)
    _assert_all_readers_return_all_columns(spark, tables.ITEMS, items, settings)

    versions = commits.versions(spark, (users, tables.ITEMS), settings.paths)
    assert serve_tables.main(config) == 0
    assert capsys.readouterr().out.endswith("0 in users, 0 in items\n")
    assert commits.versions(spark, (users, tables.ITEMS), settings.paths) == versions

    new = [Event(300 + n, END, "purchase", user, "i1", 4.0, 3.0) for n, user in enumerate("abc")]
    shop.append_events(spark, [e.raw for e in new], batch_id=1)
    _derive(spark, settings)
    # The view that sets the end of the windows, and the name of i1, are unchanged.
    assert write_plain_tables.run(spark, settings) == (3, 1)
    _assert_equal(_rows(spark, users, settings), _expected_users([*log, *new], settings))
    _assert_equal(_rows(spark, tables.ITEMS, settings), _expected_items([*log, *new]))
    assert commits.versions(spark, (users, tables.ITEMS), settings.paths) == {
        name: version + 1 for name, version in versions.items()
    }

    commits.delete(spark, profiles.profile_table(settings).table, settings.paths, where="user_id = 'shop:b'")
    assert write_plain_tables.run(spark, settings) == (1, 0)
    assert _rows(spark, users, settings).keys() == {f"shop:{user}" for user in "acdefghi"}

    (tmp_path / "outcomes.toml").write_text(OUTCOMES.replace("purchase_28d", "purchase_30d"))
    other = shop.settings()
    assert write_plain_tables.run(spark, other) == (8, 0)
    assert "purchase_30d_band" in users_table.table(other).read(spark, other.paths).columns


def _assert_all_readers_return_all_columns(
    spark: SparkSession, table: Table, expected: dict[str, dict[str, Any]], settings: Settings
) -> None:
    path, (key,) = table.path(settings.paths), table.key
    assert_all_readers_agree(spark, path, "orders" if table.name == users_table.NAME else "units_all")
    db = duckdb.connect()
    exec(status.load_delta_code(), {"db": db})
    db.execute("SET TimeZone = 'UTC'")
    relation = db.sql(f"SELECT * FROM delta_scan('{path}')")
    by_duckdb = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    for rows in (by_duckdb, pl.read_delta(path).to_dicts()):
        actual = {row.pop(key): {name: _comparable(value) for name, value in row.items()} for row in rows}
        assert actual == expected


def test_a_shop_without_learners_and_with_few_statistics_has_users_with_nulls(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "profiles.toml").write_text(
        USER_PROFILES + '[statistics.behavior]\nspent = { kind = "sum", of = "value" }\n'
    )
    settings_text = f'[derive]\nprofiles = ["{tmp_path}/profiles.toml"]\n'
    shop = Shop(tmp_path, mapping=MAPPING, extra_settings=settings_text)
    settings = shop.settings()
    shop.append_events(spark, [Event(1, START, "purchase", "a", "i0").raw])
    _derive(spark, settings)
    assert write_plain_tables.run(spark, settings) == (1, 1)
    (row,) = _rows(spark, users_table.table(settings), settings).values()
    values = {name: value for name, value in row.items() if value is not None}
    assert values == {"spent_gross": 2.5, "spent_net": 2.5, "currency": "INR", "as_of": START}
    (item,) = _rows(spark, tables.ITEMS, settings).values()
    assert (item["name"], item["units_all"], item["goes_with"], item["trend"]) == (None, 1.0, None, None)
