"""learn_outcome_examples and learn_outcomes over the tables of a shop: examples equal plain Python over the log."""

import random
from dataclasses import replace
from typing import Any

import pytest
from profilestream.base import settings as settings_module
from profilestream.base import streaming
from profilestream.base.errors import NothingToDo, Refused
from profilestream.base.queries import RunOptions
from profilestream.learn import publishing, stage
from profilestream.learn.outcomes import matured_examples
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.builders import Shop
from tests.flow.test_windows import ROOT, TileWarehouse
from tests.naive_windows import DAY, Event, Log

# A Monday.
BEGIN = 18_267
DAYS, GRACE = 75, 1
SETTINGS = f"""
[derive]
features = ["{ROOT}/conf/derive/customer_hours.toml"]
[derive.windows]
file = "{ROOT}/conf/derive/windows.toml"
[learn.outcomes]
enabled = true
file = "{ROOT}/conf/outcomes.toml"
"""
HORIZONS = {"purchase_7d": 7, "purchase_28d": 28, "churn_60d": 60, "spend_28d": 28, "return_28d": 28}
Rows = dict[tuple[int, str, int], dict[str, Any]]


def purchases(days: range, seed: int = 0, users: int = 12) -> Log:
    """Events of each user at random days and hours; the first user is most active, and some events are returns."""
    rng = random.Random(seed)
    log = []
    for day in days:
        for user in range(users):
            if rng.random() < 0.5 / (1 + user / 2):
                at = (BEGIN + day) * DAY + rng.randrange(DAY)
                kind = "purchase" if rng.random() < 0.85 else "return"
                log.append(
                    Event(at, f"{day} {user}", kind, f"u{user}", f"i{rng.randrange(9)}", "c", order_id=f"{day} {user}",
                          price=1.0, value=float(rng.randrange(1, 50)))
                )  # fmt: skip
    return log


@pytest.fixture
def warehouse(spark: SparkSession, tmp_path: Any) -> TileWarehouse:
    return TileWarehouse(spark, Shop(tmp_path, extra_settings=SETTINGS).settings())


