"""learn_batch_models: fits batch models of outcomes to stored examples, and compares them with the linear models.

At each due time, the rows that have matured since the one before are scored by the versions that were valid at their
times, and then the next version is fitted (docs/decisions/0051-batch-models.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks, runner, tables
from profilestream.base.errors import NothingToDo
from profilestream.base.runner import Rows
from profilestream.base.session import frame_of_arrow
from profilestream.base.settings import BatchModels, Settings
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.outcomes import (
    batch_training,
    batch_versions,
    outcome_declaration,
    outcomes_batch,
    version_comparison,
)
from profilestream.learn.outcomes.batch_training import Unfit
from profilestream.learn.outcomes.batch_versions import BatchVersion
from profilestream.learn.outcomes.kernels import outcome_tasks
from profilestream.learn.outcomes.kernels.model_comparison import Comparison, ModelKey, ModelPair
from profilestream.learn.outcomes.kernels.outcome_scores import LinearModel
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE, Cell
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.outcomes.outcomes_batch import Models
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec

STEP, TABLE = "learn_batch_models", tables.BATCH_MODELS


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declared outcomes; writes nothing.

    Raises:
        BadSettings: user ids are sessions, no outcomes are declared, or a declaration is invalid.
    """
    settings.require_people("outcomes")
    outcome_declaration.load(settings)


def run(spark: SparkSession, settings: Settings, *, rebuild: bool = False) -> list[BatchVersion]:
    """Append all versions that are due, in one commit; no commit without any.

    Args:
        rebuild: empty the table first, so that all versions are fitted again.

    Returns:
        The new versions.

    Raises:
        BadSettings: no outcomes are declared, or a declaration is invalid.
        NothingToDo: there are no tables of examples or models.
    """
    spec, paths, config = OutcomesSpec(settings), settings.paths, settings.learn.batch_models
    declared, (models,) = spec.declared, spec.tables
    sources = (tables.OUTCOME_EXAMPLES, models)
    with locks.hold_lock(paths.lock_folder, STEP):
        if rebuild:
            TABLE.recreate(spark, paths)
        TABLE.prepare(spark, paths)
        if missing := [one.name for one in sources if not one.exists(spark, paths)]:
            do = "run jobs/learn_outcome_examples.py and jobs/learn_outcomes.py first"
            raise NothingToDo(f"there are no tables {missing}", where=paths.warehouse, do=do)
        versions = commits.versions(spark, sources, paths)
        rows = spec.select(sources[0].read(spark, paths, version=versions[sources[0].name]))
        linear = spec.models_of(models.read(spark, paths, version=versions[models.name]))
        stored = batch_versions.versions_of(TABLE.read(spark, paths).toArrow(), declared)
        new = retrain(stored, linear, rows, outcomes_batch.count_cells(rows), declared, config)
        txn = commits.next_txn(spark, TABLE, paths, STEP, repr((config, declared, versions)))
        if new and txn is not None:
            commits.append(frame_of_arrow(spark, batch_versions.rows_of(new)).coalesce(1), TABLE, paths, txn)
        return new


def summary(versions: Iterable[BatchVersion]) -> list[str]:
    """One line for the last of these versions of each outcome and kind."""
    return [one.summary() for one in {(one.outcome, one.kind): one for one in versions}.values()]


def retrain(
    stored: Sequence[BatchVersion], linear: Models, examples: Rows, cells: Mapping[Cell, int],
    declared: DeclaredOutcomes, config: BatchModels,
) -> list[BatchVersion]:  # fmt: skip
    """The versions that are due, in order of time by horizon.

    Args:
        stored: all earlier versions of these outcomes.
        examples: rows with EXAMPLE.
        cells: of the examples, with their numbers of rows.
    """
    new: list[BatchVersion] = []
    for horizon in sorted({cell.horizon_days for cell in cells}):
        own_cells = {cell: count for cell, count in sorted(cells.items()) if cell.horizon_days == horizon}
        learner = _BatchLearner(declared, config, linear, examples, own_cells)
        keys: list[ModelKey] = [(name, kind) for name in _outcomes(declared, horizon) for kind in config.kinds]
        by_key = {key: [one for one in stored if (one.outcome, one.kind) == key] for key in keys}
        times: list[int] = batch_versions.due_times(own_cells, config.retrain_days, config.min_rows)
        for before, at in pairwise([0, *times]):
            due = {key: others for key, others in by_key.items() if all(one.valid_from < at for one in others)}
            fitted = learner.versions_at(before, at, due) if due else []
            for one in fitted:
                by_key[one.outcome, one.kind].append(one)
            new += fitted
    return new


