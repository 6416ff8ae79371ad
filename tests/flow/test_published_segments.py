"""Publishing of the segments: the copied rows, the MLflow model that assigns users, and the promotion gate."""

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
from profilestream.base.delta_table import Table
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import frame_of_dicts
from profilestream.base.settings import PublishSegments
from profilestream.learn import evaluated_batches, promotion_gate, publishing, version_aliases
from profilestream.learn.model_registry import RegisteredModel, RegisteredVersion
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.learn.tracking import MlflowStore
from pyspark.sql import DataFrame, SparkSession

from jobs import learn_publish
from tests.builders import Shop

ROOT = Path(__file__).parent.parent.parent
SETTINGS = f"""
[derive]
profiles = ["{ROOT}/conf/derive/user_profiles.toml"]
[learn.publish_segments]
eval_batches = 1
min_weight = 1
"""
CENTERS = {1: (0.0, 0.0), 2: (3.0, -1.0), 5: (-1.5, 2.0)}
LOCATION, SCALE = {"weekend": 0.3, "log_value": 2.0, "flat": 7.0}, {"weekend": 0.2, "log_value": 0.5, "flat": 0.0}


Rows = list[dict[str, Any]]


def _append(spark: SparkSession, shop: Shop, table: Table, rows: Rows) -> None:
    paths = shop.settings().paths
    table.create(spark, paths)
    commits.append(frame_of_dicts(spark, rows, table.schema), table, paths, Txn("test", str(uuid.uuid4()), 0))


def _segments(epoch: str, batch_id: int, ids: tuple[int, ...]) -> Rows:
    return [
        {
            "segment_id": one, "users": 4, "weight": 3.5, "sums": [0.0], "scatter": [1.0], "cost": 0.5,
            "center": {"weekend": CENTERS[one][0], "log_value": CENTERS[one][1], "flat": 0.0},
            "location": LOCATION, "scale": SCALE, "merged_ids": [], "next_id": 6,
            "epoch": epoch, "batch_id": batch_id, "as_of": f"2026-01-{batch_id:02}T10:00:00Z",
        }
        for one in ids
    ]  # fmt: skip


