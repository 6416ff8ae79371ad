"""Examples and models of one outcome, `buy`, for the comparison of published versions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec

from tests.naive_outcomes import DAY
from tests.outcomes_case import HORIZON, OUTCOMES

DECLARATION = OUTCOMES.replace('calibration = "isotonic"\n', "")
USERS = 200


def examples(*days: int, effect: float = 2.0) -> pa.Table:
    """Rows of 200 users on each day; `effect` is the weight of the visits in the logit of `buy`."""
    rows = []
    for day in days:
        rng = np.random.default_rng(day)
        for user, visits in enumerate(rng.normal(size=USERS)):
            buys = float(rng.random() < 1 / (1 + np.exp(-effect * visits)))
            rows.append({
                "horizon_days": HORIZON, "user_id": f"u{user}", "at": day * DAY,
                "matures_at": (day + HORIZON + 1) * DAY, "features": [visits, 1.0],
                "labels": [("buy", buys), ("spend", buys * rng.exponential(30))],
            })  # fmt: skip
    return pa.Table.from_pylist(rows, EXAMPLE)


def learned(spec: OutcomesSpec) -> MemoryTables:
    """The models after the rows of day 0."""
    batch = examples(0)
    return MemoryTables().with_learned(spec, spec.learn(LearnerBatch(batch, len(batch), MemoryTables())))


def scaled(model: VersionedModel, factor: float) -> VersionedModel:
    """The model with its coefficients times a factor."""
    return model.with_last(replace(model.last, coefficients=factor * model.last.coefficients))
