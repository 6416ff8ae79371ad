"""learn_rankers in the flow: Spark and Arrow tables give the same rows and metrics, also after crashes."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pytest
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.learn import stage
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.rankers.rankers_spec import RankersSpec
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import learn_publish
from tests.builders import Shop, event
from tests.fault_injection import Crashes

BATCH_SIZE = 25
NUMBERS = ("counts", "popularity", "blend_weights", "blend_sums")


def _event(n: int) -> dict[str, Any]:
    """Baskets of two events; every seventh event has no item, every fifth is late, and every eighth is a view."""
    hours = 2 * (n // 2) - (30 if n % 5 == 0 else 0) + 48
    return event(
        n, kind="view" if n % 8 == 0 else "purchase", who=f"u{n // 2 % 6}",
        what=None if n % 7 == 0 else f"i{n * n % 13}",
        at=f"2026-01-{1 + hours // 24:02}T{hours % 24:02}:{n % 2 * 10:02}:00Z",
    )  # fmt: skip


def _by_key(rows: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    history = ("item_baskets", "first_times", "last_times")
    names = ("side", "key", "item_ids", "basket_items", "previous_items", "as_of", *history, *NUMBERS)
    values: list[dict[str, Any]] = rows.select(names).to_pylist()
    return {(row["side"], row["key"]): row for row in values}


def test_spark_and_arrow_tables_give_the_same_rows_and_metrics_and_a_retry_changes_nothing(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = Shop(tmp_path, extra_settings="[learn.rankers]\nenabled = true\nmax_followers = 4\n")
    spec, settings = RankersSpec(shop.settings()), shop.settings()
    (table,) = spec.tables
    memory, expected = MemoryTables(), dict[tuple[str, str], dict[str, Any]]()
    for n in range(2):
        shop.append_events(spark, [_event(m) for m in range(n * BATCH_SIZE, (n + 1) * BATCH_SIZE)], batch_id=n)
        if n == 1:
            crashes.run_through(stage.queries(RankersSpec, settings), settings, batch_id=1)
        else:
            streaming.run(spark, stage.queries(RankersSpec, settings), settings, RunOptions())
        events = spec.select(shop.read(spark, tables.EVENTS).where(F.col("batch_id") == n)).toArrow()
        assert 0 < len(events) < BATCH_SIZE
        learned = spec.learn(LearnerBatch(events, len(events), memory))
        memory = memory.with_learned(spec, learned)
        expected = _by_key(memory.all_rows(table))
        stored = _by_key(shop.read(spark, table).toArrow())
        assert stored.keys() == expected.keys() and (("blend", "all") in stored) == (n == 1)
        for key, row in expected.items():
            for name in NUMBERS:
                # Equations of the weights can be almost singular.
                tolerance = 1e-6 if name == "blend_weights" else 1e-9
                value = stored[key].pop(name) or 0.0
                assert value == pytest.approx(row[name] or 0.0, rel=tolerance, abs=tolerance), (key, name)
            assert stored[key] == {name: value for name, value in row.items() if name in stored[key]}, key
        metrics = shop.read(spark, tables.MODEL_METRICS).where(F.col("batch_id") == n).collect()
        values = {(row["model"], row["metric"]): [row["value"], row["weight"]] for row in metrics}
        assert (n == 0) == (not values)
        if learned.evaluation.times is not None:
            assert values.pop(("all", "late_rows")) == [learned.evaluation.times.late_rows, 1]
        scores = {(ranker, name): v for ranker, one in learned.evaluation.values.items() for name, v in one.items()}
        assert values.keys() == scores.keys()
        for metric, value in values.items():
            assert value == pytest.approx(scores[metric]), metric


@pytest.fixture
def shop(spark: SparkSession, tmp_path: Path) -> Shop:
    """A shop whose events were learned in one batch."""
    shop = Shop(tmp_path, extra_settings="[learn.rankers]\nenabled = true\n", is_tracked=True)
    shop.append_events(spark, [_event(n) for n in range(BATCH_SIZE)])
    streaming.run(spark, stage.queries(RankersSpec, shop.settings()), shop.settings(), RunOptions())
    return shop


def test_the_registered_model_ranks_the_items_of_users(spark: SparkSession, shop: Shop, registry: None) -> None:
    assert learn_publish.main(["--config", str(shop.config()), "--learner", "rankers"]) == 0
    model = mlflow.pyfunc.load_model("models:/rankers@champion")
    predicted = model.predict(pd.DataFrame({"user_id": ["shop:u1", "shop:unknown"]}), params={"top_k": 3})
    row = shop.read(spark, RankersSpec(shop.settings()).tables[0]).where("side = 'user' AND key = 'shop:u1'").first()
    assert row is not None
    own, popular = (list(items) for items in predicted["item_ids"])
    assert len(own) == len(popular) == 3
    assert own[: len(row["item_ids"])] == row["item_ids"][:3]
