"""What MLflow is told, and versions that are published: late, once, by the gate, whole or not at all."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
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
from profilestream.base.errors import SourceMissing
from profilestream.learn import als_tasks, factors, promotion, published_factors, score_tasks
from profilestream.learn.model_registry import Registry, Version
from profilestream.learn.published_factors import Published
from profilestream.learn.tracking import METRICS, Store
from profilestream.serve.scores import recommend
from pyspark.sql import SparkSession

from jobs import learn_factors, learn_publish
from tests.builders import Shop, event

MADE = """
[learn]
max_files_per_trigger = 1
[learn.factors]
enabled = true
k = 4
max_events_per_user = 6
reweighted_events = 2
first_full_passes = 0
full_passes = 0
popularity_share = 0.15
neighbor_share = 0
[learn.publish]
batches = 1
[learn.tracking]
timeout_seconds = 60
"""
DAY_MICROS = 86_400_000_000


def _arrive(spark: SparkSession, shop: Shop, day: int) -> None:
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
    shop.arrive(spark, events, batch_id=day)


def _learn(shop: Shop, *overrides: str) -> int:
    sets = [word for override in overrides for word in ("--set", override)]
    return learn_factors.main(["--config", str(shop.config()), *sets])


def _publish(shop: Shop, *flags: str) -> int:
    return learn_publish.main(["--config", str(shop.config()), *flags])


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Three days of events."""
    made = Shop(tmp_path_factory.mktemp("tracking"), extra_settings=MADE, is_tracked=True)
    for day in (1, 2, 3):
        _arrive(_session, made, day)
    return made


def _client(shop: Shop) -> MlflowClient:
    uri = Store(shop.settings()).uri
    return MlflowClient(uri, uri)


def _runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("profilestream")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def _told(shop: Shop) -> dict[tuple[str, int], list[float]]:
    """Every value that MLflow holds, by metric and step, over all runs."""
    client = _client(shop)
    found: dict[tuple[str, int], list[float]] = {}
    for run in _runs(client):
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                found.setdefault((name, metric.step), []).append(metric.value)
    return found


