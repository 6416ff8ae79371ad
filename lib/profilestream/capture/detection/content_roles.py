"""Scores of canonical columns for raw columns without a telling name, from their values alone."""

import re
from collections import defaultdict
from itertools import pairwise

from profilestream.capture.detection import number_formats, time_formats
from profilestream.capture.detection.event_type_values import canonical_type, code_types
from profilestream.capture.detection.log_sample import SampleColumn
from profilestream.capture.detection.time_formats import TimeFormat

_MIN_DETERMINED = 0.97


def scores(columns: list[SampleColumn]) -> list[dict[str, float]]:
    """For each column, scores by canonical column; at most 0.7, since names are missing.

    The user is the id whose value repeats from one record to the next (logs are often sorted by user), else the first
    id; the item is the next id; the category is an id with one value per item.
    """
    result: list[dict[str, float]] = [{} for _ in columns]
    ids: list[int] = []
    for i, column in enumerate(columns):
        values = column.present[:3000]
        if not values:
            continue
        time_format = time_formats.detect(values)
        if column.kind in ("timestamp", "date") or (time_format is not None and time_format.share >= 0.9):
            result[i] = {"event_time": 0.7}
        elif len(column.distinct) <= 30 and _type_share(values) >= 0.6:
            result[i] = {"event_type": 0.7}
        elif _is_id(column):
            ids.append(i)
        else:
            result[i] = _number_scores(column)
    has_type = any("event_type" in s for s in result)
    if not has_type:
        for i in list(ids):
            codes, _ = code_types(columns[i].distinct)
            if codes and len(codes) >= 4 and len(columns) >= 4 and not _looks_like_rating(columns[i]):
                result[i] = {"event_type": 0.6}
                ids.remove(i)
    for i in list(ids):
        is_sorted_by = i == ids[0] and _run_share(columns[i]) >= 0.5 and len(columns[i].distinct) > 2
        is_small = len(columns[i].distinct) <= max(12, len(columns[i].present) // 400)
        if _looks_like_rating(columns[i]) or (is_small and not is_sorted_by):
            result[i] = _number_scores(columns[i])
            ids.remove(i)
    _score_ids(columns, ids, result)
    return result


def _score_ids(columns: list[SampleColumn], ids: list[int], result: list[dict[str, float]]) -> None:
    if not ids:
        return
    runs = {i: _run_share(columns[i]) for i in ids}
    longest = max(ids, key=lambda i: (runs[i], -i))
    user = longest if runs[longest] >= 0.5 and len(ids) > 1 else ids[0]
    times = [columns[i] for i, by_target in enumerate(result) if "event_time" in by_target]
    has_rating = any("rating" in by_target for by_target in result)
    is_session = bool(times) and not has_rating and runs[user] >= 0.5 and _is_session(columns[user], times[0])
    result[user] = {"session_id" if is_session else "user_id": 0.6}
    others = [i for i in ids if i != user]
    categories = {
        b for a in others for b in others
        if a != b and len(columns[b].distinct) < len(columns[a].distinct) and _determines(columns[a], columns[b])
    }  # fmt: skip
    items = [i for i in others if i not in categories] or others
    if items:
        result[items[0]] = {"item_id": 0.6}
    for i in categories - set(items[:1]):
        result[i] = {"category": 0.5}


def _is_session(column: SampleColumn, time: SampleColumn) -> bool:
    """Whether the records of nearly every value are on one day, while the log covers several days.

    Only for a log that is sorted by the column, so that the sample contains all records of a value.
    """
    detected = time_formats.detect(time.present[:3000])
    if detected is None or detected.resolution == "day":
        return False
    days_by_value: dict[str, list[str]] = defaultdict(list)
    for value, text in zip(column.values, time.values, strict=True):
        if value is not None and text is not None:
            days_by_value[value].append(_day(text, detected))
    repeated = [days for days in days_by_value.values() if len(days) > 1]
    single = sum(len(set(days)) == 1 for days in repeated)
    all_days = {day for days in days_by_value.values() for day in days}
    return len(repeated) >= 20 and len(all_days) >= 3 and single >= 0.9 * len(repeated)


def _day(text: str, detected: TimeFormat) -> str:
    """The day of a time: of an epoch number in UTC, of a text the part before the time of day."""
    units = {"seconds": 1, "millis": 1_000, "micros": 1_000_000}
    unit = next((factor for name, factor in units.items() if f"timestamp_{name}" in detected.sql), 0)
    return str(int(float(text) / unit / 86_400)) if unit and text.replace(".", "").isdigit() else text[:10]


def _is_id(column: SampleColumn) -> bool:
    return all(re.fullmatch(r"[\w:.@-]{1,80}", value) and not re.fullmatch(r"-?\d*\.\d+", value)
               for value in column.present[:500])  # fmt: skip


def _type_share(values: list[str]) -> float:
    return sum(canonical_type(value)[1] for value in values) / len(values)


def _looks_like_rating(column: SampleColumn) -> bool:
    steps = {str(half / 2) for half in range(11)} | {str(n) for n in range(11)}
    return 4 <= len(column.distinct) <= 11 and column.distinct <= steps and "5" in {v[:1] for v in column.distinct}


def _number_scores(column: SampleColumn) -> dict[str, float]:
    number = number_formats.detect(column.present[:3000])
    if number is None:
        return {"text": 0.5} if any(" " in value for value in column.present[:500]) else {}
    if _looks_like_rating(column):
        return {"rating": 0.55}
    if any(n < 0 for n in number.numbers):
        return {}  # such as coordinates
    if any(not n.is_integer() for n in number.numbers):
        return {"price": 0.5, "value": 0.49}
    return {"quantity": 0.5} if max(map(abs, number.numbers)) < 100_000 and len(column.distinct) > 1 else {}


def _run_share(column: SampleColumn) -> float:
    return sum(a == b for a, b in pairwise(column.values)) / max(1, len(column.values) - 1)


def _determines(item: SampleColumn, category: SampleColumn) -> bool:
    """Whether records with the same value of one column have the same value of the other."""
    by_item: dict[str, list[str | None]] = defaultdict(list)
    for a, b in zip(item.values, category.values, strict=True):
        if a is not None:
            by_item[a].append(b)
    repeated = [values for values in by_item.values() if len(values) > 1]
    pairs = sum(len(values) for values in repeated)
    same = sum(max(values.count(v) for v in set(values)) for values in repeated)
    return pairs >= 20 and same >= _MIN_DETERMINED * pairs
