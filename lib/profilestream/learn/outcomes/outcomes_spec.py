"""OutcomesSpec: models of outcomes in one table, with one commit per batch (outcomes_batch.py)."""

import logging
from functools import cached_property

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.errors import BadSettings
from profilestream.base.language import message
from profilestream.base.queries import QueryInput, appended_rows
from profilestream.base.runner import Rows
from profilestream.base.session import frame_of_arrow
from profilestream.base.settings import Outcomes
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec, StateTables
from profilestream.learn.metrics import RATIO, SHARE, Evaluation, Metric
from profilestream.learn.outcomes import (
    batch_versions,
    matured_examples,
    model_versions,
    outcome_declaration,
    outcomes_batch,
    version_comparison,
)
from profilestream.learn.outcomes.batch_versions import BatchVersion
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.outcomes.outcome_predictor import OutcomePredictor
from profilestream.learn.promotion_gate import GateMetric, PairedLosses
from profilestream.learn.publication import Publication, PublishedState

log = logging.getLogger(__name__)


class OutcomesSpec(LearnerSpec):
    """Linear models of outcomes, learned when their rows have matured (kernels/outcome_model.py)."""

    name = "outcomes"
    metrics = (
        Metric("auc", SHARE, "rows", "Share of pairs with different labels that the scores order correctly."),
        Metric(
            "log_loss", message("nats"), "rows", "Mean of -log(probability of the label).", is_lower_better=True
        ),
        Metric(
            "ece", SHARE, "rows",
            "Calibration error: mean absolute difference of mean label and mean probability, over 20 groups of equal "
            "size.",
            is_lower_better=True,
        ),
        Metric(
            "lift_10", RATIO, "rows", "Mean label of the tenth of rows with the highest scores, over the mean of all."
        ),
        Metric("base_rate", SHARE, "rows", "Mean label."),
        Metric("bias", RATIO, "rows", "Sum of the predicted amounts over that of the labels."),
        Metric(
            "relative_mae", RATIO, "rows",
            "Mean absolute difference of amount and prediction, divided by the mean amount.",
            is_lower_better=True,
        ),
        Metric(
            "top_10_share", SHARE, "rows",
            "Share of the amounts in the tenth of rows with the highest scores.",
        ),
    )  # fmt: skip
    state_tables = (tables.OUTCOME_MODELS,)
    limits = (
        message("Models with horizons of 60 days and more learn seasons with a delay of one year, or not at all."),
    )

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
        if self._gate_outcome not in self.declared.outcomes:
            raise BadSettings(
                f"no outcome is named {self._gate_outcome!r}; declared: {list(self.declared.outcomes)}",
                where="learn.publish_outcomes.outcome",
                do="name a declared outcome",
            )

    @property
    def _gate_outcome(self) -> str:
        return self.settings.learn.publish_outcomes.outcome or next(iter(self.declared.outcomes))

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
        table = self.tables[0]
        names = [name for name in table.names if name not in ("epoch", "batch_id")]
        return model_versions.models_of(runner.collected(stored.rows(table, names)), self.declared)

    def models_of(self, rows: DataFrame) -> dict[str, VersionedModel]:
        """As `models`, from rows of `outcome_models`."""
        return model_versions.models_of(rows.drop("epoch", "batch_id").toArrow(), self.declared)

    def _learned(
        self, before: dict[str, VersionedModel], after: dict[str, VersionedModel], evaluation: Evaluation | None = None
    ) -> Learned:
        """The rows of the models that have changed."""
        changed = [
            row for name, one in after.items() if one is not before[name] for row in one.rows(name, before[name])
        ]
        return Learned({self.tables[0].name: self.state_rows(self.tables[0], changed)}, evaluation or Evaluation())

    @property
    def publication(self) -> Publication | None:
        """The last versions of all models, compared by the log loss of one outcome (an amount: its error)."""
        if not self.has_input:
            return None
        config, outcome = self.settings.learn.publish_outcomes, self.declared.outcomes.get(self._gate_outcome)
        is_amount = outcome is not None and outcome.loss == "poisson"
        gate_metric = GateMetric(
            self.name,
            self.metric("relative_mae" if is_amount else "log_loss"),
            self._gate_outcome,
            config,
            label_days=(outcome.horizon_days if outcome else 0) + self.declared.label_grace_days,
            label_metric="base_rate",
        )
        return Publication(
            stage=self.stage_name(),
            model_name=config.name,
            table=self.tables[0],
            gate_metric=gate_metric,
            metrics=self.metrics,
            limits=self.limits,
            run_params=self.config.parameters,
            params=self.declared.model_dump(mode="json"),
            required_rows="model with coefficients",
            state=self._published_state,
            predictor=OutcomePredictor,
            numbers=("coefficients", "means", "scales"),
            paired_losses=self._paired_losses,
            added_columns=batch_versions.PUBLISHED_COLUMNS,
        )

    def _paired_losses(self, champion: DataFrame, previous: DataFrame, since: int) -> PairedLosses | None:
        """As version_comparison.paired_losses, of the outcome that the gate compares."""
        spark, paths, outcome = champion.sparkSession, self.settings.paths, self._gate_outcome
        if not tables.OUTCOME_EXAMPLES.exists(spark, paths):
            return None
        stored = tables.OUTCOME_EXAMPLES.read(spark, paths)
        examples = self.select(stored.where(F.col("matures_at") > F.timestamp_micros(F.lit(since))))
        models, batch = [], []
        for rows in (champion, previous):
            models.append(self.models_of(rows)[outcome])
            better = {one.outcome: one.loaded for one in self.published_batch_models(rows)}
            batch.append(better.get(outcome))
        one, other = models
        return version_comparison.paired_losses(
            examples, one, other, self.declared, outcome, since, (batch[0], batch[1])
        )

    def published_batch_models(self, rows: DataFrame) -> list[BatchVersion]:
        """The batch models in published rows that score instead of the linear models."""
        return batch_versions.published_versions(rows.drop("epoch", "batch_id").toArrow(), self.declared)

    def stored_batch_models(self, spark: SparkSession) -> list[BatchVersion]:
        """All batch models of the declared outcomes and features; none before the first run of learn_batch_models."""
        paths = self.settings.paths
        if not tables.BATCH_MODELS.exists(spark, paths):
            return []
        return batch_versions.versions_of(tables.BATCH_MODELS.read(spark, paths).toArrow(), self.declared)

    def _serving_batch_models(self, spark: SparkSession, valid_from: int) -> DataFrame:
        """`outcome` and PUBLISHED_COLUMNS of the batch models that are better than the linear models at a time."""
        serving = batch_versions.serving_versions(self.stored_batch_models(spark), valid_from)
        return frame_of_arrow(spark, batch_versions.published_rows(serving))

    def _published_state(self, rows: DataFrame, epoch: str) -> PublishedState | None:
        """The last started version of each model, with the batch model that scores instead of it."""
        is_last = F.row_number().over(Window.partitionBy("outcome", "identity").orderBy(F.desc("valid_from"))) == 1
        last = rows.where("is_started").withColumn("_is_last", is_last).where("_is_last").drop("_is_last")
        batch_id, rows_learned, *times = last.agg(
            F.max("batch_id"), F.max("rows"), F.min(F.unix_micros("as_of")), F.max(F.unix_micros("as_of")),
            F.max(F.unix_micros("valid_from")),
        ).collect()[0]  # fmt: skip
        if batch_id is None:
            return None
        example = {"features": [[0.0] * len(self.declared.features)]}
        batch = self._serving_batch_models(rows.sparkSession, times[-1])
        published = last.join(F.broadcast(batch), "outcome", "left")
        return PublishedState(published, batch_id, example, round(rows_learned or 0), *times)
