"""Error classes, each with an exit code for scripts.

1  any other failure         2  bad settings or input         3  refused, to protect data
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import PySparkException


class ProfilestreamError(Exception):
    """A message in three parts: what is wrong (with the offending values), where, and what to do.

    Args:
        what: one sentence, with the offending values.
        where: file, table, query, batch or settings key.
        do: how to fix it; printed as the last line.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str, do: str) -> None:
        super().__init__(f"{what}\n  where: {where}\n  what to do: {do}")
        self.what, self.where, self.do = what, where, do


_VALUE_ERRORS = ("CAST_INVALID_INPUT", "DIVIDE_BY_ZERO", "ARITHMETIC_OVERFLOW", "NUMERIC_VALUE_OUT_OF_RANGE",
                 "CANNOT_PARSE_TIMESTAMP", "INVALID_ARRAY_INDEX", "INVALID_FORMAT")  # fmt: skip


def first_sentence(message: str) -> str:
    """The first line of a Spark error message, without its SQLSTATE."""
    return (message.strip().splitlines() or [""])[0].split(" SQLSTATE")[0]


class BadSettings(ProfilestreamError):
    """Settings, a mapping or a command line that cannot work. Raised at start-up."""

    exit_code = 2


@contextmanager
def value_errors_as_bad_settings(what: str, *, where: str, do: str, shows_value: bool = True) -> Iterator[None]:
    """Raise BadSettings instead of Spark's error when an expression fails on the values of a row.

    Args:
        shows_value: whether the message may contain the value; false for personal data.
    """
    try:
        yield
    except PySparkException as error:
        message = str(error)
        name = next((name for name in _VALUE_ERRORS if name in message), None)
        if name is None:
            raise
        reason = first_sentence(message)[:300] if shows_value else name
        raise BadSettings(f"{what}: {reason}", where=where, do=do) from error


class NothingWritten(BadSettings):
    """A mapping that cannot work for the batch, found before any table contains rows of it.

    The batch can be planned again with another mapping.
    """


class SourceMissing(ProfilestreamError):
    """An input folder, file or table does not exist."""

    exit_code = 2


class SourceUnavailable(SourceMissing):
    """The source does not answer now, such as brokers that are restarted; it may answer later."""

    exit_code = 1


class NothingToDo(SourceMissing):
    """The tables that a step reads have no rows that it needs yet. run_pipeline skips the step."""


class SourceUnreadable(ProfilestreamError):
    """An input file cannot be read to its end: it is truncated, or not in the format of its file extension."""

    exit_code = 2


class SchemaMismatch(ProfilestreamError):
    """The columns of a frame or a stored table differ from the declared ones."""

    exit_code = 2


class Refused(ProfilestreamError):
    """The run would lose, duplicate or mix data."""

    exit_code = 3


class Conflict(Refused):
    """Another writer changed a table during a batch. The batch can be computed again from the latest rows."""


class StateCorrupt(ProfilestreamError):
    """Numbers that must be equal differ."""
