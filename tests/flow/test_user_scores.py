"""serve_outcomes: scores of all users as of the newest event, from tiles, events and stored models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from profilestream.base import commits, files, tables
from profilestream.base import settings as settings_module
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.settings import Settings
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.kernels import outcome_scores
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.learn.tracking import MlflowStore
from profilestream.serve.report import queries_outcomes
from profilestream.serve.scores import score_rows, user_scores
from profilestream.serve.scores.score_rows import FeatureWords
from profilestream.serve.users import all_users, user_predictions
from pyspark.sql import SparkSession

from jobs import learn_publish, serve_outcomes
from tests import naive_windows as naive
from tests.builders import Shop
from tests.flow.test_windows import START, TileWarehouse, feature_shop, random_log
from tests.mlflow_store import mlflow_store
from tests.naive_windows import DAY
from tests.open_readers import assert_all_readers_agree
from tests.outcomes_case import LABELS

SETTINGS = """
[learn.outcomes]
file = "{home}/outcomes.toml"
[learn.publish_outcomes]
eval_batches = 5
"""
OUTCOMES = f"""
entity = "user"
{LABELS}[features.events_7d]
is_log = true
[features.value_3d]
[features.price_mean_lifetime]
[outcomes.buy]
label = "buy"
horizon_days = 7
ridge = 10
[outcomes.spend]
label = "spend"
population = "events_7d % 2 = 0"
horizon_days = 7
loss = "poisson"
[outcomes.rare]
label = "buy"
horizon_days = 28
[outcomes.value]
label = "spend"
horizon_days = 28
value_days = 42
loss = "poisson"
"""


def _learned(spec: OutcomesSpec) -> MemoryTables:
    """Models of `buy` and `spend` that are valid before the log; `rare` and `value` have no rows."""
    rng = np.random.default_rng(3)
    features = rng.gamma(2, 10, (300, 3)).round(2)
    buys = (rng.random(300) < 0.2 + 0.02 * features[:, 0].clip(0, 30)).astype(float)
    at, rows = START - 60 * DAY, list[dict[str, object]]()
    for n in range(300):
        labels = [("buy", buys[n]), ("spend", buys[n] * features[n, 1])]
        rows.append({
            "horizon_days": 7, "user_id": f"x{n}", "at": at, "matures_at": at + 8 * DAY,
            "features": features[n].tolist(), "labels": labels,
        })  # fmt: skip
    batch = pa.Table.from_pylist(rows, EXAMPLE)
    return MemoryTables().with_learned(spec, spec.learn(LearnerBatch(batch, len(batch), MemoryTables())))


def test_users_are_scored_as_of_the_newest_event_with_the_features_of_that_time(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = feature_shop(tmp_path, SETTINGS.format(home=tmp_path), entities=("user",))
    (tmp_path / "outcomes.toml").write_text(OUTCOMES)
    settings, log = shop.settings(), random_log()
    # A user whose clock is wrong by years does not move the time of the scores.
    stray = replace(log[0], at=START + 3000 * DAY, event_id="stray", user_id="stray")
    TileWarehouse(spark, settings).write_batch([*log, stray])
    spec = OutcomesSpec(settings)
    assert serve_outcomes.main(["--config", str(shop.config())]) == 2
    models = _learned(spec)
    spec.tables[0].prepare(spark, settings.paths)
    rows = commits.with_batch_columns(models.all_rows(spec.tables[0]), spec.tables[0], Txn("test", "one", 0))
    commits.append_untracked(spark, rows, spec.tables[0], settings.paths)

    assert serve_outcomes.main(["--config", str(shop.config())]) == 0
    users = sorted({e.user_id for e in log if e.user_id is not None})
    assert f"{len(users)} users have scores" in capsys.readouterr().out
    now = max(e.at for e in log if e.user_id is not None)
    features, spent = list[list[Any]](), list[float]()
    for user in users:
        own = [e for e in log if e.user_id == user]
        three_days = naive.purchases(naive.events_in_window(own, now + 1, "3d"))
        all_purchases = naive.purchases(naive.events_in_window(own, now + 1, "lifetime"))
        value = sum(e.value or 0.0 for e in three_days)
        spent.append(sum(e.value or 0.0 for e in own if now - 28 * DAY < e.at <= now))
        features.append([len(naive.events_in_window(own, now + 1, "7d")), value, naive.mean_price(all_purchases)])
    populations = [[True, events % 2 == 0, True, True] for events, *_ in features]
    columns: dict[str, Any] = {"user_id": users, "features": features, "populations": populations}
    frame = pa.table(columns, schema=score_rows.USER)
    scoring = user_scores.scoring_models(spec.models(models), spec.declared, now)
    # A customer value has a score before its first model: the mean label of all users in the last horizon.
    scoring["value"] = user_scores.constant_model(spec.declared, "value", float(np.mean(spent)))
    words = [FeatureWords("?", period, "?") for period in ("last 7d", "last 3d", "complete log")]
    expected = user_scores.score(frame, scoring, spec.declared, words).to_pylist()

    stored = [row.asDict(recursive=True) for row in shop.read(spark, tables.USER_SCORES).collect()]
    actual = {(row["user_id"], row["outcome"]): row for row in stored}
    assert len(expected) == len(actual) < 3 * len(users)
    assert [actual[user, "value"]["score"] for user in users] == pytest.approx([1.5 * np.mean(spent)] * len(users))
    assert sum(spent) > 0
    for row in expected:
        one = actual[row["user_id"], row["outcome"]]
        assert (one["score"], one["probability"] or 0.0) == pytest.approx((row["score"], row["probability"] or 0.0))
        reasons = [(reason.pop("contribution"), reason.pop("value")) for reason in one["reasons"]]
        for (size, value), reason in zip(reasons, row["reasons"], strict=True):
            assert size == pytest.approx(reason.pop("contribution"), abs=1e-9)
            assert value == pytest.approx(reason.pop("value"))
        assert one["reasons"] == row["reasons"]
        assert one["as_of"].timestamp() == pytest.approx(now / 1e6, abs=1e-6)
    assert_all_readers_agree(spark, tables.USER_SCORES.path(settings.paths), "score")

    (by_outcome,) = [
        row["scores"]
        for row in all_users.scores_by_user(shop.read(spark, tables.USER_SCORES)).collect()
        if row["user_id"] == "a"
    ]
    assert by_outcome["buy"] == actual["a", "buy"]["probability"]

    scores = user_predictions.scores(spark, settings, "a")["scores"]
    assert list(scores) == [name for name in spec.declared.outcomes if name in scores] and len(scores) == 2
    label, days = (declared := spec.declared.outcomes["buy"]).label, declared.horizon_days
    question = spec.declared.labels[label].question.removesuffix("?")
    assert scores["buy"] == {
        "question": f"{question} in the next {days} day{'' if days == 1 else 's'}?",
        "days": days,
        "unit": spec.declared.labels[label].unit,
        "probability": actual["a", "buy"]["probability"],
        "score": actual["a", "buy"]["score"],
        "reasons": [reason["text"] for reason in actual["a", "buy"]["reasons"]],
    }

    version = commits.version(spark, tables.USER_SCORES, settings.paths)
    assert user_scores.run(spark, settings) == len(users)
    assert commits.version(spark, tables.USER_SCORES, settings.paths) == version
    recent = settings_module.load(str(shop.config()), ['serve.outcomes.active_within="1h"'])
    active = {e.user_id for e in log if e.user_id is not None and e.at > now - naive.HOUR}
    assert user_scores.run(spark, recent) == len(active) < len(users)

    stored_examples = _append_examples(spark, settings, spec)
    view = queries_outcomes.outcomes(spark, settings)
    assert view is not None and view.as_of == max(row["as_of"] for row in stored)
    assert {(one.name, one.rows, one.is_amount) for one in view.outcomes} == {("buy", 120, False), ("spend", 120, True)}
    (buy,) = [one for one in view.outcomes if one.name == "buy"]
    newest = stored_examples[60:]
    assert buy.mean == pytest.approx(np.mean([dict(row["labels"])["buy"] for row in newest]))
    x = spec.declared.inputs.matrix(np.array([row["features"] for row in newest]))
    predicted = outcome_scores.predictions(
        scoring["buy"].rule, scoring["buy"].state, x @ scoring["buy"].state.coefficients
    )
    assert np.mean([group.predicted for group in buy.groups]) == pytest.approx(predicted.mean())
    assert np.mean([group.observed for group in buy.groups]) == pytest.approx(buy.mean)
    assert buy.gains[0] == (0.0, 0.0) and np.allclose(buy.gains[-1], 1.0)
    highest = max(actual[user, "buy"]["probability"] for user in active)
    assert [one.score for one in view.users if one.outcome == "buy"][0] == highest
    assert {row["model_version"] for row in stored} == {None}
    _check_that_bad_models_are_not_served(spark, shop, rows, dict(zip(users, features, strict=True)), actual)


def _append_examples(spark: SparkSession, settings: Settings, spec: OutcomesSpec) -> list[dict[str, Any]]:
    """30 examples with labels of both outcomes in each of six weeks; these are returned in order of time."""
    rng, table = np.random.default_rng(4), tables.OUTCOME_EXAMPLES
    times = [START + n // 30 * 7 * DAY for n in range(180)]
    rows = [
        {
            "horizon_days": 7, "user_id": f"x{n % 30}", "at": at, "matures_at": at + 8 * DAY,
            "features": rng.gamma(2, 10, 3).round(2).tolist(),
            "labels": [("buy", float(rng.random() < 0.4)), ("spend", rng.gamma(2, 10))],
            "feature_names": ",".join(spec.declared.features), "epoch": "one", "batch_id": 0,
        }
        for n, at in enumerate(times)
    ]  # fmt: skip
    table.prepare(spark, settings.paths)
    commits.append_untracked(spark, table.arrow_rows(rows), table, settings.paths)
    return rows


def _check_that_bad_models_are_not_served(
    spark: SparkSession, shop: Shop, good: pa.Table, features: dict[str, list[Any]], scores: dict[Any, Any]
) -> None:
    """The first version is the champion; a version with a NaN, and one that learned flipped labels, are not served.

    Args:
        good: rows of `outcome_models`.
        features: by user.
        scores: rows of `user_scores` with the good models, by user and outcome.
    """
    settings, flags = shop.settings(), ["--config", str(shop.config()), "--learner", "outcomes"]
    checkpoint = checkpoint_path(settings.paths, OutcomesSpec.stage_name())
    epoch = Checkpoint(spark, checkpoint).epoch()
    files.write_text(spark, f"{checkpoint}/offsets/0", "v1\n{}\n")
    tables.MODEL_METRICS.create(spark, settings.paths)

    def learn(batches: range, log_loss: float, factor: float) -> None:
        """Evaluate batches, and store the models after them with the coefficients times a factor."""
        metrics = [
            {"learner": "outcomes", "epoch": epoch, "batch_id": n, "model": "buy", "metric": "log_loss",
             "value": log_loss, "weight": 100.0, "state_as_of": START, "rows_from": START, "rows_to": START}
            for n in batches
        ]  # fmt: skip
        metric_rows = tables.MODEL_METRICS.arrow_rows(metrics)
        commits.append_untracked(spark, metric_rows, tables.MODEL_METRICS, settings.paths)
        coefficients = [[factor * one for one in row or ()] for row in good["coefficients"].to_pylist()]
        valid_from = good["valid_from"].cast(pa.int64()).to_numpy() + batches.stop
        columns: dict[str, Any] = {
            "coefficients": pa.array(coefficients, good["coefficients"].type),
            "valid_from": pa.array(valid_from).cast(good["valid_from"].type),
            "batch_id": pa.array([batches.stop - 1] * len(good), good["batch_id"].type),
        }
        rows = good
        for name, values in columns.items():
            rows = rows.set_column(rows.column_names.index(name), good.schema.field(name), values)
        commits.append_untracked(spark, rows, OutcomesSpec(settings).tables[0], settings.paths)

    def assert_champion_is_served() -> None:
        user_scores.run(spark, settings)
        served = shop.read(spark, tables.USER_SCORES).collect()
        assert {row["model_version"] for row in served} == {1}
        assert {(row["user_id"], row["outcome"]): row["score"] for row in served} == pytest.approx(
            {key: row["score"] for key, row in scores.items()}
        )

    learn(range(5, 10), log_loss=0.5, factor=1.0)
    assert learn_publish.main(flags) == 0
    assert_champion_is_served()
    learn(range(10, 15), log_loss=0.5, factor=float("nan"))
    assert learn_publish.main(flags) == 0
    assert learn_publish.main([*flags, "--promote", "2"]) == 2
    learn(range(15, 20), log_loss=1.5, factor=-1.0)
    assert learn_publish.main(flags) == 0
    uri = MlflowStore(settings).uri
    client = MlflowClient(uri, uri)
    assert client.get_registered_model("outcomes").aliases == {"champion": 1, "challenger": 3}
    assert_champion_is_served()

    with mlflow_store(settings):
        model = mlflow.pyfunc.load_model("models:/outcomes@champion")
    predicted = model.predict(pd.DataFrame({"features": list(features.values())}))
    for user, outcomes, predictions in zip(features, predicted["outcomes"], predicted["predictions"], strict=True):
        for outcome, prediction in zip(outcomes, predictions, strict=True):
            if (row := scores.get((user, outcome))) is not None:
                expected = row["score"] if outcome == "spend" else row["probability"]
                assert prediction == pytest.approx(expected, rel=1e-9)
