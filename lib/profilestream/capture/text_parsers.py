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
# A quoted text, a run of one letter, or another character of Spark's pattern of a time.
_PATTERN_PARTS = re.compile(r"'((?:[^']|'')*)'|(([A-Za-z])\3*)|(.)", re.DOTALL)
_ZONE_LETTERS = "zZxXvVO"
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
    return F.when(_has_form(text, pattern), time) if _zone_count(pattern) else time


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
    zones = [F.regexp_extract(text, time_regex(pattern), n + 1) for n in range(_zone_count(pattern))]
    return _has_form(text, pattern) & (F.concat(*zones) != "") if zones else F.lit(False)


def parse_number(text: Column) -> Column:
    """The number in a text without blanks at its ends; null when the text is not a decimal number."""
    return F.when(is_number(text), text.try_cast("double"))


def is_number(text: Column) -> Column:
    """Whether a text that Spark casts to a number is decimal. Spark also reads `5d`, `NaN` and `0x1p3`."""
    return F.right(text, F.lit(1)).isin(".", *DIGITS) & ~text.contains("x") & ~text.contains("X")


def _has_form(text: Column, pattern: str) -> Column:
    return (F.length(text) <= _LONGEST_TIME + len(pattern)) & text.rlike(time_regex(pattern))


def time_regex(pattern: str) -> str:
    """A regular expression of the texts of a Spark pattern; each zone is a group. Only the zones of the grammar match.

    Spark itself reads any name as a zone, in capital or small letters, and chooses one of those that share the name.
    """
    regex, depth = "", 0
    for part in _PATTERN_PARTS.finditer(pattern):
        literal, letters, letter, other = part.groups()
        if letter is not None:
            regex += _field_regex(letter, len(letters))
        elif other == "[":
            regex, depth = regex + "(?:", depth + 1
        elif other == "]":
            regex, depth = regex + ")?", depth - 1
        else:
            regex += re.escape(other or literal.replace("''", "'") or "'")
    return f"(?i)^{regex}{')?' * depth}$"


def _field_regex(letter: str, count: int) -> str:
    if letter in _ZONE_LETTERS:
        return f"({_ZONE})"
    if letter == "a":
        return "[AP]M"
    if letter in "GE" or (letter in "ML" and count > 2):
        return "[A-Za-z]+"
    sign, digits = "[+-]?" if letter in "yu" else "", {"y": 6, "u": 6, "S": 9, "D": 3}.get(letter, 2)
    return f"{sign}[0-9]{{1,{max(count, digits)}}}"


def _zone_count(pattern: str) -> int:
    return sum((part[3] or "-") in _ZONE_LETTERS for part in _PATTERN_PARTS.finditer(pattern))