def _outcomes(declared: DeclaredOutcomes, horizon: int) -> list[str]:
    """The outcomes of a horizon that have probabilities or amounts, without those with monotonic features."""
    return [
        name
        for name, one in declared.outcomes.items()
        if one.horizon_days == horizon and one.loss != "hinge" and not one.monotonic
    ]


@dataclass(frozen=True)
class _BatchLearner:
    """Fits and evaluates the versions of a horizon.

    Args:
        examples: a frame or an Arrow table.
        cells: of the horizon, in order.
    """

    declared: DeclaredOutcomes
    config: BatchModels
    linear: Models
    examples: Any
    cells: Mapping[Cell, int]

    def versions_at(self, before: int, at: int, earlier: Mapping[ModelKey, list[BatchVersion]]) -> list[BatchVersion]:
        """The versions of a time, with the evaluation of the earlier ones on the rows that matured since `before`."""
        matured = self._matured(before, at)
        comparisons = self._comparisons(matured, earlier)
        rows = self._sample(at).sort_by([("at", "ascending"), ("user_id", "ascending")])
        values = outcome_tasks.feature_values(rows, len(self.declared.features))
        x = self.declared.inputs.matrix(values)
        versions = []
        for (outcome, kind), others in earlier.items():
            loss, labels = self.declared.outcomes[outcome].loss, outcome_tasks.labels_of(rows, outcome)
            used = np.isfinite(labels)
            model, problem = None, ""
            try:
                model = batch_training.fit(
                    kind, loss, values[used], x[used], labels[used], min_rows=self.config.min_rows,
                    seed=self.config.seed,
                ).to_bytes()  # fmt: skip
            except Unfit as error:
                problem = str(error)
            version = BatchVersion(
                outcome, kind, batch_versions.identity_of(self.declared, outcome), at, rows=int(used.sum()),
                as_of=max(cell.at for cell in matured),
                library=batch_training.library(), problem=problem, model=model,
            )  # fmt: skip
            new = comparisons.get((outcome, kind))
            versions.append(batch_versions.evaluated(version, others, new, self.config, is_amount=loss == "poisson"))
        return versions

    def _matured(self, after: int, until: int) -> dict[Cell, int]:
        return {cell: count for cell, count in self.cells.items() if after < cell.matures_at <= until}

    def _comparisons(
        self, cells: Mapping[Cell, int], versions: Mapping[ModelKey, list[BatchVersion]]
    ) -> dict[ModelKey, Comparison]:
        """Over the rows of cells that a batch version and a linear version of their times have scored."""
        pairs: dict[Cell, dict[ModelKey, ModelPair]] = {cell: {} for cell in cells}
        for cell, by_key in pairs.items():
            for (outcome, kind), others in versions.items():
                state = self.linear[outcome].scoring_state(cell.at)
                model = batch_versions.scoring_model(others, cell.at)
                if state is not None and model is not None:
                    by_key[outcome, kind] = model, LinearModel(self.declared.rules[outcome], state)
        return version_comparison.compare(self.examples, cells, pairs, self.declared)

    def _sample(self, at: int) -> pa.Table:
        """The rows that a version learns: those of the last `history_days`, of all users or of a sample of users."""
        after = at - self.config.history_days * MICROS_PER_DAY
        matured = self._matured(after, at)
        share = min(1.0, self.config.max_rows / sum(matured.values()))
        field: Any = F.col if isinstance(self.examples, DataFrame) else pc.field
        is_of_horizon = field("horizon_days") == next(iter(matured)).horizon_days
        rows = self.examples.filter(is_of_horizon & (field("matures_at") > after) & (field("matures_at") <= at))
        return runner.collected(outcomes_batch.rows_of_users(rows, share, self.config.seed)).cast(EXAMPLE)
