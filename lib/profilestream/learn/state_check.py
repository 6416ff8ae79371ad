"""Checks the numbers of a state: finite, and not much larger than those of an earlier version."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from profilestream.base.delta_table import Table
from profilestream.base.passes import Pass, run_pass
from profilestream.learn.kernels.state_norms import largest_norms

Norms = Mapping[str, float]


def norms_of(rows: DataFrame, table: Table, columns: Sequence[str]) -> dict[str, float]:
    """The norm of each column, as in `largest_norms`; NaN or infinite if a value is."""
    schema = pa.schema([table.arrow_schema.field(name) for name in columns])
    one = Pass(largest_norms, inputs={"rows": schema}, results=("norms",))
    _, results = run_pass(one, {"rows": rows.select(*columns)})
    return {name: float(np.max([0.0, *(part[name] for part in results["norms"])])) for name in columns}


def find_problem(norms: Norms, good: Norms, max_growth: float) -> str:
    """The reason why a state must not be served; empty: no problem.

    Args:
        good: norms of an earlier version with the same settings; empty: there is none.
        max_growth: norms may be at most this many times those of the earlier version.
    """
    for name, norm in norms.items():
        if not math.isfinite(norm):
            return f"a value of {name} is NaN or infinite"
        if name in good and norm > max_growth * good[name] > 0:
            return f"the largest norm of {name} is {norm:.4g}, more than {max_growth:g} times {good[name]:.4g}"
    return ""
