"""What transitions say: what comes next, how open that is, and how far a purchase is ahead.

The path of a session is taken as a Markov chain from START to END. A session weighs the same in all of its transitions,
so each state is left with the weight with which it is entered, and the chain's mean path is that of the sessions.

Sources: Kemeny and Snell, "Finite Markov Chains" (1960), chapter III: with Q the probabilities among states that are
left again and R those of where it ends, the fundamental matrix N = (I - Q)^-1 holds the visits, N 1 the steps, N R the
ends. Shannon, "A Mathematical Theory of Communication" (1948), section 7: the entropy of a source is that of its
states, by how often they are visited.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.derive.fold import Fold
from profilestream.derive.session_paths import END, MOVE, START
from profilestream.derive.table_declaration import Derived

Floats = NDArray[np.float64]


def counts(rows: DataFrame, derived: Derived, at: Column | None = None) -> DataFrame:
    """Rows of a table of transitions -> one a key: keys, `transitions`, and `weight` as of `at`.

    What was taken out again is left out.

    Args:
        at: one time for all keys; the newest in the rows when null.
    """
    fold = Fold.of(derived)
    newest = rows.agg(F.max("as_of").alias("newest"))
    there = fold.merged(rows).where("transitions > 0").crossJoin(F.broadcast(newest))
    said = fold.read(there, F.col("newest") if at is None else at)
    return said.where("weight > 0").select(*derived.keys, "transitions", "weight")


def probabilities(counted: DataFrame) -> DataFrame:
    """Counts, of all users or of each, with `probability`: of what comes after a state, by weight."""
    keys = [name for name in ("user_id", "level", "from_state") if name in counted.columns]
    left = F.sum("weight").over(Window.partitionBy(*keys))
    return counted.withColumn("probability", F.col("weight") / left)


def smoothed(users: DataFrame, everyone: DataFrame, prior: float) -> DataFrame:
    """What comes next for each user, drawn towards all users: (c + m p) / (n + m).

    That is the mean of a Dirichlet distribution after the user's weights (MacKay and Peto, "A Hierarchical Dirichlet
    Language Model", 1995).

    Args:
        users, everyone: counts of users and of all, as of the same time.
        prior: m, above 0: how much weight out of a state outweighs what all users do there.

    Returns:
        `user_id`, the transition and `probability`; for each user every transition of `everyone`.
    """
    usual = probabilities(everyone).select(*MOVE, F.col("probability").alias("usual"))
    whole = users.select("user_id").distinct().crossJoin(F.broadcast(usual))
    own = F.coalesce("weight", F.lit(0.0))
    left = F.sum(own).over(Window.partitionBy("user_id", "level", "from_state"))
    both = whole.join(users.select("user_id", *MOVE, "weight"), ["user_id", *MOVE], "left")
    return both.select("user_id", *MOVE, ((own + prior * F.col("usual")) / (left + prior)).alias("probability"))


def chain(likely: DataFrame) -> "Chain":
    """The chain of rows with `probability`, of one level and of one user or all; its few rows come to the driver."""
    rows = likely.select("from_state", "to_state", "probability").collect()
    found = {(row["from_state"], row["to_state"]): row["probability"] for row in rows}
    if len(found) != len(rows):
        raise ValueError("these are rows of several chains: choose one level, and one user or all")
    return Chain.of(found)


@dataclass(frozen=True)
class Ahead:
    """What is ahead of a state.

    Args:
        probability: of the goal before the session ends.
        steps: mean number of steps until the goal or END.
        steps_to_goal: the same, of the paths that reach the goal; null when none does.
    """

    probability: float
    steps: float
    steps_to_goal: float | None


@dataclass(frozen=True)
class Chain:
    """States that are left again, and the probabilities: a row a state; a column a state, and the last one for END."""

    states: tuple[str, ...]
    odds: Floats

    @classmethod
    def of(cls, weights: Mapping[tuple[str, str], float]) -> "Chain":
        """The chain of weights or probabilities by (from_state, to_state)."""
        states = tuple(sorted({state for pair in weights for state in pair} - {END}))
        columns = {state: n for n, state in enumerate([*states, END])}
        odds = np.zeros((len(states), len(columns)))
        for (since, until), weight in weights.items():
            odds[columns[since], columns[until]] = weight
        # Of what is nearly forgotten, rounding may leave the way into a state without the way out.
        odds[odds.sum(axis=1) == 0, -1] = 1.0
        return cls(states, odds / odds.sum(axis=1, keepdims=True))

    def entropies(self) -> dict[str, float]:
        """Of each state the entropy of what comes next, in bits: 0 when it is sure."""
        logarithms = np.log2(self.odds, out=np.zeros_like(self.odds), where=self.odds > 0)
        return self._by_state(-(self.odds * logarithms).sum(axis=1) + 0.0)

    def visits(self) -> dict[str, float]:
        """How often a session is in each state, on average; in START once."""
        start = np.array([float(state == START) for state in self.states])
        return self._by_state(np.linalg.solve(np.eye(len(self.states)) - self.odds[:, :-1].T, start))

    def entropy(self) -> float:
        """Entropy of a step in bits: that of the states, by how often they are visited."""
        visits, entropies = self.visits(), self.entropies()
        return sum(visits[state] * entropies[state] for state in self.states) / sum(visits.values())

    def until(self, goal: str = "purchase") -> dict[str, Ahead]:
        """What is ahead of each state but the goal."""
        others = [n for n, state in enumerate(self.states) if state != goal]
        goals = [n for n, state in enumerate(self.states) if state == goal]
        leave = np.eye(len(others)) - self.odds[np.ix_(others, others)]
        probability = np.linalg.solve(leave, self.odds[np.ix_(others, goals)].sum(axis=1))
        steps = np.linalg.solve(leave, np.ones(len(others)))
        until_goal = np.linalg.solve(leave, probability)
        return {
            self.states[n]: Ahead(float(p), float(t), float(u / p) if p > 0 else None)
            for n, p, t, u in zip(others, probability, steps, until_goal, strict=True)
        }

    def _by_state(self, values: Any) -> dict[str, float]:
        return {state: float(value) for state, value in zip(self.states, values, strict=True)}
