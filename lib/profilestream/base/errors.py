"""What can go wrong, in few kinds. Each carries the exit code that scripts rely on.

1  any other failure         2  bad settings or input         3  refused, to protect data
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import PySparkException


class ProfilestreamError(Exception):
    """A message in four parts: what is wrong (with the offending values), where, and what to do.

    Args:
        what: one sentence, with the offending values.
        where: file, table, query, batch or config key.
        do: the mend; printed last, so that it is the last line a person reads.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str, do: str) -> None:
        super().__init__(f"{what}\n  where: {where}\n  what to do: {do}")
        self.what, self.where, self.do = what, where, do


_ON_A_ROW = ("CAST_INVALID_INPUT", "DIVIDE_BY_ZERO", "ARITHMETIC_OVERFLOW", "NUMERIC_VALUE_OUT_OF_RANGE",
             "CANNOT_PARSE_TIMESTAMP", "INVALID_ARRAY_INDEX", "INVALID_FORMAT")  # fmt: skip


def first_words(said: str) -> str:
    """Of an error of Spark the sentence that a person needs."""
    return (said.strip().splitlines() or [""])[0].split(" SQLSTATE")[0]


class BadSettings(ProfilestreamError):
    """Settings, a mapping or a command line that cannot work. Found at start-up."""

    exit_code = 2


@contextmanager
def naming(what: str, *, where: str, do: str) -> Iterator[None]:
    """Turn the failure of an expression on the values of a row, which Spark tells, into BadSettings."""
    try:
        yield
    except PySparkException as error:
        said = str(error)
        if not any(name in said for name in _ON_A_ROW):
            raise
        raise BadSettings(f"{what}: {said.splitlines()[0][:300]}", where=where, do=do) from error


class SourceMissing(ProfilestreamError):
    """A folder or file of input that is not there."""

    exit_code = 2


class SourceUnreadable(ProfilestreamError):
    """An input file that breaks while it is read: cut short, not what its name says."""

    exit_code = 2


class SchemaMismatch(ProfilestreamError):
    """A frame or a stored table whose columns are not those declared in tables.py."""

    exit_code = 2


class Refused(ProfilestreamError):
    """Going on would lose, double or mix data."""

    exit_code = 3


class StateCorrupt(ProfilestreamError):
    """Numbers that must agree do not."""
