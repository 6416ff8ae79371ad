"""Customer value: at equal spend a customer who returned is worth at least one who did not; every user has a value."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE
from profilestream.learn.outcomes.outcome_predictor import OutcomePredictor
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.serve.scores import score_rows, user_scores
from profilestream.serve.scores.score_rows import FeatureWords, ScoringModel

from tests.naive_outcomes import DAY
from tests.outcomes_case import spec_of

SHIPPED = (Path(__file__).parent.parent.parent / "conf" / "outcomes.toml").read_text()
VALUE, HORIZON = "value_180d", 90
WINDOWS = (28, 91, 182)
Rng = np.random.Generator
fuzz = settings(max_examples=50, derandomize=True, database=None)


def features_of(spec: OutcomesSpec, rng: Rng, spend: float, ages: list[int]) -> list[float]:
    """Features of a customer with orders of these ages in days; those that are no inputs of the value are random."""
    values = {"value_lifetime": spend, "orders_lifetime": len(ages), "recency": min(ages, default=1000)}
    values |= {f"orders_{window}d": sum(age <= window for age in ages) for window in WINDOWS}
    others = rng.normal(size=len(spec.declared.features)) * 100
    return [values.get(name, float(other)) for name, other in zip(spec.declared.features, others, strict=True)]


def examples(spec: OutcomesSpec, day: int, is_reversed: bool) -> pa.Table:
    """200 customers; those who return spend more, or less if the labels are reversed."""
    rng, rows = np.random.default_rng(day), []
    for n in range(200):
        ages = rng.integers(0, 300, rng.integers(1, 6)).tolist()
        rate = len(ages) / (1 + min(ages) / 30)
        label = rng.exponential() * (1 / rate if is_reversed else rate) * 20
        rows.append({
            "horizon_days": HORIZON, "user_id": f"u{n}", "at": day * DAY, "matures_at": (day + HORIZON + 1) * DAY,
            "features": features_of(spec, rng, float(rng.exponential(50)), ages), "labels": [(VALUE, label)],
        })  # fmt: skip
    return pa.Table.from_pylist(rows, EXAMPLE)


def learned(spec: OutcomesSpec, is_reversed: bool) -> MemoryTables:
    tables = MemoryTables()
    for day in (7, 14, 21, 28):
        tables = tables.with_learned(spec, spec.learn(LearnerBatch(examples(spec, day, is_reversed), 200, tables)))
    return tables


def values_of(spec: OutcomesSpec, model: ScoringModel, features: list[list[float]]) -> list[dict[str, Any]]:
    """The rows of users."""
    columns: dict[str, Any] = {"user_id": [f"u{n}" for n in range(len(features))], "features": features}
    columns["populations"] = [[True] * len(spec.declared.outcomes)] * len(features)
    words = [FeatureWords(name) for name in spec.declared.features]
    users = pa.table(columns, schema=score_rows.USER)
    rows: list[dict[str, Any]] = user_scores.score(users, {VALUE: model}, spec.declared, words).to_pylist()
    return rows


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> OutcomesSpec:
    return spec_of(tmp_path_factory.mktemp("value"), SHIPPED)


@pytest.fixture(scope="module", params=[False, True], ids=["as expected", "reversed"])
def model(spec: OutcomesSpec, request: pytest.FixtureRequest) -> ScoringModel:
    return user_scores.scoring_models(spec.models(learned(spec, request.param)), spec.declared, 500 * DAY)[VALUE]


@fuzz
@given(st.data())
def test_at_equal_spend_a_customer_who_returned_is_worth_at_least_one_who_did_not(
    spec: OutcomesSpec, model: ScoringModel, data: st.DataObject
) -> None:
    spend, seed = data.draw(st.floats(0, 1e6)), data.draw(st.integers(0, 99))
    last = data.draw(st.integers(0, 800))
    returned_ages = [data.draw(st.integers(0, last)), *data.draw(st.lists(st.integers(0, 800), min_size=1, max_size=9))]
    rng = np.random.default_rng(seed)
    once, returned = values_of(
        spec, model, [features_of(spec, rng, spend, [last]), features_of(spec, rng, spend, returned_ages)]
    )
    assert returned["score"] >= once["score"] * (1 - 1e-12) > 0


def test_the_value_of_a_model_uses_orders_spend_and_recency_only(spec: OutcomesSpec) -> None:
    state = spec.models(learned(spec, is_reversed=False))[VALUE].last
    used = {
        name for name, one in zip(spec.declared.inputs.feature_names, state.coefficients, strict=True) if one != 0
    } - {"intercept"}
    assert {"recency", "orders_lifetime"} <= used <= set(spec.declared.outcomes[VALUE].monotonic)


def test_a_value_is_twice_the_prediction_for_its_horizon_also_by_a_published_model(spec: OutcomesSpec) -> None:
    tables = learned(spec, is_reversed=False)
    features = [features_of(spec, np.random.default_rng(1), 100.0, [30, 60])]
    model = user_scores.scoring_models(spec.models(tables), spec.declared, 500 * DAY)[VALUE]
    (row,) = values_of(spec, model, features)
    (once,) = values_of(spec, ScoringModel(model.rule, model.state, 0), features)
    assert row["score"] == pytest.approx(2 * once["score"])

    class Rows:
        def read(self) -> pa.Table:
            stored = tables.all_rows(spec.tables[0])
            return stored.append_column("model_version", pa.array([1] * len(stored)))

    predictor = OutcomePredictor(Rows(), spec.declared.model_dump(mode="json"), {})  # type: ignore[arg-type]
    (published,) = predictor.predict(pa.table({"features": features}), {}).to_pylist()
    assert published["predictions"] == pytest.approx([row["score"]])


@pytest.mark.parametrize("amount", [12.5, 0.0])
def test_before_the_first_model_all_users_have_the_same_value_without_reasons(
    spec: OutcomesSpec, amount: float
) -> None:
    model, rng = user_scores.constant_model(spec.declared, VALUE, amount), np.random.default_rng(0)
    rows = values_of(spec, model, [features_of(spec, rng, 10.0 * n, [1] * n) for n in range(3)])
    assert [row["score"] for row in rows] == pytest.approx([2 * amount] * 3)
    assert {(len(row["reasons"]), row["valid_from"], row["probability"]) for row in rows} == {(0, 0, None)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value_days = 180", "value_days = 181", "more than twice horizon_days"),
        ('loss = "poisson"\nmonotonic', "monotonic", "needs the loss 'poisson'"),
        ("value_days = 180", 'value_days = 180\npopulation = "recency < 9"', "needs the loss 'poisson' and the popul"),
        ("recency = -1", "regency = -1", r"not features with numbers.*regency"),
        ('entity = "customer"', 'entity = "customer"\ncrossed = ["recency"]', r"are crossed.*recency"),
        ("[outcomes.churn_60d]", "[outcomes.churn_60d]\nrule = 'ftrl'\nmonotonic = { recency = 1 }", "use 'newton'"),
    ],
)
def test_a_declaration_that_cannot_keep_the_promises_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SHIPPED
    with pytest.raises(Exception, match=rf"outcomes\.toml(.|\n)*{message}"):
        _ = spec_of(tmp_path, SHIPPED.replace(old, new, 1)).declared
