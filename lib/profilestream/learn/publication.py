"""Publication: how a learner is published as a registered model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.columns import Column
from profilestream.base.delta_table import Table
from profilestream.base.settings import Settings
from profilestream.learn.metrics import Metric
from profilestream.learn.predictor import Predictor
from profilestream.learn.promotion_gate import GateMetric, PairedLosses

STAGE = "learn_publish"


@dataclass(frozen=True)
class PublishedState:
    """The state of a learner in one version of its table.

    Args:
        rows: of the table.
        batch_id: the last batch that it has learned.
        example: an input of the model: values by column.
        row_count: number of events, or of users, that it has learned.
        data_from, data_to: oldest and newest event time of these, or of the first and last batch; microseconds since
            1970.
        valid_from: the state can score rows of users from this event time on; null: from `data_to` on.
    """

    rows: DataFrame
    batch_id: int
    example: Mapping[str, list[Any]]
    row_count: int
    data_from: int
    data_to: int
    valid_from: int | None = None


@dataclass(frozen=True)
class Publication:
    """How a learner is published as a registered model.

    Args:
        stage: its stage.
        model_name: of the registered model.
        table: with its state.
        gate_metric: that its versions are compared by.
        metrics: of the learner, in the order of the model card.
        limits: known limits of its models, one sentence each.
        run_params: parameters of its MLflow run.
        params: parameters that are needed to read the rows of a version.
        required_rows: what the table must contain so that `state` is not null, for the error message.
        state: function from the rows of the table and the epoch of the stage's checkpoint to the state; its result is
            null while a version would be useless: it would recommend nothing, or assign all users to one segment.
        predictor: class with which the model predicts.
        numbers: columns of the rows whose values must be finite.
        max_growth: their norms may be at most this many times those of the champion of the same epoch.
        paired_losses: function from the published rows of the champion and of the version before, and from a time in
            microseconds, to their losses on rows that matured after it; its result is null if they cannot be compared.
            Null: the gate compares periods.
        added_columns: of the published rows only, nullable; `state` sets them.
        options: defaults of its options; MLflow accepts those with integer values as parameters of `predict`.
    """

    stage: str
    model_name: str
    table: Table
    gate_metric: GateMetric
    metrics: tuple[Metric, ...]
    limits: tuple[str, ...]
    run_params: Mapping[str, Any]
    params: Mapping[str, Any]
    required_rows: str
    state: Callable[[DataFrame, str], PublishedState | None]
    predictor: type[Predictor]
    numbers: tuple[str, ...]
    max_growth: float = 10.0
    paired_losses: Callable[[DataFrame, DataFrame, int], PairedLosses | None] | None = None
    added_columns: tuple[Column, ...] = ()
    options: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def learner(self) -> str:
        """The name in `model_metrics` and in `--learner`."""
        return self.gate_metric.learner

    def rows_of_version(self, spark: SparkSession, settings: Settings, number: int) -> DataFrame:
        """The rows of a published version; none if they were removed."""
        rows = self.published_table.read(spark, settings.paths)
        return rows.where(F.col("model_version") == number).drop("model_version")

    @property
    def published_table(self) -> Table:
        """`published_<table>`: the rows of each published version, with the column `model_version`."""
        of = self.table
        # No Delta features, so that every reader can open it; rows are deleted by whole partitions.
        properties = {name: value for name, value in of.properties.items() if not name.startswith("delta.enable")}
        model_version = Column("model_version", "BIGINT NOT NULL", "Version of the registered model.")
        return replace(
            of,
            name=f"published_{of.name}",
            meaning=f"Copies of the rows of `{of.name}`, one set per published version.",
            writer=STAGE,
            retention="stored while an alias points to the version",
            columns=(*of.columns, model_version, *self.added_columns),
            schema_version=of.schema_version + bool(self.added_columns),
            key=("model_version", *of.key),
            partitioned_by=("model_version", *of.partitioned_by),
            properties=properties,
            declaration="",
        )
