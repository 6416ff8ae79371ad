"""Batches of points for the benchmarks of segments: seeded Gaussian mixtures, and weekly spending of households."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from profilestream.learn.kernels.arrays import Floats, Longs

from benchmarks.real_datasets import DATA

SEED = 20_260_101
GROUPS, DIMENSIONS, POINTS_PER_BATCH, BATCHES = 20, 16, 1_000, 60
# Distance that each center moves per batch, in standard deviations of its group.
_DRIFT = {"slow drift": 0.03, "fast drift": 0.15}
# Batches until one group is replaced by another.
_BIRTH_INTERVAL = 10
_FIRST_GROUPS = 4
KINDS = ("stationary", "slow drift", "fast drift", "births", "poor first batch")
DEPARTMENTS, FIRST_WEEKS = 18, 5


@dataclass(frozen=True)
class PointBatch:
    """The points of one batch.

    Args:
        points: (points, dimensions).
        groups: true group of each point; empty for real data.
    """

    points: Floats
    groups: Longs


Stream = list[PointBatch]


def mixture(kind: str, seed: int) -> Stream:
    """60 batches of 20 equally large groups in 16 dimensions: centers from N(0, 4^2), points from N(center, 1).

    Args:
        kind: one of KINDS.
    """
    rng = np.random.default_rng([SEED, seed])
    centers = rng.normal(0, 4, (GROUPS, DIMENSIONS))
    direction = rng.normal(0, 1, centers.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    labels = np.arange(GROUPS)
    stream = []
    for batch in range(BATCHES):
        if kind == "births" and batch and batch % _BIRTH_INTERVAL == 0:
            replaced = rng.integers(GROUPS)
            centers[replaced], labels[replaced] = rng.normal(0, 4, DIMENSIONS), labels.max() + 1
        n_groups = _FIRST_GROUPS if kind == "poor first batch" and not batch else GROUPS
        groups = rng.integers(0, n_groups, POINTS_PER_BATCH)
        points = centers[groups] + rng.normal(0, 1, (POINTS_PER_BATCH, DIMENSIONS))
        stream.append(PointBatch(points, labels[groups]))
        centers = centers + _DRIFT.get(kind, 0.0) * direction
    return stream


def complete_journey() -> Stream:
    """One batch per week, one point per household with a purchase: log(1 + dollars) spent in each of 18 departments.

    The departments are those with the highest spending in the first five weeks. Points are standardized with mean and
    standard deviation of these weeks. The first and the last week have fewer than seven days and are left out.
    """
    (path,) = (DATA / "complete_journey").glob("transactions*.parquet")
    lines = pd.read_parquet(path, columns=["household_id", "product_id", "sales_value", "week"])
    products = pd.read_parquet(DATA / "complete_journey" / "products.parquet", columns=["product_id", "department"])
    spent = lines.merge(products, on="product_id", how="inner").pivot_table(
        index=["week", "household_id"], columns="department", values="sales_value", aggfunc="sum", fill_value=0.0
    )
    weeks = spent.index.get_level_values("week")
    spent = spent[(weeks > weeks.min()) & (weeks < weeks.max())]
    weeks = spent.index.get_level_values("week")
    first = spent[weeks < weeks.min() + FIRST_WEEKS]
    logged = np.log1p(spent[first.sum().nlargest(DEPARTMENTS).index])
    reference = logged[weeks < weeks.min() + FIRST_WEEKS]
    points = ((logged - reference.mean()) / reference.std()).to_numpy()
    return [PointBatch(points[weeks == week], np.zeros(0, np.int64)) for week in weeks.unique()]
