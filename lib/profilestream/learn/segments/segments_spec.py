"""learn_segments: k segments of users by incremental k-means over profile vectors, updated with every micro-batch.

The rows of the last batch in `segments` are the state. The row of a user in `user_segments` is the contribution of the
user, so each user counts once, even if many batches changed the profile. segments_batch.py computes a batch.
"""

import json
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings
from profilestream.base.queries import Batch, BatchResult, Query, changed_rows, stage_query
from profilestream.base.session import frame_of_dicts
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import profiles
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn import metrics
from profilestream.learn.metrics_reporter import MetricsReporter
from profilestream.learn.segments import profile_points, segments_batch
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums
from profilestream.learn.segments.kernels.kmeans import KMeansDelta, KMeansParams, KMeansState
from profilestream.learn.segments.kernels.kmeans_tasks import IS_DELETED
from profilestream.learn.segments.segment_rules import Scaling
from profilestream.learn.segments.segments_batch import SegmentsUpdate

STAGE, LEARNER = "learn_segments", "segments"


def users_table(settings: Settings) -> Table:
    """`user_segments`, with the fingerprint of the settings that its rows depend on."""
    return replace(tables.USER_SEGMENTS, declaration=_declaration(settings))


def table(settings: Settings) -> Table:
    """`segments`, with the fingerprint of the settings that its rows depend on."""
    return replace(tables.SEGMENTS, declaration=_declaration(settings))


def profile(settings: Settings) -> DerivedTable:
    """The declared profile table whose vectors are clustered.

    Raises:
        BadSettings: no profile table is declared, or it has no vector.
    """
    derived = profiles.profile_table(settings)
    if derived.population is None:
        raise BadSettings(
            f"{derived.name} declares no [population], so it has no profile vector",
            where="learn.segments.enabled",
            do="declare [population], as conf/derive/user_profiles.toml does",
        )
    return derived


def params(settings: Settings) -> KMeansParams:
    """The parameters of the algorithm."""
    values = settings.learn.segments.model_dump()
    return KMeansParams(**{field.name: values[field.name] for field in fields(KMeansParams)})


def check(spark: SparkSession, settings: Settings) -> None:
    """Check that profile vectors are declared; writes nothing.

    Raises:
        BadSettings: there is no profile vector.
    """
    if settings.learn.segments.enabled:
        profile(settings)


def queries(settings: Settings) -> list[Query]:
    """The query of the stage; empty when it is not enabled."""
    if not settings.learn.segments.enabled:
        return []
    derived, users, segments = profile(settings), users_table(settings), table(settings)
    kmeans_params = params(settings)

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        return commits.versions(spark, (users,), settings.paths)

    def write(changes: DataFrame, batch: Batch) -> BatchResult:
        with batch.cached(profile_points.latest_profiles(changes, derived)) as (latest, rows):
            model = _model_before(latest, batch, segments, derived)
            stored = users.read(batch.spark, batch.paths, version=batch.plan.versions[users.name])
            contributions = profile_points.contributions(latest, model.scaling, kmeans_params)
            changed, others = segments_batch.changed_users(contributions, stored, rows)
            changed = changed.persist()
            with batch.phase("assign"):
                assignment = segments_batch.assign_batch(model.state, changed, others, kmeans_params)
            with batch.in_background() as run, batch.phase("move"):
                run(batch.append, _metric_rows(model.state, assignment.evaluation, batch), tables.MODEL_METRICS)
                update = segments_batch.update_segments(assignment, kmeans_params)
            changed_users = commits.with_batch_columns(update.users, users, batch.txn, IS_DELETED)
            batch.merge(changed_users, users, count=rows, delete_flag=IS_DELETED)
            batch.append(_segment_rows(update, model.scaling, batch, segments), segments)
            changed.unpersist()
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            STAGE,
            changed_rows(derived.table, profiles.STAGE, settings.paths, settings.learn.max_files_per_trigger),
            (tables.MODEL_METRICS, users, segments),
            write,
            settings=_settings_text(settings),
            shared=(tables.MODEL_METRICS,),
            versions=versions,
            on_progress=MetricsReporter(settings, LEARNER, asdict(kmeans_params)),
        )
    ]


def _settings_text(settings: Settings) -> str:
    """All settings that change the result, as text."""
    return json.dumps({"segments": asdict(params(settings)), "weights": weights(profile(settings))}, sort_keys=True)


def _declaration(settings: Settings) -> str:
    """Fingerprint of the settings that all rows of a table must share."""
    values = settings.learn.segments.model_dump(include={"k", "half_life_days"})
    return fingerprint(
        json.dumps({"segments": values, "weights": weights(profiles.profile_table(settings))}, sort_keys=True)
    )


