"""learn_batch_models: fits batch models of outcomes to stored examples, and compares them with the linear models.

At each due time, the rows that have matured since the one before are scored by the versions that were valid at their
times, and then the next version is fitted (docs/decisions/0051-batch-models.md).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks, tables
from profilestream.base.errors import NothingToDo
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.base.session import frame_of_arrow
from profilestream.base.settings import BatchModels, Settings
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.outcomes import batch_training, batch_versions, outcome_declaration, outcomes_batch
from profilestream.learn.outcomes.batch_training import Unfit
from profilestream.learn.outcomes.batch_versions import BatchVersion
from profilestream.learn.outcomes.kernels import outcome_tasks
from profilestream.learn.outcomes.kernels.model_comparison import Comparison, ModelKey, compare_examples
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE, Cell
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.outcomes.outcomes_batch import Models
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec

STEP, TABLE = "learn_batch_models", tables.BATCH_MODELS
COMPARE = Pass(compare_examples, inputs={"examples": EXAMPLE}, results=("comparisons",))
_HASHES = 2**32


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declared outcomes; writes nothing.

    Raises:
        BadSettings: no outcomes are declared, or a declaration is invalid.
    """
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
        stored = batch_versions.versions_of(TABLE.read(spark, paths).toArrow())
        cells = {Cell(*row[:-1]): row[-1] for row in rows.groupBy(*Cell._fields).count().collect()}
        new = retrain(stored, linear, rows, cells, declared, config)
        txn = commits.next_txn(spark, TABLE, paths, STEP, repr((config, declared, versions)))
        if new and txn is not None:
            commits.append(frame_of_arrow(spark, batch_versions.rows_of(new)).coalesce(1), TABLE, paths, txn)
        return new


def summary(versions: Iterable[BatchVersion]) -> list[str]:
    """One line for the last of these versions of each outcome and kind."""
    return [one.summary() for one in {(one.outcome, one.kind): one for one in versions}.values()]


def retrain(
    stored: Iterable[BatchVersion], linear: Models, examples: Rows, cells: Mapping[Cell, int],
    declared: DeclaredOutcomes, config: BatchModels,
) -> list[BatchVersion]:  # fmt: skip
    """The versions that are due, in order of time by horizon.

    Args:
        stored: all earlier versions.
        examples: rows with EXAMPLE.
        cells: of the examples, with their numbers of rows.
    """
    learner, new = _BatchLearner(declared, config, linear, examples, cells), list[BatchVersion]()
    by_key: dict[ModelKey, list[BatchVersion]] = defaultdict(list)
    for one in stored:
        if one.outcome in declared.outcomes and one.identity == batch_versions.identity_of(declared, one.outcome):
            by_key[one.outcome, one.kind].append(one)
    for horizon in sorted({cell.horizon_days for cell in cells}):
        own_cells = {cell: count for cell, count in cells.items() if cell.horizon_days == horizon}
        times: list[int] = batch_versions.due_times(own_cells, config.retrain_days, config.min_rows)
        keys: list[ModelKey] = [(name, kind) for name in learner.outcomes_of(horizon) for kind in config.kinds]
        for before, at in pairwise([0, *times]):
            due = {key: by_key[key] for key in keys if all(one.valid_from < at for one in by_key[key])}
            if due:
                fitted = learner.versions_at(horizon, before, at, due)
                for one in fitted:
                    by_key[one.outcome, one.kind].append(one)
                new += fitted
    return new


@dataclass(frozen=True)
class _BatchLearner:
    """Fits and evaluates the versions of a run; `examples` are a frame or an Arrow table."""

    declared: DeclaredOutcomes
    config: BatchModels
    linear: Models
    examples: Any
    cells: Mapping[Cell, int]

    def outcomes_of(self, horizon: int) -> list[str]:
        """The outcomes of a horizon that have probabilities or amounts, without those with monotonic features."""
        return [
            name
            for name, one in self.declared.outcomes.items()
            if one.horizon_days == horizon and one.loss != "hinge" and not one.monotonic
        ]

    def versions_at(
        self, horizon: int, before: int, at: int, earlier: Mapping[ModelKey, list[BatchVersion]]
    ) -> list[BatchVersion]:
        """The versions of a time, with the evaluation of the earlier ones on the rows that matured since `before`."""
        matured = self._matured(horizon, before, at)
        comparisons = self._comparisons(matured, earlier)
        rows = self._sample(horizon, at).sort_by([("at", "ascending"), ("user_id", "ascending")])
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

    def _matured(self, horizon: int, after: int, until: int) -> dict[Cell, int]:
        return {
            cell: count
            for cell, count in sorted(self.cells.items())
            if cell.horizon_days == horizon and after < cell.matures_at <= until
        }

    def _comparisons(
        self, cells: Mapping[Cell, int], versions: Mapping[ModelKey, list[BatchVersion]]
    ) -> dict[ModelKey, Comparison]:
        """Over the rows of cells that a batch version and a linear version of their times have scored."""
        total: dict[ModelKey, Comparison] = {}
        scorers = {cell: found for cell in cells if (found := self._scorers(cell, versions))}
        scored = {cell: cells[cell] for cell in scorers}
        rows: Any = outcomes_batch.rows_of_cells(self.examples, scored) if scored else None
        for cell, by_key in scorers.items():
            batch = {key: model for key, one in by_key.items() if (model := one.loaded)}
            states = {name: self.linear[name].scoring_state(cell.at) for name, _ in batch}
            _, results = run_pass(
                COMPARE, {"examples": rows}, cell=cell, model_inputs=self.declared.inputs, rules=self.declared.rules,
                linear=states, batch=batch,
            )  # fmt: skip
            for part in results["comparisons"]:
                for key, one in part.items():
                    total[key] = total[key] + one if key in total else one
        return total

    def _scorers(self, cell: Cell, versions: Mapping[ModelKey, list[BatchVersion]]) -> dict[ModelKey, BatchVersion]:
        """The versions that were valid at the time of a cell, of outcomes that had a linear model then."""
        return {
            key: one
            for key, others in versions.items()
            if self.linear[key[0]].scoring_state(cell.at) is not None
            and (one := batch_versions.scoring_version(others, cell.at)) is not None
        }

    def _sample(self, horizon: int, at: int) -> pa.Table:
        """The rows that a version learns: those of the last `history_days`, of all users or of a sample of users."""
        after = at - self.config.history_days * MICROS_PER_DAY
        count = sum(self._matured(horizon, after, at).values())
        limit, seed = int(min(1.0, self.config.max_rows / count) * _HASHES), f"{self.config.seed} "
        if isinstance(self.examples, DataFrame):
            hashed = F.crc32(F.concat(F.lit(seed), "user_id"))
            is_used = F.col("matures_at").between(after + 1, at) & (F.col("horizon_days") == horizon)
            return self.examples.where(is_used & (hashed < limit)).toArrow().cast(EXAMPLE)
        is_in_time = (pc.field("horizon_days") == horizon) & (pc.field("matures_at") > after)
        rows: pa.Table = self.examples.filter(is_in_time & (pc.field("matures_at") <= at))
        return rows.filter(pa.array([crc32(f"{seed}{user}".encode()) < limit for user in rows["user_id"].to_pylist()]))
