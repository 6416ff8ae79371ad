"""Examples of outcomes with an interaction of two features, for batch models."""

import numpy as np
import pyarrow as pa
from profilestream.base.settings import BatchModels
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE

from tests.naive_outcomes import DAY
from tests.outcomes_case import OUTCOMES

WEEKS, USERS = 28, 100
DECLARATION = OUTCOMES.replace("horizon_days = 28", "horizon_days = 7") + (
    '[outcomes.always]\nlabel = "buy"\nhorizon_days = 7\n[outcomes.margin]\nlabel = "buy"\nhorizon_days = 7\n'
    'rule = "sgd"\nloss = "hinge"\n'
)
CONFIG = BatchModels(kinds=("boosting",), min_rows=500, retrain_days=56)


def weekly_examples() -> pa.Table:
    """Users buy, and spend, if two features have the same sign, which no linear model can learn."""
    rng, rows = np.random.default_rng(0), []
    for week in range(WEEKS):
        for user in range(USERS):
            visits, amount = rng.normal(size=2)
            buys = float(rng.random() < (0.8 if visits * amount > 0 else 0.1))
            labels = [("buy", buys), ("spend", buys * rng.exponential(30)), ("always", 1.0), ("margin", buys)]
            rows.append({
                "horizon_days": 7, "user_id": f"u{user}", "at": 7 * week * DAY, "matures_at": (7 * week + 8) * DAY,
                "features": [visits if rng.random() < 0.95 else None, amount], "labels": labels,
            })  # fmt: skip
    return pa.Table.from_pylist(rows, EXAMPLE)


EXAMPLES = weekly_examples()
