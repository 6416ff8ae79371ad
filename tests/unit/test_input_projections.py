"""Outcomes of few components of their inputs equal regressions on the components of scikit-learn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.kernels import outcome_scores
from profilestream.learn.outcomes.kernels.newton_rule import Newton
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, OutcomeState
from profilestream.learn.outcomes.kernels.projections import InputProjection
from sklearn.decomposition import PCA  # type: ignore[import-untyped]
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression, Ridge  # type: ignore[import-untyped]

from tests.outcome_rows import learn, learned, logistic_rows, probabilities
from tests.outcomes_case import LABELS, OUTCOMES, spec_of
from tests.unit.test_outcomes_spec import learn as learn_weeks
from tests.unit.test_outcomes_spec import week

PCA_2, LDA = InputProjection("pca", 2), InputProjection("lda", 1)
SQUARED = Newton("squared", half_life_days=None, ridge=40.0)
BOOLEAN = LABELS.replace(
    'kind = "count"', 'kind = "count"\noutput = "${value} > 0"\noutput_type = "boolean"\nnulls = "false"'
)


def correlated_rows(count: int = 900) -> LabeledRows:
    """Rows with correlated inputs; one of them is constant, and one is the sum of two others."""
    rows = logistic_rows(count, weights=(-1.0, 1.0, -0.5, 0.7, 0.0))
    inputs = rows.x[:, 1:] @ np.random.default_rng(5).normal(size=(4, 4)) + [3.0, 0.0, -2.0, 1.0]
    inputs = inputs.clip(inputs.mean(axis=0) - 2.5 * inputs.std(axis=0), inputs.mean(axis=0) + 2.5 * inputs.std(axis=0))
    total = inputs[:, :2].sum(axis=1)
    return rows._replace(x=np.column_stack([np.ones(count), inputs, np.full(count, 7.0), total]))


def standardized(state: OutcomeState, x: Floats) -> Floats:
    """The inputs that are used, in the scales of the model."""
    is_used = state.scales > 0
    return np.asarray((x[:, is_used] - state.means[is_used]) / state.scales[is_used])


def etas(rule: Newton, state: OutcomeState, rows: LabeledRows) -> Floats:
    return outcome_scores.etas(rule, state, rows.x)


def test_principal_components_as_inputs_are_those_of_scikit_learn() -> None:
    rows, rule = correlated_rows(), replace(SQUARED, projection=PCA_2)
    state = learned(rule, rows)
    components = PCA(2, svd_solver="full").fit_transform(standardized(state, rows.x))
    expected = Ridge(alpha=10).fit(components, rows.labels).predict(components)
    np.testing.assert_allclose(etas(rule, state, rows), expected, atol=1e-6)
    assert np.abs(etas(SQUARED, learned(SQUARED, rows), rows) - expected).max() > 0.01


def test_the_discriminant_as_input_is_that_of_scikit_learn() -> None:
    rows, rule = correlated_rows(), replace(SQUARED, projection=LDA)
    rows = rows._replace(x=rows.x[:, :-1])  # scikit-learn fails if an input is the sum of others
    state = learned(rule, rows)
    discriminant = LinearDiscriminantAnalysis(solver="eigen").fit(standardized(state, rows.x), rows.labels)
    component = discriminant.transform(standardized(state, rows.x))[:, :1]
    expected = Ridge(alpha=10).fit(component, rows.labels).predict(component)
    np.testing.assert_allclose(etas(rule, state, rows), expected, atol=1e-6)


def test_a_logistic_model_has_components_of_the_weighted_rows() -> None:
    rows = correlated_rows()
    rule = Newton(half_life_days=None, ridge=40.0, first_passes=60, projection=PCA_2)
    state = learned(rule, rows)
    p, inputs = probabilities(rule, state, rows.x), standardized(state, rows.x)
    covariance = np.cov(inputs.T, aweights=np.maximum(p * (1 - p), 0.02), ddof=0)
    components = inputs @ np.linalg.eigh(covariance)[1][:, -2:]
    expected = LogisticRegression(C=4 / 40, tol=1e-10, max_iter=1000).fit(components, rows.labels)
    np.testing.assert_allclose(p, expected.predict_proba(components)[:, 1], atol=1e-5)


@pytest.mark.parametrize("rule", [replace(SQUARED, projection=PCA_2), replace(SQUARED, projection=LDA)])
def test_rows_without_any_variance_have_the_mean_label(rule: Newton) -> None:
    rows = logistic_rows(60)
    state = learned(rule, rows._replace(x=np.ones((60, 3))))
    assert state.problem == "" and state.coefficients[1:].tolist() == [0.0, 0.0]
    assert state.coefficients[0] == pytest.approx(rows.labels.mean())
    one_class = learn(rule, OutcomeState.empty(rule, ["intercept", "x1", "x2"]), rows._replace(labels=np.ones(60)))
    np.testing.assert_allclose(probabilities(rule, one_class, rows.x), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('rule = "sgd"\nprojection = { kind = "pca" }', "needs the rule 'newton'"),
        ('projection = { kind = "pca", components = 0 }', "greater than or equal to 1"),
        ('projection = { kind = "lda" }', "needs the loss 'squared'"),
        ('loss = "squared"\nprojection = { kind = "lda", components = 2 }', "has one component"),
        ('loss = "squared"\nprojection = { kind = "lda" }', "needs a boolean label, not 'buy'"),
    ],
)
def test_a_projection_that_is_not_defined_is_an_error(tmp_path: Path, lines: str, problem: str) -> None:
    spec = spec_of(tmp_path, OUTCOMES.replace('ridge = 30\ncalibration = "isotonic"', lines))
    with pytest.raises(Exception, match=rf"outcomes\.toml(.|\n)*{problem}"):
        _ = spec.declared


@pytest.mark.parametrize("kind", ["pca", "lda"])
def test_another_projection_is_used_from_the_next_batch_on_and_the_sums_continue(tmp_path: Path, kind: str) -> None:
    text = OUTCOMES.replace(LABELS, BOOLEAN).replace('calibration = "isotonic"', 'loss = "squared"')
    projected = text.replace("ridge = 30", f'ridge = 30\nprojection = {{ kind = "{kind}" }}')
    before, after = spec_of(tmp_path / "before", text), spec_of(tmp_path / "after", projected)
    tables = learn_weeks(before, MemoryTables(), *[week(number) for number in range(1, 4)])
    state = after.models(learn_weeks(after, tables, week(4)))["buy"].last
    rule = after.declared.rules["buy"]
    assert isinstance(rule, Newton) and rule.projection is not None and state.applies == 4
    expected = rule.projection.solve(state.sums.rule, state.scales, 7.5)
    np.testing.assert_allclose(state.coefficients, expected, rtol=1e-9)