def stored(warehouse: TileWarehouse) -> Rows:
    """The rows by horizon, user and day."""
    rows = matured_examples.TABLE.read(warehouse.spark, warehouse.settings.paths)
    rows = rows.withColumns({name: F.unix_micros(name) for name in ("at", "matures_at")})
    collected = [row.asDict() for row in rows.drop("epoch", "batch_id").collect()]
    by_key = {(row["horizon_days"], row["user_id"], row["at"] // DAY): row for row in collected}
    assert len(by_key) == len(collected), "a row is stored twice"
    return by_key


def expected_labels(log: Log, user: str, day: int, horizon: int) -> dict[str, float]:
    later = [one for one in log if one.user_id == user and day * DAY <= one.at < (day + horizon) * DAY]
    earlier = [one.at for one in log if one.user_id == user and one.at < day * DAY and one.event_type == "purchase"]
    spend = sum(one.value or 0.0 for one in later if one.event_type == "purchase")
    days_since = day - max(earlier) / DAY if earlier else 1000
    labels = {
        "purchase_7d": float(spend > 0),
        "purchase_28d": float(spend > 0),
        "churn_60d": float(spend == 0) if days_since <= 60 else None,
        "spend_28d": spend,
        "return_28d": float(any(one.event_type == "return" for one in later)) if days_since <= 28 else None,
    }
    return {name: value for name, value in labels.items() if HORIZONS[name] == horizon and value is not None}


def test_examples_are_appended_when_they_have_matured_and_never_change(warehouse: TileWarehouse) -> None:
    log = purchases(range(DAYS))
    settings, spark = warehouse.settings, warehouse.spark
    warehouse.write_batch(log[: len(log) // 2])
    first = matured_examples.run(spark, settings)
    rows_before = stored(warehouse)
    assert first == len(rows_before) > 0
    warehouse.write_batch(log[len(log) // 2 :])
    # A single event of the future, and late events of matured times.
    late = purchases(range(14), seed=1)
    warehouse.write_batch([replace(log[-1], at=(BEGIN + 3000) * DAY, event_id="future")])
    assert matured_examples.run(spark, settings) > 0
    assert matured_examples.run(spark, settings) == 0
    warehouse.write_batch([replace(one, event_id=f"late {one.event_id}") for one in late])
    assert matured_examples.run(spark, settings) == 0

    rows, newest = stored(warehouse), max(one.at for one in log) // DAY
    assert {key: rows[key] for key in rows_before} == rows_before
    mature = {
        (horizon, user, day): labels
        for horizon in sorted(set(HORIZONS.values()))
        for day in range(BEGIN, newest - horizon - GRACE + 1, 7)
        for user in sorted({one.user_id for one in log if one.user_id and one.at < day * DAY})
        if (labels := expected_labels(log, user, day, horizon))
    }
    assert {key: dict(row["labels"]) for key, row in rows.items()} == mature


def test_features_are_those_of_the_time_of_the_row(warehouse: TileWarehouse) -> None:
    log = purchases(range(60))
    warehouse.write_batch(log)
    matured_examples.run(warehouse.spark, warehouse.settings)
    for (_, user, day), row in stored(warehouse).items():
        names = row["feature_names"].split(",")
        values = dict(zip(names, row["features"], strict=True))
        bought = [one for one in log if one.user_id == user and one.event_type == "purchase" and one.at < day * DAY]
        assert values["orders_28d"] == sum(one.at >= (day - 28) * DAY for one in bought)
        assert values["value_lifetime"] == pytest.approx(sum(one.value or 0.0 for one in bought))
        ages = [day - one.at / DAY for one in bought]
        assert values["recency"] == pytest.approx(min(ages, default=1000))
        assert values["recent_lines_28_lifetime"] == pytest.approx(sum(2 ** (-age / 28) for age in ages))
        assert values["overdue"] == pytest.approx(
            values["recency"] / max((max(ages, default=0) - min(ages, default=0) + 30) / max(len(bought), 1), 1)
        )


def test_a_removed_feature_is_refused_and_a_new_one_at_the_end_is_not(warehouse: TileWarehouse, tmp_path: Any) -> None:
    warehouse.write_batch(purchases(range(20)))
    matured_examples.run(warehouse.spark, warehouse.settings)
    shipped, file = (ROOT / "conf" / "outcomes.toml").read_text(), tmp_path / "own.toml"
    settings = Shop(tmp_path, extra_settings=SETTINGS.replace(f"{ROOT}/conf/outcomes.toml", str(file))).settings()
    file.write_text(shipped + "weekend_lines_lifetime = {}\n")
    assert matured_examples.run(warehouse.spark, settings) == 0
    file.write_text(shipped.replace("tenure = { is_log = true }\n", ""))
    with pytest.raises(Refused, match="add new features at the end"):
        matured_examples.run(warehouse.spark, settings)


def test_without_events_there_is_nothing_to_do(spark: SparkSession, tmp_path: Any) -> None:
    with pytest.raises(NothingToDo, match="there are no tables"):
        matured_examples.run(spark, Shop(tmp_path, extra_settings=SETTINGS).settings())


def models(warehouse: TileWarehouse) -> dict[tuple[str, Any], Any]:
    """Coefficients by outcome and version."""
    rows = OutcomesSpec(warehouse.settings).tables[0].read(warehouse.spark, warehouse.settings.paths).collect()
    return {(row.outcome, row.valid_from): row.coefficients for row in rows}


def test_models_learn_the_examples(warehouse: TileWarehouse) -> None:
    warehouse.write_batch(purchases(range(120), users=30))
    matured_examples.run(warehouse.spark, warehouse.settings)
    streaming.run(warehouse.spark, stage.queries(OutcomesSpec, warehouse.settings), warehouse.settings, RunOptions())
    spec = OutcomesSpec(warehouse.settings)
    rows = spec.tables[0].read(warehouse.spark, warehouse.settings.paths)
    applies = {row.outcome: row.n for row in rows.groupBy("outcome").agg(F.max("applies").alias("n")).collect()}
    weeks = {name: len(range(7, 120 - horizon - GRACE, 7)) for name, horizon in HORIZONS.items()}
    assert applies["purchase_7d"] >= weeks["purchase_7d"] - 1
    assert applies["churn_60d"] >= weeks["churn_60d"] - 1

    by_driver = models(warehouse)
    in_spark = settings_module.load(warehouse.settings.config_file, ["stream.local_max_rows=0"])
    rebuild = RunOptions(rebuild=(OutcomesSpec.stage_name(),))
    streaming.run(warehouse.spark, stage.queries(OutcomesSpec, in_spark), in_spark, rebuild)
    by_spark = models(warehouse)
    assert by_spark.keys() == by_driver.keys()
    assert all(by_spark[key] == pytest.approx(by_driver[key], rel=1e-6, abs=1e-9) for key in by_driver)

    publication = spec.publication
    assert publication is not None
    assert "champion" in publishing.publish(warehouse.spark, warehouse.settings, publication)
    _, published = publishing.read(warehouse.spark, warehouse.settings, publication, "champion")
    assert {row.outcome for row in published.collect()} >= set(HORIZONS) - {"churn_90d"}
