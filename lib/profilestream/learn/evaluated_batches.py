"""The evaluated batches of a learner, from `model_metrics`: one collected table, computed with in the driver."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.batch_intervals import RatioOfSums

_TIMES = ("state_as_of", "rows_from", "rows_to")
_UNKNOWN = -1


def collect(
    spark: SparkSession, settings: Settings, learner: str, metrics: Sequence[str], epochs: Sequence[str]
) -> pa.Table:
    """Rows of `model_metrics` with weight, of all models; times in microseconds. About 60 bytes per row."""
    columns = ["epoch", "batch_id", "model", "metric", "value", "weight"]
    is_evaluated = F.col("metric").isin(list(metrics)) & F.col("epoch").isin(list(epochs)) & (F.col("weight") > 0)
    rows = tables.MODEL_METRICS.read(spark, settings.paths).where((F.col("learner") == learner) & is_evaluated)
    return rows.select(*columns, *[F.unix_micros(name).alias(name) for name in _TIMES]).toArrow()


@dataclass(frozen=True)
class EvaluatedBatches:
    """A metric of a model in batches of an epoch, in order; each (batches,).

    Args:
        state_as_of, rows_from, rows_to: as in `model_metrics`, microseconds since 1970; -1: null.
        baselines: the values that the metric is divided by.
    """

    batch_ids: Longs
    state_as_of: Longs
    rows_from: Longs
    rows_to: Longs
    weights: Floats
    values: Floats
    baselines: Floats

    @classmethod
    def of(cls, rows: pa.Table, metric: str, model: str, epoch: str, baseline: str = "") -> "EvaluatedBatches":
        """From rows of `collect`. Batches without a value of the model or of the baseline are left out."""

        def of_model(name: str) -> pa.Table:
            is_of_model = (pc.field("metric") == metric) & (pc.field("epoch") == epoch) & (pc.field("model") == name)
            return rows.filter(is_of_model).sort_by("batch_id")

        batches, other = of_model(model), of_model(baseline or model)
        batches = batches.filter(pc.is_in(batches["batch_id"], value_set=other["batch_id"].combine_chunks()))
        other = other.filter(pc.is_in(other["batch_id"], value_set=batches["batch_id"].combine_chunks()))
        state_as_of, rows_from, rows_to = (_longs(batches, name) for name in _TIMES)
        weights, values = (np.asarray(batches[name].to_numpy(), float) for name in ("weight", "value"))
        baselines = np.asarray(other["value"].to_numpy(), float) if baseline else np.ones(len(batches))
        return cls(_longs(batches, "batch_id"), state_as_of, rows_from, rows_to, weights, values, baselines)

    def __len__(self) -> int:
        return len(self.batch_ids)

    def where(self, selected: Bools | Longs) -> "EvaluatedBatches":
        """The selected batches: flags, or positions in order."""
        return type(self)(*(getattr(self, each.name)[selected] for each in fields(self)))

    def until(self, batch_id: int) -> "EvaluatedBatches":
        """The batches up to and including a batch."""
        return self.where(self.batch_ids <= batch_id)

    def last(self, count: int) -> "EvaluatedBatches":
        """The last batches."""
        return self.where(np.arange(max(len(self) - count, 0), len(self)))

    def since(self, batch_id: int, valid_from: int) -> "EvaluatedBatches":
        """The batches after a batch, without those whose rows are before a time, in microseconds."""
        is_of_version = (self.rows_from == _UNKNOWN) | (self.rows_from >= valid_from)
        return self.where((self.batch_ids > batch_id) & is_of_version)

    def common(self, other: "EvaluatedBatches") -> "tuple[EvaluatedBatches, EvaluatedBatches]":
        """The batches of both with the same rows and the same time of the state, in the same order."""
        positions = {key: n for n, key in enumerate(other._keys)}
        pairs = np.array([(n, positions[key]) for n, key in enumerate(self._keys) if key in positions], np.int64)
        pairs = pairs.reshape(-1, 2)
        return self.where(pairs[:, 0]), other.where(pairs[:, 1])

    @property
    def _keys(self) -> list[tuple[int, int, int]]:
        return list(zip(*(getattr(self, name).tolist() for name in _TIMES), strict=True))

    @property
    def ratio(self) -> RatioOfSums:
        """The mean by weight."""
        return RatioOfSums(self.values * self.weights, self.baselines * self.weights)

    @property
    def mean(self) -> float | None:
        """The mean by weight; null without a batch."""
        return self.ratio.value if len(self) else None

    @property
    def newest_rows(self) -> int | None:
        """Newest event time of the evaluated rows, or else of the states, microseconds; null without a batch."""
        return int(np.maximum(self.rows_to, self.state_as_of).max()) if len(self) else None


def _longs(rows: pa.Table, name: str) -> Longs:
    """A column of integers; -1 for nulls."""
    column: Any = rows[name]
    return np.asarray(column.fill_null(_UNKNOWN).to_numpy(), np.int64)
