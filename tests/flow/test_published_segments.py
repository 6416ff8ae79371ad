"""Segments as a registered model: what is copied, how its model assigns users, and by what the gate judges it."""

import math
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from chispa import assert_df_equality
from delta.tables import DeltaTable
from profilestream.base import commits, files, tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import frame_of_dicts
from profilestream.base.settings import PublishSegments
from profilestream.base.tables import Table
from profilestream.learn import promotion, published_segments, segments
from profilestream.learn.model_registry import Registry, Version
from profilestream.learn.tracking import Store
from pyspark.sql import SparkSession

from jobs import learn_publish
from tests.builders import Shop

ROOT = Path(__file__).parent.parent.parent
MADE = f"""
[derive]
profiles = ["{ROOT}/conf/derive/user_profiles.toml"]
[learn.publish_segments]
batches = 1
"""
CENTRES = {1: (0.0, 0.0), 2: (3.0, -1.0), 5: (-1.5, 2.0)}
LOCATION, SCALE = {"weekend": 0.3, "log_value": 2.0, "flat": 7.0}, {"weekend": 0.2, "log_value": 0.5, "flat": 0.0}


Rows = list[dict[str, Any]]


def _append(spark: SparkSession, shop: Shop, table: Table, rows: Rows) -> None:
    paths = shop.settings().paths
    table.create(spark, paths)
    commits.append(frame_of_dicts(spark, rows, table.schema), table, paths, Txn("by hand", str(uuid.uuid4()), 0))


def _segments(epoch: str, batch_id: int, ids: tuple[int, ...]) -> Rows:
    return [
        {
            "segment_id": one, "users": 4, "weight": 3.5, "sums": [0.0], "scatter": [1.0], "cost": 0.5,
            "center": {"weekend": CENTRES[one][0], "log_value": CENTRES[one][1], "flat": 0.0},
            "location": LOCATION, "scale": SCALE, "absorbed": [], "next_id": 6,
            "epoch": epoch, "batch_id": batch_id, "as_of": f"2026-01-{batch_id:02}T10:00:00Z",
        }
        for one in ids
    ]  # fmt: skip


