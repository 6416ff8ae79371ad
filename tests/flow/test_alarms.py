"""Alarms of capture: planted unusual days, the actions stop and warn, crashes (law 2), and steward_status."""

import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from profilestream.base import commits
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused
from pyspark.sql import DataFrame, SparkSession

from jobs import capture_events, steward_status
from tests.builders import Shop, event
from tests.open_readers import assert_all_readers_agree


def write_day(shop: Shop, day: int, *, rows: int = 0, nulls: int = 0, price_factor: float = 1.0) -> None:
    """Write a daily file of about 40 events with three different prices.

    Args:
        rows: number of additional events.
        nulls: every n-th event has no user; 0: every event has one.
        price_factor: factor of all prices.
    """
    lines = []
    for n in range(38 + day % 4 + rows):
        at = f"2026-01-{1 + day:02}T{8 + n % 12:02}:{n % 60:02}:00Z"
        who = None if nulls and n % nulls == 0 else f"u{n % 9}"
        price = str(round((2 + n % 3 + day % 2 / 4) * price_factor, 2))
        lines.append(event(n, id=f"d{day}-{n}", at=at, who=who, price=price))
    shop.write(f"{day:02}.jsonl", "\n".join(map(json.dumps, lines)))


def alarm_rows(shop: Shop) -> list[dict[str, Any]]:
    rows = pl.scan_delta(f"{shop.home}/warehouse/capture_alarms").sort("batch_id", "measure").collect()
    return rows.to_dicts()


def measures(shop: Shop, batch_id: int) -> dict[str, dict[str, Any]]:
    batches = pl.scan_delta(f"{shop.home}/warehouse/capture_batches").filter(pl.col("batch_id") == batch_id).collect()
    return dict(batches["measures"].item())


def test_each_planted_day_raises_the_alarm_of_its_measure_and_other_days_none(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path, extra_settings="[capture.alarms]\nmin_batches = 3\n")
    for day in range(3):
        write_day(shop, day)
    shop.capture(spark)
    assert not (tmp_path / "warehouse" / "capture_alarms").exists()
    write_day(shop, 3, rows=360)
    write_day(shop, 4, nulls=3)
    write_day(shop, 5, price_factor=100)
    write_day(shop, 6)
    shop.capture(spark)

    volume, nulls, price = alarm_rows(shop)
    assert [(row["batch_id"], row["measure"]) for row in (volume, nulls, price)] == [
        (3, "volume"), (4, "null_user_id"), (5, "price_level"),
    ]  # fmt: skip
    assert (volume["source"], volume["action"], volume["value"]) == ("shop", "warn", pytest.approx(401))
    assert volume["message"].startswith("401 rows per file, expected 39 (")
    assert (nulls["value"], nulls["expected"]) == (pytest.approx(13 / 38), 0.0)
    assert price["value"] / price["expected"] == pytest.approx(100, rel=0.1)
    newest = measures(shop, 6)
    assert (newest["volume"]["batches"], newest["volume"]["value"]) == (7, pytest.approx(40))
    assert newest["price_level"]["mean"] < math.log(6)  # the day with prices in cents counts as its limit
    hours = (time.time() - datetime.fromisoformat("2026-01-07T13:26:00Z").timestamp()) / 3600
    assert newest["lateness"]["value"] == pytest.approx(hours, abs=0.1)

    assert steward_status.main(["--config", str(shop.config())]) == 0
    printed = capsys.readouterr().out
    assert "alarms, the newest 3 of 3" in printed
    assert f"  shop batch 3, up to 2026-01-04 19:59: volume: {volume['message']}" in printed
    assert f"3 rows  {tmp_path}/warehouse/capture_alarms" in printed
    assert_all_readers_agree(spark, f"{tmp_path}/warehouse/capture_alarms", "deviations")


def test_stop_refuses_a_batch_before_any_write_and_warn_accepts_it_once(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, extra_settings='[capture.alarms]\naction = "stop"\nmin_batches = 1\n')
    write_day(shop, 0)
    write_day(shop, 1, price_factor=100)
    assert capture_events.main(["--config", str(shop.config())]) == 3
    lines = capsys.readouterr().err.split("\nfailed: ", 1)[-1].strip().splitlines()
    assert lines[0] == "batch 1 of shop differs from earlier batches: ['price_level']"
    assert lines[-1].startswith("  what to do: price_level: a geometric mean of 3")
    assert lines[-1].endswith(
        "; if the data is correct, run once with --set capture.alarms.action=warn, "
        "or exclude its files with --skip-file PATH"
    )
    assert {name: rows_of(shop, name) for name in ("events", "capture_batches")} == {"events": 38, "capture_batches": 1}
    assert not (tmp_path / "warehouse" / "capture_alarms").exists()

    shop.overrides = ["capture.alarms.action=warn"]
    append = commits.append
    for name, side in [("capture_alarms", "before"), ("capture_alarms", "after")]:

        def crashes(frame: DataFrame, table: Table, *rest: Any, name: str = name, side: str = side) -> None:
            if table.name != name or side == "after":
                append(frame, table, *rest)
            if table.name == name:
                raise RuntimeError("crash")

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
            patch.setattr(commits, "append", crashes)
            shop.capture(spark)
    shop.overrides = []  # events already contains the batch, so it is finished whatever the settings are
    shop.capture(spark)
    (row,) = alarm_rows(shop)
    assert f"price_level: {row['message']};" in lines[-1]
    assert (row["batch_id"], row["measure"], row["action"]) == (1, "price_level", "warn")
    assert {name: rows_of(shop, name) for name in ("events", "capture_batches")} == {"events": 77, "capture_batches": 2}

    write_day(shop, 2, rows=360)
    with pytest.raises(Refused, match=r"batch 2 of shop differs from earlier batches: \['volume'\]"):
        shop.capture(spark)
    shop.capture(spark, skipped_units=(str(shop.input / "02.jsonl"),))
    assert rows_of(shop, "capture_alarms") == 1
    volume = measures(shop, 2)["volume"]
    assert (volume["value"], volume["batches"]) == (None, 2)


def rows_of(shop: Shop, name: str) -> int:
    return int(pl.scan_delta(f"{shop.home}/warehouse/{name}").select(pl.len()).collect().item())
