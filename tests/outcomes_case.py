"""The case of `learn_outcomes` for the laws: two outcomes of one horizon, in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.kernels import outcome_scores
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec

from tests import laws
from tests.builders import Shop
from tests.laws import LearnerCase, Numbers
from tests.naive_outcomes import DAY, NaiveNewton, clipped

HORIZON = 28
# After the end of all logs.
FAR = 800 * DAY
OUTCOMES = f"""
[labels.buy]
question = "Does the user buy?"
unit = "true or false"
kind = "count"
[labels.spend]
question = "How much does the user spend?"
unit = "currency"
kind = "sum"
of = "value"
[features.visits]
[features.amount]
is_log = true
[outcomes.buy]
label = "buy"
horizon_days = {HORIZON}
half_life_days = 20
ridge = 30
[outcomes.spend]
label = "spend"
horizon_days = {HORIZON}
loss = "poisson"
half_life_days = 20
"""


class Example(NamedTuple):
    """A row; the label `buy` is null for users outside of its population."""

    user: str
    day: int
    visits: float
    amount: float | None
    buy: bool | None
    spend: float


def spec_of(home: Path, declaration: str = OUTCOMES) -> OutcomesSpec:
    home.mkdir(parents=True, exist_ok=True)
    (home / "outcomes.toml").write_text(declaration)
    settings = f'[learn.outcomes]\nfile = "{home}/outcomes.toml"\n'
    return OutcomesSpec(Shop(home, extra_settings=settings).settings())


def case_of(home: Path) -> LearnerCase:
    spec = spec_of(home)
    return LearnerCase(
        spec=spec,
        logs=logs(),
        to_rows=lambda tables, batch: rows_of(batch),
        score=lambda tables, rows: _scores(spec, tables, rows),
        user_of=lambda row: row.user,
        unseen=lambda row: row._replace(user=f"new {row.user}"),
        later=lambda row: row._replace(day=row.day + 300),
        decayed_weights=lambda tables: decayed_weights(spec, tables),
        evaluate=lambda tables, rows: _evaluated(spec, tables, rows),
        compare_with_reference=lambda batches, states: _compare_with_naive_newton(spec, batches, states[-1]),
        stores_users=False,
    )


def logs() -> SearchStrategy[list[Example]]:
    """Rows of three times in any order; values are often equal."""
    values = st.one_of(st.integers(-2, 2).map(float), st.integers(-300, 300).map(_from_hundredths))
    users = st.sampled_from([f"u{n}" for n in range(8)])
    rows = st.builds(
        Example, users, st.sampled_from([1, 5, 9]), values, st.none() | values.map(abs),
        st.sampled_from([True, False, False, None]), st.just(0.0) | st.integers(100, 10_000).map(_from_hundredths),
    )  # fmt: skip
    return st.lists(rows, min_size=5, max_size=40)


def _from_hundredths(number: int) -> float:
    return number / 100


def rows_of(batch: Sequence[Example], grace_days: int = 1) -> pa.Table:
    rows = [
        {
            "horizon_days": HORIZON, "user_id": one.user, "at": one.day * DAY,
            "matures_at": (one.day + HORIZON + grace_days) * DAY, "features": [one.visits, one.amount],
            "labels": [("spend", one.spend)] + ([] if one.buy is None else [("buy", float(one.buy))]),
        }
        for one in batch
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, EXAMPLE)


def _inputs(row: dict[str, Any]) -> Floats:
    visits, amount = (value if value is not None and abs(value) >= 1e-9 else 0.0 for value in row["features"])
    return np.array([1.0, visits, np.log1p(amount)])


def _scores(spec: OutcomesSpec, tables: MemoryTables, rows: pa.Table) -> Floats:
    """Probabilities of `buy` by the last version; before it starts, .5."""
    state, rule = spec.models(tables)["buy"].last, spec.declared.rules["buy"]
    x = np.array([_inputs(row) for row in rows.to_pylist()]).reshape(-1, 3)
    return outcome_scores.predictions(rule, state, outcome_scores.etas(rule, state, x))


def decayed_weights(spec: OutcomesSpec, tables: MemoryTables) -> Numbers:
    """Moments of each outcome, decayed to a time after the logs."""
    numbers: Numbers = {}
    for name, model in spec.models(tables).items():
        sums = model.last.sums.decayed_to(FAR, 20.0)
        for field in ("rows", "label_total", "inputs_total", "inputs_squares"):
            numbers[f"{name} {field}"] = np.array(getattr(sums, field)) * 2.0 ** (700 / 20)
    return numbers


def _evaluated(spec: OutcomesSpec, tables: MemoryTables, rows: pa.Table) -> dict[tuple[str, str], tuple[float, float]]:
    """Log loss of `buy` by the version that was valid at the time of each row, also one from the same batch."""
    losses = []
    for row in rows.to_pylist():
        matured = rows.filter(pc.less_equal(rows["matures_at"], row["at"]))
        before = tables.with_learned(spec, spec.learn(LearnerBatch(matured, len(matured), tables)))
        valid = [
            one for one in before.all_rows(spec.tables[0]).to_pylist()
            if one["outcome"] == "buy" and one["valid_from"].timestamp() * 1e6 <= row["at"] and one["is_started"]
        ]  # fmt: skip
        label = dict(row["labels"]).get("buy", np.nan)
        if valid and np.isfinite(label):
            version = max(valid, key=lambda one: one["valid_from"])
            coefficients, mean, scales = (np.array(version[name]) for name in ("coefficients", "means", "scales"))
            [(x, _, _)] = clipped([(_inputs(row), label, row["at"])], mean, scales)
            eta = float(x @ coefficients)
            p = 1 / (1 + np.exp(-np.clip(eta, -8, 8)))
            losses.append(-np.log(p if label else 1 - p))
    return {("buy", "log_loss"): (float(np.mean(losses)), len(losses))} if losses else {}


def _compare_with_naive_newton(spec: OutcomesSpec, batches: list[list[Example]], tables: MemoryTables) -> None:
    naive = NaiveNewton(20.0, 30.0, 3)
    for batch in batches:
        rows = rows_of([one for one in batch if one.buy is not None]).to_pylist()
        naive.learn([(_inputs(row), dict(row["labels"])["buy"], row["at"]) for row in rows])
    state = spec.models(tables)["buy"].last
    expected = {"coefficients": naive.beta, "sums": np.column_stack([naive.matrix, naive.right])}
    laws.assert_close({"coefficients": state.coefficients, "sums": state.sums.rule}, expected, 1e-6)