def _costs(epoch: str, batch_id: int, *, kmeans: float, mean: float, points: int = 10) -> Rows:
    """Rows of `model_metrics`."""
    return [
        {
            "learner": "segments", "model": model, "metric": "cost", "value": cost, "weight": points,
            "epoch": epoch, "batch_id": batch_id, "state_as_of": f"2026-01-{batch_id:02}T10:00:00Z",
        }
        for model, cost in (("kmeans", kmeans), ("mean", mean))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Two batches of the current epoch, and one of an earlier epoch."""
    shop = Shop(tmp_path_factory.mktemp("segments"), extra_settings=SETTINGS, is_tracked=True)
    epoch, checkpoint = _epoch(_session, shop), checkpoint_path(shop.settings().paths, SegmentsSpec.stage_name())
    files.write_text(_session, f"{checkpoint}/offsets/2", "v1\n{}\n")
    rows = [*_segments("earlier", 9, (1, 2)), *_segments(epoch, 1, (1, 2)), *_segments(epoch, 2, (5, 2, 1))]
    _append(_session, shop, SegmentsSpec(shop.settings()).table, rows)
    costs = [*_costs(epoch, 1, kmeans=0.9, mean=1.0), *_costs(epoch, 2, kmeans=0.5, mean=1.0)]
    _append(_session, shop, tables.MODEL_METRICS, costs)
    return shop


def _epoch(spark: SparkSession, shop: Shop) -> str:
    return Checkpoint(spark, checkpoint_path(shop.settings().paths, SegmentsSpec.stage_name())).epoch()


def _publish(shop: Shop, *flags: str) -> int:
    return learn_publish.main(["--config", str(shop.config()), "--learner", "segments", *flags])


def _aliases(shop: Shop) -> dict[str, int]:
    versions = RegisteredModel(MlflowStore(shop.settings()), "segments").versions()
    return {alias: version.number for version in versions for alias in version.aliases}


def _read_champion(spark: SparkSession, shop: Shop) -> tuple[RegisteredVersion, DataFrame]:
    publication = SegmentsSpec(shop.settings()).publication
    return publishing.read(spark, shop.settings(), publication, version_aliases.CHAMPION)


def test_a_version_contains_the_segments_of_the_last_batch_and_mlflow_has_their_costs(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _publish(shop) == 0
    assert capsys.readouterr().out == "version 1 is the champion: there was no champion\n"
    epoch = _epoch(spark, shop)
    stored = shop.read(spark, SegmentsSpec(shop.settings()).table).where(f"epoch = '{epoch}' AND batch_id = 2")
    version, rows = _read_champion(spark, shop)
    assert version.number == 1
    assert_df_equality(
        rows.orderBy("segment_id"), stored.orderBy("segment_id"), ignore_nullable=True, ignore_metadata=True
    )
    run = MlflowStore(shop.settings()).runs_by_epoch("segments")[epoch]
    assert run.data.params["k"] == "8"
    assert run.data.metrics == {"kmeans/cost": 0.5, "mean/cost": 1.0}


def _nearest(user: dict[str, float | None]) -> tuple[int, float]:
    """The nearest center and the distance to it, by a loop; missing or constant values are at the mean."""
    distances = []
    for segment_id, center in CENTERS.items():
        squares = 0.0
        for name, at in zip(("weekend", "log_value"), center, strict=True):
            value = user[name]
            squares += ((0.0 if value is None else (value - LOCATION[name]) / SCALE[name]) - at) ** 2
        distances.append((math.sqrt(squares), segment_id))
    distance, segment_id = min(distances)
    return segment_id, distance


def test_the_mlflow_model_assigns_users_to_the_nearest_center_in_pandas_and_as_a_spark_udf(
    spark: SparkSession, shop: Shop, registry: None
) -> None:
    values: tuple[float | None, ...] = (-0.2, 0.31, 1.0, None)
    users = [{"flat": 9.0, "log_value": v, "weekend": w} for v in (1.5, 3.1, None) for w in values]
    expected = [_nearest(user) for user in users]
    assert {segment_id for segment_id, _ in expected} == {1, 2, 5}
    vectors = pd.DataFrame(users, dtype=float)
    model = mlflow.pyfunc.load_model("models:/segments@champion")
    assert str(model.metadata.signature).split("\n")[1:4] == [
        "  ['flat': double (required), 'log_value': double (required), 'weekend': double (required)]",
        "outputs: ",
        "  ['segment_id': long (required), 'distance': double (required)]",
    ]
    predicted = model.predict(vectors[["weekend", "flat", "log_value"]])
    assert predicted["segment_id"].tolist() == [segment_id for segment_id, _ in expected]
    assert predicted["distance"].tolist() == pytest.approx([distance for _, distance in expected], abs=1e-12)
    result_type = "struct<segment_id bigint, distance double>"
    udf = mlflow.pyfunc.spark_udf(spark, "models:/segments@champion", env_manager="local", result_type=result_type)
    rows = spark.createDataFrame(vectors).select(udf("flat", "log_value", "weekend").alias("predicted")).collect()
    assert [tuple(row["predicted"]) for row in rows] == list(predicted.itertuples(index=False, name=None))


def test_the_gate_compares_the_cost_relative_to_the_cost_of_one_center(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch = _epoch(spark, shop)
    _append(spark, shop, SegmentsSpec(shop.settings()).table, _segments(epoch, 3, (1, 5)))
    _append(spark, shop, tables.MODEL_METRICS, _costs(epoch, 3, kmeans=0.53, mean=1.0))
    assert _publish(shop) == 0
    assert capsys.readouterr().out == (
        "version 2 is the challenger: cost/mean of kmeans is 0.5300, needed at most 0.5250 (version 1: 0.5000)\n"
    )
    # Both costs are higher because the users differ more; the ratio counts.
    metrics = DeltaTable.forPath(spark, tables.MODEL_METRICS.uri(shop.settings().paths))
    metrics.update("batch_id = 3", {"value": "CASE model WHEN 'kmeans' THEN 2.08 ELSE 4.0 END"})
    assert _publish(shop) == 0
    assert "version 3 is the champion: cost/mean of kmeans is 0.5200" in capsys.readouterr().out
    assert _aliases(shop) == {"champion": 3, "previous": 1, "challenger": 2}
    assert _publish(shop, "--rollback") == 0
    assert _aliases(shop) == {"champion": 1, "challenger": 3}
    assert _read_champion(spark, shop)[1].count() == 3
    capsys.readouterr()
    assert _publish(shop, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("version 3  challenger  kmeans cost/mean 0.5200  batch 3 of epoch ")


def test_a_champion_with_another_scale_is_compared_by_the_relative_cost_over_the_same_period(
    spark: SparkSession, shop: Shop
) -> None:
    """In the period of the two batches the champion had 0.6; its own last batch, 0.02, is later."""
    epoch = _epoch(spark, shop)
    rows = [
        *_costs("other", 27, kmeans=30.0, mean=50.0, points=7),
        *_costs("other", 28, kmeans=120.0, mean=200.0, points=1),
        *_costs("other", 29, kmeans=1.0, mean=50.0),
        *_costs(epoch, 27, kmeans=0.6, mean=1.0, points=30),
        *_costs(epoch, 28, kmeans=1.764, mean=3.0, points=10),
    ]
    _append(spark, shop, tables.MODEL_METRICS, rows)
    tags = {"profilestream.epoch": "other", "profilestream.batch_id": "29", "profilestream.model": "kmeans"}
    champion = RegisteredVersion(1, ("champion",), tags)
    gate = PublishSegments(eval_batches=2, min_weight=1)
    gate_metric = replace(SegmentsSpec(shop.settings()).publication.gate_metric, gate=gate)
    assert gate_metric.metric.is_lower_better
    stored = evaluated_batches.collect(spark, shop.settings(), "segments", gate_metric.metrics, ["other", epoch])
    candidate = gate_metric.batches(stored, epoch).until(28).last(2)
    assert candidate.mean == pytest.approx((30 * 0.6 + 10 * 1.764) / (30 * 1.0 + 10 * 3.0))
    passes, reason = promotion_gate.compare(gate_metric, stored, champion, candidate, epoch)
    assert not passes
    assert reason == (
        "cost/mean of kmeans is 0.5940 (version 1: 0.6000 over 2 common batches); "
        "better by 0.0060 (0.0000 to 0.0120), needed more than 0.0060"
    )


@pytest.mark.parametrize(("ids", "is_useful"), [((), False), ((1,), False), ((1, 2), True)])
def test_a_single_segment_is_not_published(
    spark: SparkSession, shop: Shop, ids: tuple[int, ...], is_useful: bool
) -> None:
    rows = frame_of_dicts(spark, _segments("e", 1, ids), SegmentsSpec(shop.settings()).table.schema)
    state = SegmentsSpec(shop.settings()).publication.state(rows, "e")
    assert (state is not None) == is_useful
