"""Training examples: features and labels equal plain Python over the log, and leakage is detected."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow.parquet as pq
import pytest
from profilestream.base import commits
from profilestream.derive.point_in_time import features_as_of
from profilestream.learn.examples import leakage_check, training_examples
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import learn_examples
from tests import naive_windows as naive
from tests.builders import Shop
from tests.flow.test_windows import (
    ROOT,
    TileWarehouse,
    feature_shop,
    log_event,
    online_retail,
    rees46,
    rows_by_key,
    small_hash,
)
from tests.naive_windows import DAY, HOUR, Event, Log
from tests.open_readers import assert_all_readers_agree

INTERVAL, ACTIVE_WITHIN, LABEL_DELAY = 2 * HOUR, 2 * DAY, HOUR
# The log of REES46 covers 00:00 to 02:50. For the time 02:00 the 1-day label is complete to the microsecond; for 04:00
# it is not.
REES46 = 18_170 * DAY
NEWEST = REES46 + 2 * HOUR + DAY + LABEL_DELAY
COUNTED = ("events_1h", "events_7d", "events_lifetime", "value_3d", "items_3d", "price_mean_lifetime")
SETTINGS = """
[learn.examples]
file = "{home}/labels.toml"
features = ["{features}", "last_purchase_lifetime", "zscore", "days_since_purchase"]
interval = "2h"
active_within = "2d"
label_delay = "1h"
"""
LABELS = """
[labels.purchase]
question = "Does the user buy?"
unit = "true or false"
kind = "count"
where = "event_type = 'purchase'"
output = "${value} > 0"
output_type = "boolean"
nulls = "false"
horizons = ["1h", "1d"]
[labels.churn]
question = "Is the user inactive?"
unit = "true or false"
kind = "count"
output = "${value} = 0"
output_type = "boolean"
nulls = "true"
horizons = ["2d"]
[labels.next_category]
question = "Which category is next?"
unit = "category"
kind = "first"
of = "category"
type = "string"
horizons = ["1d"]
[labels.spend]
question = "How much does the user spend?"
unit = "money"
kind = "sum"
of = "value"
weight = "CASE event_type WHEN 'return' THEN -1 ELSE 1 END"
where = "event_type IN ('purchase', 'return')"
horizons = ["2d"]
"""
SIGNS = {"purchase": 1, "return": -1}
# Horizon of each label, and its value over the events in the horizon.
EXPECTED_LABELS: dict[str, tuple[int, Callable[[Log], Any]]] = {
    "purchase_1h": (HOUR, lambda log: any(e.event_type == "purchase" for e in log)),
    "purchase_1d": (DAY, lambda log: any(e.event_type == "purchase" for e in log)),
    "churn_2d": (2 * DAY, lambda log: not log),
    "next_category_1d": (DAY, lambda log: min(((e.at, e.event_id, e.category) for e in log), default=(None,))[-1]),
    "spend_2d": (2 * DAY, lambda log: sum(SIGNS.get(e.event_type, 0) * (e.value or 0.0) for e in log)),
}
EPOCH, MICRO = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def complete_journey() -> Log:
    """Three weeks of three households."""
    table = pq.read_table(ROOT / "data" / "complete_journey" / "transactions_2017_fifth.parquet")
    rows = [row for row in table.slice(0, 18_000).to_pylist() if row["household_id"] in (1795, 575, 2115)]
    return [
        log_event(n, f"j{row['basket_id']}", f"{row['transaction_timestamp']}", f"j{row['household_id']}",
                  f"j{small_hash(str(row['product_id']), 9)}", "purchase", row["sales_value"], 1.0)
        for n, row in enumerate(rows)
    ]  # fmt: skip


def complete_log() -> Log:
    """Three real logs. Every fifth event is moved to a multiple of the interval, the time of a row; a guest is last."""
    log = [*online_retail(), *complete_journey(), *rees46()]
    moved = [replace(e, at=e.at // INTERVAL * INTERVAL) if n % 5 == 0 else e for n, e in enumerate(log)]
    return [*moved, Event(at=NEWEST, event_id="end", event_type="view", item_id="i1", category="ci1")]


@dataclass
class ExampleWarehouse:
    """Tiles of users, and the training examples that the job wrote from them."""

    tiles: TileWarehouse
    shop: Shop

    def run_job(self, *flags: str) -> int:
        """The exit code of the job."""
        return learn_examples.main(["--config", str(self.shop.config()), *flags])

    def rows(self, set_name: str = "all") -> DataFrame:
        """The stored rows of a set."""
        settings = self.tiles.settings
        rows = training_examples.table(settings).read(self.tiles.spark, settings.paths)
        return rows.where(F.col("set_name") == set_name)


@pytest.fixture(scope="module")
def warehouse(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> ExampleWarehouse:
    home = tmp_path_factory.mktemp("examples")
    (home / "labels.toml").write_text(LABELS)
    shop = feature_shop(home, SETTINGS.format(home=home, features='", "'.join(COUNTED)), ("user",))
    tiles = TileWarehouse(_session, shop.settings())
    tiles.write_batch(complete_log())
    examples = ExampleWarehouse(tiles, shop)
    assert examples.run_job() == 0
    return examples


def _row_times(log: Log) -> list[int]:
    """The times at which a user has a row."""
    last = NEWEST - LABEL_DELAY - HOUR
    times = range(min(e.at for e in log) // INTERVAL * INTERVAL, last + 1, INTERVAL)
    return [at for at in times if any(at - ACTIVE_WITHIN <= e.at < at for e in log)]


def _by_user(log: Log) -> dict[str, Log]:
    logs = defaultdict(list)
    for e in log:
        if e.user_id:
            logs[e.user_id].append(e)
    return logs


def test_features_and_labels_equal_plain_python_on_three_real_logs(warehouse: ExampleWarehouse) -> None:
    rows = rows_by_key(warehouse.rows(), ["user_id"])
    logs = _by_user(warehouse.tiles.log)
    assert {user[0] for user in logs} == {"r", "s", "j"}
    assert rows.keys() == {(user, at) for user, log in logs.items() for at in _row_times(log)}
    for (user, at), row in rows.items():
        _assert_features(row, logs[user], at)
        for name, (horizon, label) in EXPECTED_LABELS.items():
            value = label([e for e in logs[user] if at <= e.at < at + horizon])
            is_complete = at + horizon <= NEWEST - LABEL_DELAY
            expected = (value and pytest.approx(value)) if is_complete else None
            assert row[name] == expected, f"{name} of {user} at {at}"
    at_2, at_4 = (rows["s1", REES46 + n * HOUR] for n in (2, 4))
    assert at_2["purchase_1d"] is not None and at_4["purchase_1d"] is None and at_4["purchase_1h"] is not None
    assert at_2["labels_complete_until"] == NEWEST - LABEL_DELAY
    events_at_row_times = sum(e.at == at for user, at in rows for e in logs[user])
    assert events_at_row_times == 294, "most leaks are events at exactly the time of a row"
    _assert_zscores(rows, logs)


def _assert_features(row: dict[str, Any], log: Log, at: int) -> None:
    for name in COUNTED:
        value = naive.feature_value(log, at, name)
        assert row[name] == (value and pytest.approx(value, rel=1e-9)), f"{name} of {row['user_id']} at {at}"
    last_purchase = naive.feature_value(log, at, "last_purchase_lifetime")
    assert row["last_purchase_lifetime"] == last_purchase
    assert row["days_since_purchase"] == (last_purchase and pytest.approx((at - last_purchase) / DAY))


def _assert_zscores(rows: dict[tuple[Any, ...], Any], logs: dict[str, Log]) -> None:
    """A z-score is relative to all users with an earlier event, including users without a row."""
    for (user, at), row in list(rows.items())[::50]:
        counts = {
            one: len(naive.events_in_window(log, at, "7d")) for one, log in logs.items() if any(e.at < at for e in log)
        }
        mean = sum(counts.values()) / len(counts)
        deviation = (sum((n - mean) ** 2 for n in counts.values()) / len(counts)) ** 0.5
        assert row["zscore"] == pytest.approx((counts[user] - mean) / deviation if deviation else 0.0)


def test_a_sampled_set_has_the_values_of_the_complete_set_and_leaves_other_sets_unchanged(
    warehouse: ExampleWarehouse,
) -> None:
    overrides = ["set_name=few", "sample_fraction=0.3", "max_times_per_user=2", "since=2010-12-04", "until=2017-01-20"]
    flags = [flag for override in overrides for flag in ("--set", f"learn.examples.{override}")]
    before = rows_by_key(warehouse.rows(), ["user_id"])
    table = training_examples.table(warehouse.tiles.settings)
    versions = []
    for _ in range(2):  # the second run has the same inputs
        assert warehouse.run_job(*flags) == 0
        versions.append(commits.version(warehouse.tiles.spark, table, warehouse.tiles.settings.paths))
    assert versions[0] == versions[1]
    few = rows_by_key(warehouse.rows("few"), ["user_id"])
    since, until = ((datetime.fromisoformat(f"{day}T00Z") - EPOCH) // MICRO for day in ("2010-12-04", "2017-01-20"))
    assert few.keys() < {key for key in before if since <= key[1] < until}
    times = {user: [at for one, at in few if one == user] for user, _ in few}
    assert len(times) == 11 and max(map(len, times.values())) == 2
    for key, row in few.items():
        # Sums may be added in another order.
        expected = {
            name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            for name, value in before[key].items()
        }
        assert {**row, "set_name": "all"} == expected
    assert rows_by_key(warehouse.rows(), ["user_id"]) == before
    settings = warehouse.tiles.settings
    path = training_examples.table(settings).path(settings.paths)
    assert_all_readers_agree(warehouse.tiles.spark, path, "events_7d")


def test_a_sample_depends_on_the_seed_only_and_has_the_requested_fraction(warehouse: ExampleWarehouse) -> None:
    times = warehouse.rows().select("user_id", "at")
    examples = warehouse.tiles.settings.learn.examples

    def sample(partitions: int, seed: int) -> set[tuple[Any, ...]]:
        config = examples.model_copy(update={"sample_fraction": 0.3, "seed": seed})
        rows = training_examples.sample_times(times.repartition(partitions), ["user_id"], config)
        return {tuple(row) for row in rows.collect()}

    first = sample(3, seed=1)
    assert first == sample(2, seed=1) != sample(3, seed=2)
    count = times.count()
    assert len(first) == pytest.approx(0.3 * count, abs=3 * (0.3 * 0.7 * count) ** 0.5)  # 3 standard deviations


def test_planted_leaks_are_detected_and_correct_rows_are_not_reported(
    warehouse: ExampleWarehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    spark, settings = warehouse.tiles.spark, warehouse.tiles.settings
    features = training_examples.features_at_current_versions(spark, settings)
    correct = warehouse.rows().where(F.unix_micros("at") == REES46 + 2 * HOUR)
    find_leaks = partial(leakage_check.find_leaks, spark, features=features, times=1)
    assert find_leaks(correct) == {}

    one_later = correct.select("user_id", F.timestamp_micros(F.unix_micros("at") + 1).alias("at"))
    shifted = features_as_of(spark, one_later, features)
    leaks = find_leaks(shifted.withColumn("at", F.timestamp_micros(F.unix_micros("at") - 1)))
    assert {"events_1h", "events_7d", "events_lifetime", "zscore"} <= leaks.keys()
    with_label = correct.withColumn("events_1h", F.col("events_1h") + F.col("purchase_1d").cast("int"))
    assert find_leaks(with_label) == {"events_1h": correct.where("purchase_1d").count()}

    assert warehouse.run_job("--verify", "2") == 0
    assert "no leakage at 2 times" in capsys.readouterr().out


def test_tiles_that_lack_events_are_refused(warehouse: ExampleWarehouse, capsys: pytest.CaptureFixture[str]) -> None:
    tiles = warehouse.tiles
    naive.append_events(tiles.spark, [replace(tiles.log[0], event_id="new", at=REES46)], tiles.settings)
    assert warehouse.run_job() == 3
    assert "user_hours counts" in capsys.readouterr().err
