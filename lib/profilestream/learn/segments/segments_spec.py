"""SegmentsSpec: k segments of users by incremental k-means over profile vectors. segments_batch.py computes a batch.

The rows of the last batch in `segments` are the model. The row of a user in `user_segments` is the contribution of the
user, so each user counts once, even if many batches changed the profile.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings
from profilestream.base.language import message
from profilestream.base.queries import QueryInput, changed_rows
from profilestream.base.runner import Rows
from profilestream.derive import profiles
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec, StateTables
from profilestream.learn.metrics import Evaluation, Metric
from profilestream.learn.promotion_gate import GateMetric
from profilestream.learn.publication import Publication, PublishedState
from profilestream.learn.segments import profile_points, segments_batch
from profilestream.learn.segments.kernels import kmeans_tasks
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums
from profilestream.learn.segments.kernels.kmeans import KMeansDelta, KMeansParams, KMeansState
from profilestream.learn.segments.kernels.profile_scaling import PROFILE, Scaling
from profilestream.learn.segments.segment_assigner import SegmentAssigner
from profilestream.learn.segments.segments_batch import SegmentsUpdate

COST = Metric(
    "cost", message("squared standard deviations"), "profile vectors",
    "Mean squared distance of a profile vector to the nearest segment center (kmeans), or to the mean of all users "
    "(mean).",
    is_lower_better=True,
)  # fmt: skip


@dataclass(frozen=True)
class SegmentModel:
    """The state after a batch, and the scaling of its points."""

    scaling: Scaling
    state: KMeansState


class SegmentsSpec(LearnerSpec):
    """Incremental k-means (kernels/kmeans.py) with moves that split and merge segments."""

    name = "segments"
    metrics = (COST,)
    state_tables = (tables.USER_SEGMENTS, tables.SEGMENTS)
    other_tables = (tables.SEGMENT_DESCRIPTIONS,)
    limits = (
        message("The scaling of the dimensions is that of the first batch, so a shop that changes needs a rebuild."),
        message("A user without events in the dimensions of the vector is near the mean of all users."),
        message("k is a setting: the segments are a summary, and do not show that groups exist."),
    )

    @property
    def has_input(self) -> bool:
        profile = profiles.find_profile_table(self.settings)
        return profile is not None and profile.population is not None

    @property
    def users_table(self) -> Table:
        """`user_segments`: one row per user."""
        return self.tables[0]

    @property
    def table(self) -> Table:
        """`segments`: one row per segment and batch."""
        return self.tables[1]

    @cached_property
    def profile(self) -> DerivedTable:
        """The declared profile table whose vectors are clustered.

        Raises:
            BadSettings: no profile table is declared, or it has no vector.
        """
        derived = profiles.profile_table(self.settings)
        if derived.population is None:
            raise BadSettings(
                f"{derived.name} declares no [population], so it has no profile vector",
                where="learn.segments.enabled",
                do="declare [population], as conf/derive/user_profiles.toml does",
            )
        return derived

    @cached_property
    def params(self) -> KMeansParams:
        """The parameters of the algorithm."""
        return self.config.params_of(KMeansParams)

    @property
    def weights(self) -> dict[str, float]:
        """Weight by dimension of the profile vector; empty if the table has no vector."""
        derived = profiles.profile_table(self.settings)
        if derived.population is None:
            return {}
        return {name: derived.population.weights.get(name, 1.0) for name in derived.vector.dimensions}

    @property
    def other_inputs(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def check(self, spark: SparkSession) -> None:
        _ = self.profile

    def reads(self) -> QueryInput:
        max_files = self.settings.learn.max_files_per_trigger
        return changed_rows(self.profile.table, profiles.STAGE, self.settings.paths, max_files)

    def select(self, frame: DataFrame) -> DataFrame:
        """Rows with profile_scaling.PROFILE from rows of the change feed: each changed user once."""
        return profile_points.latest_profiles(frame, self.profile, self.params)

    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        return self._learn(batch, self.params if batch.count else self._params_without_moves)

    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """Subtract the contributions of the users, as for a deleted profile, and make no moves.

        The scaling remains that of the first batch, and past moves remain, also if the users had a part in them.
        """
        deleted = runner.union(keys, PROFILE.empty_table())
        batch = LearnerBatch(deleted, runner.distinct_count(keys, "user_id"), stored)
        return replace(self._learn(batch, self._params_without_moves), evaluation=Evaluation())

    @property
    def _params_without_moves(self) -> KMeansParams:
        return replace(self.params, max_split_merges=0)

    def _learn(self, batch: LearnerBatch[Rows], params: KMeansParams) -> Learned:
        model = self._model_before(batch)
        contributions = profile_points.contributions(batch.rows, model.scaling)
        user_ids = runner.renamed(contributions, {"user_id": "user_id"})
        stored = batch.stored.rows(self.users_table, kmeans_tasks.USER.names, user_ids)
        changes = segments_batch.changed_users(contributions, stored)

        def others(segment_ids: Sequence[int]) -> Rows:
            rows = batch.stored.rows(self.users_table, kmeans_tasks.USER.names, segment_id=segment_ids)
            return runner.split_by_keys(rows, "user_id", contributions, "user_id", batch.count)[1]

        with batch.phase("assign"):
            assignment = segments_batch.assign_batch(model.state, changes, others, params)
        with batch.phase("move"):
            update = segments_batch.update_segments(assignment, params)
        rows = {
            self.users_table.name: update.users,
            self.table.name: self.state_rows(self.table, _segment_rows(update, model.scaling)),
        }
        return Learned(rows, _evaluation(model.state, assignment.evaluation))

    def model_after(self, spark: SparkSession, epoch: str, batch_id: int) -> SegmentModel | None:
        """The model after a batch; null if there are no segments yet."""
        rows = self.last_rows(spark, self.table, epoch, batch_id + 1)
        return self._model(rows) if len(rows) else None

    def _model_before(self, batch: LearnerBatch[Rows]) -> SegmentModel:
        """The model before the batch. Before the first batch it has no segments, and the scaling of the batch."""
        rows = batch.stored.last_batch(self.table)
        if len(rows):
            return self._model(rows)
        scaling = profile_points.fit_scaling(batch.rows, self.weights)
        return SegmentModel(scaling, KMeansState.from_centers(np.zeros((0, len(scaling.dimensions)))))

    def _model(self, table: pa.Table) -> SegmentModel:
        dimensions = tuple(self.profile.vector.dimensions)
        as_of = int(kmeans_tasks.micros(table, "as_of")[0])
        rows = sorted(table.to_pylist(), key=lambda row: int(row["segment_id"]))
        first, s, d = rows[0], len(rows), len(dimensions)
        location, scale = (
            np.array([dict(first[column])[name] for name in dimensions]) for column in ("location", "scale")
        )
        users, weight, sums, scatter = (
            np.array([row[column] for row in rows]) for column in ("users", "weight", "sums", "scatter")
        )
        cluster_sums = ClusterSums(users, weight, sums, scatter.reshape(s, d, d), as_of=as_of)
        state = KMeansState(np.array([row["segment_id"] for row in rows]), cluster_sums, first["next_id"])
        return SegmentModel(Scaling(dimensions, location, scale), state)

    @property
    def publication(self) -> Publication:
        """The segments after the last batch, compared by their cost relative to that of one center for all users."""
        config, params = self.settings.learn.publish_segments, asdict(self.params)
        return Publication(
            stage=self.stage_name(),
            model_name=config.name,
            table=self.table,
            gate_metric=GateMetric(self.name, COST, "kmeans", config, baseline="mean"),
            metrics=self.metrics,
            limits=self.limits,
            run_params=params,
            params=params,
            required_rows="second segment",
            state=self._published_state,
            predictor=SegmentAssigner,
            numbers=("center", "cost", "location", "scale"),
        )

    def _published_state(self, rows: DataFrame, epoch: str) -> PublishedState | None:
        last = rows.where(F.col("epoch") == epoch).orderBy(F.desc("batch_id")).first()
        if last is None:
            return None
        of_batch = rows.where((F.col("epoch") == epoch) & (F.col("batch_id") == last["batch_id"]))
        if of_batch.count() < 2:
            return None
        # The input of the model is a user's mean vector, with one column per dimension in order of name.
        example = {name: [value] for name, value in sorted(last["location"].items())}
        time = F.unix_micros("as_of")
        data_from, data_to = rows.where(F.col("epoch") == epoch).agg(F.min(time), F.max(time)).collect()[0]
        users = of_batch.agg(F.sum("users")).collect()[0][0]
        return PublishedState(of_batch, last["batch_id"], example, users, data_from, data_to)


def _evaluation(before: KMeansState, first_pass: KMeansDelta | None) -> Evaluation:
    """Cost of the batch's points, for the segments before it and for one center."""
    if first_pass is None:
        return Evaluation()
    values: dict[str, dict[str, tuple[float, float]]] = {}
    if points := first_pass.evaluated_points:
        costs = {"kmeans": first_pass.cost, "mean": first_pass.cost_of_mean}
        values = {model: {COST.name: (cost / points, points)} for model, cost in costs.items()}
    return Evaluation(values, first_pass.times, before.sums.as_of)


