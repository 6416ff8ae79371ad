"""Names of items: the latest `text` in `events`, or that of the table `items`, or the id of an item without a name."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.language import translate
from profilestream.serve.text_width import isolate, shorten

_MAX_NAME = 60  # columns of the screen
# Between the words of a text, of which some are ids of items.
_WORDS = re.compile(r"[\s,;()、；，。：（）]+")


def with_names(entries: DataFrame, items: DataFrame | None) -> DataFrame:
    """Rows with `item_id` and the column `name`: that of `items`, or the id of an item without one."""
    if items is None:
        return entries.withColumn("name", F.col("item_id"))
    names = items.where("name IS NOT NULL").select("item_id", "name")
    return entries.join(names, "item_id", "left").withColumn("name", F.coalesce("name", "item_id"))


def in_order(name: str) -> Column:
    """An aggregate: the names of the rows of one `list`, in the order of `position`."""
    entries = F.collect_list(F.when(F.col("list") == name, F.struct("position", "name")))
    return F.transform(F.array_sort(entries), lambda entry: entry["name"])


def item_texts(events: DataFrame, items: list[str]) -> dict[str, str]:
    """The latest `text` of each item; items without a text are left out."""
    named = events.where(F.col("item_id").isin(items) & F.col("text").isNotNull())
    rows = named.groupBy("item_id").agg(latest("text").alias("text")).collect() if items else []
    return {row["item_id"]: row["text"] for row in rows}


def latest(name: str, not_null: str = "") -> Column:
    """An aggregate of events: the latest value of a column, of those that are not null.

    Args:
        not_null: another column that must not be null instead.
    """
    is_valid = F.col(not_null or name).isNotNull()
    return F.max_by(name, F.when(is_valid, F.struct("event_time", "event_id")))


def ids_in(value: Any, items: set[str]) -> set[str]:
    """The ids that nested values contain, as a text, as a key, or as a word of a text.

    Args:
        items: all ids.
    """
    return {word for text in _texts(value) for word in (text, *_WORDS.split(text))} & items


def _texts(value: Any) -> Iterator[str]:
    """All strings in nested values, also keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from (*_texts(key), *_texts(one))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def label_items(text: str, names: Mapping[str, str]) -> str:
    """The text with `name (id)` in place of each id that has a name; long names are cut."""
    if not names:
        return text
    ids = "|".join(re.escape(item) for item in sorted(names, key=len, reverse=True))
    # An id that is a part of a longer one, such as shop:1 in shop:1-a, is no match.
    pattern = rf"(?<![\w:./-])(?:{ids})(?![:./-]*\w)"
    return re.sub(
        pattern, lambda match: translate("{text} ({label})", text=_short(names[match[0]]), label=match[0]), text
    )


def _short(name: str) -> str:
    """The name on one line, cut to the maximum width."""
    return isolate(shorten(" ".join(name.split()), _MAX_NAME))
