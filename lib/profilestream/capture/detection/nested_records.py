"""Columns of nested records (JSON objects, Parquet and Delta rows): fields, key-value arrays, an exploded array."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from profilestream.capture.detection import column_names
from profilestream.capture.detection.log_sample import Kind, SampleColumn, literal, quote, raw_column_sql

_MAX_DEPTH, _MAX_COLUMNS = 6, 400
_ARRAY_NAMES = re.compile(
    r"(order_?|cart_?|basket_?|line_?)?(items?|products?|events?|lines?|hits|goods|articles?|artikel|positionen|positions"
    r"|details|entries|skus|actions|interactions|商品|明细)(_?list|_?ids?)?|basket|cart|clicks|views|purchases"
)
_KEY_FIELDS, _VALUE_FIELDS = ("key", "name", "k"), ("value", "v", "val")


@dataclass(frozen=True)
class _Key:
    """A step of a path: the entry of a key-value array, or of a map if `key_field` is empty."""

    key_field: str
    value_field: str
    key: str


_Path = tuple[str | _Key, ...]


@dataclass(frozen=True)
class Explode:
    """An array whose elements become records.

    Args:
        path: names from the raw column to the array.
        element: name of an element in expressions.
        sql: the expression of `input.explode`.
    """

    path: tuple[str, ...]
    element: str
    sql: str


def columns(
    records: list[dict[str, Any]], kinds: dict[str, Kind] | None = None
) -> tuple[list[SampleColumn], Explode | None]:
    """Columns of the records, one value per record or per element of the exploded array.

    Args:
        kinds: types of top-level columns; null: all scalars are read as texts (JSON).
    """
    explode = _choose_explode(records)
    rows = [row for record in records for row in _rows(record, explode)]
    kinds_by_path: dict[_Path, Kind] = {}
    values: dict[_Path, dict[int, str]] = defaultdict(dict)
    for i, row in enumerate(rows):
        for path, value in row.items():
            values[path][i] = text_of(value)
            if kinds is not None:
                kinds_by_path.setdefault(path, _kind(value))
    names = list(dict.fromkeys(name for record in records for name in record))
    result = []
    for path, by_row in list(values.items())[:_MAX_COLUMNS]:
        sql, uses = _sql(path, explode, names)
        texts = tuple(by_row.get(i) for i in range(len(rows)))
        kind = kinds_by_path.get(path, "text")
        result.append(SampleColumn(_names(path, explode), sql, uses, texts, kind, blank_is_null=False))
    return result, explode


def text_of(value: Any) -> str:
    """A scalar as a text, as Spark casts it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return str(value)


def declared_type(uses: set[tuple[str, ...]]) -> str:
    """The type of a raw column of a JSON log that has the used fields, each as a text.

    Args:
        uses: paths below the raw column; `[]` is the element of an array. The empty path is the column itself.
    """
    below = {path for path in uses if path}
    if not below:
        return "string"
    if all(path[0] == "[]" for path in below):
        return f"array<{declared_type({path[1:] for path in below})}>"
    names = dict.fromkeys(path[0] for path in sorted(below))
    fields = [f"{quote(n)}: {declared_type({p[1:] for p in below if p[0] == n})}" for n in names]
    return f"struct<{', '.join(fields)}>"


def _rows(record: dict[str, Any], explode: Explode | None) -> list[dict[_Path, Any]]:
    base: dict[_Path, Any] = {}
    _flatten(record, (), base, explode.path if explode else ())
    if explode is None:
        return [base]
    elements = _get(record, explode.path) or [None]
    rows = []
    for element in elements:
        fields: dict[_Path, Any] = {}
        if element is not None:
            _flatten(element, ("[]",), fields, ())
        rows.append({**fields, **base})
    return rows


def _flatten(value: Any, path: _Path, fields: dict[_Path, Any], exploded: tuple[str, ...]) -> None:
    if value is None or isinstance(value, bytes) or len(path) > _MAX_DEPTH or (path and path == exploded):
        return
    if isinstance(value, dict):
        for name, child in value.items():
            _flatten(child, (*path, name), fields, exploded)
    elif isinstance(value, list):
        for key, child in _entries(value):
            _flatten(child, (*path, key), fields, ())
    else:
        fields[path] = value


def _entries(array: list[Any]) -> list[tuple[_Key, Any]]:
    """Key and value of each entry, if the array has two fields, a key and a value; or is a map of Arrow (pairs)."""
    if array and all(isinstance(e, tuple) and len(e) == 2 and isinstance(e[0], str) for e in array):
        return [(_Key("", "", key), value) for key, value in array]
    if not array or not all(isinstance(e, dict) and 2 <= len(e) <= 3 for e in array):
        return []
    key_field = next((f for f in _KEY_FIELDS if f in array[0]), "")
    value_field = next((f for f in _VALUE_FIELDS if f in array[0]), "")
    if not key_field or not value_field or not all(isinstance(e.get(key_field), str) for e in array):
        return []
    return [(_Key(key_field, value_field, e[key_field]), e.get(value_field)) for e in array]


