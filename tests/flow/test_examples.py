"""Training rows are what plain Python counts before a time and from it on; a planted leak is caught."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow.parquet as pq
import pytest
from profilestream.derive.point_in_time import features_as_of
from profilestream.learn import leakage_check, training_examples
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import learn_examples
from tests import naive_windows as naive
from tests.builders import Shop
from tests.flow.test_windows import ROOT, Tiled, by_key, hash_of, line_of, online_retail, rees46, shop_of
from tests.naive_windows import DAY, HOUR, Event, Log
from tests.open_readers import assert_all_readers_agree

STEP, ACTIVE, LATENESS = 2 * HOUR, 2 * DAY, HOUR
# REES46 goes from midnight to ten to three; at 2 o'clock a day has passed to the microsecond, at 4 it has not.
REES46 = 18_170 * DAY
NEWEST = REES46 + 2 * HOUR + DAY + LATENESS
COUNTED = ("events_1h", "events_7d", "events_lifetime", "value_3d", "items_3d", "price_mean_lifetime")
SETTINGS = """
[learn.examples]
file = "{home}/labels.toml"
features = ["{features}", "last_purchase_lifetime", "score", "days_since_purchase"]
every = "2h"
active_within = "2d"
lateness = "1h"
"""
LABELS = """
[labels.purchase]
question = "Does the user buy?"
unit = "true or false"
kind = "count"
where = "event_type = 'purchase'"
reading = "${value} > 0"
reading_type = "boolean"
nulls = "false"
horizons = ["1h", "1d"]
[labels.churn]
question = "Does the user stay away?"
unit = "true or false"
kind = "count"
reading = "${value} = 0"
reading_type = "boolean"
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
SPENT = {"purchase": 1, "return": -1}
OUTCOMES: dict[str, tuple[int, Callable[[Log], Any]]] = {
    "purchase_1h": (HOUR, lambda log: any(e.event_type == "purchase" for e in log)),
    "purchase_1d": (DAY, lambda log: any(e.event_type == "purchase" for e in log)),
    "churn_2d": (2 * DAY, lambda log: not log),
    "next_category_1d": (DAY, lambda log: min(((e.at, e.event_id, e.category) for e in log), default=(None,))[-1]),
    "spend_2d": (2 * DAY, lambda log: sum(SPENT.get(e.event_type, 0) * (e.value or 0.0) for e in log)),
}


def complete_journey() -> Log:
    """Three weeks of three households."""
    table = pq.read_table(ROOT / "data" / "complete_journey" / "transactions_2017_fifth.parquet")
    mine = [row for row in table.slice(0, 18_000).to_pylist() if row["household_id"] in (1795, 575, 2115)]
    return [
        line_of(n, f"j{row['basket_id']}", f"{row['transaction_timestamp']}", f"j{row['household_id']}",
                f"j{hash_of(str(row['product_id']), 9)}", "purchase", row["sales_value"], 1.0)
        for n, row in enumerate(mine)
    ]  # fmt: skip


