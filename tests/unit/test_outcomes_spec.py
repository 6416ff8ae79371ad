"""`learn_outcomes` satisfies the laws of learners, and evaluates and versions its models by the time of the rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.kernels import outcome_scores
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcome_predictor import OutcomePredictor
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec

from tests import laws
from tests.laws import LearnerCase
from tests.naive_outcomes import DAY
from tests.outcomes_case import HORIZON, OUTCOMES, Example, case_of, decayed_weights, rows_of, spec_of

WITHOUT_AMOUNT = OUTCOMES.replace("[features.amount]\nis_log = true\n", "")


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_outcomes_satisfy_every_law(law: Callable[[LearnerCase], Any], tmp_path: Path) -> None:
    law(case_of(tmp_path))


def test_scores_of_a_later_version_than_that_of_the_time_of_the_row_violate_a_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning a batch before it is scored changes no evaluation: a version is not valid before its maturity time."""
    monkeypatch.setattr(VersionedModel, "scoring_state", lambda model, at: model.last if model.versions else None)
    with pytest.raises(AssertionError, match=r"\nbuy log_loss\n"):
        laws.a_batch_is_scored_with_the_state_before_it(case_of(tmp_path))


def test_learning_a_batch_before_it_is_scored_does_not_change_its_evaluation(tmp_path: Path) -> None:
    laws.a_batch_is_scored_with_the_state_before_it(laws.peeking(case_of(tmp_path)))


def test_an_outlier_is_evaluated_with_the_input_of_its_score_which_is_near_the_mean(tmp_path: Path) -> None:
    """Amounts are 0 or .2, so an input is at most 1 from the mean of their logarithms, .09: 50 is learned as 1.98."""
    past = [Example(f"u{n}", 1, 0.0, 0.2 * (n % 2), n % 4 == 1 or n % 6 == 0, 0.0) for n in range(40)]
    case = case_of(tmp_path)
    tables = case.learn(MemoryTables(), past)
    losses = []
    for amount in (1.5, 1.98, 50.0):
        rows = rows_of([Example("u0", 100, 0.0, amount, True, 0.0)])
        losses.append(case.learn_rows(tables, rows).evaluation.values["buy"]["log_loss"])
        assert case.evaluate(tables, rows)["buy", "log_loss"] == pytest.approx(losses[-1], rel=1e-9)
    assert losses[0] > losses[1] == losses[2]


def week(number: int, users: int = 60, seed: int = 0) -> list[Example]:
    """Users whose visits raise the probability to buy."""
    rng = np.random.default_rng([seed, number])
    visits = rng.normal(size=users)
    buys = rng.random(users) < 1 / (1 + np.exp(1 - 2 * visits))
    return [
        Example(f"u{n}", 7 * number, float(visits[n]), 10.0, bool(buys[n]), float(buys[n] * rng.exponential() * 30))
        for n in range(users)
    ]


def learn(spec: OutcomesSpec, tables: MemoryTables, *weeks: list[Example]) -> MemoryTables:
    rows = rows_of([row for one in weeks for row in one])
    return tables.with_learned(spec, LearnerCase.learn_rows(case(spec), tables, rows))


def case(spec: OutcomesSpec) -> LearnerCase:
    return LearnerCase(spec, *[None] * 9)  # type: ignore[arg-type]


def coefficients(spec: OutcomesSpec, tables: MemoryTables) -> laws.Numbers:
    """The coefficients, of amounts in their own unit."""
    states = {name: model.last for name, model in spec.models(tables).items()}
    shift = np.eye(1, 3)[0]
    return {n: one.coefficients + np.log(one.label_unit) * shift[: len(one.names)] for n, one in states.items()}


@pytest.mark.parametrize("cuts", [[10], [1] * 10, [3, 3, 4]])
def test_cutting_a_log_at_maturity_times_into_batches_changes_nothing(tmp_path: Path, cuts: list[int]) -> None:
    spec, weeks = spec_of(tmp_path), [week(number) for number in range(1, 11)]
    whole, tables = learn(spec, MemoryTables(), *weeks), MemoryTables()
    for size in cuts:
        tables, weeks = learn(spec, tables, *weeks[:size]), weeks[size:]
    laws.assert_close(case(spec).numbers(tables), case(spec).numbers(whole), 1e-9)