def _get(record: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _choose_explode(records: list[dict[str, Any]]) -> Explode | None:
    arrays: dict[tuple[str, ...], list[list[Any]]] = defaultdict(list)
    for record in records:
        _find_arrays(record, (), arrays)
    plain: dict[_Path, int] = defaultdict(int)
    for record in records:
        fields: dict[_Path, Any] = {}
        _flatten(record, (), fields, ())
        for field_path in fields:
            plain[field_path] += 1
    best_plain = {
        target: max((plain[p] for p in plain if _score(p, target) >= 0.7), default=0)
        for target in ("item_id", "event_time")
    }
    candidates = []
    for path, lists in arrays.items():
        score = _array_score(path, [e for elements in lists for e in elements][:2000])
        has_own_item = best_plain["item_id"] >= 0.9 * len(records) and best_plain["event_time"] >= 0.9 * len(records)
        if score and not has_own_item:
            candidates.append((score, len(lists), path))
    if not candidates:
        return None
    _, count, path = max(candidates)
    element = _element_name(path, {name for record in records for name in record})
    sql = ".".join(quote(name) for name in path)
    if count < len(records):
        # A record without elements remains one record, with a null element.
        sql = f"if(size({sql}) > 0, {sql}, array(NULL))"
    return Explode(path, element, sql)


def _find_arrays(value: Any, path: tuple[str, ...], arrays: dict[tuple[str, ...], list[list[Any]]]) -> None:
    if isinstance(value, dict) and len(path) < 4:
        for name, child in value.items():
            _find_arrays(child, (*path, name), arrays)
    elif isinstance(value, list) and value and not _entries(value):
        arrays[path].append(value)


def _array_score(path: tuple[str, ...], elements: list[Any]) -> float:
    """How likely the elements are items or events: by the name of the array and of the fields of its elements."""
    name = column_names.normalize(path[-1])
    is_named = bool(_ARRAY_NAMES.fullmatch(name))
    if not all(isinstance(e, dict) for e in elements):
        is_scalar = not any(isinstance(e, (dict, list)) for e in elements)
        return 0.7 if is_scalar and is_named and name not in ("events", "actions") else 0.0
    names = {key for e in elements for key in e}
    best = [max((_score((name, key), target) for key in names), default=0.0) for target in ("item_id", "event_time")]
    return max(best) + (0.5 if is_named else 0.0) if max(best) >= (0.5 if is_named else 0.9) else 0.0


def _score(path: _Path, target: str) -> float:
    names = tuple(step if isinstance(step, str) else step.key for step in path)
    return column_names.scores(names).get(target, 0.0)


def _element_name(path: tuple[str, ...], names: set[str]) -> str:
    name = column_names.normalize(path[-1])
    singular = re.sub(r"ies$", "y", name) if name.endswith("ies") else re.sub(r"s$|_list$|_ids?$", "", name)
    taken = {n.lower() for n in names}
    is_free = re.fullmatch(r"[a-z][a-z_]*", singular) and singular not in taken
    return singular if is_free else "element" if "element" not in taken else "array_element"


def _names(path: _Path, explode: Explode | None) -> tuple[str, ...]:
    """Names of a path; the parts of a typed value of a key-value array (`string_value`) are left out."""
    if explode is not None and path[0] == "[]":
        path = (explode.element, *path[1:])
    key_at = next((i for i, step in enumerate(path) if isinstance(step, _Key)), None)
    if key_at is not None and len(path) == key_at + 2 and str(path[-1]).endswith("_value"):
        path = path[:-1]
    return tuple(step if isinstance(step, str) else step.key for step in path)


def _sql(path: _Path, explode: Explode | None, names: list[str]) -> tuple[str, tuple[tuple[str, ...], ...]]:
    uses: list[str] = []
    key_uses: list[tuple[str, ...]] = []
    if path[0] == "[]" and explode is not None:
        sql, uses = explode.element, [*explode.path, "[]"]
    else:
        sql, top = raw_column_sql(str(path[0]), names)
        if not top:
            return "get_json_object(" + sql + ", " + literal("$." + ".".join(map(str, path[1:]))) + ")" if path[
                1:
            ] else sql, ()
        uses = [str(path[0])]
    for step in path[1:]:
        if isinstance(step, str):
            sql, uses = f"{sql}.{quote(step)}", [*uses, step]
        elif step.key_field:
            match = f"p -> p.{quote(step.key_field)} = {literal(step.key)}"
            key_uses.append((*uses, "[]", step.key_field))
            sql, uses = f"get(filter({sql}, {match}), 0).{quote(step.value_field)}", [*uses, "[]", step.value_field]
        else:
            sql = f"try_element_at({sql}, {literal(step.key)})"
    return sql, (*key_uses, tuple(uses))


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, datetime):
        return "timestamp"
    if isinstance(value, date):
        return "date"
    return "bigint" if isinstance(value, int) else "double" if isinstance(value, float) else "text"


def parse_json(line: str) -> dict[str, Any] | None:
    """The object of a JSON line, with numbers as the texts of the line; null if it is not an object."""
    try:
        value = json.loads(line, parse_float=str, parse_int=str)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
