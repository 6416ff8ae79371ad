"""Alarms through the capture job: planted days, stop and warn, crashes (law 2), and what status tells."""

import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from profilestream.base import commits
from profilestream.base.errors import Refused
from profilestream.base.tables import Table
from pyspark.sql import DataFrame, SparkSession

from jobs import capture_events, steward_status
from tests.builders import Shop, event
from tests.open_readers import assert_all_readers_agree


def write_day(shop: Shop, day: int, *, rows: int = 0, nulls: int = 0, times: float = 1.0) -> None:
    """A daily file of some 40 events; a third are purchases of another price.

    Args:
        rows: more than on a calm day.
        nulls: every n-th event has no user; 0 for none.
        times: what prices are multiplied by.
    """
    lines = []
    for n in range(38 + day % 4 + rows):
        at = f"2026-01-{1 + day:02}T{8 + n % 12:02}:{n % 60:02}:00Z"
        who = None if nulls and n % nulls == 0 else f"u{n % 9}"
        price = str(round((2 + n % 3 + day % 2 / 4) * times, 2))
        lines.append(event(n, id=f"d{day}-{n}", at=at, who=who, price=price))
    shop.write(f"{day:02}.jsonl", "\n".join(map(json.dumps, lines)))


def alarm_rows(shop: Shop) -> list[dict[str, Any]]:
    found = pl.scan_delta(f"{shop.home}/warehouse/capture_alarms").sort("batch_id", "measure").collect()
    return found.to_dicts()


def measures(shop: Shop, batch_id: int) -> dict[str, dict[str, Any]]:
    batches = pl.scan_delta(f"{shop.home}/warehouse/capture_batches").filter(pl.col("batch_id") == batch_id).collect()
    return dict(batches["measures"].item())


def test_each_planted_day_raises_its_own_alarm_and_calm_days_none(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path, extra_settings="[capture.alarms]\nmin_batches = 3\n")
    for day in range(3):
        write_day(shop, day)
    shop.capture(spark)
    assert not (tmp_path / "warehouse" / "capture_alarms").exists()
    write_day(shop, 3, rows=360)
    write_day(shop, 4, nulls=3)
    write_day(shop, 5, times=100)
    write_day(shop, 6)
    shop.capture(spark)

    volume, nulls, price = alarm_rows(shop)
    assert [(row["batch_id"], row["measure"]) for row in (volume, nulls, price)] == [
        (3, "volume"), (4, "null_user_id"), (5, "price_level"),
    ]  # fmt: skip
    assert (volume["source"], volume["action"], volume["value"]) == ("shop", "warn", pytest.approx(401))
    assert volume["message"].startswith("401 rows a file, expected 39 (")
    assert (nulls["value"], nulls["expected"]) == (pytest.approx(13 / 38), 0.0)
    assert price["value"] / price["expected"] == pytest.approx(100, rel=0.1)
    newest = measures(shop, 6)
    assert (newest["volume"]["batches"], newest["volume"]["value"]) == (7, pytest.approx(40))
    assert newest["price_level"]["mean"] < math.log(6)  # the day in cents moved it by its limit only
    hours = (time.time() - datetime.fromisoformat("2026-01-07T13:26:00Z").timestamp()) / 3600
    assert newest["lateness"]["value"] == pytest.approx(hours, abs=0.1)

    assert steward_status.main(["--config", str(shop.config())]) == 0
    said = capsys.readouterr().out
    assert "alarms, the newest 3 of 3" in said
    assert f"  shop batch 3, up to 2026-01-04 19:59: volume: {volume['message']}" in said
    assert f"3 rows  {tmp_path}/warehouse/capture_alarms" in said
    assert_all_readers_agree(spark, f"{tmp_path}/warehouse/capture_alarms", "deviations")


def test_stop_refuses_a_batch_before_anything_is_written_and_warn_lets_it_pass_once(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, extra_settings='[capture.alarms]\naction = "stop"\nmin_batches = 1\n')
    write_day(shop, 0)
    write_day(shop, 1, times=100)
    assert capture_events.main(["--config", str(shop.config())]) == 3
    said = capsys.readouterr().err.split("\nfailed: ", 1)[-1].strip().splitlines()
    assert said[0] == "batch 1 of shop is unlike the earlier ones: ['price_level']"
    assert said[-1].startswith("  what to do: price_level: a geometric mean of 3")
    assert said[-1].endswith(
        "; if that is right, run once with --set capture.alarms.action=warn, "
        "or leave its files out with --skip-file PATH"
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
    shop.overrides = []  # events has the batch by now, so it is finished, whatever the settings say
    shop.capture(spark)
    (row,) = alarm_rows(shop)
    assert f"price_level: {row['message']};" in said[-1]
    assert (row["batch_id"], row["measure"], row["action"]) == (1, "price_level", "warn")
    assert {name: rows_of(shop, name) for name in ("events", "capture_batches")} == {"events": 77, "capture_batches": 2}

    write_day(shop, 2, rows=360)
    with pytest.raises(Refused, match=r"batch 2 of shop is unlike the earlier ones: \['volume'\]"):
        shop.capture(spark)
    shop.capture(spark, skip_files=(str(shop.input / "02.jsonl"),))
    assert rows_of(shop, "capture_alarms") == 1
    volume = measures(shop, 2)["volume"]
    assert (volume["value"], volume["batches"]) == (None, 2)


def rows_of(shop: Shop, name: str) -> int:
    return int(pl.scan_delta(f"{shop.home}/warehouse/{name}").select(pl.len()).collect().item())
