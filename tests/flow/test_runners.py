"""Tables are equal bit for bit, whether Spark or the driver processes the batches, or both in turn."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import fold_stage, profiles, sessions, tiles, transitions
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.builders import SHOP, Shop, event

CONF = Path(__file__).parent.parent.parent / "conf" / "derive"
SETTINGS = f"""
[capture]
max_line_bytes = 2000
[derive]
features = ["{CONF}/user_hours.toml", "{CONF}/item_hours.toml"]
profiles = ["{CONF}/user_profiles.toml"]
[derive.sessions]
enabled = true
[derive.transitions]
enabled = true
"""
MAPPING = (
    SHOP.replace('quantity string"', 'quantity string, code string, more struct<a: int>"')
    + """currency = "code"
category = "if(what = 'i0', string(CAST(who AS INT)), 'shoes')"

[warn.expensive]
when = "price > 80"
[reject.item_unknown]
when = "item_id = 'i7'"
reason = "the item is unknown"
[clip.quantity]
max = 50
[bots]
max_events_per_minute = 2
"""
)
BATCHES = 2
# A valid event changed such that a rule rejects it, or a line that is no record.
INVALID: list[dict[str, Any] | bytes] = [
    {"id": None}, {"kind": None}, {"kind": "nonsense"}, {"at": "yesterday"}, {"at": "1970-01-01T00:00:00Z"},
    {"at": "2999-01-01T00:00:00Z"}, {"who": "guest"}, {"price": "much"}, {"price": "-1"}, {"quantity": "-2"},
    {"price": "Infinity"}, {"price": "1e300"}, {"what": "i0"}, {"what": "i7"}, {"more": {"a": "x"}},
    b"no json", b'{"id": "\xff"}', b'{"id": "' + 3000 * b"x" + b'"}', b"[1]", b"   ",
]  # fmt: skip


def _lines(batch: int) -> bytes:
    """Valid and invalid records, duplicates and reused ids of this batch and of the one before."""
    generator = random.Random(batch)
    events = [
        event(
            1000 * (batch + 1) + i,
            who=f"u{generator.randrange(4)}",
            what=f"i{10 + generator.randrange(40)}",
            kind=generator.choice(["view", "cart", "purchase"]),
            price=str(generator.uniform(1, 90)),
            quantity=str(generator.randrange(60)),
            at=str(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=generator.randrange(3 * 24 * 60))),
            code=generator.choice(["EUR", "USD", None]),
            note=generator.choice(["ä", "\t", 1.50]),
        )
        for i in range(40)
    ]
    same_minute = [event(100 * batch + i, who="u9", what="i9", at=f"2026-01-02T10:00:{i:02d}Z") for i in range(3)]
    constant = event(990, what="i9", at="2026-01-03T00:00:00Z", code="EUR")  # in every batch
    corrected = event(991, what="i9", at=f"2026-01-{2 + batch:02d}T00:00:00Z")  # a day later in the next batch
    changed = {**events[1], "price": "3"}
    invalid = [
        line if isinstance(line, bytes) else _text(event(9000 + n, **{"what": "i9", **line}))
        for n, line in enumerate(INVALID)
    ]
    valid = [*events, events[0], changed, *same_minute, same_minute[1], constant, corrected]
    return b"\r\n".join([*map(_text, valid), b"", *invalid])


def _text(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def _run(spark: SparkSession, shop: Shop, limits: list[int]) -> Settings:
    """Capture and derive one file at a time, each with another `stream.local_max_rows`."""
    for n, limit in enumerate(limits):
        shop.write(f"day=2026-01-0{n + 1}/{n}.jsonl", _lines(n))
        shop.overrides = [f"stream.local_max_rows={limit}"]
        settings = shop.settings()
        streaming.run(spark, [ingest.query(settings, "shop")], settings, RunOptions())
        for stage in (tiles, profiles, sessions, transitions):
            streaming.run(spark, stage.queries(settings), settings, RunOptions())
    return settings


@pytest.mark.parametrize("limits", [[10_000] * BATCHES, [0, 10_000]], ids=["driver", "in turn"])
def test_tables_of_the_driver_equal_those_of_spark(
    spark: SparkSession, tmp_path: Path, spark_only: dict[str, list[str]], limits: list[int]
) -> None:
    shop = Shop(tmp_path, MAPPING, extra_settings=SETTINGS)
    settings = _run(spark, shop, limits)
    assert _content(spark, shop, settings) == spark_only


@pytest.fixture(scope="module")
def spark_only(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Rows by table if Spark processes all batches."""
    shop = Shop(tmp_path_factory.mktemp("spark_only"), MAPPING, extra_settings=SETTINGS)
    content = _content(_session, shop, _run(_session, shop, [0] * BATCHES))
    assert len(content) == 9 and all(content.values())
    rules = {row["rule"] for row in shop.read(_session, tables.REJECTED_EVENTS).collect()}
    assert {"expression_failed", "id_reused", "wrong_type", "line_too_long", "not_utf8", "unparseable"} <= rules
    assert len(rules) >= 16
    (batch,) = shop.read(_session, tables.CAPTURE_BATCHES).where("batch_id = 1").collect()
    warned = {name for name, count in batch["warned_by_rule"].items() if count}
    assert warned >= {"expensive", "bot_suspected", "currency_mixed", "clipped_quantity"}
    assert batch["rows_duplicate"] > 1 and batch["rejected_by_rule"]["id_reused"] > 1
    return content


def _content(spark: SparkSession, shop: Shop, settings: Settings) -> dict[str, list[str]]:
    # The sums of population_stats are added up in another order.
    derived = [one.table for one in fold_stage.declared_tables(settings).values()]
    own = [tables.EVENTS, tables.REJECTED_EVENTS, *derived, sessions.table(settings), *transitions.tables(settings)]
    # The lateness depends on the time of the run, so it is left out of the measures.
    measures = F.map_filter("measures", lambda name, _: name != "lateness")
    batches = shop.read(spark, tables.CAPTURE_BATCHES).withColumn("measures", measures)
    names = ("seconds", "ingest_time", "epoch", "lateness_seconds_max")
    rows = batches.drop(*names).orderBy("batch_id").select(F.to_json(F.struct("*"))).collect()
    counts = [json.dumps(json.loads(row[0]), sort_keys=True) for row in rows]
    return {"capture_batches": counts, **{table.name: shop.content(spark, table) for table in own}}
