"""What every learner is: verbs on frozen values, so that it can be run in a stream, in memory, whole or in parts.

    score(state, rows)         what the state foretells of rows; asked before they are learned from
    batch_delta(state, rows)   what rows have to say, worked out wherever they lie (executors)
    merge(one, other)          what two parts of a batch have to say together; commutative, associative, with `zero`
    apply(state, delta, now)   the state after the batch; decay and prior enter here only, once

`tests/laws.py` holds every learner to these.
"""

from typing import Protocol, TypeVar

from profilestream.learn.als import Floats

State = TypeVar("State")
Rows = TypeVar("Rows", contravariant=True)
Delta = TypeVar("Delta")


class Learner(Protocol[State, Rows, Delta]):
    """A model that learns from micro-batches and can be taken apart."""

    def empty(self) -> State:
        """The state before the first event."""
        ...

    def zero(self) -> Delta:
        """What no rows have to say."""
        ...

    def score(self, state: State, rows: Rows) -> Floats:
        """A number a row."""
        ...

    def batch_delta(self, state: State, rows: Rows) -> Delta:
        """What rows have to say; all rows of a key are in one call."""
        ...

    def merge(self, one: Delta, other: Delta) -> Delta:
        """Both together."""
        ...

    def apply(self, state: State, delta: Delta, now: int) -> State:
        """The state after a batch, at the newest event time, in microseconds."""
        ...
