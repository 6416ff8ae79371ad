"""learn_factors in the flow: equal to plain loops, whatever the partitions, crashes and odd ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.learn import factors
from profilestream.learn.als import Params
from profilestream.learn.item_index import RANKERS
from pyspark.sql import SparkSession

from jobs import learn_factors
from tests import table_snapshots
from tests.builders import SHOP, Shop, event
from tests.fault_injection import Crashes
from tests.naive_als import DAY, Event, Plain
from tests.open_readers import assert_all_readers_agree

MADE = Params(k=4, max_events_per_user=6, reweighted_events=2, unobserved_weight=6.0)
WEIGHTS = {"view": 1.0, "purchase": 5.0, "return": -5.0}
IDS = ("i0", "i 1", 'i"2"', "i🛒", "i4", "x" * 10_000)


def _event(n: int) -> dict[str, Any]:
    """Every eleventh of a guest, every seventh without an item, and the fifth of each batch a day late."""
    at = n * 3600 - (86_400 if n % 5 == 0 else 0) + 864_000
    return event(
        n, kind=("view", "purchase", "view", "return")[n % 4], who=None if n % 11 == 0 else f"u{n % 13}",
        what=None if n % 7 == 0 else IDS[n * 5 % len(IDS)],
        at=f"2026-01-{1 + at // 86_400:02}T{at // 3600 % 24:02}:{at // 60 % 60:02}:00Z",
    )  # fmt: skip


def _shop(home: Path, first_full_passes: int = 0, full_passes: int = 0) -> Shop:
    made = f"k = {MADE.k}\nmax_events_per_user = {MADE.max_events_per_user}\nreweighted_events = {MADE.reweighted_events}\n"
    made += f"unobserved_weight = {MADE.unobserved_weight}\nfirst_full_passes = {first_full_passes}\nfull_passes = {full_passes}\n"
    return Shop(home, extra_settings=f"[learn.factors]\nenabled = true\n{made}")


def _arrive(spark: SparkSession, shop: Shop, n: int) -> None:
    shop.arrive(spark, [_event(m) for m in range(n * 20, n * 20 + 20)], batch_id=n)


def _learn(spark: SparkSession, shop: Shop) -> None:
    streaming.run(spark, factors.queries(shop.settings()), shop.settings(), RunOptions())


def _batches(spark: SparkSession, shop: Shop) -> list[list[Event]]:
    """What had arrived, batch by batch."""
    events = spark.read.format("delta").load(str(shop.home / "warehouse" / "events"))
    rows = events.where("user_id IS NOT NULL AND item_id IS NOT NULL").selectExpr(
        "batch_id", "user_id", "item_id", "event_type", "unix_micros(event_time) AS at"
    )
    batches: dict[int, list[Event]] = {}
    for row in rows.collect():
        one = Event(row["user_id"], row["item_id"], WEIGHTS[row["event_type"]], row["at"])
        batches.setdefault(row["batch_id"], []).append(one)
    return [batch for _, batch in sorted(batches.items())]


def _plain(spark: SparkSession, shop: Shop) -> Plain:
    """What plain loops learn of the same batches."""
    plain = Plain(MADE)
    for batch in _batches(spark, shop):
        plain.learn(batch)
    return plain


def _assert_equal(got: dict[tuple[str, str], Any], plain: Plain) -> None:
    expected = {("user", key): row["p"] for key, row in plain.users.items()}
    expected |= {("item", key): row["q"] for key, row in plain.items.items()}
    assert got.keys() == expected.keys()
    for key, vector in expected.items():
        np.testing.assert_allclose(got[key], vector, rtol=1e-3, atol=1e-5, err_msg=str(key))


def test_vectors_are_what_plain_loops_give_in_any_number_of_partitions(spark: SparkSession, tmp_path: Path) -> None:
    """A batch of `events` is a commit of as many files as it has dates, so each is given to the stage on its own."""
    shop = _shop(tmp_path)
    for n in range(3):
        _arrive(spark, shop, n)
        _learn(spark, shop)
    plain = _plain(spark, shop)
    _assert_equal(table_snapshots.learned(spark, shop.settings()), plain)
    assert_all_readers_agree(spark, factors.table(shop.settings()).path(shop.settings().paths), "tail")
    paths = shop.settings().paths
    row = factors.table(shop.settings()).read(spark, paths).where("side = 'global'").first()
    assert row is not None
    assert row["as_of"].timestamp() * 1e6 == plain.now
    assert plain.now > 10 * DAY
    judged = tables.MODEL_METRICS.read(spark, paths).collect()
    assert {(row["batch_id"], row["ranker"]) for row in judged} == {
        (batch, ranker) for batch in (1, 2) for ranker in RANKERS
    }
    assert all(0 < row["users"] <= 13 and 0 <= row["recall_10"] <= row["recall_20"] <= 1 for row in judged)


def test_the_log_is_swept_over_at_first_and_when_events_have_doubled_and_when_asked_for(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = _shop(tmp_path, first_full_passes=2, full_passes=1)
    for batches in ((0,), (1, 2), (3,)):
        for n in batches:
            _arrive(spark, shop, n)
        _learn(spark, shop)
    first, *parts, third = _batches(spark, shop)
    second = [event for part in parts for event in part]
    plain = Plain(MADE)
    plain.sweep(first)
    plain.sweep(first)
    plain.learn(second)
    assert len(first + second) >= 2 * len(first)
    plain.sweep(first + second)
    plain.learn(third)
    _assert_equal(table_snapshots.learned(spark, shop.settings()), plain)
    assert learn_factors.main(["--config", str(shop.config()), "--full-pass"]) == 0
    plain.sweep(first + second + third)
    _assert_equal(table_snapshots.learned(spark, shop.settings()), plain)
    assert f"swept over {len(first + second + third)} events" in capsys.readouterr().out


def test_ratings_are_learned_as_plain_loops_learn_them(spark: SparkSession, tmp_path: Path) -> None:
    rated = SHOP.replace("quantity string", "quantity string, stars string") + 'rating = "stars"\n'
    made = "k = 3\nmax_events_per_user = 6\nreweighted_events = 2\nfirst_full_passes = 0\nfull_passes = 0\n"
    shop = Shop(tmp_path, rated, extra_settings=f'[learn.factors]\nenabled = true\nmode = "explicit"\n{made}')
    batches = []
    for begin in (0, 20):
        events = [event(n, kind="rate", who=f"u{n % 4}", stars=str(1 + n * n % 5)) for n in range(begin, begin + 20)]
        shop.arrive(spark, [*events, event(begin + 90)], batch_id=begin)  # a view: no rating
        _learn(spark, shop)
        at = [1_767_261_600_000_000 + 60_000_000 * n for n in range(begin, begin + 20)]  # 2026-01-01T10:00
        batches.append(
            [
                Event(f"shop:{e['who']}", f"shop:{e['what']}", 1.0, t, float(e["stars"]))
                for e, t in zip(events, at, strict=True)
            ]
        )
    first = [e.rating for e in batches[0]]
    plain = Plain(factors.params(shop.settings()), mean=sum(first) / len(first))
    for batch in batches:
        plain.learn(batch)
    _assert_equal(table_snapshots.learned(spark, shop.settings()), plain)
    errors = {row["ranker"]: row["rmse"] for row in shop.read(spark, tables.MODEL_METRICS).collect()}
    assert 0.1 < errors["factors"] < 4 and errors["popularity"] is None


def test_a_crash_before_or_after_a_write_changes_nothing_and_five_partitions_neither(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = _shop(tmp_path)
    _arrive(spark, shop, 0)
    was = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    settings = shop.settings()
    assert crashes.run_through(factors.queries(settings), settings, batch_id=0) == 3
    spark.conf.set("spark.sql.shuffle.partitions", str(was))
    _assert_equal(table_snapshots.learned(spark, shop.settings()), _plain(spark, shop))


def test_another_length_over_old_vectors_is_refused_and_can_be_learned_anew(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = _shop(tmp_path)
    _arrive(spark, shop, 0)
    config = ["--config", str(shop.config())]
    assert learn_factors.main(config) == 0
    other = [*config, "--set", "learn.factors.k=3"]
    assert learn_factors.main(other) == 3
    said = capsys.readouterr().err
    assert "table factors was derived by another declaration" in said and "--rebuild" in said.splitlines()[-1]
    assert learn_factors.main([*other, "--rebuild"]) == 0
    shop.overrides = ["learn.factors.k=3"]
    assert {len(vector) for vector in table_snapshots.learned(spark, shop.settings()).values()} == {3}
    assert learn_factors.main([*other, "--set", "learn.factors.eval_users=7"]) == 0  # changes no vector
    assert learn_factors.main([*config, "--set", "derive.event_weights.view=nan", "--check"]) == 2
    assert "weights must be finite numbers: ['view']" in capsys.readouterr().err