def _kept(spark: SparkSession, shop: Shop) -> dict[tuple[str, int], list[float]]:
    """The same of `model_metrics`."""
    return {
        (f"{row['ranker']}/{name}", row["batch_id"]): [row[name]]
        for row in shop.read(spark, tables.MODEL_METRICS).collect()
        for name in METRICS
        if row[name] is not None
    }


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    return [text for text in found if "MLflow" in text]


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Another process that writes to a SQLite file and does not end."""
    connection = sqlite3.connect(path)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.rollback()
    connection.close()


def test_what_mlflow_missed_is_told_later_and_once(
    spark: SparkSession, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    # 1. Nobody answers: the batches are learned, one line says so.
    assert _learn(shop, "learn.tracking.uri=http://127.0.0.1:9", "learn.tracking.timeout_seconds=30") == 0
    kept = _kept(spark, shop)
    assert {step for _, step in kept} == {1, 2}
    assert len(_warnings(caplog)) == 1
    assert "MLflow was not told of factors, and will be told later: MlflowException" in _warnings(caplog)[0]
    # 2. It answers: everything is told, though no batch came.
    assert _learn(shop) == 0
    assert _told(shop) == kept
    # 3. A crash after the metrics and before the tag that says so; then once more.
    client = _client(shop)
    (run,) = _runs(client)
    assert run.data.params["k"] == "4"
    client.set_tag(run.info.run_id, "profilestream.last_batch", "0")
    assert Store(shop.settings()).catch_up(spark, "factors", run.data.tags["profilestream.epoch"], {}) == 2
    assert _told(shop) == kept
    # 4. The file is locked for longer than is waited for.
    caplog.clear()
    _arrive(spark, shop, 4)
    with _locked(f"{shop.home}/mlflow.db"):
        assert _learn(shop, "learn.tracking.timeout_seconds=1") == 0
    assert _warnings(caplog) == [
        "MLflow was not told of factors, and will be told later: no answer within 1 s",
    ]
    assert _learn(shop) == 0
    kept = _kept(spark, shop)
    assert {step for _, step in kept} == {1, 2, 3}
    assert _told(shop) == kept


def _judged(spark: SparkSession, shop: Shop, batch_id: int, recall: float) -> None:
    """Let the newest batch have been judged so."""
    uri = tables.MODEL_METRICS.uri(shop.settings().paths)
    newest = f"batch_id = {batch_id} AND ranker = 'blend'"
    DeltaTable.forPath(spark, uri).update(newest, {"recall_20": str(recall)})


def _aliases(shop: Shop) -> dict[str, int]:
    versions = Registry(Store(shop.settings()), "factors").versions()
    return {alias: version.number for version in versions for alias in version.aliases}


def _versions_with_rows(spark: SparkSession, shop: Shop) -> set[int]:
    copies = published_factors.publishable(shop.settings()).copies
    rows = shop.read(spark, copies).select("model_version").distinct().collect()
    return {row["model_version"] for row in rows}


def _rows(found: Published) -> dict[tuple[str, str], bytes]:
    return {(row["side"], row["key"]): bytes(row["vector"]) for row in found.state.rows.collect()}


def test_the_first_version_is_the_champion_and_is_what_was_learned(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    _judged(spark, shop, batch_id=3, recall=0.5)
    assert _publish(shop) == 0
    assert capsys.readouterr().out == "version 1 is the champion: there was none\n"
    assert _aliases(shop) == {"champion": 1}
    found = published_factors.read(spark, shop.settings())
    learned = shop.read(spark, factors.table(shop.settings())).where("side != 'global'")
    assert found.model_version == 1
    assert found.state.rows.columns == learned.columns
    assert _rows(found) == {(row["side"], row["key"]): bytes(row["vector"]) for row in learned.collect()}


def _by_spark(found: Published) -> dict[str, dict[str, float]]:
    """Scores by a job of Spark."""
    params, ranker = found.params, found.ranker
    packed = factors.catalogue(found.state.rows, 1, found.state.known, params)
    catalogue = als_tasks.unpacked_items([bytes(row["equations"]) for row in packed.collect()], params)

    def scored(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            users = pa.Table.from_batches([batch])
            keys = [str(key) for key in users["key"].to_pylist()]
            yield from score_tasks.scored(keys, users, catalogue, params, ranker=ranker, top_k=3).to_batches()

    users = found.state.rows.where("side = 'user'").select(*score_tasks.COLUMNS)
    columns = "user_id string, item_ids array<string>, scores array<double>"
    rows = users.mapInArrow(scored, columns).collect()
    return {row["user_id"]: dict(zip(row["item_ids"], row["scores"], strict=True)) for row in rows}


def _by_hand(found: Published, user: str) -> dict[str, float]:
    """Scores by a loop: product of the vectors, and a share of the decayed count; not what the user has."""
    rows = {(row["side"], row["key"]): row for row in found.state.rows.collect()}
    items = {key: row for (side, key), row in rows.items() if side == "item"}
    now, half_life = found.state.known.now / DAY_MICROS, found.params.popularity_half_life_days
    ages = {key: now - row["as_of"].timestamp() / 86_400 for key, row in items.items()}
    counts = {key: np.log1p(row["popular"] * 2 ** (-ages[key] / half_life)) for key, row in items.items()}
    mine = rows.get(("user", user))
    p = np.zeros(4) if mine is None else np.frombuffer(mine["vector"], np.float32).astype(float)
    has = () if mine is None else mine["others"]  # no event here takes anything back
    return {
        key: float(p @ np.frombuffer(row["vector"], np.float32)) + 0.15 * counts[key] / max(counts.values())
        for key, row in items.items()
        if key not in has
    }


def test_the_model_that_mlflow_loads_scores_as_spark_does_and_as_by_hand(
    spark: SparkSession, shop: Shop, registry: None
) -> None:
    found = published_factors.read(spark, shop.settings())
    model = mlflow.pyfunc.load_model("models:/factors@champion")
    asked = [*sorted(row["key"] for row in found.state.rows.where("side = 'user'").collect()), "nobody"]
    loaded = model.predict(pd.DataFrame({"user_id": asked}), params={"top_k": 3})
    by_spark = _by_spark(found)
    assert asked == [*sorted(by_spark), "nobody"]
    serving = settings_module.load(str(shop.config()), ["serve.scores.model=champion", "serve.scores.top_n=3"])
    assert recommend.run(spark, serving) == len(asked) - 1
    listed: dict[str, list[str]] = {user: [] for user in asked}
    for row in shop.read(spark, tables.RECOMMENDATIONS).orderBy("user_id", "rank").collect():
        assert row["model_version"] == f"published:{found.model_version}"
        listed[row["user_id"]].append(row["item_id"])
    assert list(listed.values())[:-1] == loaded["item_ids"].tolist()[:-1]
    for user, item_ids, worth in zip(asked, loaded["item_ids"], loaded["scores"], strict=True):
        by_hand = _by_hand(found, user)
        np.testing.assert_allclose(worth, sorted(by_hand.values(), reverse=True)[:3], rtol=0, atol=1e-6)
        np.testing.assert_allclose(worth, [by_hand[item] for item in item_ids], rtol=0, atol=1e-6)
        if user != "nobody":
            assert list(by_spark[user]) == item_ids
            np.testing.assert_allclose(worth, list(by_spark[user].values()), rtol=0, atol=1e-6)
    assert len(model.predict(pd.DataFrame({"user_id": asked[-1:]}))["item_ids"][0]) > 3


def test_the_model_scores_in_an_udf_of_spark(spark: SparkSession, shop: Shop, registry: None) -> None:
    asked = pd.DataFrame({"user_id": ["shop:u1", "shop:u2", "nobody"]})
    kind = "struct<item_ids array<string>, scores array<double>>"
    udf = mlflow.pyfunc.spark_udf(spark, "models:/factors@champion", env_manager="local", result_type=kind)
    got = spark.createDataFrame(asked).select("user_id", udf("user_id").alias("found")).collect()
    expected = mlflow.pyfunc.load_model("models:/factors@champion").predict(asked)
    assert [row["found"]["item_ids"] for row in got] == expected["item_ids"].tolist()


def test_a_worse_version_is_the_challenger_a_better_one_the_champion_and_the_one_before_can_be_had_back(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    _arrive(spark, shop, 5)
    assert _learn(shop) == 0
    _judged(spark, shop, batch_id=4, recall=0.47)
    assert _publish(shop) == 0
    assert capsys.readouterr().out == (
        "version 2 is the challenger: recall_20 of blend is 0.4700, needed at least 0.4750 (version 1: 0.5000)\n"
    )
    assert _aliases(shop) == {"champion": 1, "challenger": 2}
    _judged(spark, shop, batch_id=4, recall=0.48)
    assert _publish(shop) == 0
    assert "version 3 is the champion: recall_20 of blend is 0.4800" in capsys.readouterr().out
    assert _aliases(shop) == {"champion": 3, "previous": 1, "challenger": 2}
    assert _versions_with_rows(spark, shop) == {1, 2, 3}

    assert _publish(shop, "--rollback") == 0
    assert _aliases(shop) == {"champion": 1, "challenger": 3}
    assert published_factors.read(spark, shop.settings()).model_version == 1
    assert _publish(shop, "--rollback") == 2
    assert "there is no champion before this one" in capsys.readouterr().err
    assert _publish(shop, "--champion", "3") == 0
    assert _aliases(shop) == {"champion": 3, "previous": 1}


def test_a_crash_at_any_moment_of_publishing_leaves_the_champion_and_nothing_that_stays(
    spark: SparkSession, shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _rows(published_factors.read(spark, shop.settings()))

    def crash(*args: Any, **named: Any) -> None:
        raise RuntimeError("crash")

    # After it was registered; after its rows were copied; before its alias.
    for owner, name in ((commits, "append"), (Registry, "put_files"), (Registry, "name_version")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, crash)
            assert _publish(shop) == 1
        assert _aliases(shop) == {"champion": 3, "previous": 1}
        assert _rows(published_factors.read(spark, shop.settings())) == before
    assert _versions_with_rows(spark, shop) >= {1, 3, 5, 6}
    assert _publish(shop) == 0
    assert _aliases(shop) == {"champion": 7, "previous": 3}
    assert _versions_with_rows(spark, shop) == {3, 7}
    capsys.readouterr()
    assert _publish(shop, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("version 7  champion  blend recall_20 0.4800  batch 4 of epoch ")
    assert [line.split("rows ")[1] for line in lines] == ["kept", *["removed"] * 3, "kept", *["removed"] * 2]
    assert _publish(shop, "--champion", "6") == 2
    assert "name one of [7, 3]" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SourceMissing, match="there is no published version 6"):
        published_factors.read(spark, shop.settings(), 6)


def test_a_champion_learned_otherwise_is_met_over_the_same_stretch_and_must_be_beaten(
    spark: SparkSession, shop: Shop
) -> None:
    """Its last batch, elsewhere in the log, was judged 0.1; over the stretch of the newest batches here it had 0.6."""
    settings = shop.settings()
    mine = shop.read(spark, tables.MODEL_METRICS).where("batch_id = 4 AND ranker = 'blend'")
    (epoch,) = (row["epoch"] for row in mine.collect())
    uri = tables.MODEL_METRICS.uri(settings.paths)
    for batch_id, recall, later in ((9, 0.6, 0), (10, 0.1, 3600)):
        as_of = f"as_of + make_dt_interval(0, 0, 0, {later})"
        values = {"epoch": "'other'", "batch_id": f"{batch_id}L", "recall_20": f"{recall}D", "as_of": as_of}
        other = mine.selectExpr(*[f"{values.get(c, c)} AS {c}" for c in tables.MODEL_METRICS.columns])
        other.write.format("delta").mode("append").save(uri)
    notes = {"profilestream.epoch": "other", "profilestream.batch_id": "10", "profilestream.ranker": "blend"}
    champion = Version(1, ("champion",), notes)
    measure = published_factors.publishable(settings).measure
    for recall, is_better in ((0.601, False), (0.61, True)):
        _judged(spark, shop, batch_id=4, recall=recall)
        found = promotion.quality(spark, settings, measure, epoch, up_to=4)
        got, why = promotion.judge(spark, settings, measure, champion, found)
        assert got == is_better
        assert why == f"recall_20 of blend is {recall:.4f}, needed more than 0.6060 (version 1: 0.6000)"
