"""Scores of users by models of outcomes, and their reasons, from Arrow tables."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.kernels import outcome_scores, outcome_tasks
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.serve.scores import score_rows, user_scores
from profilestream.serve.scores.score_rows import FeatureWords, ScoringModel

from tests.naive_outcomes import DAY
from tests.outcomes_case import OUTCOMES, spec_of

# Five features with ten columns: `visits` and `amount` also have products, and `visits` has a piece.
DECLARATION = (
    'crossed = ["visits", "amount"]\n'
    + OUTCOMES.replace("[features.visits]", "[features.visits]\nknots = [0.5]").replace(
        "[outcomes.buy]", "[features.age]\n[features.city]\nbuckets = 3\n[features.days]\n[outcomes.buy]"
    )
    + '[outcomes.margin]\nlabel = "buy"\nhorizon_days = 28\nrule = "sgd"\nloss = "hinge"\n'
)
WORDS = [
    FeatureWords("How many visits?", "last 30d", "visits"), FeatureWords("Which amount?"), FeatureWords("How old?"),
    FeatureWords("Which city?"), FeatureWords("How many days?", "complete log"),
]  # fmt: skip
Values = list[float | None]
Models = dict[str, ScoringModel]


def features_of(seed: int, count: int) -> list[Values]:
    """Values of the five features; one in ten is null."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 5)) * [1, 30, 5, 1, 1]
    numbers[:, 3] = rng.integers(0, 3, count)
    return [[None if rng.random() < 0.1 else float(value) for value in row] for row in numbers]


def examples(day: int) -> pa.Table:
    """200 users; visits, age and days raise the probability to buy, and city 1 lowers it."""
    rng, rows = np.random.default_rng(day), []
    for n, features in enumerate(features_of(day, 200)):
        visits, _, age, city, days = (value or 0.0 for value in features)
        buys = float(rng.random() < 1 / (1 + np.exp(1 - visits - 0.2 * age - days + 2 * (city == 1))))
        labels = [("buy", buys), ("spend", buys * rng.exponential(30)), ("margin", buys)]
        rows.append({
            "horizon_days": 28, "user_id": f"u{n}", "at": day * DAY, "matures_at": (day + 29) * DAY,
            "features": features, "labels": labels,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, outcome_tasks.EXAMPLE)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> OutcomesSpec:
    return spec_of(tmp_path_factory.mktemp("scores"), DECLARATION)


@pytest.fixture(scope="module")
def tables(spec: OutcomesSpec) -> MemoryTables:
    """The models after three weeks."""
    tables = MemoryTables()
    for day in (7, 14, 21):
        tables = tables.with_learned(spec, spec.learn(LearnerBatch(examples(day), 200, tables)))
    return tables


@pytest.fixture
def models(spec: OutcomesSpec, tables: MemoryTables) -> Models:
    return user_scores.scoring_models(spec.models(tables), spec.declared, 100 * DAY)


def scores(spec: OutcomesSpec, models: Models, features: list[Values]) -> dict[str, list[dict[str, Any]]]:
    """Rows by outcome."""
    columns: dict[str, Any] = {"user_id": [f"u{n}" for n in range(len(features))], "features": features}
    columns["populations"] = [[True] * len(spec.declared.outcomes)] * len(features)
    rows = user_scores.score(pa.table(columns, schema=score_rows.USER), models, spec.declared, WORDS).to_pylist()
    return {name: [row for row in rows if row["outcome"] == name] for name in models}


def test_a_user_alone_has_the_scores_and_reasons_that_it_has_among_others(spec: OutcomesSpec, models: Models) -> None:
    features = features_of(1, 50)
    together = scores(spec, models, features)
    for n in range(50):
        for name, (row,) in scores(spec, models, [features[n]]).items():
            other = together[name][n]
            assert row["score"] == pytest.approx(other["score"], rel=1e-12)
            assert (row["probability"] is None) == (other["probability"] is None) == (name != "buy")
            for mine, theirs in zip(row["reasons"], other["reasons"], strict=True):
                assert mine.pop("contribution") == pytest.approx(theirs["contribution"], rel=1e-9, abs=1e-12)
                assert mine == {field: theirs[field] for field in mine}


@pytest.mark.parametrize("max_reasons", [0, 1])
def test_fewer_reasons_are_the_first_ones_and_change_no_score(
    spec: OutcomesSpec, models: Models, max_reasons: int
) -> None:
    users = pa.table(
        {
            "user_id": ["a", "b"],
            "features": features_of(1, 2),
            "populations": [[True] * len(spec.declared.outcomes)] * 2,
        },
        schema=score_rows.USER,
    )
    expected = user_scores.score(users, models, spec.declared, WORDS).to_pylist()
    actual = user_scores.score(users, models, spec.declared, WORDS, max_reasons).to_pylist()
    assert actual == [{**row, "reasons": row["reasons"][:max_reasons]} for row in expected]


def test_reasons_and_the_contributions_of_other_features_add_up_to_the_difference_from_mean_inputs(
    spec: OutcomesSpec, models: Models
) -> None:
    features, inputs = features_of(2, 50), spec.declared.inputs
    rule, state = models["buy"].rule, models["buy"].state
    rows = scores(spec, models, features)["buy"]
    x = inputs.matrix(np.array(features, float))
    mean_eta = float(outcome_scores.etas(rule, state, state.means[None, :])[0])
    names = list(spec.declared.features)
    by_column = outcome_scores.contributions(rule, state, x)
    for n, row in enumerate(rows):
        by_feature = {name: by_column[n, inputs.sources == number].sum() for number, name in enumerate(names)}
        reasons = {reason["feature"]: reason["contribution"] for reason in row["reasons"]}
        assert reasons == pytest.approx({name: by_feature[name] for name in reasons})
        assert list(reasons) == sorted(by_feature, key=lambda name: -abs(by_feature[name]))[: len(reasons)]
        others = sum(by_feature[name] for name in names if name not in reasons)
        assert sum(reasons.values()) + others == pytest.approx(row["score"] - mean_eta, abs=1e-9)
    assert {len(row["reasons"]) for row in rows} == {3}


def test_scores_are_logits_margins_or_amounts_and_only_logits_have_a_probability(
    spec: OutcomesSpec, models: Models
) -> None:
    by_outcome = scores(spec, models, features_of(3, 200))
    for row in by_outcome["buy"]:
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-row["score"])))
    assert {row["probability"] for name in ("spend", "margin") for row in by_outcome[name]} == {None}
    # The mean amount is about a third of the users times 30.
    assert 5 < np.mean([row["score"] for row in by_outcome["spend"]]) < 15
    assert {row["valid_from"] for rows in by_outcome.values() for row in rows} == {50 * DAY}


