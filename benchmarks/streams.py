"""Points that come in batches, for the benchmarks of segments: seeded mixtures, and weeks of real households."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from profilestream.learn.als import Floats, Longs

from benchmarks.logs import DATA

SEED = 20_260_101
GROUPS, DIMENSIONS, POINTS, BATCHES = 20, 16, 1_000, 60
# How far a group's center moves in a batch, in standard deviations of the group; in a direction of its own.
_SPEED = {"slow drift": 0.03, "fast drift": 0.15}
# Between batches in which one group ends and another begins.
_BIRTH_EVERY = 10
_FIRST_GROUPS = 4
KINDS = ("stationary", "slow drift", "fast drift", "births", "poor first batch")
DEPARTMENTS, FIRST_WEEKS = 18, 5


@dataclass(frozen=True)
class Points:
    """A batch.

    Args:
        groups: which group each point is of; none, of real ones.
    """

    points: Floats
    groups: Longs


Stream = list[Points]


def mixture(kind: str, seed: int) -> Stream:
    """20 groups in 16 dimensions, all of one size: centers of N(0, 4^2), points of N(center, 1)."""
    dice = np.random.default_rng([SEED, seed])
    centers = dice.normal(0, 4, (GROUPS, DIMENSIONS))
    direction = dice.normal(0, 1, centers.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    names = np.arange(GROUPS)
    found = []
    for batch in range(BATCHES):
        if kind == "births" and batch and batch % _BIRTH_EVERY == 0:
            ends = dice.integers(GROUPS)
            centers[ends], names[ends] = dice.normal(0, 4, DIMENSIONS), names.max() + 1
        groups = dice.integers(0, _FIRST_GROUPS if kind == "poor first batch" and not batch else GROUPS, POINTS)
        found.append(Points(centers[groups] + dice.normal(0, 1, (POINTS, DIMENSIONS)), names[groups]))
        centers = centers + _SPEED.get(kind, 0.0) * direction
    return found


def complete_journey() -> Stream:
    """A batch a week, a point a household that bought in it: log(1 + dollars) spent in each of 18 departments.

    The departments are those with most spent in them in the first five weeks, by which all is standardized. Weeks with
    fewer than seven days (the first, the last) are left out.
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
    known = logged[weeks < weeks.min() + FIRST_WEEKS]
    points = ((logged - known.mean()) / known.std()).to_numpy()
    return [Points(points[weeks == week], np.zeros(0, np.int64)) for week in weeks.unique()]
