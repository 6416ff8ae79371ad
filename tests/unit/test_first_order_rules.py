"""First-order rules: equal to references and to river where the definitions are the same."""

from typing import Any

import numpy as np
import pytest
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.outcomes.kernels import outcome_model
from profilestream.learn.outcomes.kernels.first_order_rules import FirstOrder
from profilestream.learn.outcomes.kernels.outcome_model import OutcomeState, sum_rows

from tests import naive_outcomes
from tests.outcome_rows import concat, learn, learned, logistic_rows, probabilities, split, take

CONSTANT = float("inf")
RULES = [
    FirstOrder("sgd", 0.3), FirstOrder("sgd", 0.3, loss="hinge"), FirstOrder("sgd", 0.1, loss="squared"),
    FirstOrder("adagrad", 0.1), FirstOrder("adam", 0.05), FirstOrder("ftrl", 0.5), FirstOrder("pa1", 0.1),
    FirstOrder("pa2", 0.1),
]  # fmt: skip
RNG = np.random.default_rng(0)
GRADIENTS = RNG.normal(size=(40, 3)) * [1.0, 0.1, 3.0]
# Rows in standard deviations from the mean, and their labels.
Z = np.column_stack([np.ones(60), RNG.normal(size=(60, 2))])
LABELS = (Z[:, 1] + RNG.normal(size=60) > 0).astype(float)


def name(rule: FirstOrder) -> str:
    return f"{rule.kind} {rule.loss}"


def identity_state(rule: FirstOrder, coefficients: Floats | None = None) -> OutcomeState:
    """A state whose inputs are not changed by the scaling."""
    empty = OutcomeState.empty(rule, ["intercept", "x1", "x2"])
    coefficients = np.zeros(3) if coefficients is None else coefficients
    return OutcomeState(
        empty.names, coefficients, empty.sums, empty.memory, np.zeros(3), np.array([0.0, 1.0, 1.0]), is_started=True
    )


