"""The interface of a learner: functions on immutable values, so that a learner runs on a stream or in local memory.

    score(state, rows)         predictions of the state for rows, computed before the rows are learned
    batch_delta(state, rows)   changes that rows cause, computed on the executors
    merge(one, other)          the changes of two parts of a batch; commutative, associative, with the neutral `zero`
    apply(state, delta, now)   the state after the batch; only this function applies decay and priors, once per batch

`tests/laws.py` tests these properties for every learner.
"""

from typing import Protocol, TypeVar

from profilestream.learn.als import Floats

StateT = TypeVar("StateT")
RowsT = TypeVar("RowsT", contravariant=True)
DeltaT = TypeVar("DeltaT")


class Learner(Protocol[StateT, RowsT, DeltaT]):
    """A model that learns from micro-batches and whose batches can be split into parts."""

    def empty(self) -> StateT:
        """The state before the first event."""
        ...

    def zero(self) -> DeltaT:
        """The delta of no rows."""
        ...

    def score(self, state: StateT, rows: RowsT) -> Floats:
        """One number per row."""
        ...

    def batch_delta(self, state: StateT, rows: RowsT) -> DeltaT:
        """The changes that rows cause; one call must contain all rows of a key."""
        ...

    def merge(self, one: DeltaT, other: DeltaT) -> DeltaT:
        """The changes of both deltas."""
        ...

    def apply(self, state: StateT, delta: DeltaT, now: int) -> StateT:
        """The state after a batch.

        Args:
            now: latest event time of the batch, microseconds since 1970.
        """
        ...
