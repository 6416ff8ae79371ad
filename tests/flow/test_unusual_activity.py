"""serve_anomalies: unusual days of users, from `events`."""

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.base import commits, tables
from profilestream.serve.scores.kernels import unusual_days, user_days
from profilestream.serve.scores.kernels.unusual_days import BaselineRule
from profilestream.serve.users import user_timeline
from pyspark.sql import SparkSession

from jobs import serve_anomalies
from tests import naive_windows as naive
from tests.builders import Shop
from tests.naive_windows import DAY, Event
from tests.open_readers import assert_all_readers_agree

START = 20_000 * DAY
OFFSET = 11 * naive.HOUR // 2
RULE = BaselineRule(half_life_days=90.0)


def _log() -> list[Event]:
    """30 users who buy a few times on each of ten days, and views of one of them at night on the last day."""
    rng = np.random.default_rng(0)
    times = [
        (f"shop:{user}", START + day * DAY + int(rng.integers(5, 12)) * naive.HOUR, "purchase")
        for user in range(30)
        for day in range(10)
        for _ in range(rng.integers(3, 8))
    ]
    times += [("shop:7", START + 9 * DAY + 20 * naive.HOUR + second * 1_000_000, "view") for second in range(400)]
    categories = ["a", "a", "b", None]
    return [
        Event(at, f"e{n}", type_, user, category=categories[n % 4], value=float(n % 7) if type_ == "purchase" else None)
        for n, (user, at, type_) in enumerate(times)
    ]


def _expected(log: list[Event]) -> list[dict[str, Any]]:
    """The rows by the kernels, from all events in memory."""
    columns = [
        {
            "user_id": e.user_id, "time_micros": e.at, "day": (e.at + OFFSET) // DAY,
            "hour": (e.at + OFFSET) % DAY // naive.HOUR, "event_type": e.event_type, "category": e.category,
            "value": e.value,
        }
        for e in log
    ]  # fmt: skip
    shares = {}
    for name in user_days.HABITS:
        counts = Counter(row[name] for row in columns if row.get(name) is not None)
        shares[name] = {value: count / counts.total() for value, count in counts.items()}
    events = pa.Table.from_pylist(columns, user_days.EVENT)
    days = user_days.user_days(events, half_life_days=90.0, habit_shares=shares)["days"]
    population = unusual_days.fit_population(days, RULE)
    since_day = START // DAY + 8
    rows = unusual_days.unusual_days(days, rule=RULE, population=population, since_day=since_day, max_share=0.05)
    return list(rows["unusual"].to_pylist())


def test_the_last_unusual_days_are_written_as_the_kernels_compute_them_from_all_events(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "report_days = 3\nmax_share = 0.05\n"
    shop = Shop(tmp_path, extra_settings=f'[derive]\nshop_timezone = "Asia/Kolkata"\n[serve.anomalies]\n{options}')
    settings, log = shop.settings(), _log()
    tables.EVENTS.create(spark, settings.paths)
    assert serve_anomalies.main(["--config", str(shop.config())]) == 0
    assert capsys.readouterr().out.startswith("0 days are unusual in ")
    # A guest, and a user whose clock is wrong by years.
    others = [Event(START, "guest", "view"), Event(START + 3000 * DAY, "stray", "view", "shop:stray")]
    naive.append_events(spark, [*log, *others], settings)

    assert serve_anomalies.main(["--config", str(shop.config())]) == 0
    expected = _expected(log)
    assert f"{len(expected)} days are unusual" in capsys.readouterr().out
    actual = {row["user_id"]: row for row in shop.read(spark, tables.UNUSUAL_ACTIVITY).collect()}
    # 20:00 UTC and later is the next day in India.
    assert actual["shop:7"]["day"] == date(1970, 1, 1) + timedelta(days=20_010)
    assert [reason["measure"] for reason in actual["shop:7"]["reasons"]] == ["events", "times", "event_type"]
    assert len(actual) == len(expected) > 1
    for row in expected:
        one = actual[row["user_id"]]
        assert (one["score"], one["share_of_days"]) == pytest.approx((row["score"], row["share_of_days"]))
        assert [reason["text"] for reason in one["reasons"]] == [reason["text"] for reason in row["reasons"]]
        assert one["as_of"].timestamp() == pytest.approx(max(e.at for e in log) / 1e6)
    assert_all_readers_agree(spark, tables.UNUSUAL_ACTIVITY.path(settings.paths), "score")

    days = user_timeline.unusual_days(spark, settings, "shop:7")
    assert days[date(2024, 10, 14)]["unusual"][0].startswith("events: 400 instead of ")
    version = commits.version(spark, tables.UNUSUAL_ACTIVITY, settings.paths)
    assert serve_anomalies.main(["--config", str(shop.config())]) == 0
    assert commits.version(spark, tables.UNUSUAL_ACTIVITY, settings.paths) == version