def test_the_text_of_a_reason_has_the_meaning_and_the_value_of_the_feature(spec: OutcomesSpec, models: Models) -> None:
    high = scores(spec, models, [[3.0, None, 1234.5, 1.0, None]])["buy"][0]["reasons"]
    reasons = {reason["feature"]: (reason["value"], reason["text"]) for reason in high}
    assert reasons["visits"] == (3.0, "How many visits? (last 30d) 3 (visits); raises the score")
    assert reasons["age"] == (1234.5, "How old? 1,234.50; raises the score")
    # The number of a bucket means nothing to a reader.
    assert reasons["city"] == (None, "Which city?; lowers the score")
    unknown = FeatureWords("How many days?", "complete log", "days").text(float("nan"))
    assert unknown == "How many days? (complete log) unknown"


def test_a_feature_without_a_contribution_is_no_reason(spec: OutcomesSpec, models: Models) -> None:
    state = models["buy"].state
    only_age = state.coefficients * (spec.declared.inputs.sources == 2)
    model = ScoringModel(models["buy"].rule, replace(state, coefficients=only_age), 0)
    (row,) = scores(spec, {"buy": model}, [[1.0] * 5])["buy"]
    assert [reason["feature"] for reason in row["reasons"]] == ["age"]
    without = replace(model, state=replace(state, coefficients=0 * only_age))
    (row,) = scores(spec, {"buy": without}, [[1.0] * 5])["buy"]
    assert row["reasons"] == []


def test_a_version_scores_from_its_time_on_and_a_model_without_coefficients_never(
    spec: OutcomesSpec, tables: MemoryTables
) -> None:
    models, empty = spec.models(tables), spec.models(MemoryTables())
    versions = [user_scores.scoring_models(models, spec.declared, day * DAY).get("buy") for day in (35, 36, 49, 50)]
    assert [one and one.valid_from // DAY for one in versions] == [None, 36, 43, 50]
    assert user_scores.scoring_models(empty, spec.declared, 100 * DAY) == {}
