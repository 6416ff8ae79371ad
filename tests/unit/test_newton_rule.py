"""Decayed Newton sums: mergeable, equal to references and to scikit-learn, and finite on bad input."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import total
from profilestream.learn.outcomes.kernels import outcome_model, outcome_scores
from profilestream.learn.outcomes.kernels.newton_rule import Newton
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, OutcomeRule, OutcomeState, sum_rows
from profilestream.learn.outcomes.kernels.projections import InputProjection
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge  # type: ignore[import-untyped]

from tests import naive_outcomes
from tests.naive_outcomes import Row
from tests.outcome_rows import (
    DAY,
    concat,
    learn,
    learn_all,
    learned,
    logistic_rows,
    names_of,
    probabilities,
    spend_rows,
    split,
    take,
)

fuzz = settings(max_examples=50, derandomize=True, database=None)
LOGISTIC, POISSON = Newton(half_life_days=20.0, ridge=10.0), Newton("poisson", half_life_days=20.0, ridge=10.0)
SQUARED = Newton("squared", half_life_days=20.0)
RULES = [
    LOGISTIC,
    POISSON,
    SQUARED,
    replace(POISSON, projection=InputProjection("pca", 1)),
    replace(SQUARED, projection=InputProjection("lda", 1)),
]
NO_DECAY = Newton(half_life_days=None, ridge=40.0, first_passes=40)


def batch_of(rule: Newton, count: int, day: int = 1, seed: int = 0) -> LabeledRows:
    return (spend_rows if rule.loss == "poisson" else logistic_rows)(count, day, seed)


def assert_same_state(actual: OutcomeState, expected: OutcomeState, tolerance: float = 1e-9) -> None:
    for one, other in (
        (actual.coefficients, expected.coefficients), (actual.sums.rule, expected.sums.rule),
        (actual.sums.inputs_squares, expected.sums.inputs_squares), (actual.means, expected.means),
        (actual.memory, expected.memory), (np.array(actual.label_unit), np.array(expected.label_unit)),
    ):  # fmt: skip
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * max(1.0, np.abs(other).max(initial=0)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.loss)
@fuzz
@given(st.integers(1, 9), st.integers(0, 99))
def test_any_partition_of_a_batch_gives_the_same_state(rule: Newton, parts: int, seed: int) -> None:
    state = learned(rule, batch_of(rule, 80, day=1))
    rows = concat([batch_of(rule, 30, day=3), batch_of(rule, 30, day=2)])
    assert_same_state(learn(rule, state, *split(rows, parts, seed)), learn(rule, state, rows))


def test_sums_of_parts_are_the_same_in_any_order_and_zero_is_neutral() -> None:
    state = learned(POISSON, spend_rows(50))
    parts = [sum_rows(POISSON, state, spend_rows(5, day)) for day in (2, 9, 4)]
    zero = sum_rows(POISSON, state, take(spend_rows(5), np.zeros(0, np.int64)))
    expected = total(parts, 20.0)
    for order in permutations([*parts, zero]):
        actual = total(order, 20.0)
        assert actual.as_of == expected.as_of == 9 * DAY
        np.testing.assert_allclose(actual.rule, expected.rule, rtol=1e-12)
        np.testing.assert_allclose(actual.label_counts, expected.label_counts, rtol=1e-12)


@pytest.mark.parametrize("loss", ["logistic", "poisson"])
def test_coefficients_equal_those_of_a_reference_implementation(loss: str) -> None:
    rule = replace(LOGISTIC if loss == "logistic" else POISSON, first_passes=1)
    state, rows = OutcomeState.empty(rule, ["intercept", "x1", "x2"]), list[Row]()
    matrix, right, before, unit = np.zeros((3, 3)), np.zeros(3), 0, 1.0
    for day in (1, 4, 9):
        batch = batch_of(rule, 80, day)
        # Large inputs, for probabilities near 0 and 1.
        batch = batch._replace(x=batch.x * ([1, 5, 5] if day == 9 and loss == "logistic" else 1))
        mean = float(batch.labels.mean())
        if not rows:
            beta = np.array([np.log(mean / (1 - mean)) if loss == "logistic" else 0.0, 0.0, 0.0])
            unit = sum_rows(rule, state, batch).label_unit
        new = [(x, y / unit, day * DAY) for x, y in zip(batch.x, batch.labels.tolist(), strict=True)]
        rows += new
        decay = 2.0 ** ((before - day) / 20)
        moments = (state.means, state.scales) if day > 1 else naive_outcomes.means_and_scales(new, day * DAY, 20.0)
        near = naive_outcomes.clipped(new, *moments)
        new_matrix, new_right = naive_outcomes.newton_sums(near, beta, day * DAY, 20.0, loss)
        matrix, right, before = decay * matrix + new_matrix, decay * right + new_right, day
        state = learn(rule, state, batch)
        factor, unit = state.label_unit / unit, state.label_unit
        matrix, right = matrix / factor, (right - np.log(factor) * matrix[:, 0]) / factor
        scales = naive_outcomes.means_and_scales(rows, day * DAY, 20.0)[1]
        beta = naive_outcomes.solve_newton(matrix, right, scales, 10.0)
        np.testing.assert_allclose(state.coefficients, beta, rtol=1e-6)
        np.testing.assert_allclose(state.sums.rule[:, :-1], matrix, rtol=1e-6)


def test_passes_over_one_batch_converge_to_the_logistic_regression_of_scikit_learn() -> None:
    rows = logistic_rows(2000)
    state, scale = learned(NO_DECAY, rows), rows.x[:, 1:].std(axis=0)
    expected = LogisticRegression(C=4 / 40, tol=1e-10, max_iter=1000).fit(rows.x[:, 1:] / scale, rows.labels)
    np.testing.assert_allclose(state.coefficients[1:] * scale, expected.coef_[0], rtol=1e-5)
    np.testing.assert_allclose(state.coefficients[0], expected.intercept_[0], rtol=1e-5)


def test_passes_over_one_batch_converge_to_the_poisson_regression_of_scikit_learn() -> None:
    rows = spend_rows(900)  # at most 1,000, so that no label is capped
    rows = rows._replace(x=rows.x.clip(-2.5, 2.5))  # so that no input is clipped
    state, scale = learned(replace(NO_DECAY, loss="poisson"), rows), rows.x[:, 1:].std(axis=0)
    unit = state.label_unit
    expected = PoissonRegressor(alpha=10 / 900, tol=1e-12, max_iter=1000).fit(rows.x[:, 1:] / scale, rows.labels / unit)
    np.testing.assert_allclose(state.coefficients[1:] * scale, expected.coef_, rtol=1e-5)
    np.testing.assert_allclose(state.coefficients[0], expected.intercept_, rtol=1e-4)
    predicted = probabilities(POISSON, state, rows.x)
    np.testing.assert_allclose(predicted.sum(), rows.labels.sum(), rtol=1e-6)


def test_squared_loss_is_the_ridge_regression_of_scikit_learn() -> None:
    rows = logistic_rows(500)
    state, scale = learned(replace(NO_DECAY, loss="squared"), rows), rows.x[:, 1:].std(axis=0)
    expected = Ridge(alpha=10).fit(rows.x[:, 1:] / scale, rows.labels)
    np.testing.assert_allclose(state.coefficients[1:] * scale, expected.coef_, rtol=1e-6)


@pytest.mark.parametrize("cuts", [1, 7, 50])
def test_cutting_the_rows_of_a_time_into_batches_changes_auc_by_at_most_a_thousandth(cuts: int) -> None:
    rule, test = Newton(ridge=30.0), logistic_rows(4000, day=99)
    batches = [logistic_rows(400, day) for day in range(1, 6)]
    whole = learned(rule, *batches)
    cut = learned(rule, *(part for batch in batches for part in split(batch, cuts)))
    aucs = [naive_auc(probabilities(rule, state, test.x), test.labels) for state in (whole, cut)]
    losses = [log_loss(probabilities(rule, state, test.x), test.labels) for state in (whole, cut)]
    assert abs(aucs[0] - aucs[1]) <= 1e-3 and abs(losses[0] - losses[1]) <= 1e-3 and aucs[0] > 0.7


def naive_auc(scores: Floats, labels: Floats) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1
    positives = labels.sum()
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / positives / (len(labels) - positives))


def log_loss(p: Floats, labels: Floats) -> float:
    return float(-np.log(np.where(labels == 1, p, 1 - p)).mean())


def test_outcomes_with_the_same_inputs_are_learned_together_and_each_from_its_own_population() -> None:
    rows = logistic_rows(200)
    some = np.where(np.arange(200) % 2 == 0, rows.labels, np.nan)
    labels = {"all": rows.labels, "some": some, "none": np.full(200, np.nan), "opposite": 1 - rows.labels}
    rules: dict[str, OutcomeRule] = dict.fromkeys(labels, LOGISTIC)
    empty = OutcomeState.empty(LOGISTIC, names_of(rows))
    states = learn_all(rules, dict.fromkeys(labels, empty), [rows], labels)
    assert_same_state(states["all"], learned(LOGISTIC, rows))
    assert_same_state(states["some"], learned(LOGISTIC, take(rows, np.arange(0, 200, 2))))
    np.testing.assert_allclose(states["opposite"].coefficients, -states["all"].coefficients, rtol=1e-9)
    assert states["none"] is empty


def test_a_batch_without_rows_changes_nothing() -> None:
    state = learned(LOGISTIC, logistic_rows(50))
    assert learn(LOGISTIC, state, take(logistic_rows(50), np.zeros(0, np.int64))) is state


def test_a_column_that_is_added_later_was_zero_in_all_learned_rows() -> None:
    batches = [logistic_rows(100, day, weights=(-1.0, 1.0, -0.5, 0.7)) for day in (1, 2)]
    zeros = batches[0]._replace(x=batches[0].x * [1, 1, 1, 0])
    narrow = learned(LOGISTIC, zeros._replace(x=zeros.x[:, :3]))
    grown = outcome_model.with_columns(narrow, names_of(zeros))
    assert_same_state(grown, learned(LOGISTIC, zeros))
    assert_same_state(learn(LOGISTIC, grown, batches[1]), learned(LOGISTIC, zeros, batches[1]))


def test_columns_can_be_removed_and_moved() -> None:
    state = learned(LOGISTIC, logistic_rows(100))
    moved = outcome_model.with_columns(state, ["intercept", "x2", "x1"])
    assert moved.coefficients.tolist() == state.coefficients[[0, 2, 1]].tolist()
    assert_same_state(outcome_model.with_columns(moved, state.names), state)
    removed = LOGISTIC.solved(outcome_model.with_columns(state, ["intercept", "x2"]))
    expected = state.sums.rule[np.ix_([0, 2], [0, 2, 3])]
    np.testing.assert_array_equal(removed.sums.rule, expected)
    assert removed.problem == "" and removed.coefficients[1] != state.coefficients[2]


@pytest.mark.parametrize("rule", [LOGISTIC, POISSON], ids=lambda rule: rule.loss)
def test_removing_a_user_leaves_the_sums_of_the_other_rows(rule: Newton) -> None:
    batches, state, removed = [batch_of(rule, 150, day) for day in (1, 5, 8)], None, []
    others = [take(batch, np.arange(1, 150)) for batch in batches]
    state = expected = OutcomeState.empty(rule, names_of(batches[0]))
    for batch, rest in zip(batches, others, strict=True):
        state = learn(rule, state, batch)
        assert state.learned_at is not None
        version = replace(state, **state.learned_at._asdict())
        removed.append((sum_rows(rule, version, take(batch, np.array([0]))), version.label_unit))
        expected = total_of(rule, expected, version, rest, state)
    actual = rule.remove(state, removed)
    np.testing.assert_allclose(actual.sums.rule, expected.sums.rule, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(actual.sums.inputs_squares, expected.sums.inputs_squares, rtol=1e-9)
    np.testing.assert_allclose(actual.coefficients, rule.solved(actual).coefficients)
    assert not np.array_equal(actual.coefficients, state.coefficients)


def total_of(
    rule: Newton, base: OutcomeState, version: OutcomeState, rows: LabeledRows, after: OutcomeState
) -> OutcomeState:
    """`base` with rows that are learned with the coefficients of a version, in the unit of the state after it."""
    one = sum_rows(rule, version, rows)
    base = rule.in_unit(base, version.label_unit)
    return rule.in_unit(replace(base, sums=total([base.sums, one], rule.half_life_days)), after.label_unit)


def test_a_state_without_rows_after_a_removal_has_a_problem_and_finite_coefficients() -> None:
    rows = logistic_rows(40)
    state = learned(LOGISTIC, rows)
    assert state.learned_at is not None
    version = replace(state, **state.learned_at._asdict())
    empty = LOGISTIC.remove(state, [(sum_rows(LOGISTIC, version, rows), 1.0)])
    assert empty.problem == "the equations have no solution" and np.isfinite(empty.coefficients).all()


def test_the_largest_thousandth_of_spend_is_capped() -> None:
    rows = spend_rows(5000)
    labels = rows.labels.copy()
    labels[7] = 1e7
    state = learned(POISSON, rows._replace(labels=labels))
    assert 1 <= state.label_cap / np.quantile(labels, 0.999) <= 2**0.25
    capped = learned(POISSON, rows._replace(labels=np.minimum(labels, state.label_cap)))
    np.testing.assert_allclose(probabilities(POISSON, state, rows.x), probabilities(POISSON, capped, rows.x), rtol=0.02)


def test_spend_whose_first_batch_was_tiny_is_predicted_after_some_batches() -> None:
    first = take(spend_rows(20), np.arange(20))._replace(labels=np.where(np.arange(20) < 12, 0.01, 0.0))
    batches = [spend_rows(2000, day) for day in range(2, 9)]
    state = learned(POISSON, first, *batches)
    rows = batches[-1]
    assert 0.8 < probabilities(POISSON, state, rows.x).sum() / rows.labels.sum() < 1.2


def test_spend_without_any_purchase_does_not_start() -> None:
    rows = spend_rows(100)
    state = learned(POISSON, rows._replace(labels=np.zeros(100)))
    assert not state.is_started and state.problem == "fewer than 10 positive labels" and state.sums.rows == 100
    assert learn(POISSON, state, rows).is_started


def test_negative_amounts_count_as_zero() -> None:
    rows = spend_rows(300)
    returns = rows._replace(labels=np.where(rows.labels == 0, -50.0, rows.labels))
    actual, expected = learned(POISSON, returns), learned(POISSON, rows)
    np.testing.assert_allclose(actual.coefficients, expected.coefficients, rtol=1e-9)
    assert actual.label_unit == expected.label_unit


def test_rows_before_the_start_count_for_it() -> None:
    batches = [take(spend_rows(100), np.flatnonzero(spend_rows(100).labels > 0)[n : n + 6]) for n in (0, 6)]
    first = learned(POISSON, batches[0])
    second = learn(POISSON, first, batches[1])
    assert not first.is_started and second.is_started and second.sums.rows == 12


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_class_give_a_finite_probability_near_it_and_the_other_class_is_learned_later(
    label: float,
) -> None:
    rows = logistic_rows(200)
    state = learned(LOGISTIC, *[rows._replace(labels=np.full(200, label))] * 5)
    p = probabilities(LOGISTIC, state, rows.x)
    assert state.problem == "" and np.all(np.abs(p - label) < 0.01) and np.all((p > 0) & (p < 1))
    for _ in range(10):
        state = learn(LOGISTIC, state, rows)
    assert naive_auc(probabilities(LOGISTIC, state, rows.x), rows.labels) > 0.7


def test_constant_and_duplicate_columns_are_harmless() -> None:
    rows = logistic_rows(300)
    x = np.column_stack([rows.x, np.zeros(300), np.full(300, 7.0), rows.x[:, 1]])
    state = learned(LOGISTIC, rows._replace(x=x))
    assert state.problem == "" and state.coefficients[3:5].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(state.coefficients[1], state.coefficients[5], rtol=1e-6)
    np.testing.assert_allclose(
        probabilities(LOGISTIC, state, x), probabilities(LOGISTIC, learned(LOGISTIC, rows), rows.x), atol=0.02
    )


def test_an_input_that_begins_to_vary_does_not_ruin_predictions() -> None:
    """Such as the ratio of two windows, both longer than the log until then."""
    rng, batches = np.random.default_rng(1), []
    for day in range(1, 8):
        rows = logistic_rows(400, day)
        ratio = 0.7 + 1e-3 * rng.normal(size=400) + 2e-4 * rows.labels
        batches.append(rows._replace(x=np.column_stack([rows.x, np.where(rng.random(400) < 0.3, -6.0, ratio)])))
    before = [batch._replace(x=np.column_stack([batch.x[:, :3], batch.x[:, 3].clip(0.69)])) for batch in batches[:6]]
    state = learned(LOGISTIC, *before)
    assert log_loss(probabilities(LOGISTIC, state, batches[6].x), batches[6].labels) < 0.65


def test_outliers_of_inputs_are_clipped_but_not_flags() -> None:
    rows = logistic_rows(1000)
    state = learned(LOGISTIC, rows._replace(x=np.column_stack([rows.x, np.arange(1000) == 0])))
    x = np.array([[1.0, 100.0, 0.0, 1.0], [1.0, 0.0, -2.0, 0.0]])
    expected = [[1.0, state.means[1] + 5 * state.scales[1], 0.0, 1.0], [1.0, 0.0, -2.0, 0.0]]
    np.testing.assert_allclose(LOGISTIC.inputs(state, x), expected)


def test_predicted_amounts_are_at_most_the_label_cap() -> None:
    state = learned(POISSON, spend_rows(2000))
    certain = replace(state, coefficients=np.array([0.0, 9.0, 0.0]))
    assert probabilities(POISSON, certain, np.array([[1.0, 4.0, 0.0]]))[0] == pytest.approx(state.label_cap)


def test_inputs_of_amounts_are_clipped_further_because_an_amount_is_exponential() -> None:
    state = learned(POISSON, spend_rows(2000))
    far, limit = (state.means[None, :] - n * state.scales for n in (9, 3))
    np.testing.assert_allclose(POISSON.inputs(state, far), limit)
    assert probabilities(POISSON, state, far) == pytest.approx(probabilities(POISSON, state, limit))


@pytest.mark.filterwarnings("ignore:overflow")
def test_sums_that_are_not_finite_are_not_added() -> None:
    state, rows = learned(LOGISTIC, logistic_rows(50)), logistic_rows(50, day=2)
    broken = learn(LOGISTIC, state, rows._replace(x=rows.x * 1e200))
    assert broken.problem == "sums are not finite"
    assert_same_state(broken, state, 0)
    fresh = learned(LOGISTIC, rows._replace(x=rows.x * 1e200))
    assert not fresh.is_started and fresh.problem == "sums are not finite"


def test_singular_equations_and_exploding_coefficients_leave_the_coefficients_as_they_are() -> None:
    rule, state = Newton(ridge=0.0, half_life_days=None), learned(LOGISTIC, logistic_rows(50))
    negative = rule.solved(replace(state, sums=replace(state.sums, rule=-state.sums.rule)))
    assert negative.problem == "the equations have no solution"
    np.testing.assert_array_equal(negative.coefficients, state.coefficients)
    one = replace(state, sums=replace(state.sums, rule=state.sums.rule * [1, 1, 1, 1e6]))
    path = [one := rule.solved(one) for _ in range(100)]
    effects = np.array([step.coefficients[1:] * state.scales[1:] for step in path])
    assert np.abs(np.diff(effects, axis=0)).max() <= 1.5 + 1e-9
    assert path[0].problem == "" and "times the limit" in path[-1].problem and 40 < np.abs(effects).max() <= 50


def test_a_model_recovers_after_its_classes_flip_and_after_a_gap_of_years() -> None:
    batches = [logistic_rows(300, day) for day in range(1, 6)]
    state = learned(LOGISTIC, *batches)
    for day in range(6, 60, 3):
        rows = logistic_rows(300, day)
        state = learn(LOGISTIC, state, rows._replace(labels=1 - rows.labels))
    test = logistic_rows(1000, day=70)
    assert naive_auc(probabilities(LOGISTIC, state, test.x), 1 - test.labels) > 0.7
    later = learn(LOGISTIC, state, logistic_rows(300, day=3000))
    assert naive_auc(probabilities(LOGISTIC, later, test.x), test.labels) > 0.7 and later.sums.rows < 300.001


def test_contributions_add_up_to_the_difference_from_the_mean_row() -> None:
    rows = logistic_rows(200)
    state = learned(LOGISTIC, rows)
    parts = outcome_scores.contributions(LOGISTIC, state, rows.x)
    difference = (rows.x - state.means) @ state.coefficients
    np.testing.assert_allclose(parts.sum(axis=1), difference)
    outlier = outcome_scores.contributions(LOGISTIC, state, np.array([[1.0, 1e6, 0.0]]))
    np.testing.assert_allclose(outlier[0, 1], 5 * state.scales[1] * state.coefficients[1])


def test_the_top_reasons_are_the_features_with_the_largest_total_contribution() -> None:
    parts = np.array([[0.0, 1.0, -0.6, 0.5, -0.2], [0.0, 0.1, 0.0, -3.0, 0.0]])
    features, values = outcome_scores.top_reasons(parts, np.array([-1, 0, 1, 2, 1]), count=2)
    assert features.tolist() == [[0, 1], [2, 0]]
    np.testing.assert_allclose(values, [[1.0, -0.8], [-3.0, 0.1]])


@pytest.mark.parametrize("loss", ["logistic", "poisson"])
@fuzz
@given(st.lists(st.sampled_from([-1, 0, 1, None]), min_size=3, max_size=3), st.integers(0, 99))
def test_coefficients_have_the_signs_of_the_rule_after_each_batch(
    loss: str, signs: list[int | None], seed: int
) -> None:
    rule = replace(LOGISTIC if loss == "logistic" else POISSON, signs=(None, *signs[1:]))
    free, state = replace(rule, signs=()), OutcomeState.empty(rule, ["intercept", "x1", "x2"])
    for day in range(1, 5):
        state = learn(rule, state, batch_of(rule, 60, day, seed))
        for coefficient, sign in zip(state.coefficients[1:], signs[1:], strict=True):
            assert coefficient == 0 if sign is None else coefficient * sign >= 0
    one, other = rule.solved(state).coefficients, free.solved(state).coefficients
    if all(
        sign is not None and coefficient * sign >= 0 for coefficient, sign in zip(other[1:], signs[1:], strict=True)
    ):
        np.testing.assert_allclose(one, other)
