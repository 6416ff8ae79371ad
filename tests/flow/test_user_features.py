"""user_features equals plain Python as of the latest event, and only users whose windows changed are recomputed."""

from pathlib import Path
from typing import Any

import pytest
from profilestream.base import streaming
from profilestream.base.errors import Refused
from profilestream.base.queries import RunOptions
from profilestream.derive import user_features
from pyspark.sql import SparkSession

from jobs import derive_windows
from tests import naive_windows as naive
from tests.fault_injection import Crashes
from tests.flow.test_windows import TileWarehouse, feature_shop, rows_by_key
from tests.naive_windows import DAY, HOUR, Event, Log
from tests.open_readers import assert_all_readers_agree

NOON = 20_460 * DAY + 12 * HOUR + HOUR // 2
COLUMNS = ("events_1h", "events_1d", "events_7d", "events_lifetime", "value_3d", "items_3d", "price_mean_lifetime")


def _event(user: str | None, at: int, price: float = 2.0) -> Event:
    return Event(
        at=NOON + at, event_id=f"{user}{at}", event_type="purchase", user_id=user, item_id=f"i{at % 7}",
        category="c1", price=price, value=3 * price,
    )  # fmt: skip


def _assert_all_users(spark: SparkSession, warehouse: TileWarehouse) -> dict[tuple[Any, ...], Any]:
    """The rows of `read`; they equal plain Python as of the latest event of a user."""
    latest = max(e.at for e in warehouse.log if e.user_id)
    rows = rows_by_key(user_features.read(spark, warehouse.settings), ["user_id"])
    assert rows.keys() == {(e.user_id, latest) for e in warehouse.log if e.user_id}
    for (user, at), row in rows.items():
        user_log: Log = [e for e in warehouse.log if e.user_id == user]
        expected = {name: naive.feature_value(user_log, at, name) for name in COLUMNS}
        assert {name: row[name] for name in COLUMNS} == expected, user
        last = naive.feature_value(user_log, at, "last_purchase_lifetime")
        assert row["last_purchase_lifetime"] == last
        assert row["days_since_purchase"] == (last and pytest.approx((at - last) / DAY))
    counts = [row["events_7d"] for row in rows.values()]
    mean = sum(counts) / len(counts)
    stddev = (sum((n - mean) ** 2 for n in counts) / len(counts)) ** 0.5
    zscores = [(n - mean) / stddev if stddev else 0.0 for n in counts]
    assert [row["zscore"] for row in rows.values()] == pytest.approx(zscores)
    return rows


def _users_by_batch(spark: SparkSession, warehouse: TileWarehouse) -> dict[str, str]:
    """By batch id, the users whose stored row it computed."""
    rows = user_features.table(warehouse.settings).read(spark, warehouse.settings.paths).collect()
    by_batch: dict[int, str] = {}
    for row in sorted(rows):
        by_batch[row["batch_id"]] = by_batch.get(row["batch_id"], "") + row["user_id"]
    return {str(batch): users for batch, users in by_batch.items()}


def test_only_users_with_changed_windows_are_recomputed_and_crashes_change_nothing(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = feature_shop(tmp_path, "enabled = true")
    warehouse = TileWarehouse(spark, shop.settings())
    queries = user_features.queries(warehouse.settings)
    columns = user_features.table(warehouse.settings).names
    assert [name for name in columns if name.startswith(("decayed_value", "zscore", "double_zscore"))] == []
    leaves_3d_window = _event("b", HOUR - 3 * DAY)
    warehouse.write_batch(
        [_event("a", 0), _event("e", 0, 7.0), leaves_3d_window, _event("c", -2 * DAY), _event("d", -20 * DAY)]
    )
    streaming.run(spark, queries, warehouse.settings, RunOptions())
    rows = _assert_all_users(spark, warehouse)
    assert rows["e", NOON]["events_lifetime"] == 0, "a window does not include its end"
    warehouse.write_batch([_event("a", 2 * HOUR), _event(None, 3 * HOUR)])
    streaming.run(spark, queries, warehouse.settings, RunOptions())
    _assert_all_users(spark, warehouse)
    assert _users_by_batch(spark, warehouse) == {"0": "cd", "1": "abe"}
    warehouse.write_batch([_event("d", -DAY), _event("d", -30 * DAY)])
    assert crashes.run_through(queries, warehouse.settings, batch_id=2) == 2
    _assert_all_users(spark, warehouse)
    assert _users_by_batch(spark, warehouse) == {"0": "c", "1": "abe", "2": "d"}
    path = user_features.table(warehouse.settings).path(warehouse.settings.paths)
    assert_all_readers_agree(spark, path, "events_7d")

    (source,) = [table for table in warehouse.query.tables if table.name == "user_hours"]
    source.recreate(spark, warehouse.settings.paths)
    with pytest.raises(Refused, match="user_hours was rebuilt"):
        streaming.run(spark, queries, warehouse.settings, RunOptions())
    assert derive_windows.main(["--config", str(shop.config()), "--rebuild"]) == 0
    assert user_features.table(warehouse.settings).read(spark, warehouse.settings.paths).count() == 0
