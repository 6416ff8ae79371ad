"""Reads times and numbers from texts by a stated grammar, which is stricter than Spark's.

A time is `2026-07-01`, `2026-07-01 10:00`, or `2026-07-01T10:00:00.123456`; a time of day may have a zone: `Z`, `UTC`,
`GMT`, an offset such as `+02:00`, or a region such as `Europe/Berlin`. Abbreviations such as CST or BST are no zones:
each stands for several. A number is decimal: sign, digits with one point, exponent.
"""

import re

from pyspark.sql import Column
from pyspark.sql import functions as F

# Characters that surround a value without being part of it: all Unicode blanks, separators of the ASCII table,
# characters without a shape, and the mark of byte order.
BLANKS = (
    " \t\n\r\f\v\u001c\u001d\u001e\u001f\u0085\u00a0\u00ad\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202f\u205f\u2060\u2800\u3000\u3164\ufeff"
)
_ZONE = r"(?:Z|UTC|GMT|(?:UTC|GMT|UT)?[+-][0-9]{1,2}(?::?[0-9]{2}){0,2}|[A-Za-z_]+(?:/[A-Za-z0-9_+-]+){1,3})"
_TIME = (
    r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[ T][0-9]{1,2}:[0-9]{1,2}(?::[0-9]{1,2}(?:\.[0-9]+)?)?(?: ?" + _ZONE + r")?)?$"
)
_ENDS_WITH_ZONE = r":[0-9]{1,2}(?:\.[0-9]+)? ?" + _ZONE + "$"
# Words of a time in a pattern that are no zone abbreviations: AM, PM, and names of days and months in capitals.
_ABBREVIATION = (
    r"\b(?!UTC\b|GMT\b|AM\b|PM\b|AD\b|BC\b|MON\b|TUE\b|WED\b|THU\b|FRI\b|SAT\b|SUN\b|JAN\b|FEB\b|MAR\b|APR\b|MAY\b"
    r"|JUN\b|JUL\b|AUG\b|SEP\b|OCT\b|NOV\b|DEC\b)[A-Z]{2,5}\b(?!/)"
)
# Java matches some patterns by recursion, so a long text would overflow the stack.
_LONGEST_TIME = 100
DIGITS = "0123456789"


def trim_blanks(column: Column) -> Column:
    """The text without blanks at both ends. Trims only where needed: a set of characters is slow in Spark."""
    return trim_characters(column, BLANKS)


def trim_characters(column: Column, characters: str) -> Column:
    """The text without these characters at both ends."""
    is_needed = F.left(column, F.lit(1)).isin(*characters) | F.right(column, F.lit(1)).isin(*characters)
    return F.when(is_needed, F.trim(column, F.lit(characters))).otherwise(column)


def parse_time(text: Column, pattern: str) -> Column:
    """The time in a text without blanks at its ends; null when the text is not a time.

    Args:
        pattern: Spark's pattern of the text; empty: the grammar of this module.
    """
    if not pattern:
        return F.when(is_time(text), F.try_to_timestamp(with_seconds(text)))
    time = F.try_to_timestamp(text, F.lit(pattern))
    return F.when(~text.rlike(_ABBREVIATION), time) if _zone_letters(pattern) else time


def is_time(text: Column) -> Column:
    """Whether the text is a time of the grammar. Most times are recognized by a few characters, without the pattern."""
    is_plain = (
        (F.substring(text, 5, 1) == "-") & (F.substring(text, 8, 1) == "-") & (F.substring(text, 14, 1) == ":")
        & F.substring(text, -2, 1).isin(*DIGITS) & F.right(text, F.lit(1)).isin("Z", *DIGITS)
    )  # fmt: skip
    return (F.length(text) <= _LONGEST_TIME) & (is_plain | text.rlike(_TIME))


def with_seconds(text: Column) -> Column:
    """A time of the grammar with seconds, without which Spark reads no zone: 10:00Z is 10:00:00Z."""
    added = F.regexp_replace(text, r"^([0-9-]+[ T][0-9]{1,2}:[0-9]{1,2})( ?[A-Za-z+-].*)$", "$1:00$2")
    return F.when(F.substring(text, 17, 1) == ":", text).otherwise(added)


def is_instant(text: Column, pattern: str) -> Column:
    """Whether a text that is a time states its zone. Then the time zone of the mapping is not applied."""
    if not pattern:
        return text.rlike(_ENDS_WITH_ZONE)
    without_optional = re.sub(r"\[[^\[\]]*\]", lambda part: "" if _zone_letters(part[0]) else part[0], pattern)
    if without_optional == pattern or _zone_letters(without_optional):
        return F.lit(bool(_zone_letters(pattern)))
    return F.try_to_timestamp(text, F.lit(without_optional)).isNull()


def parse_number(text: Column) -> Column:
    """The number in a text without blanks at its ends; null when the text is not a decimal number."""
    return F.when(is_number(text), text.try_cast("double"))


def is_number(text: Column) -> Column:
    """Whether a text that Spark casts to a number is decimal. Spark also reads `5d`, `NaN` and `0x1p3`."""
    return F.right(text, F.lit(1)).isin(".", *DIGITS) & ~text.contains("x") & ~text.contains("X")


def _zone_letters(pattern: str) -> str:
    """The letters of a Spark pattern that stand for a zone or an offset."""
    return "".join(letter for letter in re.sub(r"'[^']*'", "", pattern) if letter in "zZxXvVO")