def _log() -> Log:
    """All three; every fifth event at a whole step, so that many happen at the time of a row; the last is a guest's."""
    log = [*online_retail(), *complete_journey(), *rees46()]
    moved = [replace(e, at=e.at // STEP * STEP) if n % 5 == 0 else e for n, e in enumerate(log)]
    return [*moved, Event(at=NEWEST, event_id="end", event_type="view", item_id="i1", category="ci1")]


@dataclass
class Made:
    """Training rows that the job has made, and what they were made of."""

    tiled: Tiled
    shop: Shop

    def main(self, *flags: str) -> int:
        """The exit code of the job."""
        return learn_examples.main(["--config", str(self.shop.config()), *flags])

    def rows(self, of: str = "all") -> DataFrame:
        """The stored rows of a set."""
        settings = self.tiled.settings
        return training_examples.table(settings).read(self.tiled.spark, settings.paths).where(F.col("set_name") == of)


@pytest.fixture(scope="module")
def made(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("examples")
    (home / "labels.toml").write_text(LABELS)
    shop = shop_of(home, SETTINGS.format(home=home, features='", "'.join(COUNTED)), ("user",))
    tiled = Tiled(_session, shop.settings())
    tiled.take(_log())
    found = Made(tiled, shop)
    assert found.main() == 0
    return found


def _stands(log: Log) -> list[int]:
    """The times at which a user has a row."""
    steps = range(min(e.at for e in log) // STEP * STEP, NEWEST - LATENESS - HOUR + 1, STEP)
    return [at for at in steps if any(at - ACTIVE <= e.at < at for e in log)]


def _by_user(log: Log) -> dict[str, Log]:
    found = defaultdict(list)
    for e in log:
        if e.user_id:
            found[e.user_id].append(e)
    return found


def test_features_and_labels_are_what_plain_python_counts_on_three_real_logs(made: Made) -> None:
    found = by_key(made.rows(), ["user_id"])
    users = _by_user(made.tiled.log)
    assert {user[0] for user in users} == {"r", "s", "j"}
    assert found.keys() == {(user, at) for user, log in users.items() for at in _stands(log)}
    for (user, at), got in found.items():
        for name in COUNTED:
            want = naive.said(users[user], at, name)
            assert got[name] == (want and pytest.approx(want, rel=1e-9)), f"{name} of {user} at {at}"
        last = naive.said(users[user], at, "last_purchase_lifetime")
        assert got["last_purchase_lifetime"] == last
        assert got["days_since_purchase"] == (last and pytest.approx((at - last) / DAY))
        for name, (length, says) in OUTCOMES.items():
            want = says([e for e in users[user] if at <= e.at < at + length])
            is_known = at + length <= NEWEST - LATENESS
            assert got[name] == ((want and pytest.approx(want)) if is_known else None), f"{name} of {user} at {at}"
    one, later = (found["s1", REES46 + n * HOUR] for n in (2, 4))
    assert one["purchase_1d"] is not None and later["purchase_1d"] is None and later["purchase_1h"] is not None
    assert one["matured_until"] == NEWEST - LATENESS
    at_the_time = sum(e.at == at for (user, at) in found for e in users[user])
    assert at_the_time > 100, "events at the very time of a row are what most leaks are made of"
    _assert_scored(found, users)


def _assert_scored(found: dict[tuple[Any, ...], Any], users: dict[str, Log]) -> None:
    """A score is against all users seen before, also those without a row."""
    for (user, at), got in list(found.items())[::50]:
        counts = {one: len(naive.within(log, at, "7d")) for one, log in users.items() if any(e.at < at for e in log)}
        mean = sum(counts.values()) / len(counts)
        deviation = (sum((n - mean) ** 2 for n in counts.values()) / len(counts)) ** 0.5
        assert got["score"] == pytest.approx((counts[user] - mean) / deviation if deviation else 0.0)


def test_a_drawn_set_holds_the_same_rows_again_and_again_beside_the_others(made: Made) -> None:
    drawn = ("--set", "learn.examples.set_name=few", "--set", "learn.examples.share=0.3")
    narrow = ("--set", "learn.examples.per_user=2", "--set", "learn.examples.since=2010-12-04")
    before = by_key(made.rows(), ["user_id"])
    assert made.main(*drawn, *narrow, "--set", "learn.examples.until=2017-01-20") == 0
    few = by_key(made.rows("few"), ["user_id"])
    since, until = ((datetime.fromisoformat(f"{day}T00Z") - EPOCH) // MICRO for day in ("2010-12-04", "2017-01-20"))
    assert few.keys() < {key for key in before if since <= key[1] < until}
    times = {user: [at for one, at in few if one == user] for user, _ in few}
    assert len(times) > 5 and max(map(len, times.values())) == 2
    for key, row in few.items():
        # Sums may be added in another order.
        near = {
            name: pytest.approx(one, rel=1e-9) if isinstance(one, float) else one for name, one in before[key].items()
        }
        assert {**row, "set_name": "all"} == near
    assert by_key(made.rows(), ["user_id"]) == before
    settings = made.tiled.settings
    assert_all_readers_agree(made.tiled.spark, training_examples.table(settings).path(settings.paths), "events_7d")

    asked = settings.learn.examples.model_copy(update={"share": 0.3, "seed": 1})
    stands = made.rows().select("user_id", "at").repartition(3)
    one, again = (
        {tuple(row) for row in training_examples.sampled(stands, ["user_id"], asked).collect()} for _ in range(2)
    )
    other = {
        tuple(row)
        for row in training_examples.sampled(stands, ["user_id"], asked.model_copy(update={"seed": 2})).collect()
    }
    assert one == again != other and 0.2 < len(one) / len(before) < 0.4


EPOCH, MICRO = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def test_a_planted_leak_is_caught_and_honest_rows_are_not(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    spark, settings = made.tiled.spark, made.tiled.settings
    features = training_examples.pinned(spark, settings)
    honest = made.rows().where(F.unix_micros("at") == REES46 + 2 * HOUR)
    look = partial(leakage_check.leaks, spark, features=features, times=1)
    assert look(honest) == {}

    later = honest.select("user_id", F.timestamp_micros(F.unix_micros("at") + 1).alias("at"))
    early = features_as_of(spark, later, features).withColumn("at", F.timestamp_micros(F.unix_micros("at") - 1))
    caught = look(early)
    assert {"events_1h", "events_7d", "events_lifetime", "score"} <= caught.keys()
    told = look(honest.withColumn("events_1h", F.col("events_1h") + F.col("purchase_1d").cast("int")))
    assert told.keys() == {"events_1h"}

    assert made.main("--verify", "2") == 0
    assert "none knows what came then or later" in capsys.readouterr().out


def test_rows_are_not_made_of_tiles_that_lack_events(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    tiled = made.tiled
    naive.arrive(tiled.spark, [replace(tiled.log[0], event_id="new", at=REES46)], tiled.settings)
    assert made.main() == 3
    assert "user_hours counts" in capsys.readouterr().err
