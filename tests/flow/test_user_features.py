"""All users as of the newest event: what plain Python counts, and only those whose windows moved are worked out."""

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
from tests.flow.test_windows import Tiled, by_key, shop_of
from tests.naive_windows import DAY, HOUR, Event, Log
from tests.open_readers import assert_all_readers_agree

NOON = 20_460 * DAY + 12 * HOUR + HOUR // 2
COUNTED = ("events_1h", "events_1d", "events_7d", "events_lifetime", "value_3d", "items_3d", "price_mean_lifetime")


def _event(user: str | None, at: int, price: float = 2.0) -> Event:
    return Event(
        at=NOON + at, event_id=f"{user}{at}", event_type="purchase", user_id=user, item_id=f"i{at % 7}",
        category="c1", price=price, value=3 * price,
    )  # fmt: skip


def _told(spark: SparkSession, tiled: Tiled) -> dict[tuple[Any, ...], Any]:
    """What `read` says, and that it is what plain Python counts at the newest event of a user."""
    newest = max(e.at for e in tiled.log if e.user_id)
    found = by_key(user_features.read(spark, tiled.settings), ["user_id"])
    assert found.keys() == {(e.user_id, newest) for e in tiled.log if e.user_id}
    for (user, at), got in found.items():
        mine: Log = [e for e in tiled.log if e.user_id == user]
        assert {name: got[name] for name in COUNTED} == {name: naive.said(mine, at, name) for name in COUNTED}, user
        last = naive.said(mine, at, "last_purchase_lifetime")
        assert got["last_purchase_lifetime"] == last
        assert got["days_since_purchase"] == (last and pytest.approx((at - last) / DAY))
    counts = [row["events_7d"] for row in found.values()]
    mean = sum(counts) / len(counts)
    deviation = (sum((n - mean) ** 2 for n in counts) / len(counts)) ** 0.5
    scores = [(n - mean) / deviation if deviation else 0.0 for n in counts]
    assert [row["score"] for row in found.values()] == pytest.approx(scores)
    return found


def _worked_out(spark: SparkSession, tiled: Tiled) -> dict[str, str]:
    """The users of each batch that worked them out last."""
    rows = user_features.table(tiled.settings).read(spark, tiled.settings.paths).collect()
    by_batch: dict[int, str] = {}
    for row in sorted(rows):
        by_batch[row["batch_id"]] = by_batch.get(row["batch_id"], "") + row["user_id"]
    return {str(batch): users for batch, users in by_batch.items()}


def test_only_users_whose_windows_moved_are_worked_out_and_all_are_right_through_crashes(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = shop_of(tmp_path, "enabled = true")
    tiled = Tiled(spark, shop.settings())
    queries = user_features.queries(tiled.settings)
    assert [name for name in user_features.table(tiled.settings).columns if name.startswith(("fading", "score"))] == []
    leaves = _event("b", HOUR - 3 * DAY)
    tiled.take([_event("a", 0), _event("e", 0, 7.0), leaves, _event("c", -2 * DAY), _event("d", -20 * DAY)])
    streaming.run(spark, queries, tiled.settings, RunOptions())
    assert _told(spark, tiled)["e", NOON]["events_lifetime"] == 0, "a window ends before its time"
    tiled.take([_event("a", 2 * HOUR), _event(None, 3 * HOUR)])
    streaming.run(spark, queries, tiled.settings, RunOptions())
    _told(spark, tiled)
    assert _worked_out(spark, tiled) == {"0": "cd", "1": "abe"}
    tiled.take([_event("d", -DAY), _event("d", -30 * DAY)])
    assert crashes.run_through(queries, tiled.settings, batch_id=2) == 2
    _told(spark, tiled)
    assert _worked_out(spark, tiled) == {"0": "c", "1": "abe", "2": "d"}
    assert_all_readers_agree(spark, user_features.table(tiled.settings).path(tiled.settings.paths), "events_7d")

    (source,) = [table for table in tiled.query.tables if table.name == "user_hours"]
    source.empty(spark, tiled.settings.paths)
    with pytest.raises(Refused, match="table user_hours was made anew"):
        streaming.run(spark, queries, tiled.settings, RunOptions())
    assert derive_windows.main(["--config", str(shop.config()), "--rebuild"]) == 0
    assert user_features.table(tiled.settings).read(spark, tiled.settings.paths).count() == 0
