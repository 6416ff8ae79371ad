"""Rules of segments and values of dimensions in words and natural units, for readers who do not know the dimensions."""

import math
import re
from collections.abc import Mapping, Sequence

from profilestream.base import language
from profilestream.base.language import ENGLISH, join_list, message, translate, use_language
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.segments.segment_rules import AND, AVERAGE, NO_RULE, SplitCondition, word

# A word, with the number of the segment if several have the same words.
_NUMBERED = re.compile(r"(.*?)((?: \(\d+\))?)")
# SQL of dimensions with a natural unit: shares of the events, and logarithms of a column.
_SHARE, _LOGARITHM = re.compile(r"int\(.*\)"), re.compile(r"ln\(1 \+ (\w+)\)")


def rule_in_words(rule: str, words: Mapping[str, Sequence[str]], dimensions: Mapping[str, str]) -> str:
    """A rule in words and natural units, such as `on weekdays (weekend at most 46%), after noon`.

    A limit follows the word if the dimension is a share of the events, or the logarithm of a column: then it is the
    geometric mean of the column plus 1, minus 1.

    Args:
        rule: of a SegmentDescription; empty: NO_RULE is returned.
        words: as `segment_rules.describe`.
        dimensions: SQL of the dimensions, by name.
    """
    if not rule:
        return translate(NO_RULE)
    by_dimension: dict[str, list[SplitCondition]] = {}
    for condition in map(SplitCondition.parse, rule.split(AND)):
        by_dimension.setdefault(condition.dimension, []).append(condition)
    return join_list(
        _condition_words(conditions, words, dimensions.get(name, "")) for name, conditions in by_dimension.items()
    )


def translate_description(description: str, profile: DerivedTable) -> str:
    """A stored description of a segment, which is in the declared words, in the language of the context.

    A word without a declared translation stays as it is.

    Args:
        profile: declares the words and the dimensions.
    """
    if language.current() == ENGLISH or profile.population is None:
        return description
    sides = [(dimension, is_high) for dimension in profile.vector.dimensions for is_high in (False, True)]
    with use_language(ENGLISH):
        stored = [word(*side, profile.population.words) for side in sides]
    words = profile.population.words_in(language.current())
    texts = dict(zip(stored, (word(*side, words) for side in sides), strict=True)) | {AVERAGE: translate(AVERAGE)}
    parts = [_NUMBERED.fullmatch(part) for part in description.split(", ")]
    return join_list(f"{texts.get(part[1], part[1])}{part[2]}" for part in parts if part)


def compare_in_words(
    dimension: str, values: tuple[float, float], other_name: str, words: Mapping[str, Sequence[str]], sql: str
) -> tuple[str, str]:
    """The word of the side of the first value, and both values in their natural unit, such as `at weekends` and
    `weekend 64%, all users 16%`; an empty text without a natural unit.

    Args:
        other_name: what the second value is, such as `all users`.
        words: as `segment_rules.describe`.
        sql: of the dimension.
    """
    texts = [_limit(one, sql) for one in values]
    both = ""
    if texts[0]:
        both = translate(
            "{subject} {value}, {other_name} {other}",
            subject=_subject(dimension, sql), value=texts[0], other_name=other_name, other=texts[1],
        )  # fmt: skip
    return word(dimension, values[0] > values[1], words), both


def _subject(dimension: str, sql: str) -> str:
    """The column of a logarithm, or the dimension."""
    return logarithm[1] if (logarithm := _LOGARITHM.fullmatch(sql)) else dimension


def _condition_words(conditions: Sequence[SplitCondition], words: Mapping[str, Sequence[str]], sql: str) -> str:
    """The words of one or two conditions on a dimension, with their limits."""
    ordered = sorted(conditions, key=lambda one: one.threshold)
    limits = [limit for one in ordered if (limit := _limit(one.threshold, sql))]
    subject = _subject(ordered[0].dimension, sql)
    if len(ordered) == 1:
        text = word(ordered[0].dimension, ordered[0].is_above, words)
        if not limits:
            return text
        with_limit = message("{word} ({subject} at most {limit})")
        if ordered[0].is_above:
            with_limit = message("{word} ({subject} over {limit})")
        return translate(with_limit, word=text, subject=subject, limit=limits[0])
    low, high = (word(ordered[0].dimension, is_high, words) for is_high in (False, True))
    if not limits:
        return translate("between {low} and {high}", low=low, high=high)
    return translate(
        "between {low} and {high} ({subject} {first} to {last})",
        low=low, high=high, subject=subject, first=limits[0], last=limits[1],
    )  # fmt: skip


def _limit(threshold: float, sql: str) -> str:
    """A value of a dimension in a natural unit; empty without one."""
    if _SHARE.fullmatch(sql):
        return f"{threshold:.0%}"
    return f"{math.expm1(threshold):,.2f}" if _LOGARITHM.fullmatch(sql) else ""
