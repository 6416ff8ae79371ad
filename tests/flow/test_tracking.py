"""MLflow tracking and publishing of the factors: metrics arrive once, versions are complete, the gate decides."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from delta.tables import DeltaTable
from mlflow import MlflowClient
from mlflow.entities import Run
from profilestream.base import commits, tables
from profilestream.base import settings as settings_module
from profilestream.base.commits import Txn
from profilestream.base.errors import SourceMissing
from profilestream.base.passes import Pass, run_pass
from profilestream.learn import evaluated_batches, metrics, promotion_gate, publishing
from profilestream.learn.factors import factors_batch, published_factors
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels import als_rows, item_index, score_tasks
from profilestream.learn.factors.kernels.als import GlobalSums
from profilestream.learn.factors.kernels.item_index import ItemIndex
from profilestream.learn.factors.published_factors import PublishedFactors
from profilestream.learn.model_registry import RegisteredModel, RegisteredVersion
from profilestream.learn.tracking import MlflowStore
from profilestream.learn.version_aliases import CHAMPION
from profilestream.serve.scores import recommend
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import learn_factors, learn_publish
from tests.builders import Shop, event

SETTINGS = """
[learn]
max_files_per_trigger = 1
[learn.factors]
enabled = true
k = 4
max_events_per_user = 6
reweighted_events = 2
first_full_passes = 0
full_passes = 0
popularity_weight = 0.15
neighbor_weight = 0
[learn.publish]
eval_batches = 1
min_weight = 1
[learn.tracking]
timeout_seconds = 60
"""
DAY_MICROS = 86_400_000_000


def _add_events(spark: SparkSession, shop: Shop, day: int) -> None:
    """20 events of one day of January, all at 10:00 UTC."""
    events = [
        event(
            n,
            kind=("view", "purchase")[n % 2],
            who=f"u{n % 7}",
            what=f"i{n * n % 11}",
            at=f"2026-01-{day:02}T10:00:00Z",
        )
        for n in range(day * 20, day * 20 + 20)
    ]
    shop.append_events(spark, events, batch_id=day)


def _learn(shop: Shop, *overrides: str) -> int:
    flags = [flag for override in overrides for flag in ("--set", override)]
    return learn_factors.main(["--config", str(shop.config()), *flags])


def _publish(shop: Shop, *flags: str) -> int:
    return learn_publish.main(["--config", str(shop.config()), *flags])


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Three days of events."""
    shop = Shop(tmp_path_factory.mktemp("tracking"), extra_settings=SETTINGS, is_tracked=True)
    for day in (1, 2, 3):
        _add_events(_session, shop, day)
    return shop


def _client(shop: Shop) -> MlflowClient:
    uri = MlflowStore(shop.settings()).uri
    return MlflowClient(uri, uri)


def _runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("profilestream")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


# Values and times (milliseconds) by metric and step.
_Logged = dict[tuple[str, int], list[tuple[float, int]]]


def _logged_metrics(shop: Shop) -> _Logged:
    """All metrics in MLflow, over all runs."""
    client = _client(shop)
    logged: _Logged = {}
    for run in _runs(client):
        for key in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, key):
                logged.setdefault((key, metric.step), []).append((metric.value, metric.timestamp))
    return logged


