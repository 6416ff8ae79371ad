"""Tables are equal bit for bit, whether Spark or the driver processes the batches, or both in turn."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import fold_stage, sessions, tiles, transitions
from pyspark.sql import SparkSession

from tests.builders import Shop, event

CONF = Path(__file__).parent.parent.parent / "conf" / "derive"
SETTINGS = f"""
[derive]
features = ["{CONF}/user_hours.toml", "{CONF}/item_hours.toml"]
max_files_per_trigger = 1
[derive.sessions]
enabled = true
[derive.transitions]
enabled = true
"""
BATCHES = 2


def _run(spark: SparkSession, shop: Shop, limits: list[int]) -> Settings:
    """Capture and derive one file at a time, each with another `stream.local_max_rows`."""
    generator = random.Random(5)
    for n, limit in enumerate(limits):
        events = [
            event(
                1000 * n + i,
                who=f"u{generator.randrange(4)}",
                what=f"i{generator.randrange(40)}",
                kind=generator.choice(["view", "cart", "purchase", "nonsense"]),
                price=str(generator.uniform(1, 90)),
                at=str(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=generator.randrange(3 * 24 * 60))),
            )
            for i in range(40)
        ]
        shop.write(f"{n}.jsonl", "\n".join(map(json.dumps, [*events, events[0]])))
        shop.overrides = [f"stream.local_max_rows={limit}"]
        settings = shop.settings()
        streaming.run(spark, [ingest.query(settings, "shop")], settings, RunOptions())
        for stage in (tiles, sessions, transitions):
            streaming.run(spark, stage.queries(settings), settings, RunOptions())
    return settings


@pytest.mark.parametrize("limits", [[10_000] * BATCHES, [0, 10_000]], ids=["driver", "in turn"])
def test_tables_of_the_driver_equal_those_of_spark(
    spark: SparkSession, tmp_path: Path, spark_only: dict[str, list[str]], limits: list[int]
) -> None:
    shop = Shop(tmp_path, extra_settings=SETTINGS)
    settings = _run(spark, shop, limits)
    assert _content(spark, shop, settings) == spark_only


@pytest.fixture(scope="module")
def spark_only(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Rows by table if Spark processes all batches."""
    shop = Shop(tmp_path_factory.mktemp("spark_only"), extra_settings=SETTINGS)
    content = _content(_session, shop, _run(_session, shop, [0] * BATCHES))
    assert len(content) == 7 and all(content.values())
    return content


def _content(spark: SparkSession, shop: Shop, settings: Settings) -> dict[str, list[str]]:
    derived = [table for one in fold_stage.declared_tables(settings).values() for table in one.tables]
    # capture_batches contains trends of seconds.
    own = [tables.EVENTS, tables.REJECTED_EVENTS, *derived, sessions.table(settings), *transitions.tables(settings)]
    return {table.name: shop.content(spark, table) for table in own}