def test_rows_are_scored_by_the_last_version_that_was_valid_at_their_time(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    tables = learned_weekly(spec, [week(number) for number in range(1, 5)])
    # The first version is valid from day 36 (7 + 28 + 1) on, so the rows of week 6 are the first that have a score.
    weights = [
        case(spec).learn_rows(tables, rows_of(week(number))).evaluation.values.get("buy", {}).get("log_loss", (0, 0))[1]
        for number in range(4, 8)
    ]
    assert weights == [0, 0, 60, 60]
    models = spec.models(tables)
    assert [one.valid_from // DAY for one in models["buy"].versions] == [36, 43, 50, 57]
    assert models["buy"].scoring_state(35 * DAY) is None
    state = models["buy"].scoring_state(49 * DAY)
    assert state is not None and state.applies == 2


def test_only_the_last_version_has_sums(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    tables = learn(spec, learn(spec, MemoryTables(), week(1)), week(2), week(3))
    rows = tables.all_rows(spec.tables[0]).sort_by("valid_from").to_pylist()
    assert [row["rule_sums"] is not None for row in rows if row["outcome"] == "buy"] == [False, False, True]


def test_a_feature_that_is_added_later_is_null_in_earlier_rows(tmp_path: Path) -> None:
    narrow = spec_of(tmp_path / "narrow", WITHOUT_AMOUNT)
    wide = spec_of(tmp_path / "wide")
    nulls = [one._replace(amount=None) for one in week(1)]
    expected = learn(wide, learn(wide, MemoryTables(), nulls), week(2))
    actual = learn(wide, learn(narrow, MemoryTables(), nulls), week(2))
    laws.assert_close(coefficients(wide, actual), coefficients(wide, expected), 1e-9)
    laws.assert_close(decayed_weights(wide, actual), decayed_weights(wide, expected), 1e-9)


def test_after_a_feature_was_removed_the_other_coefficients_are_those_of_a_model_without_it(tmp_path: Path) -> None:
    amounts = [[one._replace(amount=abs(one.visits) + n % 7) for n, one in enumerate(week(day))] for day in (1, 2, 3)]
    wide, narrow = spec_of(tmp_path / "wide"), spec_of(tmp_path / "narrow", WITHOUT_AMOUNT)
    tables = learned_weekly(wide, amounts)
    rest, model = coefficients(narrow, tables), narrow.models(tables)["buy"].last
    assert model.names == ("intercept", "visits") and norm(rest["buy"] - coefficients(wide, tables)["buy"][:2]) > 1e-3
    np.testing.assert_allclose(rest["buy"], coefficients(narrow, learned_weekly(narrow, amounts))["buy"], atol=0.1)


def test_a_cell_that_is_learned_in_two_batches_has_one_version(tmp_path: Path) -> None:
    spec, rows = spec_of(tmp_path), week(1)
    models = spec.models(learned_weekly(spec, [rows[:30], rows[30:]]))
    assert len(models["buy"].versions) == 1 and models["buy"].last.applies == 2
    assert models["buy"].last.sums.rows == 60


def test_an_outcome_with_another_rule_begins_again_and_others_continue(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "one")
    other = spec_of(tmp_path / "two", OUTCOMES.replace("ridge = 30", 'rule = "ftrl"'))
    tables = learn(spec, MemoryTables(), week(1), week(2))
    models = other.models(tables)
    assert models["buy"].versions == () and models["spend"].last.applies == 2
    assert other.models(learn(other, tables, week(3)))["buy"].last.applies == 1


def test_an_outcome_of_another_horizon_has_no_part_in_a_cell(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path, OUTCOMES.replace(f'label = "buy"\nhorizon_days = {HORIZON}', 'label = "buy"\nhorizon_days = 60')
    )
    models = spec.models(learn(spec, MemoryTables(), week(1)))
    assert models["buy"].versions == () and models["spend"].last.applies == 1


@pytest.mark.parametrize("first", [OUTCOMES, WITHOUT_AMOUNT])
def test_removing_all_rows_leaves_no_sums(tmp_path: Path, first: str) -> None:
    """Also if a feature was declared after the first weeks, in which it was null."""
    spec, weeks = spec_of(tmp_path / "spec"), [week(number) for number in range(1, 5)]
    weeks[:2] = [[row._replace(amount=None) for row in one] for one in weeks[:2]]
    tables = learned_weekly(spec_of(tmp_path / "first", first), weeks[:2])
    for one in weeks[2:]:
        tables = learn(spec, tables, one)
    rows = rows_of([row for one in weeks for row in one])
    removed = tables.with_learned(spec, spec.remove(tables, pa.table({"user_id": [f"u{n}" for n in range(60)]}), rows))
    for name, model in spec.models(removed).items():
        before = spec.models(tables)[name].last.sums.rule
        np.testing.assert_allclose(model.last.sums.rule, 0, atol=1e-9 * np.abs(before).max(), err_msg=name)
        assert model.last.problem == "the equations have no solution" and np.isfinite(model.last.coefficients).all()


def test_removed_users_have_no_part_in_the_sums_and_a_small_one_in_the_coefficients(tmp_path: Path) -> None:
    spec, weeks = spec_of(tmp_path), [week(number) for number in range(1, 7)]
    tables, ratios = learned_weekly(spec, weeks), []
    for user in ("u0", "u24", "u36", "u42"):
        rows = rows_of([row for one in weeks for row in one if row.user == user])
        removed = tables.with_learned(spec, spec.remove(tables, pa.table({"user_id": [user]}), rows))
        never = learned_weekly(spec, [[row for row in one if row.user != user] for one in weeks])
        laws.assert_close(decayed_weights(spec, removed), decayed_weights(spec, never), 1e-9)
        before, after, expected = (coefficients(spec, one) for one in (tables, removed, never))
        ratios.append([norm(after[name] - expected[name]) / norm(before[name] - expected[name]) for name in expected])
    buy, spend = np.mean(ratios, axis=0)
    assert buy < 0.3 and spend < 0.5


def norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector))


def learned_weekly(spec: OutcomesSpec, weeks: list[list[Example]]) -> MemoryTables:
    tables = MemoryTables()
    for one in weeks:
        tables = learn(spec, tables, one)
    return tables


@pytest.mark.parametrize("wrong", ['rule = "newton"\nloss = "hinge"', 'rule = "ftrl"\nloss = "poisson"'])
def test_a_rule_without_the_declared_loss_is_an_error_that_names_the_file(tmp_path: Path, wrong: str) -> None:
    spec = spec_of(tmp_path, OUTCOMES.replace("ridge = 30", wrong))
    with pytest.raises(Exception, match=r"outcomes\.toml(.|\n)*has no loss"):
        _ = spec.declared


def test_the_published_model_predicts_as_the_models_of_the_stage(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    tables = learn(spec, MemoryTables(), *[week(number) for number in range(1, 5)])
    stored = tables.all_rows(spec.tables[0])

    class Rows:
        def read(self) -> pa.Table:
            return stored.append_column("model_version", pa.array([1] * len(stored)))

    rows: Any = Rows()
    assert spec.publication is not None
    predictor = OutcomePredictor(rows, spec.publication.params, {})
    predicted = predictor.predict(pa.table({"features": [[1.5, 20.0], [0.0, None]]}), {}).to_pylist()
    assert [row["outcomes"] for row in predicted] == [["buy", "spend"]] * 2
    x = np.array([[1.0, 1.5, np.log1p(20)], [1.0, 0.0, 0.0]])
    for position, (name, model) in enumerate(spec.models(tables).items()):
        rule = spec.declared.rules[name]
        expected = outcome_scores.predictions(rule, model.last, outcome_scores.etas(rule, model.last, x))
        assert [row["predictions"][position] for row in predicted] == pytest.approx(expected.tolist())