def _stored_metrics(spark: SparkSession, shop: Shop) -> _Logged:
    """All rows of `model_metrics`, in the same form."""
    rows = shop.read(spark, tables.MODEL_METRICS).collect()
    return {
        (f"{row['model']}/{row['metric']}", row["batch_id"]): [
            (row["value"], int(row["state_as_of"].timestamp() * 1000))
        ]
        for row in rows
    }


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [message for message in messages if "MLflow" in message]


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Another connection holds an exclusive lock on the SQLite file."""
    connection = sqlite3.connect(path)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.rollback()
    connection.close()


def test_metrics_that_mlflow_missed_are_sent_later_and_once(
    spark: SparkSession, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    # 1. The server does not answer: the batches are learned, and one warning is logged.
    assert _learn(shop, "learn.tracking.uri=http://127.0.0.1:9", "learn.tracking.timeout_seconds=30") == 0
    stored = _stored_metrics(spark, shop)
    assert {step for _, step in stored} == {1, 2}
    assert {key.split("/")[1] for key, _ in stored} == {*(one.name for one in metrics.RANKING), metrics.LATE_ROWS.name}
    warning = "metrics of factors could not be sent to MLflow, and will be sent later: "
    assert len(_warnings(caplog)) == 1
    assert f"{warning}MlflowException" in _warnings(caplog)[0]
    # 2. It answers: all metrics are sent, although there is no new batch.
    assert _learn(shop) == 0
    assert _logged_metrics(shop) == stored
    # 3. A crash between the metrics and the tag with the last batch: the metrics are sent again.
    client = _client(shop)
    (run,) = _runs(client)
    assert run.data.params["k"] == "4"
    client.set_tag(run.info.run_id, "profilestream.last_batch", "0")
    store = MlflowStore(shop.settings())
    assert store.log_missing_metrics(spark, "factors", run.data.tags["profilestream.epoch"], {}) == 2
    assert _logged_metrics(shop) == stored
    # 4. The file is locked for longer than the timeout.
    caplog.clear()
    _add_events(spark, shop, 4)
    with _locked(f"{shop.home}/mlflow.db"):
        assert _learn(shop, "learn.tracking.timeout_seconds=1") == 0
    assert _warnings(caplog) == [f"{warning}no answer within 1 s"]
    assert _learn(shop) == 0
    stored = _stored_metrics(spark, shop)
    assert {step for _, step in stored} == {1, 2, 3}
    assert _logged_metrics(shop) == stored


def test_batches_with_more_metrics_than_a_request_may_have_arrive_once_from_two_reporters_at_the_same_time(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, extra_settings=SETTINGS, is_tracked=True)
    paths = shop.settings().paths
    tables.MODEL_METRICS.create(spark, paths)
    time = datetime(2026, 1, 1, tzinfo=UTC)
    constants = {"learner": "factors", "epoch": "e1", "weight": 1.0, "state_as_of": time}
    rows = [
        {**constants, "batch_id": batch_id, "model": "blend", "metric": f"m{n}", "value": float(n)}
        for batch_id, count in ((0, 3), (1, 2100), (2, 900), (3, 2))
        for n in range(count)
    ]
    commits.append(tables.MODEL_METRICS.arrow_rows(rows), tables.MODEL_METRICS, paths, Txn("test", "e1", 0))
    stores = [MlflowStore(shop.settings()) for _ in range(2)]
    stores[0].get_or_create_run("factors", "e1", {})
    both_have_read = threading.Barrier(2)
    log = MlflowStore._log

    def log_together(store: MlflowStore, run: Run, batches: list[Any]) -> None:
        if batches[0].batch_id == 0:
            both_have_read.wait(30)
        log(store, run, batches)

    monkeypatch.setattr(MlflowStore, "_log", log_together)
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(store.log_missing_metrics, spark, "factors", "e1", {}) for store in stores]
        assert [each.result() for each in sent] == [4, 4]
    (run,) = _runs(_client(shop))
    assert run.data.tags["profilestream.last_batch"] == "3"
    assert run.data.metrics == {f"blend/m{n}": float(n) for n in range(2100)}
    for name, steps in {"blend/m0": [0, 1, 2, 3], "blend/m899": [1, 2], "blend/m2099": [1]}.items():
        assert sorted(each.step for each in _client(shop).get_metric_history(run.info.run_id, name)) == steps
    assert stores[0].log_missing_metrics(spark, "factors", "e1", {}) == 0


def _set_recall(spark: SparkSession, shop: Shop, batch_id: int, recall: float) -> None:
    """Set recall_20 of the blend in a batch."""
    uri = tables.MODEL_METRICS.uri(shop.settings().paths)
    rows = f"batch_id = {batch_id} AND model = 'blend' AND metric = 'recall_20'"
    DeltaTable.forPath(spark, uri).update(rows, {"value": str(recall)})


def _aliases(shop: Shop) -> dict[str, int]:
    versions = RegisteredModel(MlflowStore(shop.settings()), "factors").versions()
    return {alias: version.number for version in versions for alias in version.aliases}


def _versions_with_rows(spark: SparkSession, shop: Shop) -> set[int]:
    table = FactorsSpec(shop.settings()).publication.published_table
    rows = shop.read(spark, table).select("model_version").distinct().collect()
    return {row["model_version"] for row in rows}


def _rows(published: PublishedFactors) -> dict[tuple[str, str], Row]:
    sides = {"user": published.state.users, "item": published.state.items}
    return {(side, row["key"]): row for side, rows in sides.items() for row in rows.collect()}


def _vectors(published: PublishedFactors) -> dict[tuple[str, str], bytes]:
    return {key: bytes(row["vector"]) for key, row in _rows(published).items()}


def test_the_first_version_is_the_champion_and_equals_the_learned_state(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    _set_recall(spark, shop, batch_id=3, recall=0.5)
    assert _publish(shop) == 0
    assert capsys.readouterr().out == "version 1 is the champion: there was no champion\n"
    assert _aliases(shop) == {"champion": 1}
    card = (_client(shop).get_model_version("factors", "1").description or "").splitlines()
    assert card[0].startswith("**factors, version 1: learned from ") and " UTC**" in card[0]
    assert any(line.startswith("| recall_20 | share, 0 to 1 | blend | ") for line in card)
    assert {f"- {limit}" for limit in FactorsSpec.limits} <= set(card)
    published = published_factors.read_factors(spark, shop.settings())
    learned = shop.read(spark, FactorsSpec(shop.settings()).table).where("side != 'global'")
    assert published.model_version == 1
    publication = FactorsSpec(shop.settings()).publication
    _, rows = publishing.read(spark, shop.settings(), publication, CHAMPION)
    assert rows.columns == learned.columns
    assert _vectors(published) == {(row["side"], row["key"]): bytes(row["vector"]) for row in learned.collect()}


def _spark_scores(published: PublishedFactors) -> dict[str, dict[str, float]]:
    """The three best items of every user with their scores, computed in Spark tasks."""
    params, ranker = published.params, published.ranker

    def score(users: pa.Table, items: pa.Table) -> dict[str, pa.Table]:
        keys, index = [str(key) for key in users["key"].to_pylist()], ItemIndex.from_rows(items, params)
        return {"lists": score_tasks.recommend_items(keys, users, index, params, ranker=ranker, top_k=3)}

    scores = Pass(
        score,
        inputs={"users": als_rows.USER, "items": item_index.SCHEMA},
        keys={"users": "key"},
        outputs={"lists": score_tasks.SCHEMA},
    )
    items = factors_batch.packed_items(published.state, published.state.global_sums, params)
    lists, _ = run_pass(scores, {"users": published.state.users, "items": items})
    rows = lists["lists"].collect()
    return {row["user_id"]: dict(zip(row["item_ids"], row["scores"], strict=True)) for row in rows}


def _naive_scores(published: PublishedFactors, user: str) -> dict[str, float]:
    """Scores of all items that the user does not have, by a loop: product of the vectors plus weighted popularity."""
    rows = _rows(published)
    items = {key: row for (side, key), row in rows.items() if side == "item"}
    now, half_life = published.state.global_sums.as_of / DAY_MICROS, published.params.popularity_half_life_days
    ages = {key: now - row["as_of"].timestamp() / 86_400 for key, row in items.items()}
    counts = {key: np.log1p(row["popularity"] * 2 ** (-ages[key] / half_life)) for key, row in items.items()}
    user_row = rows.get(("user", user))
    vector = np.zeros(4) if user_row is None else np.frombuffer(user_row["vector"], np.float32).astype(float)
    user_items = () if user_row is None else user_row["item_ids"]  # there are no returns in this log
    return {
        key: float(vector @ np.frombuffer(row["vector"], np.float32)) + 0.15 * counts[key] / max(counts.values())
        for key, row in items.items()
        if key not in user_items
    }


def test_the_mlflow_model_gives_the_scores_of_spark_and_of_a_naive_loop(
    spark: SparkSession, shop: Shop, registry: None
) -> None:
    published = published_factors.read_factors(spark, shop.settings())
    model = mlflow.pyfunc.load_model("models:/factors@champion")
    user_ids = [*sorted(row["key"] for row in published.state.users.collect()), "unknown"]
    signature = model.metadata.signature.to_dict()
    assert {name: json.loads(schema) for name, schema in signature.items()} == {
        "inputs": [{"type": "string", "name": "user_id", "required": True}],
        "outputs": [
            {"type": "array", "items": {"type": "string"}, "name": "item_ids", "required": True},
            {"type": "array", "items": {"type": "double"}, "name": "scores", "required": True},
        ],
        "params": [{"name": "top_k", "default": 20, "shape": None, "type": "long"}],
    }
    predicted = model.predict(pd.DataFrame({"user_id": user_ids}), params={"top_k": 3})
    spark_scores = _spark_scores(published)
    assert user_ids == [*sorted(spark_scores), "unknown"]
    flags = ("model=champion", "top_k=3", "exclude_bought=false")
    serving = settings_module.load(str(shop.config()), [f"serve.scores.{flag}" for flag in flags])
    assert recommend.run(spark, serving) == sum(len(item_ids) > 0 for item_ids in predicted["item_ids"][:-1])
    recommended: dict[str, list[str]] = {user: [] for user in user_ids}
    for row in shop.read(spark, tables.RECOMMENDATIONS).orderBy("user_id", "rank").collect():
        assert row["model_version"] == f"published:{published.model_version}"
        recommended[row["user_id"]].append(row["item_id"])
    assert list(recommended.values())[:-1] == predicted["item_ids"].tolist()[:-1]
    for user, item_ids, scores in zip(user_ids, predicted["item_ids"], predicted["scores"], strict=True):
        expected = _naive_scores(published, user)
        np.testing.assert_allclose(scores, sorted(expected.values(), reverse=True)[:3], rtol=0, atol=1e-6)
        np.testing.assert_allclose(scores, [expected[item] for item in item_ids], rtol=0, atol=1e-6)
        if user != "unknown":
            assert list(spark_scores[user]) == item_ids
            np.testing.assert_allclose(scores, list(spark_scores[user].values()), rtol=0, atol=1e-6)
    assert len(model.predict(pd.DataFrame({"user_id": user_ids[-1:]}))["item_ids"][0]) > 3


def test_the_mlflow_model_works_as_a_spark_udf(spark: SparkSession, shop: Shop, registry: None) -> None:
    user_ids = pd.DataFrame({"user_id": ["shop:u1", "shop:u2", "unknown"]})
    result_type = "struct<item_ids array<string>, scores array<double>>"
    udf = mlflow.pyfunc.spark_udf(spark, "models:/factors@champion", env_manager="local", result_type=result_type)
    rows = spark.createDataFrame(user_ids).select("user_id", udf("user_id").alias("predicted")).collect()
    expected = mlflow.pyfunc.load_model("models:/factors@champion").predict(user_ids)
    assert [row["predicted"]["item_ids"] for row in rows] == expected["item_ids"].tolist()


def test_the_gate_makes_a_worse_version_the_challenger_and_a_rollback_restores_the_previous_champion(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    _add_events(spark, shop, 5)
    assert _learn(shop) == 0
    _set_recall(spark, shop, batch_id=4, recall=0.47)
    assert _publish(shop) == 0
    assert capsys.readouterr().out == (
        "version 2 is the challenger: recall_20 of blend is 0.4700, needed at least 0.4750 (version 1: 0.5000)\n"
    )
    assert _aliases(shop) == {"champion": 1, "challenger": 2}
    _set_recall(spark, shop, batch_id=4, recall=0.48)
    assert _publish(shop) == 0
    assert "version 3 is the champion: recall_20 of blend is 0.4800" in capsys.readouterr().out
    assert _aliases(shop) == {"champion": 3, "previous": 1, "challenger": 2}
    assert _versions_with_rows(spark, shop) == {1, 2, 3}

    assert _publish(shop, "--rollback") == 0
    assert _aliases(shop) == {"champion": 1, "challenger": 3}
    assert published_factors.read_factors(spark, shop.settings()).model_version == 1
    assert _publish(shop, "--rollback") == 2
    assert "there is no previous champion" in capsys.readouterr().err
    assert _publish(shop, "--promote", "3") == 0
    assert _aliases(shop) == {"champion": 3, "previous": 1}


def test_a_crash_at_any_step_of_publishing_keeps_the_champion_and_leaves_no_rows(
    spark: SparkSession, shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _vectors(published_factors.read_factors(spark, shop.settings()))

    def crash(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("crash")

    # After the registration; after the copy of the rows; before the alias.
    for owner, name in ((commits, "append"), (RegisteredModel, "log_model"), (RegisteredModel, "set_alias")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, crash)
            assert _publish(shop) == 1
        assert _aliases(shop) == {"champion": 3, "previous": 1}
        assert _vectors(published_factors.read_factors(spark, shop.settings())) == before
    assert _versions_with_rows(spark, shop) >= {1, 3, 5, 6}
    assert _publish(shop) == 0
    assert _aliases(shop) == {"champion": 7, "previous": 3}
    assert _versions_with_rows(spark, shop) == {3, 7}
    capsys.readouterr()
    assert _publish(shop, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("version 7  champion  blend recall_20 0.4800  batch 4 of epoch ")
    assert [line.split("rows ")[1] for line in lines] == ["stored", *["removed"] * 3, "stored", *["removed"] * 2]
    assert _publish(shop, "--promote", "6") == 2
    assert "name one of [7, 3]" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SourceMissing, match="factors has no published version 6"):
        published_factors.read_factors(spark, shop.settings(), 6)


def test_a_rollback_after_the_version_of_the_champion_was_deleted_in_mlflow_restores_the_previous_champion(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _aliases(shop) == {"champion": 7, "previous": 3}
    _client(shop).delete_model_version("factors", "7")
    assert _aliases(shop) == {"previous": 3}
    assert _publish(shop, "--rollback") == 0
    assert capsys.readouterr().out == "version 3 is the champion again\n"
    assert _aliases(shop) == {"champion": 3}
    assert published_factors.read_factors(SparkSession.active(), shop.settings()).model_version == 3
    assert _publish(shop, "--rollback") == 2
    assert _publish(shop) == 0
    assert _aliases(shop)["champion"] > 7


@pytest.mark.parametrize(
    ("items_of_users", "items", "is_useful"),
    [
        ([], 0, False),
        ([["i1"]], 1, False),
        ([["i1"], ["i1"]], 1, False),
        ([["i1", "i2", "i2"]], 2, False),
        ([["i1", "i2"], ["i2", "i1"]], 2, False),
        ([["i1", "i2"], ["i2"]], 2, True),
    ],
)
def test_factors_that_can_recommend_nothing_are_not_published(
    spark: SparkSession, shop: Shop, items_of_users: list[list[str]], items: int, is_useful: bool
) -> None:
    rows: list[tuple[str, int, list[str] | None]] = [("global", 3, None), *[("item", 3, None)] * items]
    rows += [("user", 3, item_ids) for item_ids in items_of_users]
    frame = spark.createDataFrame(rows, "side string, batch_id bigint, item_ids array<string>")
    spec = FactorsSpec(shop.settings())
    cell = als_rows.global_sums_to_bytes(GlobalSums.zero(spec.params.width))
    state = spec.publication.state(frame.withColumn("global_sums", F.lit(cell)), "epoch")
    assert (state is not None) == is_useful


def test_a_champion_of_another_epoch_is_compared_over_the_same_period_and_must_be_beaten(
    spark: SparkSession, shop: Shop
) -> None:
    """In the period of the new version's batches the champion had 0.6; its own last batch, 0.1, is later."""
    settings = shop.settings()
    current = shop.read(spark, tables.MODEL_METRICS).where("batch_id = 4 AND model = 'blend'")
    epoch = current.first()["epoch"]  # type: ignore[index]
    uri = tables.MODEL_METRICS.uri(settings.paths)
    for batch_id, recall, later in ((9, 0.6, 0), (10, 0.1, 3600)):
        state_as_of = f"state_as_of + make_dt_interval(0, 0, 0, {later})"
        changes = {"epoch": "'other'", "batch_id": f"{batch_id}L", "value": f"{recall}D", "state_as_of": state_as_of}
        other = current.selectExpr(*[f"{changes.get(c, c)} AS {c}" for c in tables.MODEL_METRICS.names])
        other.write.format("delta").mode("append").save(uri)
    tags = {"profilestream.epoch": "other", "profilestream.batch_id": "10", "profilestream.model": "blend"}
    champion = RegisteredVersion(1, ("champion",), tags)
    gate_metric = FactorsSpec(settings).publication.gate_metric
    for recall, expected in ((0.601, False), (0.61, True)):
        _set_recall(spark, shop, batch_id=4, recall=recall)
        stored = evaluated_batches.collect(spark, settings, "factors", gate_metric.metrics, ["other", epoch])
        candidate = gate_metric.batches(stored, epoch).until(4).last(1)
        passes, reason = promotion_gate.compare(gate_metric, stored, champion, candidate, epoch)
        assert passes == expected
        assert reason.startswith(f"recall_20 of blend is {recall:.4f} (version 1: 0.6000 over 1 common batches)")


@pytest.mark.parametrize("folder", ["a b/ä#c", "50%20?x"])
def test_the_default_store_is_in_the_parent_folder_of_the_warehouse_whatever_its_name(
    tmp_path: Path, folder: str
) -> None:
    store = MlflowStore(Shop(tmp_path / folder, is_tracked=True).settings())
    assert not store.exists()
    run = store.get_or_create_run("factors", "epoch", {})
    store.client.log_text(run.info.run_id, "text", "file.txt")
    assert store.exists()
    files = {str(path.relative_to(tmp_path / folder)) for path in (tmp_path / folder).rglob("*") if path.is_file()}
    assert "mlflow.db" in files
    assert f"mlflow_artifacts/{run.info.run_id}/artifacts/file.txt" in files
