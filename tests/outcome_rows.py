"""Rows of outcomes for tests, and learners that call the kernels as the stage does."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import MICROS_PER_DAY, total
from profilestream.learn.outcomes.kernels import outcome_model, outcome_scores
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, OutcomeRule, OutcomeState, States
from profilestream.learn.outcomes.kernels.outcome_sums import OutcomeSums

DAY = MICROS_PER_DAY


def logistic_rows(count: int, day: int = 1, seed: int = 0, weights: Sequence[float] = (-1.0, 1.0, -0.5)) -> LabeledRows:
    """Rows of one time, whose labels have the logit weights x (1, features); features are standard normal."""
    rng = np.random.default_rng([seed, day])
    x = np.column_stack([np.ones(count), rng.normal(size=(count, len(weights) - 1))])
    labels = (rng.random(count) < 1 / (1 + np.exp(-x @ np.array(weights)))).astype(float)
    return LabeledRows(x, labels, np.full(count, day * DAY), np.arange(count))


def spend_rows(count: int, day: int = 1, seed: int = 0) -> LabeledRows:
    """Rows of one time, whose labels have means exp(3 + .8 x) and are 0 for most rows."""
    rng = np.random.default_rng([seed, day])
    x = np.column_stack([np.ones(count), rng.normal(size=(count, 2))])
    labels = 5 * np.exp(3 + 0.8 * x[:, 1]) * rng.gamma(1, 1, count) * (rng.random(count) < 0.2)
    return LabeledRows(x, labels, np.full(count, day * DAY), np.arange(count))


def split(rows: LabeledRows, parts: int, seed: int = 0) -> list[LabeledRows]:
    """The rows in random order, in parts of about equal size."""
    order = np.random.default_rng(seed).permutation(len(rows.labels))
    return [take(rows, part) for part in np.array_split(order, parts)]


def take(rows: LabeledRows, positions: Longs) -> LabeledRows:
    return LabeledRows(*(column[positions] for column in rows))  # type: ignore[arg-type]


def concat(parts: Iterable[LabeledRows]) -> LabeledRows:
    return LabeledRows(*map(np.concatenate, zip(*parts, strict=True)))


def names_of(rows: LabeledRows) -> list[str]:
    return ["intercept", *(f"x{n}" for n in range(1, rows.x.shape[1]))]


def learn_all(
    rules: Mapping[str, OutcomeRule], states: States, parts: Sequence[LabeledRows], labels: Mapping[str, Floats] | None
) -> States:
    """The states after a batch that is computed in parts; `labels` by outcome replace those of a single part."""

    def sum_batch(active: States) -> dict[str, OutcomeSums]:
        def rows_of(name: str, part: LabeledRows) -> LabeledRows:
            return part if labels is None else part._replace(labels=labels[name])

        return {
            name: total(
                [outcome_model.sum_rows(rules[name], state, rows_of(name, part)) for part in parts],
                rules[name].half_life_days,
            )
            for name, state in active.items()
        }

    return outcome_model.learn(rules, states, sum_batch)


def learn(rule: OutcomeRule, state: OutcomeState, *parts: LabeledRows) -> OutcomeState:
    """The state of one outcome after a batch that is computed in parts."""
    return learn_all({"": rule}, {"": state}, parts, None)[""]


def learned(rule: OutcomeRule, *batches: LabeledRows) -> OutcomeState:
    """The state after batches."""
    state = OutcomeState.empty(rule, names_of(batches[0]))
    for batch in batches:
        state = learn(rule, state, batch)
    return state


def probabilities(rule: OutcomeRule, state: OutcomeState, x: Floats) -> Floats:
    return outcome_scores.predictions(rule, state, outcome_scores.etas(rule, state, x))
