"""Rows as `evaluated_batches.collect` returns them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY


def metric_rows(
    epoch: str, model: str, values: Floats | Sequence[float], *, metric: str = "recall_20", first: int = 0,
    weight: float = 100.0,
) -> pa.Table:  # fmt: skip
    """One evaluated batch per day from batch `first` on: the rows of day n are scored by the state of day n - 1."""
    batch_ids = first + np.arange(len(values))
    columns: dict[str, Any] = {
        "epoch": [epoch] * len(values), "batch_id": batch_ids, "model": [model] * len(values),
        "metric": [metric] * len(values), "value": np.asarray(values, float), "weight": np.full(len(values), weight),
        "state_as_of": batch_ids * MICROS_PER_DAY - 1, "rows_from": batch_ids * MICROS_PER_DAY,
        "rows_to": (batch_ids + 1) * MICROS_PER_DAY - 1,
    }  # fmt: skip
    return pa.table(columns)
