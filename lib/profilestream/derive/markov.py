"""Transition tables as Markov chains: next-state probabilities, entropy, and the distance to a purchase.

The path of a session is a Markov chain from START to END. All transitions of a session have the same weight. So the
weights into and out of each state are equal, and the mean path of the chain is the mean path of the sessions.

Sources:

- Kemeny and Snell, "Finite Markov Chains" (1960), chapter III: let Q be the transition probabilities between transient
  states and R those to absorbing states. Then the fundamental matrix N = (I - Q)^-1 contains the expected visits, N 1
  the expected numbers of steps, and N R the absorption probabilities.
- Shannon, "A Mathematical Theory of Communication" (1948), section 7: the entropy of a source is the mean of the
  entropies of its states, weighted by visits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.derive.fold import Fold
from profilestream.derive.kernels.session_paths import END, START, TRANSITION
from profilestream.derive.table_declaration import DerivedTable

Floats = NDArray[np.float64]


def transition_counts(rows: DataFrame, derived: DerivedTable, at: Column | None = None) -> DataFrame:
    """Rows of a transition table -> one row per key: the keys, `transitions`, and `weight` as of `at`.

    Transitions whose count is 0 are left out.

    Args:
        derived: the declaration of the table (transitions.declaration).
        at: one time for all keys; null: the latest `as_of` of the rows.
    """
    fold = Fold(derived)
    latest = rows.agg(F.max("as_of").alias("latest"))
    existing = fold.merge_rows(rows).where("transitions > 0").crossJoin(F.broadcast(latest))
    counts = fold.read(existing, F.col("latest") if at is None else at)
    return counts.where("weight > 0").select(*derived.keys, "transitions", "weight")


def probabilities(counts: DataFrame) -> DataFrame:
    """Counts, per user or over all users, with `probability`: the share of a transition in the weight of its state."""
    keys = [name for name in ("user_id", "level", "from_state") if name in counts.columns]
    state_weight = F.sum("weight").over(Window.partitionBy(*keys))
    return counts.withColumn("probability", F.col("weight") / state_weight)


def smoothed_probabilities(users: DataFrame, all_users: DataFrame, prior: float) -> DataFrame:
    """Next-state probabilities of each user, shrunk to those of all users: (c + m p) / (n + m).

    c is the user's weight of the transition, n the user's weight of its state, and p the probability over all users.
    This is the posterior mean under a Dirichlet prior (MacKay and Peto, "A Hierarchical Dirichlet Language Model",
    1995).

    Args:
        users, all_users: counts per user and over all users, as of the same time.
        prior: m, above 0; the weight of a state at which a user's own weights count as much as those of all users.

    Returns:
        `user_id`, the transition and `probability`; every transition of `all_users` for each user.
    """
    general = probabilities(all_users).select(*TRANSITION, F.col("probability").alias("general"))
    transitions = users.select("user_id").distinct().crossJoin(F.broadcast(general))
    weight = F.coalesce("weight", F.lit(0.0))
    state_weight = F.sum(weight).over(Window.partitionBy("user_id", "level", "from_state"))
    rows = transitions.join(users.select("user_id", *TRANSITION, "weight"), ["user_id", *TRANSITION], "left")
    probability = (weight + prior * F.col("general")) / (state_weight + prior)
    return rows.select("user_id", *TRANSITION, probability.alias("probability"))


def load_chain(transitions: DataFrame) -> "MarkovChain":
    """The chain of the rows' `probability`: of one level, and of one user or all users; collects the rows.

    Raises:
        ValueError: the rows belong to more than one chain.
    """
    rows = transitions.select("from_state", "to_state", "probability").collect()
    by_pair = {(row["from_state"], row["to_state"]): row["probability"] for row in rows}
    if len(by_pair) != len(rows):
        raise ValueError("the rows belong to several chains: select one level, and one user or all users")
    return MarkovChain.of(by_pair)


@dataclass(frozen=True)
class GoalForecast:
    """The expected way from a state to a goal.

    Args:
        probability: of reaching the goal before the session ends.
        steps: mean number of steps to the goal or END.
        steps_to_goal: mean number of steps of the paths that reach the goal; null if none does.
    """

    probability: float
    steps: float
    steps_to_goal: float | None


@dataclass(frozen=True)
class MarkovChain:
    """A Markov chain with the absorbing state END.

    Args:
        states: all states except END.
        matrix: transition probabilities; one row per state, one column per state and a last one for END.
    """

    states: tuple[str, ...]
    matrix: Floats

    @classmethod
    def of(cls, weights: Mapping[tuple[str, str], float]) -> "MarkovChain":
        """The chain of weights or probabilities by (from_state, to_state)."""
        states = tuple(sorted({state for pair in weights for state in pair} - {END}))
        columns = {state: n for n, state in enumerate([*states, END])}
        matrix = np.zeros((len(states), len(columns)))
        for (source, target), weight in weights.items():
            matrix[columns[source], columns[target]] = weight
        # Almost fully decayed weights: rounding may leave a transition into a state and none out of it.
        matrix[matrix.sum(axis=1) == 0, -1] = 1.0
        return cls(states, matrix / matrix.sum(axis=1, keepdims=True))

    def entropies(self) -> dict[str, float]:
        """By state, the entropy of the next state in bits; 0 if the next state is certain."""
        logarithms = np.log2(self.matrix, out=np.zeros_like(self.matrix), where=self.matrix > 0)
        return self._by_state(-(self.matrix * logarithms).sum(axis=1) + 0.0)

    def visits(self) -> dict[str, float]:
        """By state, the mean number of visits per session; 1 for START."""
        start = np.array([float(state == START) for state in self.states])
        return self._by_state(np.linalg.solve(np.eye(len(self.states)) - self.matrix[:, :-1].T, start))

    def entropy_rate(self) -> float:
        """Mean entropy of a step in bits, with states weighted by visits."""
        visits, entropies = self.visits(), self.entropies()
        return sum(visits[state] * entropies[state] for state in self.states) / sum(visits.values())

    def goal_forecasts(self, goal: str = "purchase") -> dict[str, GoalForecast]:
        """By state except the goal, the expected way to the goal."""
        others = [n for n, state in enumerate(self.states) if state != goal]
        goals = [n for n, state in enumerate(self.states) if state == goal]
        identity_minus_q = np.eye(len(others)) - self.matrix[np.ix_(others, others)]
        probability = np.linalg.solve(identity_minus_q, self.matrix[np.ix_(others, goals)].sum(axis=1))
        steps = np.linalg.solve(identity_minus_q, np.ones(len(others)))
        goal_steps = np.linalg.solve(identity_minus_q, probability)
        return {
            self.states[n]: GoalForecast(float(p), float(t), float(u / p) if p > 0 else None)
            for n, p, t, u in zip(others, probability, steps, goal_steps, strict=True)
        }

    def _by_state(self, values: Any) -> dict[str, float]:
        return {state: float(value) for state, value in zip(self.states, values, strict=True)}
