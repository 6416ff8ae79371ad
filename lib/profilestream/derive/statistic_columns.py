"""The table columns of statistics: type, unit, meaning, and whether a state identifies a person."""

import re
from collections.abc import Mapping
from typing import Any

from profilestream.base.columns import Column, Place, Subject
from profilestream.base.tables import EVENTS
from profilestream.derive.statistics import Heaviest, MeanVector, StatisticBase

# Kinds whose states contain values of events, and where.
_PLACE_OF_VALUES: dict[str, Place] = {
    "min": "value", "max": "value", "first": "array element", "last": "array element", "last_by_key": "map key",
    "top": "map key", "frequent": "map key", "distinct": "sketch",
}  # fmt: skip
_KINDS_OF_WEIGHTS = ("count", "histogram", "top", "frequent")
_LONGEST_SQL = 100
_MEANINGS = {
    "count": "Number of events",
    "sum": "Sum of {of}",
    "min": "Smallest {of}",
    "max": "Largest {of}",
    "moments": "Weight, mean and squared deviations of {of}",
    "distinct": "Theta sketch of the distinct values of {of}",
    "first": "{of} of the first {k}",
    "last": "{of} of the last {k}",
    "last_by_key": "Latest value of each key of {of}",
    "histogram": "Weights by bin {of}",
    "mean_vector": "Weight and weighted sums of the dimensions {dimensions}",
    "top": "The {n} heaviest values of {of}, and the weight of the others",
    "frequent": "The {n} most frequent values of {of}, and the bound of the error",
    "quantiles": "Weights by logarithmic bin of {of}",
}


def state_column(name: str, fields: Mapping[str, StatisticBase]) -> Column:
    """The column of a statistic, or of a facet with one field per statistic.

    Args:
        fields: statistics by field; the field is empty when the column is one statistic.
    """
    if "" in fields:
        return _column(name, fields[""])
    columns = tuple(_column(field, statistic) for field, statistic in fields.items())
    kind = f"STRUCT<{', '.join(f'{column.name}: {column.type}' for column in columns)}>"
    return Column(name, kind, f"States of the facet `{name}`.", fields=columns)


def _column(name: str, statistic: Any) -> Column:
    k = getattr(statistic, "k", 1)
    text = _MEANINGS[statistic.kind].format(
        of=sql_text(statistic.of),
        k="event" if k == 1 else f"{k} events",
        n=statistic.n if isinstance(statistic, Heaviest) else "",
        dimensions=", ".join(statistic.dimensions) if isinstance(statistic, MeanVector) else "",
    )
    text += "" if statistic.where == "true" else f" where {sql_text(statistic.where)}"
    text += "" if statistic.weight == "1" else f", weighted by {sql_text(statistic.weight)}"
    text += "" if statistic.half_life is None else f", with a half-life of {statistic.half_life:g} days"
    place = _PLACE_OF_VALUES.get(statistic.kind)
    return Column(name, statistic.ddl, f"{text}.", _unit(statistic), subject(statistic.of, place) if place else None)


def _unit(statistic: StatisticBase) -> str:
    """Of the numbers in the state: events for kinds that add weights, else the unit of the event column."""
    units = {column.name: column.unit for column in EVENTS.columns}
    if getattr(statistic, "kind", "") in _KINDS_OF_WEIGHTS:
        return "events" if statistic.weight == "1" else units.get(statistic.weight, "")
    return units.get(statistic.of, "")


def subject(sql: str, place: Place = "value") -> Subject | None:
    """How values of a SQL expression over an event identify a person; null when they do not."""
    words = set(re.findall(r"[A-Za-z_]\w*", sql))
    subjects = [column.subject for column in EVENTS.columns if column.subject and column.name in words]
    return Subject(subjects[0].person, place) if subjects else None


def sql_text(sql: str) -> str:
    """A SQL expression as inline code on one line; the end of a long one is cut off."""
    line = " ".join(sql.split())
    return f"`{line if len(line) <= _LONGEST_SQL else f'{line[: _LONGEST_SQL - 3]}...'}`"