def mean_gradient(rule: FirstOrder, w: Floats, rows: Any) -> Floats:
    sums = rule.sums(identity_state(rule, w), rows, np.ones(len(rows.labels)))
    return np.asarray(sums[0, :-1] / sums[0, -1])


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_gradients_equal_those_of_a_reference_implementation(rule: FirstOrder) -> None:
    w = np.array([0.2, -0.4, 1.0])
    rows = take(logistic_rows(60), np.arange(60))._replace(x=Z, labels=LABELS)
    naive = naive_outcomes.gradient(
        [(z, y, 0) for z, y in zip(Z, LABELS, strict=True)], w, rule.kind, rule.loss, rule.rate
    )
    np.testing.assert_allclose(mean_gradient(rule, w, rows), naive, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", [*RULES, FirstOrder("adagrad", 0.1, shards=4)], ids=name)
def test_any_partition_of_a_batch_gives_the_same_state(rule: FirstOrder) -> None:
    state, rows = learned(rule, logistic_rows(80)), concat([logistic_rows(30, 3), logistic_rows(30, 2)])
    whole = learn(rule, state, rows)
    for parts in (2, 5, 60):
        cut = learn(rule, state, *split(rows, parts))
        np.testing.assert_allclose(cut.coefficients, whole.coefficients, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(cut.memory, whole.memory, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_a_model_learns_to_rank_and_a_batch_without_rows_changes_nothing(rule: FirstOrder) -> None:
    state = learned(rule, *[logistic_rows(300, day) for day in range(1, 30)])
    test = logistic_rows(300, day=50)
    assert naive_outcomes.auc(probabilities(rule, state, test.x), test.labels) > 0.75
    assert learn(rule, state, take(test, np.zeros(0, np.int64))) is state


def test_an_apply_makes_one_step_per_shard_that_has_rows() -> None:
    rule, rows = FirstOrder("adagrad", 0.1, shards=4), logistic_rows(90)
    rows = rows._replace(shards=rows.shards % 3)
    state = learned(rule, rows)
    empty = OutcomeState.empty(rule, ["intercept", "x1", "x2"])
    started = outcome_model.start(rule, empty, sum_rows(rule, empty, rows))
    w, memory = started.coefficients, started.memory
    for shard in range(3):
        part = take(rows, np.flatnonzero(rows.shards == shard))
        sums = rule.sums(started, part, np.ones(len(part.labels)))[shard]
        w, memory = rule.step(w, memory, sums[:-1] / sums[-1], 0)
    np.testing.assert_allclose(state.coefficients, w)
    np.testing.assert_allclose(state.memory, memory)


def steps(rule: FirstOrder, w: Floats) -> tuple[Floats, Floats]:
    """Coefficients and memory after all gradients."""
    memory = rule.initial_memory(w) if rule.kind == "ftrl" else np.zeros((2, 3))
    for number, gradient in enumerate(GRADIENTS):
        w, memory = rule.step(w, memory, gradient, number)
    return w, memory


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_steps_equal_those_of_river(kind: str) -> None:
    optim = pytest.importorskip("river.optim", reason="the package river is not installed")
    optimizer = {"sgd": optim.SGD, "adagrad": optim.AdaGrad, "adam": optim.Adam}[kind](0.1)
    weights = {0: 0.5, 1: 0.0, 2: 0.0}
    for gradient in GRADIENTS:
        optimizer.step(weights, dict(enumerate(gradient)))
    rule = FirstOrder(kind, 0.1, rate_decay=CONSTANT)  # type: ignore[arg-type]
    np.testing.assert_allclose(steps(rule, np.array([0.5, 0, 0]))[0], list(weights.values()), rtol=1e-9)


def test_ftrl_proximal_equals_that_of_river() -> None:
    optim = pytest.importorskip("river.optim", reason="the package river is not installed")
    # River penalizes all weights, and replaces a weight by that of its accumulators at the next step only.
    optimizer, weights = optim.FTRLProximal(alpha=0.2, beta=1.0, l1=0.0, l2=0.3), {0: 0.0, 1: 0.0, 2: 0.0}
    for gradient in [*GRADIENTS, np.zeros(3)]:
        optimizer.step(weights, dict(enumerate(gradient)))
    w, memory = steps(FirstOrder("ftrl", 0.2, l2=0.3), np.zeros(3))
    np.testing.assert_allclose(w[1:], [weights[1], weights[2]], rtol=1e-9)
    np.testing.assert_allclose(memory[1], list(optimizer.n.values()), rtol=1e-9)


@pytest.mark.parametrize("mode", [1, 2])
def test_passive_aggressive_equals_that_of_river_row_by_row(mode: int) -> None:
    linear_model = pytest.importorskip("river.linear_model", reason="the package river is not installed")
    model = linear_model.PAClassifier(C=0.2, mode=mode, learn_intercept=False)
    rule, w = FirstOrder("pa1" if mode == 1 else "pa2", 0.2), np.zeros(3)
    for number, (z, label) in enumerate(zip(Z, LABELS, strict=True)):
        model.learn_one(dict(enumerate(z)), bool(label))
        row = take(logistic_rows(1), np.arange(1))._replace(x=z[None], labels=np.array([label]))
        w, _ = rule.step(w, np.zeros((2, 3)), mean_gradient(rule, w, row), number)
    np.testing.assert_allclose(w, [model.weights[n] for n in range(3)], rtol=1e-9)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "squared"])
def test_linear_models_equal_those_of_river_row_by_row(loss: Any) -> None:
    river = pytest.importorskip("river.linear_model", reason="the package river is not installed")
    optim = pytest.importorskip("river.optim")
    # River's squared loss has no factor 1/2.
    losses = {"logistic": optim.losses.Log(), "hinge": optim.losses.Hinge(), "squared": optim.losses.Squared()}
    rate = 0.05 if loss == "squared" else 0.1
    model = river.LinearRegression(optim.SGD(rate), loss=losses[loss], intercept_lr=0.0)
    rule, w = FirstOrder("sgd", 0.1, loss=loss, rate_decay=CONSTANT), np.zeros(3)
    for number, (z, label) in enumerate(zip(Z, LABELS, strict=True)):
        model.learn_one(dict(enumerate(z)), int(label))
        row = take(logistic_rows(1), np.arange(1))._replace(x=z[None], labels=np.array([label]))
        w, _ = rule.step(w, np.zeros((2, 3)), mean_gradient(rule, w, row), number)
    np.testing.assert_allclose(w, [model.weights[n] for n in range(3)], rtol=1e-9)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam", "ftrl"])
def test_an_l1_penalty_gives_true_zeros_and_an_l2_penalty_shrinks_but_not_the_intercept(kind: Any) -> None:
    batches = [logistic_rows(400, day, weights=(-2.0, 1.0, 0.0, 0.0)) for day in range(1, 40)]
    rate = {"sgd": 0.3, "adagrad": 0.1, "adam": 0.02, "ftrl": 0.5}[kind]
    # The sums of FTRL-Proximal grow with the number of batches, so its penalty is on their scale.
    penalty = 2.0 if kind == "ftrl" else 0.1
    plain, sparse, small = (
        learned(FirstOrder(kind, rate, l1=l1, l2=l2), *batches).coefficients
        for l1, l2 in ((0.0, 0.0), (penalty, 0.0), (0.0, 20.0 if kind == "ftrl" else 1.0))
    )
    assert sparse[2:].tolist() == [0.0, 0.0] and sparse[1] > 0 and np.all(plain[2:] != 0)
    assert 0 < small[1] < 0.8 * plain[1]
    assert min(abs(sparse[0]), abs(small[0])) > 0.8 * abs(plain[0])


def test_ftrl_begins_with_the_intercept_of_the_class_rate() -> None:
    rule = FirstOrder("ftrl", 0.3)
    w = np.array([-2.0, 0.0, 0.0])
    after, _ = rule.step(w, rule.initial_memory(w), np.zeros(3), 0)
    np.testing.assert_allclose(after, w)


def test_coefficients_that_are_not_finite_are_not_stored() -> None:
    rule, rows = FirstOrder("sgd", 1e308, loss="squared"), logistic_rows(50)
    with np.errstate(all="ignore"):
        state = learned(rule, *[rows] * 5)
    assert state.problem and np.isfinite(state.coefficients).all()
