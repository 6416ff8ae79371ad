"""Numbers of JSON texts with all their characters.

from_json reads a number with a point or an exponent as a double, so 1.10 becomes 1.1, and 1e400 becomes infinite. Here
such a number is written as a string that begins with MARK before the text is parsed, if a number of the text needs it.
A text in which numbers are marked stays the same when they are marked again, so a nested text can be parsed in turn.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.capture.number_text import apply_once, number_text

# A code point that is no character, so no text contains it.
MARK = "\ufdd0"
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?=[.eE])(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_END = r"(?=[ \t\r\n]*+[,}\]])"
# A string in either kind of quotes, which Spark reads, with what is before it, and all that is no such number.
# Possessive, because Java matches other repetitions by recursion, and a long text would overflow the stack.
_BETWEEN = (
    r"""[^"'0-9-]*+"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^"'0-9-]++|-?[0-9]++(?![.eE0-9])|'[^'\\]*+(?:\\.[^'\\]*+)*+'"""
    r"""|-(?![0-9])"""
)
# Invalid JSON must not become valid: a key is no number.
_MARKED = rf"\G((?:{_BETWEEN})*+)({_NUMBER}){_END}"
# Finds a number whose text as a double can be another one. All others have at most 15 digits, and are in the range that
# Java writes without exponent. One with the end `.0` stays the same too, but could be a string, which keeps this end.
# It begins with the rare characters, because a search that begins at each `:` and `,` takes three times as long.
_CHANGES = (
    rf"[.eE](?<=[0-9].)(?:(?:(?<=[eE])[+-]?+[0-9]++|[0-9]++(?<=[0-9]0|[0-9]{{9}})|(?<=[0-9]{{8}}\.)[0-9]++){_END}"
    r"|00(?<=[:,\[ \t\r\n-]0\.00))"
)


class JsonText(T.StringType):
    """The text of a value that from_json returned for a JSON text with marked numbers."""


def changes_number(json: Column) -> Column:
    """Whether from_json changes the text of a number of the JSON text."""
    return json.rlike(_CHANGES)


def has_point_zero(value: Column) -> Column:
    """Whether a value that from_json returned is a number such as 3.0, or a string that looks so."""
    return value.endswith(".0")


def has_string_with_point_zero(json: Column) -> Column:
    """Whether a string of the JSON text can end with `.0`; false means that a value with this end is a number."""
    return json.contains('.0"') | json.contains(".0'") | json.contains("\\")


def marked_number(number: Column) -> Column:
    """A number that from_json did not change, as in the text with marked numbers."""
    return F.concat(F.lit(MARK), number)


def mark_numbers(json: Column) -> Column:
    """The JSON text whose numbers with a point or an exponent are marked strings; invalid JSON remains invalid."""
    return F.regexp_replace(json, _MARKED, f'$1"{MARK}$2"')


def mark_if_needed(json: Column) -> Column:
    """As mark_numbers, unless from_json changes no number of the text, and none looks like a whole number."""

    def marked(text: Column) -> Column:
        return F.when(text.contains(".0") | changes_number(text), mark_numbers(text)).otherwise(text)

    return apply_once(marked, json)


def plain_text(value: Column) -> Column:
    """A `JsonText` as text: a number by the rule of `number_text`; in an object or array, numbers as in the input."""

    def unmarked(text: Column) -> Column:
        inside = F.regexp_replace(text, f'"{MARK}([-+.0-9eE]+)"', "$1")
        return F.when(text.startswith(MARK), number_text(without_mark(text))).otherwise(inside)

    return F.when(value.contains(MARK), apply_once(unmarked, value)).otherwise(value)


def without_mark(value: Column) -> Column:
    """A scalar `JsonText` as in the input."""
    return F.replace(value, F.lit(MARK), F.lit(""))
