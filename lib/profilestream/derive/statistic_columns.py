"""The table columns of statistics: type, unit, meaning, and whether a state identifies a person."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from profilestream.base.columns import Column, Place, Subject
from profilestream.base.settings import UNITS_SQL
from profilestream.base.tables import EVENTS
from profilestream.derive.statistics import Distinct, Reading, StatisticBase, by_facet

_PLACES: dict[str, Place] = {"BINARY": "sketch", "MAP": "map key", "ARRAY": "array element", "STRUCT": "array element"}
Described = TypeVar("Described", bound=StatisticBase | Reading)
_LONGEST_SQL = 100
# Of a state and of a value, where they differ from each other.
_STATES = {
    "moments": "Weight, mean and squared deviations of {of}",
    "distinct": "Theta sketch of the distinct values of {of}",
    "first": "Order and {of} of the first {k}",
    "last": "Order and {of} of the last {k}",
    "last_by_key": "Order and latest value of each key of {of}",
    "mean_vector": "Weight and weighted sums of the dimensions {dimensions}",
    "top": "The {n} heaviest values of {of}, and the weight of the others",
    "frequent": "The {n} most frequent values of {of}, and the bound of the error",
    "quantiles": "Weights by logarithmic bin of {of}",
}
_VALUES = {
    "count": "Number of events",
    "sum": "Sum of {of}",
    "min": "Smallest {of}",
    "max": "Largest {of}",
    "moments": "Mean and variance of {of}",
    "distinct": "Number of distinct values of {of}",
    "first": "{of} of the first {k}",
    "last": "{of} of the last {k}",
    "last_by_key": "Latest value of each key of {of}",
    "histogram": "Weights by bin {of}",
    "mean_vector": "Mean of each dimension: {dimensions}",
    "top": "The {n} heaviest values of {of} with their weights, heaviest first",
    "frequent": "The {n} most frequent values of {of} with their weights, heaviest first",
    "quantiles": "Median of {of}, within {error:.0%}",
}
# Of a list of weights, the table stores only this in the column `state`.
_RESTS = {"top": "Weight that was cut from the values of {of}", "frequent": "Bound of the error of the weights of {of}"}


def state_columns(statistics: Mapping[str, StatisticBase]) -> list[Column]:
    """The columns with the states of statistics by path; `facet.name` is a field of the struct column `facet`."""
    return _columns(statistics, lambda name, one: _describe(name, one, one.ddl, _VALUES | _STATES), "States")


def value_columns(statistics: Mapping[str, StatisticBase | Reading]) -> list[Column]:
    """The columns with values for readers; as `state_columns`."""

    def describe(name: str, one: StatisticBase | Reading) -> Column:
        if isinstance(one, Reading):
            return Column(name, one.type, one.meaning, one.unit)
        return _describe(name, one, one.readable_ddl, _VALUES)

    return _columns(statistics, describe, "Values")


def hidden_columns(name: str, statistics: Mapping[str, StatisticBase]) -> list[Column]:
    """The column of that name with the states that are not values; empty if all are."""
    hidden = {path: one for path, one in statistics.items() if not one.is_plain}
    meanings = _VALUES | _STATES | _RESTS
    columns = tuple(_columns(hidden, lambda field, one: _describe(field, one, one.hidden_ddl, meanings), "States"))
    meaning = "States that are not values; only profilestream reads them."
    return [Column(name, _struct(columns), meaning, fields=columns)] if columns else []


def _columns(by_path: Mapping[str, Described], describe: Callable[[str, Described], Column], what: str) -> list[Column]:
    columns = []
    for name, fields in by_facet(by_path).items():
        if "" in fields:
            columns.append(describe(name, fields[""]))
        else:
            inner = tuple(describe(field, one) for field, one in fields.items())
            columns.append(Column(name, _struct(inner), f"{what} of the facet `{name}`.", fields=inner))
    return columns


def _struct(columns: tuple[Column, ...]) -> str:
    return f"STRUCT<{', '.join(f'{column.name}: {column.type}' for column in columns)}>"


def _describe(name: str, statistic: Any, sql_type: str, meanings: Mapping[str, str]) -> Column:
    k = getattr(statistic, "k", 1)
    text = meanings[statistic.kind].format(
        of=sql_text(statistic.of),
        k="event" if k == 1 else f"{k} events",
        n=getattr(statistic, "n", ""),
        dimensions=", ".join(getattr(statistic, "dimensions", ())),
        error=getattr(statistic, "error", 0),
    )
    text += "" if statistic.where == "true" else f" where {sql_text(statistic.where)}"
    text += "" if statistic.weight == "1" else f", weighted by {sql_text(statistic.weight)}"
    text += "" if statistic.half_life is None else f", with a half-life of {statistic.half_life:g} days"
    text += f"; exact up to {statistic.exact_limit}" if isinstance(statistic, Distinct) and sql_type == "BIGINT" else ""
    # A number says nothing about single values, unless it is one.
    has_values = sql_type not in ("BIGINT", "DOUBLE") or statistic.kind in ("min", "max")
    place = _PLACES.get(sql_type.partition("<")[0], "value")
    person = subject(statistic.of, place) if statistic.stores_values and has_values else None
    return Column(name, sql_type, f"{text}.", _unit(statistic), person)


def _unit(statistic: StatisticBase) -> str:
    """Of the numbers in the state: events for kinds that add weights, else the unit of the event column."""
    units = {column.name: column.unit for column in EVENTS.columns}
    units[UNITS_SQL] = units["quantity"]
    if statistic.adds_weights:
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
