"""learn_factors in the flow equals plain loops, for any number of partitions, after crashes, with unusual ids."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profilestream.base import commits, streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.session import conf_set
from profilestream.learn import stage
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.factors.kernels.item_index import RANKERS
from pyspark.sql import SparkSession

from jobs import learn_factors
from tests import table_snapshots
from tests.builders import SHOP, Shop, event
from tests.fault_injection import Crashes
from tests.learner_logs import LOGS, FactorsLog
from tests.naive_als import DAY, Event, NaiveAls
from tests.open_readers import assert_all_readers_agree

PARAMS = AlsParams(k=4, max_events_per_user=6, reweighted_events=2, unobserved_weight=6.0)
WEIGHTS = {"view": 1.0, "purchase": 5.0, "return": -5.0}
ITEM_IDS = ("i0", "i 1", 'i"2"', "i🛒", "i4", "x" * 10_000)


def _event(n: int) -> dict[str, Any]:
    """Every eleventh event has no user, every seventh no item, and every fifth is one day late."""
    at = n * 3600 - (86_400 if n % 5 == 0 else 0) + 864_000
    return event(
        n, kind=("view", "purchase", "view", "return")[n % 4], who=None if n % 11 == 0 else f"u{n % 13}",
        what=None if n % 7 == 0 else ITEM_IDS[n * 5 % len(ITEM_IDS)],
        at=f"2026-01-{1 + at // 86_400:02}T{at // 3600 % 24:02}:{at // 60 % 60:02}:00Z",
    )  # fmt: skip


def _shop(home: Path, first_full_passes: int = 0, full_passes: int = 0) -> Shop:
    names = ("k", "max_events_per_user", "reweighted_events", "unobserved_weight")
    values = {name: getattr(PARAMS, name) for name in names}
    values |= {"first_full_passes": first_full_passes, "full_passes": full_passes}
    lines = "".join(f"{name} = {value}\n" for name, value in values.items())
    return Shop(home, extra_settings=f"[learn.factors]\nenabled = true\n{lines}")


def _add_events(spark: SparkSession, shop: Shop, n: int) -> None:
    shop.append_events(spark, [_event(m) for m in range(n * 20, n * 20 + 20)], batch_id=n)


def _learn(spark: SparkSession, shop: Shop) -> None:
    streaming.run(spark, stage.queries(FactorsSpec, shop.settings()), shop.settings(), RunOptions())


def _batches(spark: SparkSession, shop: Shop) -> list[list[Event]]:
    """The events with user and item in the table `events`, by batch."""
    events = spark.read.format("delta").load(str(shop.home / "warehouse" / "events"))
    rows = events.where("user_id IS NOT NULL AND item_id IS NOT NULL").selectExpr(
        "batch_id", "user_id", "item_id", "event_type", "unix_micros(event_time) AS time"
    )
    batches: dict[int, list[Event]] = {}
    for row in rows.collect():
        weight = WEIGHTS[row["event_type"]]
        batches.setdefault(row["batch_id"], []).append(Event(row["user_id"], row["item_id"], weight, row["time"]))
    return [batch for _, batch in sorted(batches.items())]


def _naive_model(spark: SparkSession, shop: Shop) -> NaiveAls:
    """Plain loops over the same batches."""
    naive = NaiveAls(PARAMS)
    for batch in _batches(spark, shop):
        naive.learn(batch)
    return naive


def _assert_equal(vectors: dict[tuple[str, str], Any], naive: NaiveAls) -> None:
    expected = {("user", key): row["p"] for key, row in naive.users.items()}
    expected |= {("item", key): row["q"] for key, row in naive.items.items()}
    assert vectors.keys() == expected.keys()
    for key, vector in expected.items():
        np.testing.assert_allclose(vectors[key], vector, rtol=1e-3, atol=1e-5, err_msg=str(key))


def test_vectors_equal_plain_loops(spark: SparkSession, tmp_path: Path) -> None:
    """The stage runs after each batch: a commit of `events` has one file per date, and a run could split it."""
    shop = _shop(tmp_path)
    for n in range(3):
        _add_events(spark, shop, n)
        _learn(spark, shop)
    naive = _naive_model(spark, shop)
    _assert_equal(table_snapshots.factor_vectors(spark, shop.settings()), naive)
    assert_all_readers_agree(spark, FactorsSpec(shop.settings()).table.path(shop.settings().paths), "tail_weight")
    paths = shop.settings().paths
    row = FactorsSpec(shop.settings()).table.read(spark, paths).where("side = 'global'").first()
    assert row is not None
    assert row["as_of"].timestamp() * 1e6 == naive.now
    assert naive.now > 10 * DAY
    _assert_evaluated(spark, shop)


def _assert_evaluated(spark: SparkSession, shop: Shop) -> None:
    """Late rows, evaluated users and event times are those by plain loops; with six items, each recall is 1."""
    rows = shop.read(spark, tables.MODEL_METRICS).collect()
    metrics = {(row["batch_id"], row["model"], row["metric"]): row for row in rows}
    names = [metric.name for metric in FactorsSpec.metrics if metric.weighted_by == "users"]
    assert metrics.keys() == {
        (batch_id, model, name)
        for batch_id in (1, 2)
        for model, names_of_model in (*[(ranker, names) for ranker in RANKERS], ("all", ["late_rows"]))
        for name in names_of_model
    }
    naive = NaiveAls(PARAMS)
    for batch_id, batch in enumerate(_batches(spark, shop)):
        scored = _scored_events(naive, batch)
        for (_, model, name), row in metrics.items():
            if row["batch_id"] == batch_id:
                times = [int(row[column].timestamp() * 1e6) for column in ("state_as_of", "rows_from", "rows_to")]
                assert times == [naive.now, min(e.time for e in scored), max(e.time for e in scored)]
                assert times[0] < times[1]
                assert row["weight"] == (1 if model == "all" else len({e.user for e in scored}))
                assert name not in ("recall_10", "recall_20") or row["value"] == 1
        if batch_id:
            late = [e for e in batch if e.time <= naive.now]
            assert metrics[batch_id, "all", "late_rows"]["value"] == len(late) > 0
        naive.learn(batch)


def _scored_events(naive: NaiveAls, batch: list[Event]) -> list[Event]:
    """Events of the batch that are newer than the state, of a known item that is new to the user."""
    scored = []
    for user in {e.user for e in batch}:
        events = [e for e in batch if e.user == user]
        stored = naive.users[user]["stored"] if user in naive.users else []
        owned = {item for _, item, weight, _ in stored if weight > 0}
        for e, (_, _, weight, _) in zip(events, naive.effective_events(stored, events), strict=True):
            if e.time > naive.now and weight > 0 and e.item in naive.items and e.item not in owned:
                scored.append(e)
    return scored


def test_full_passes_run_on_the_first_batch_when_events_have_doubled_and_on_request(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = _shop(tmp_path, first_full_passes=2, full_passes=1)
    for batches in ((0,), (1, 2), (3,)):
        for n in batches:
            _add_events(spark, shop, n)
        _learn(spark, shop)
    first, *middle, last = _batches(spark, shop)
    second = [event for batch in middle for event in batch]
    naive = NaiveAls(PARAMS)
    naive.full_pass(first)
    naive.full_pass(first)
    naive.learn(second)
    assert len(first + second) >= 2 * len(first)
    naive.full_pass(first + second)
    naive.learn(last)
    _assert_equal(table_snapshots.factor_vectors(spark, shop.settings()), naive)
    assert learn_factors.main(["--config", str(shop.config()), "--full-pass"]) == 0
    naive.full_pass(first + second + last)
    _assert_equal(table_snapshots.factor_vectors(spark, shop.settings()), naive)
    assert f"full pass over {len(first + second + last)} events" in capsys.readouterr().out


def test_vectors_of_ratings_equal_plain_loops(spark: SparkSession, tmp_path: Path) -> None:
    mapping = SHOP.replace("quantity string", "quantity string, stars string") + 'rating = "stars"\n'
    lines = "k = 3\nmax_events_per_user = 6\nreweighted_events = 2\nfirst_full_passes = 0\nfull_passes = 0\n"
    shop = Shop(tmp_path, mapping, extra_settings=f'[learn.factors]\nenabled = true\nmode = "explicit"\n{lines}')
    batches = []
    for begin in (0, 20):
        raw = [event(n, kind="rate", who=f"u{n % 4}", stars=str(1 + n * n % 5)) for n in range(begin, begin + 20)]
        view = event(begin + 90)  # has no rating
        shop.append_events(spark, [*raw, view], batch_id=begin)
        _learn(spark, shop)
        times = [1_767_261_600_000_000 + 60_000_000 * n for n in range(begin, begin + 20)]  # from 2026-01-01T10:00
        batches.append(
            [
                Event(f"shop:{e['who']}", f"shop:{e['what']}", 1.0, time, float(e["stars"]))
                for e, time in zip(raw, times, strict=True)
            ]
        )
    ratings = [e.rating for e in batches[0]]
    naive = NaiveAls(FactorsSpec(shop.settings()).params, mean_rating=sum(ratings) / len(ratings))
    for batch in batches:
        naive.learn(batch)
    _assert_equal(table_snapshots.factor_vectors(spark, shop.settings()), naive)
    metrics = shop.read(spark, tables.MODEL_METRICS).where("metric = 'rmse'").collect()
    learned_items = {e.item for e in batches[0]}
    predicted = [e for e in batches[1] if e.item in learned_items]
    assert [(row["model"], row["batch_id"], row["weight"]) for row in metrics] == [("factors", 1, len(predicted))]
    assert all(0.1 < row["value"] < 4 for row in metrics)


def test_crashes_around_writes_and_the_number_of_partitions_change_nothing(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = _shop(tmp_path)
    _add_events(spark, shop, 0)
    partitions = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    settings = shop.settings()
    assert crashes.run_through(stage.queries(FactorsSpec, settings), settings, batch_id=0) == 3
    spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
    _assert_equal(table_snapshots.factor_vectors(spark, shop.settings()), _naive_model(spark, shop))


@pytest.mark.long  # without Spark: test_als.py
def test_the_number_of_partitions_does_not_change_the_metrics(spark: SparkSession, tmp_path: Path) -> None:
    """Half of the users are evaluated, and every rating has an error."""
    log = LOGS["ratings"]
    assert isinstance(log, FactorsLog)
    log = replace(log, settings=f"{log.settings}eval_users = 3\n")
    rows = []
    for partitions in (1, 5):
        with conf_set(spark, {"spark.sql.shuffle.partitions": str(partitions)}):
            rows.append(log.learned_rows(spark, tmp_path / str(partitions))["model_metrics"].to_pylist())
    weights = {(row["model"], row["metric"]): row["weight"] for row in rows[0]}
    users = {row["user_id"] for row in log.batches()[1].to_pylist()}
    assert 0 < weights["factors", "recall_10"] < len(users) < weights["factors", "rmse"]
    assert rows[1] == [{**row, "value": pytest.approx(row["value"])} for row in rows[0]]


def test_a_retry_does_not_undo_a_full_pass_that_ran_after_the_crash(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = _shop(tmp_path)
    _add_events(spark, shop, 0)
    _learn(spark, shop)
    _add_events(spark, shop, 1)

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("crash before factors")

    with monkeypatch.context() as patch, pytest.raises(Exception, match="crash before factors"):
        patch.setattr(commits, "merge", crash)
        _learn(spark, shop)
    stage.run_full_pass(spark, shop.settings(), FactorsSpec)
    _learn(spark, shop)
    first, second = _batches(spark, shop)
    naive = NaiveAls(PARAMS)
    naive.learn(first)
    naive.full_pass(first)
    naive.learn(second)
    _assert_equal(table_snapshots.factor_vectors(spark, shop.settings()), naive)


def test_another_vector_length_is_refused_until_a_rebuild(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = _shop(tmp_path)
    _add_events(spark, shop, 0)
    config = ["--config", str(shop.config())]
    assert learn_factors.main(config) == 0
    shorter = [*config, "--set", "learn.factors.k=3"]
    assert learn_factors.main(shorter) == 3
    message = capsys.readouterr().err
    assert "table factors was derived by another declaration" in message and "--rebuild" in message.splitlines()[-1]
    assert learn_factors.main([*shorter, "--rebuild"]) == 0
    shop.overrides = ["learn.factors.k=3"]
    assert {len(vector) for vector in table_snapshots.factor_vectors(spark, shop.settings()).values()} == {3}
    assert learn_factors.main([*shorter, "--set", "learn.factors.eval_users=7"]) == 0  # does not change vectors
    assert learn_factors.main([*config, "--set", "derive.event_weights.view=nan", "--check"]) == 2
    assert "weights must be finite numbers: ['view']" in capsys.readouterr().err