def _judged(epoch: str, batch_id: int, *, kmeans: float, mean: float, users: int = 10) -> Rows:
    return [
        {
            "learner": "segments", "ranker": ranker, "users": users, "cost": cost,
            "epoch": epoch, "batch_id": batch_id, "as_of": f"2026-01-{batch_id:02}T10:00:00Z",
        }
        for ranker, cost in (("kmeans", kmeans), ("mean", mean))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Two batches of an epoch, and one of an epoch before it."""
    made = Shop(tmp_path_factory.mktemp("segments"), extra_settings=MADE, is_tracked=True)
    epoch, checkpoint = _epoch(_session, made), checkpoint_path(made.settings().paths, segments.STAGE)
    files.write_text(_session, f"{checkpoint}/offsets/2", "v1\n{}\n")
    rows = [*_segments("before", 9, (1, 2)), *_segments(epoch, 1, (1, 2)), *_segments(epoch, 2, (5, 2, 1))]
    _append(_session, made, segments.table(made.settings()), rows)
    costs = [*_judged(epoch, 1, kmeans=0.9, mean=1.0), *_judged(epoch, 2, kmeans=0.5, mean=1.0)]
    _append(_session, made, tables.MODEL_METRICS, costs)
    return made


def _epoch(spark: SparkSession, shop: Shop) -> str:
    return Checkpoint(spark, checkpoint_path(shop.settings().paths, segments.STAGE)).epoch()


def _publish(shop: Shop, *flags: str) -> int:
    return learn_publish.main(["--config", str(shop.config()), "--learner", "segments", *flags])


def _aliases(shop: Shop) -> dict[str, int]:
    versions = Registry(Store(shop.settings()), "segments").versions()
    return {alias: version.number for version in versions for alias in version.aliases}


def test_a_version_is_the_segments_of_the_newest_batch_and_mlflow_is_told_their_costs(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _publish(shop) == 0
    assert capsys.readouterr().out == "version 1 is the champion: there was none\n"
    epoch = _epoch(spark, shop)
    stored = shop.read(spark, segments.table(shop.settings())).where(f"epoch = '{epoch}' AND batch_id = 2")
    found = published_segments.read(spark, shop.settings())
    assert found.model_version == 1
    assert_df_equality(found.rows.orderBy("segment_id"), stored.orderBy("segment_id"), ignore_nullable=True)
    run = Store(shop.settings()).runs("segments")[epoch]
    assert run.data.params["k"] == "8"
    assert run.data.metrics == {"kmeans/users": 10, "kmeans/cost": 0.5, "mean/users": 10, "mean/cost": 1.0}


def _by_hand(user: dict[str, float | None]) -> tuple[int, float]:
    """The nearest center and how far it is, by a loop; what is missing or never varied is at the mean."""
    found = []
    for segment_id, center in CENTRES.items():
        squares = 0.0
        for name, at in zip(("weekend", "log_value"), center, strict=True):
            value = user[name]
            squares += ((0.0 if value is None else (value - LOCATION[name]) / SCALE[name]) - at) ** 2
        found.append((math.sqrt(squares), segment_id))
    distance, segment_id = min(found)
    return segment_id, distance


def test_the_model_assigns_as_by_hand_in_pandas_and_in_an_udf_of_spark(
    spark: SparkSession, shop: Shop, registry: None
) -> None:
    values: tuple[float | None, ...] = (-0.2, 0.31, 1.0, None)
    users = [{"flat": 9.0, "log_value": v, "weekend": w} for v in (1.5, 3.1, None) for w in values]
    expected = [_by_hand(user) for user in users]
    assert {segment_id for segment_id, _ in expected} == {1, 2, 5}
    vectors = pd.DataFrame(users, dtype=float)
    model = mlflow.pyfunc.load_model("models:/segments@champion")
    loaded = model.predict(vectors[["weekend", "flat", "log_value"]])
    assert loaded["segment_id"].tolist() == [segment_id for segment_id, _ in expected]
    assert loaded["distance"].tolist() == pytest.approx([distance for _, distance in expected], abs=1e-12)
    kind = "struct<segment_id bigint, distance double>"
    udf = mlflow.pyfunc.spark_udf(spark, "models:/segments@champion", env_manager="local", result_type=kind)
    got = spark.createDataFrame(vectors).select(udf("flat", "log_value", "weekend").alias("found")).collect()
    assert [tuple(row["found"]) for row in got] == list(loaded.itertuples(index=False, name=None))


def test_a_version_whose_share_of_the_cost_of_one_center_grew_is_the_challenger(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch = _epoch(spark, shop)
    _append(spark, shop, segments.table(shop.settings()), _segments(epoch, 3, (1, 5)))
    _append(spark, shop, tables.MODEL_METRICS, _judged(epoch, 3, kmeans=0.53, mean=1.0))
    assert _publish(shop) == 0
    assert capsys.readouterr().out == (
        "version 2 is the challenger: cost/mean of kmeans is 0.5300, needed at most 0.5250 (version 1: 0.5000)\n"
    )
    # Users have spread, so both costs are higher; the share is what counts.
    newest = DeltaTable.forPath(spark, tables.MODEL_METRICS.uri(shop.settings().paths))
    newest.update("batch_id = 3", {"cost": "CASE ranker WHEN 'kmeans' THEN 2.08 ELSE 4.0 END"})
    assert _publish(shop) == 0
    assert "version 3 is the champion: cost/mean of kmeans is 0.5200" in capsys.readouterr().out
    assert _aliases(shop) == {"champion": 3, "previous": 1, "challenger": 2}
    assert _publish(shop, "--rollback") == 0
    assert _aliases(shop) == {"champion": 1, "challenger": 3}
    assert published_segments.read(spark, shop.settings()).rows.count() == 3
    capsys.readouterr()
    assert _publish(shop, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("version 3  challenger  kmeans cost/mean 0.5200  batch 3 of epoch ")


def test_segments_in_another_scaling_are_met_by_their_shares_over_the_same_stretch(
    spark: SparkSession, shop: Shop
) -> None:
    """The champion's last batch, after the stretch, had a share of 0.02; over the two batches of it, 0.6."""
    epoch = _epoch(spark, shop)
    rows = [
        *_judged("other", 27, kmeans=30.0, mean=50.0, users=7),
        *_judged("other", 28, kmeans=120.0, mean=200.0, users=1),
        *_judged("other", 29, kmeans=1.0, mean=50.0),
        *_judged(epoch, 27, kmeans=0.6, mean=1.0, users=30),
        *_judged(epoch, 28, kmeans=1.764, mean=3.0, users=10),
    ]
    _append(spark, shop, tables.MODEL_METRICS, rows)
    notes = {"profilestream.epoch": "other", "profilestream.batch_id": "29", "profilestream.ranker": "kmeans"}
    champion = Version(1, ("champion",), notes)
    measure = published_segments.publishable(shop.settings()).measure
    measure = replace(measure, made=PublishSegments(batches=2))
    found = promotion.quality(spark, shop.settings(), measure, epoch, up_to=28)
    assert found.value == pytest.approx((30 * 0.6 + 10 * 1.764) / (30 * 1.0 + 10 * 3.0))
    for share, is_better in ((0.5941, False), (0.5939, True)):
        got, why = promotion.judge(spark, shop.settings(), measure, champion, replace(found, value=share))
        assert got == is_better
        assert why == f"cost/mean of kmeans is {share:.4f}, needed less than 0.5940 (version 1: 0.6000)"