def _segment_rows(update: SegmentsUpdate[Any], scaling: Scaling) -> list[dict[str, Any]]:
    """The state as rows of `segments`."""
    sums, ids = update.state.sums, update.state.ids
    parent_ids = {move.child: move.parent for move in update.moves}
    merged_ids: dict[int, list[int]] = {}
    for move in update.moves:
        if move.absorbed is not None and move.absorbed_by is not None:
            earlier = [*merged_ids.get(move.absorbed_by, []), *merged_ids.pop(move.absorbed, [])]
            merged_ids[move.absorbed_by] = [*earlier, move.absorbed]
    return [
        {
            "segment_id": segment_id,
            "users": int(sums.users[n]),
            "weight": float(sums.weight[n]),
            "sums": sums.sums[n].tolist(),
            "scatter": sums.scatter[n].ravel().tolist(),
            "center": _by_dimension(scaling, sums.centers[n].tolist()),
            "location": _by_dimension(scaling, scaling.location.tolist()),
            "scale": _by_dimension(scaling, scaling.scale.tolist()),
            "cost": float(sums.cost[n] / sums.weight[n]),
            "parent_id": parent_ids.get(segment_id),
            "merged_ids": merged_ids.get(segment_id, []),
            "next_id": update.state.next_id,
            "as_of": sums.as_of,
        }
        for n, segment_id in enumerate(ids.tolist())
    ]


def _by_dimension(scaling: Scaling, values: list[float]) -> list[tuple[str, float]]:
    return list(zip(scaling.dimensions, values, strict=True))
