"""Texts that stand for a missing value, such as `null`: one list for all id columns, category and brand."""

from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.settings import Capture
from profilestream.capture.mapping import ID_COLUMNS, Mapping
from profilestream.capture.text_parsers import BLANKS, trim_characters

_GUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
COLUMNS = (*ID_COLUMNS, "category", "brand")


def patterns_of(mapping: Mapping, capture: Capture) -> tuple[str, ...]:
    """The patterns for a source."""
    replaced = mapping.placeholders.replace
    return (*(capture.placeholders if replaced is None else replaced), *mapping.placeholders.add)


def warned_columns(mapping: Mapping) -> list[str]:
    """The mapped columns that are null, with a warning, where they hold a placeholder."""
    rejected = ("event_id",) if mapping.placeholders.user == "anonymous" else ("event_id", "user_id")
    return [name for name in COLUMNS if name in mapping.columns and name not in rejected]


def is_placeholder(text: Column, patterns: tuple[str, ...]) -> Column:
    """Whether a text is blank or matches a pattern; null for null.

    Args:
        patterns: texts in which one `*` can stand for any characters except a GUID, because `{GUID}` is an id. Capital
            letters, and blanks and quotes around the text, do not matter.
    """
    bare = F.lower(trim_characters(text, BLANKS + "\"'"))
    literals = [pattern.lower() for pattern in patterns if "*" not in pattern]
    matches = [_matches(bare, pattern.lower()) for pattern in patterns if "*" in pattern]
    return reduce(Column.__or__, matches, bare.isin("", *literals))


def _matches(text: Column, pattern: str) -> Column:
    start, end = pattern.split("*", 1)
    is_match = text.startswith(start) & text.endswith(end) & (F.length(text) >= len(start) + len(end))
    return is_match & ~text.substr(len(start) + 1, 36).rlike(_GUID)
