"""Reasons of scores, lists and unusual days in the language of the context; the tables contain them in English.

Executors compute the texts, without catalogs (`scores/`). Here, a stored text is compared with the messages, and the
message that fits is translated with the values of its placeholders.
"""

import functools
import re

from profilestream.base import language
from profilestream.base.language import ENGLISH, message, translate

# The first one that fits a text counts.
_REASONS = (
    message("popular now"),
    message("popular in {category}"),
    message("liked by similar users"),
    message("because you bought it before"),
    message("because you looked at it before"),
    message("because you bought {item}"),
    message("because you looked at {item}"),
    message("often follows your latest basket"),
    message("often follows your latest items"),
    message("you bought it {count} times, about every {_interval}; the last time was {_ago}"),
    message("you bought it {count} times; the last time was {_ago}"),
    message("you bought it {_ago}"),
    message("you looked at it {count} times, about every {_interval}; the last time was {_ago}"),
    message("you looked at it {count} times; the last time was {_ago}"),
    message("you looked at it {_ago}"),
    message("{_measure}: {observed} instead of {expected}"),
    message("{_feature}; raises the score"),
    message("{_feature}; lowers the score"),
)
# Values of the placeholders that begin with `_`, which are texts of this project.
_PARTS = (
    message("less than a day ago"),
    message("{_interval} ago"),
    message("1 day"),
    message("{count} days"),
    message("events"),
    message("distinct times of events"),
    message("mean value of a purchase"),
    message("returns per purchase"),
    message("share of earlier days with this hour"),
    message("share of earlier days with these categories"),
    message("share of earlier days with this region"),
    message("share of earlier days with these event types"),
    message("{feature} (complete log) {value}"),
    message("{feature} (last {count}d) {value}"),
)


def translate_reason(text: str) -> str:
    """A stored reason in the language of the context; a text that is none of these messages stays as it is."""
    return text if language.current() == ENGLISH else _translate(text, _REASONS)


def _translate(text: str, messages: tuple[str, ...]) -> str:
    for one in messages:
        if match := _pattern(one).fullmatch(text):
            values = match.groupdict()
            parts = {name: _translate(value, _PARTS) for name, value in values.items() if name.startswith("_")}
            return translate(one, **(values | parts))
    return text


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    """A message with its placeholders as groups."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(text)))