def weights(derived: DerivedTable) -> dict[str, float]:
    """Weight by dimension of the profile vector; empty if the table has no vector."""
    if derived.population is None:
        return {}
    return {name: derived.population.weights.get(name, 1.0) for name in derived.vector.dimensions}


@dataclass(frozen=True)
class SegmentModel:
    """The state after a batch, and the scaling of its points."""

    scaling: Scaling
    state: KMeansState


def read(spark: SparkSession, settings: Settings, epoch: str, batch_id: int) -> SegmentModel | None:
    """The model after a batch; null if that batch wrote no segments."""
    return _read(table(settings).read(spark, settings.paths), profile(settings), epoch, batch_id)


def _read(segments: DataFrame, derived: DerivedTable, epoch: str, batch_id: int) -> SegmentModel | None:
    rows = segments.where((F.col("epoch") == epoch) & (F.col("batch_id") == batch_id)).collect()
    ordered = sorted(rows, key=lambda row: int(row["segment_id"]))
    return _model(ordered, tuple(derived.vector.dimensions)) if rows else None


def _model(rows: list[Row], dimensions: tuple[str, ...]) -> SegmentModel:
    first, s, d = rows[0], len(rows), len(dimensions)
    location, scale = (np.array([first[column][name] for name in dimensions]) for column in ("location", "scale"))
    users, weight, sums, scatter = (
        np.array([row[column] for row in rows]) for column in ("users", "weight", "sums", "scatter")
    )
    as_of = int(first["as_of"].timestamp()) * 1_000_000 + first["as_of"].microsecond
    cluster_sums = ClusterSums(users, weight, sums, scatter.reshape(s, d, d), as_of=as_of)
    state = KMeansState(np.array([row["segment_id"] for row in rows]), cluster_sums, first["next_id"])
    return SegmentModel(Scaling(dimensions, location, scale), state)


def _model_before(latest: DataFrame, batch: Batch, segments: Table, derived: DerivedTable) -> SegmentModel:
    """The model before the batch. Before the first batch it has no segments, and the scaling is fitted to the batch."""
    rows = segments.read(batch.spark, batch.paths)
    model = _read(rows, derived, batch.txn.epoch, batch.txn.batch_id - 1)
    if model is not None:
        return model
    scaling = profile_points.fit_scaling(latest, weights(derived))
    return SegmentModel(scaling, KMeansState.from_centers(np.zeros((0, len(scaling.dimensions)))))


def _metric_rows(before: KMeansState, evaluation: KMeansDelta | None, batch: Batch) -> DataFrame:
    """Rows of `model_metrics`: cost of the batch's points, for the segments before it and for one center."""
    values: dict[str, dict[str, tuple[float, float]]] = {}
    if evaluation is not None and evaluation.evaluated_points:
        points = evaluation.evaluated_points
        costs = {"kmeans": evaluation.cost, "mean": evaluation.cost_of_mean}
        values = {model: {"cost": (cost / points, points)} for model, cost in costs.items()}
    times = None if evaluation is None else evaluation.times
    return metrics.metric_rows(batch.spark, LEARNER, values, before.sums.as_of, times, batch.txn)


def _segment_rows(update: SegmentsUpdate[DataFrame], scaling: Scaling, batch: Batch, segments: Table) -> DataFrame:
    """The state as rows of `segments`."""
    sums, ids = update.state.sums, update.state.ids
    parent_ids = {move.child: move.parent for move in update.moves}
    merged_ids: dict[int, list[int]] = {}
    for move in update.moves:
        if move.absorbed is not None and move.absorbed_by is not None:
            earlier = [*merged_ids.get(move.absorbed_by, []), *merged_ids.pop(move.absorbed, [])]
            merged_ids[move.absorbed_by] = [*earlier, move.absorbed]
    values = [
        {
            "segment_id": segment_id,
            "users": int(sums.users[n]),
            "weight": float(sums.weight[n]),
            "sums": sums.sums[n].tolist(),
            "scatter": sums.scatter[n].ravel().tolist(),
            "center": dict(zip(scaling.dimensions, sums.centers[n].tolist(), strict=True)),
            "location": dict(zip(scaling.dimensions, scaling.location.tolist(), strict=True)),
            "scale": dict(zip(scaling.dimensions, scaling.scale.tolist(), strict=True)),
            "cost": float(sums.cost[n] / sums.weight[n]),
            "parent_id": parent_ids.get(segment_id),
            "merged_ids": merged_ids.get(segment_id, []),
            "next_id": update.state.next_id,
        }
        for n, segment_id in enumerate(ids.tolist())
    ]
    rows = frame_of_dicts(batch.spark, values, segments.schema)
    return commits.with_batch_columns(
        rows.withColumn("as_of", F.timestamp_micros(F.lit(sums.as_of))), segments, batch.txn
    )
