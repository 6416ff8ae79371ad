"""Numbers as text, by one rule: a whole number has neither point nor exponent, and minus zero is zero.

Any other number keeps its characters; a binary number has its shortest decimal form, without exponent. All digits are
moved as text, because every numeric type of Spark would round some of them.
"""

from collections.abc import Callable

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

# A whole number with more digits keeps its exponent. The largest double has 309.
_MAX_DIGITS = 1000
_ZERO = r"^-?0+(\.0*)?([eE][+-]?[0-9]+)?$"
_WHOLE_WITH_POINT = r"^-?[0-9]+\.0+$"
_EXPONENT = r"^-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]+$"


def number_text(text: Column) -> Column:
    """The text of a decimal number, without point and exponent if it is a whole number; other texts are unchanged."""
    can_change = text.contains(".") | text.contains("e") | text.contains("E") | text.startswith("-0")
    return F.when(~can_change, text).otherwise(apply_once(_whole_number, text))


def _whole_number(text: Column) -> Column:
    mantissa, exponent = _parts(text)
    digits = F.replace(mantissa, F.lit("."), F.lit(""))
    # Number of characters before the point, with the sign.
    places = F.length(F.substring_index(mantissa, ".", 1)) + exponent
    is_whole = (F.length(F.rtrim(digits, F.lit("0"))) <= places) & (places <= _MAX_DIGITS)
    whole = F.regexp_replace(F.rpad(digits, places, F.lit("0")), r"^(-?)0+(?=[0-9])", "$1")
    return (
        F.when(text.rlike(_ZERO), "0")
        .when(text.rlike(_WHOLE_WITH_POINT), F.substring_index(text, ".", 1))
        .when(text.rlike(_EXPONENT) & is_whole, whole)
        .otherwise(text)
    )


def float_text(number: Column, data_type: T.DataType) -> Column:
    """The shortest decimal form of a binary number; `NaN`, `Infinity` and `-Infinity` are unchanged."""
    text = number.cast("string")
    if isinstance(data_type, T.DoubleType):
        # Java before 19 writes 2e23 as 1.9999999999999998E23.
        short = F.format_string("%.14E", number)
        text = F.when((F.length(text) > 17) & (short.try_cast("double") == number), short).otherwise(text)
    return apply_once(_without_exponent, apply_once(number_text, text))


def _without_exponent(text: Column) -> Column:
    """The decimal form of a number with one digit before the point and an exponent; other texts are unchanged."""
    mantissa, exponent = _parts(F.regexp_replace(text, "^-", ""))
    digits = F.rtrim(F.replace(mantissa, F.lit("."), F.lit("")), F.lit("0"))
    small = F.concat(F.lit("0."), F.repeat(F.lit("0"), -exponent - 1), digits)
    large = F.concat(F.left(digits, exponent + 1), F.lit("."), F.substr(digits, exponent + 2))
    sign = F.when(text.startswith("-"), "-").otherwise("")
    decimal = F.concat(sign, F.when(exponent < 0, small).otherwise(large))
    return F.when(text.contains("E"), decimal).otherwise(text)


def apply_once(function: Callable[[Column], Column], text: Column) -> Column:
    """The result of a function that uses its argument often: as a lambda variable, its expression is planned once."""
    return F.get(F.transform(F.array(text), function), F.lit(0))


def _parts(text: Column) -> tuple[Column, Column]:
    """Mantissa and exponent of a number; the exponent is null if it is missing or has more than four digits."""
    capitals = F.upper(text)
    exponent = F.substring_index(capitals, "E", -1).try_cast("smallint").cast("int")
    return F.substring_index(capitals, "E", 1), exponent
