"""OutcomesSpec: models of outcomes in one table, with one commit per batch (outcomes_batch.py)."""

import logging
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.queries import QueryInput, appended_rows
from profilestream.base.runner import Rows
from profilestream.base.settings import Outcomes
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec, StateTables
from profilestream.learn.metrics import Evaluation, Metric
from profilestream.learn.outcomes import matured_examples, model_versions, outcome_declaration, outcomes_batch
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes

_TIMES = ("valid_from", "as_of")
log = logging.getLogger(__name__)


class OutcomesSpec(LearnerSpec):
    """Linear models of outcomes, learned when their rows have matured (kernels/outcome_model.py)."""

    name = "outcomes"
    metrics = (
        Metric("auc", "share, 0 to 1", "rows", "Share of pairs with different labels that the scores order correctly."),
        Metric(
            "log_loss", "nats", "rows", "Mean of -log(probability of the label).", is_lower_better=True, can_gate=True
        ),
        Metric(
            "ece", "share, 0 to 1", "rows",
            "Expected calibration error: mean |label - probability| of 20 groups of equal size.", is_lower_better=True,
        ),
        Metric(
            "lift_10", "ratio", "rows", "Mean label of the tenth of rows with the highest scores, over the mean of all."
        ),
        Metric("base_rate", "share, 0 to 1", "rows", "Mean label."),
        Metric("bias", "ratio", "rows", "Sum of the predicted amounts over that of the labels."),
        Metric(
            "relative_mae", "ratio", "rows", "Mean |amount - prediction| over the mean amount.", is_lower_better=True
        ),
        Metric(
            "top_10_share", "share, 0 to 1", "rows",
            "Share of the amounts in the tenth of rows with the highest scores.",
        ),
    )  # fmt: skip
    state_tables = (tables.OUTCOME_MODELS,)
    limits = ("Models with horizons of 60 days and more learn seasons with a delay of one year, or not at all.",)

    @property
    def config(self) -> Outcomes:
        return self.settings.learn.outcomes

    @cached_property
    def declared(self) -> DeclaredOutcomes:
        """The declared outcomes; errors as in outcome_declaration.load."""
        return outcome_declaration.load(self.settings)

    @property
    def has_input(self) -> bool:
        return bool(self.config.file)

    def check(self, spark: SparkSession) -> None:
        matured_examples.check(spark, self.settings)

    def reads(self) -> QueryInput:
        max_files = self.settings.learn.max_files_per_trigger
        return appended_rows(tables.OUTCOME_EXAMPLES, matured_examples.STEP, self.settings.paths, max_files)

    def select(self, frame: DataFrame) -> DataFrame:
        """The rows with EXAMPLE."""
        times = {name: F.unix_micros(name) for name in ("at", "matures_at")}
        return frame.withColumns(times).select(*EXAMPLE.names)

    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        declared, models = self.declared, self.models(batch.stored)
        learned, cells = outcomes_batch.learn(models, batch.rows, declared, batch.phase)
        return self._learned(models, learned, outcomes_batch.evaluation(cells, declared))

    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """Subtract the rows of the users from the sums of Newton; models of first-order rules do not change."""
        models = self.models(stored)
        changed, not_removed = outcomes_batch.remove(models, events, self.declared)
        if not_removed:
            log.warning("outcomes %s still contain the removed users: rebuild learn_outcomes", not_removed)
        return self._learned(models, models | changed)

    def models(self, stored: StateTables[Rows]) -> dict[str, VersionedModel]:
        """The model of each declared outcome, with the declared columns."""
        table, declared = self.tables[0], self.declared
        names = [name for name in table.names if name not in ("epoch", "batch_id")]
        rows = runner.collected(stored.rows(table, names))
        for name in _TIMES:
            rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast("int64"))
        by_outcome: dict[str, list[dict[str, Any]]] = {name: [] for name in declared.outcomes}
        for row in rows.to_pylist():
            by_outcome.get(row["outcome"], []).append(row)
        columns, rules = declared.inputs.names, declared.rules
        return {
            name: model_versions.model_of(by_outcome[name], rules[name], one.identity, columns).with_columns(
                rules[name], columns
            )
            for name, one in declared.outcomes.items()
        }

    def _learned(
        self, before: dict[str, VersionedModel], after: dict[str, VersionedModel], evaluation: Evaluation | None = None
    ) -> Learned:
        """The rows of the models that have changed."""
        changed = [
            row for name, one in after.items() if one is not before[name] for row in one.rows(name, before[name])
        ]
        return Learned({self.tables[0].name: self.state_rows(self.tables[0], changed)}, evaluation or Evaluation())
