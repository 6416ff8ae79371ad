"""The format of texts and numbers that are times, as a Spark pattern or a conversion of epoch numbers."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

Resolution = Literal["second", "minute", "hour", "day"]

_MONTH = r"(?P<name>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DATES = {
    "year_first": r"(?P<y>(?:19|20)\d\d)(?P<s1>[-/.])(?P<a>\d{1,2})(?P<s2>(?P=s1))(?P<b>\d{1,2})",
    "year_last": r"(?P<a>\d{1,2})(?P<s1>[-/.])(?P<b>\d{1,2})(?P<s2>(?P=s1))(?P<y>\d{4}|\d\d)",
    "compact": r"(?P<y>(?:19|20)\d\d)(?P<s1>)(?P<a>[01]\d)(?P<s2>)(?P<b>[0-3]\d)",
    "chinese": r"(?P<y>(?:19|20)\d\d)(?P<s1>年)(?P<a>\d{1,2})(?P<s2>月)(?P<b>\d{1,2})日",
    "day_name": rf"(?P<b>\d{{1,2}})(?P<s1>[-/ ]){_MONTH}(?P<s2>[-/ ])(?P<y>\d{{4}}|\d\d)",
    "name_day": rf"{_MONTH}(?P<s1> )(?P<b>\d{{1,2}})(?P<s2>,? )(?P<y>\d{{4}})",
}
_ZONE = r"(?P<zs> ?)(?P<z>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?|[A-Z][A-Za-z]+/[A-Z][A-Za-z_]+)"
_TIME = (
    r"(?P<ts>T| +|, |:|_|)(?P<h>\d{1,2})(?:(?P<ms>[:.]?)(?P<mi>\d\d)(?:(?P=ms)(?P<s>\d\d)(?P<f>[.,]\d{1,9})?)?)?"
    rf"(?: ?(?P<ap>[AP]M))?(?P<uhr> Uhr)?(?:{_ZONE})?"
)
_PATTERNS = {kind: re.compile(rf"{date}(?:{_TIME})?", re.IGNORECASE) for kind, date in _DATES.items()}
_TIME_OF_DAY = re.compile(
    r"(?P<h>\d{1,2}):(?P<mi>\d\d)(?::(?P<s>\d\d)(?P<f>[.,]\d{1,9})?)?(?: ?(?P<ap>[AP]M))?(?P<uhr> Uhr)?", re.IGNORECASE
)
# Bounds of epoch seconds: 1995-01-01 and 2031-10-17. Larger numbers of ten digits are dates such as 2033010112.
_EPOCH_MIN, _EPOCH_MAX = 788_918_400, 1_950_000_000
_EPOCH_UNITS = (("seconds", 1), ("millis", 1_000), ("micros", 1_000_000), ("nanos", 1_000_000_000))
_ISO = "yyyy-MM-dd"


@dataclass(frozen=True)
class TimeFormat:
    """How values become times.

    Args:
        sql: SQL with `{}` for the column.
        pattern: Spark pattern for `time_format`; empty: ISO 8601, or `sql` returns a timestamp.
        share: share of the values that have this format.
        is_instant: the values have an offset or are epoch numbers.
        other_order: the same format with day and month exchanged, if the values fit both.
    """

    sql: str
    pattern: str
    share: float
    resolution: Resolution
    is_instant: bool
    evidence: str
    other_order: "TimeFormat | None" = None


def detect(values: list[str]) -> TimeFormat | None:
    """The format of most of the values (not blank); null if fewer than half of them are times."""
    numbers = [float(v) for v in values if re.fullmatch(r"[0-9]{9,19}(\.[0-9]+)?", v)]
    if len(numbers) * 2 > len(values):
        return _epoch(values, numbers) or _digits(values)
    matches = {kind: [m for v in values if (m := pattern.fullmatch(v.strip()))] for kind, pattern in _PATTERNS.items()}
    kind = max(matches, key=lambda k: len(matches[k]))
    if len(matches[kind]) * 2 <= len(values):
        return _without_affix(values)
    return _text(kind, matches[kind], len(values))


def _without_affix(values: list[str]) -> TimeFormat | None:
    """The format of times after a weekday (Thu, 01 Dec 2011) or before a zone that is ambiguous, such as CST."""
    for affix, what in (("^[A-Z][a-z]{2},? ", "after a weekday"), (" [A-Z]{3,4}$", "without their zone abbreviation")):
        shorter = [re.sub(affix, "", v.strip()) for v in values]
        if sum(a != b for a, b in zip(shorter, values, strict=True)) * 2 > len(values):
            detected = detect(shorter)
            if detected is not None and detected.sql == "{}":
                sql = f"regexp_replace({{}}, '{affix}', '')".replace("{3,4}", "{{3,4}}").replace("{2}", "{{2}}")
                return replace(detected, sql=sql, evidence=f"{detected.evidence} {what}", other_order=None)
    return None


def time_of_day(values: list[str], *, is_hour: bool) -> tuple[str, str] | None:
    """SQL (with `{}`) and pattern of times without a date, such as `10:31`; null if the values are something else.

    Args:
        is_hour: the name of the column permits numbers: hours, HHmm or HHmmss.
    """
    if not values:
        return None
    matches = [m for v in values if (m := _TIME_OF_DAY.fullmatch(v.strip()))]
    if len(matches) >= 0.95 * len(values):
        return "{}", _time_pattern(matches, "")
    if not is_hour or not all(re.fullmatch(r"\d{1,6}(\.0)?", v) for v in values):
        return None
    numbers = [int(float(v)) for v in values]
    sql = "regexp_replace({}, '[.]0$', '')" if any("." in v for v in values) else "{}"
    if max(numbers) <= 23:
        return sql, "H"
    if max(numbers) <= 2359 and all(n % 100 < 60 for n in numbers):
        return f"lpad({sql}, 4, '0')", "HHmm"
    if max(numbers) <= 235959 and all(n % 100 < 60 and n // 100 % 100 < 60 for n in numbers):
        return f"lpad({sql}, 6, '0')", "HHmmss"
    return None


def combine(date: TimeFormat, pattern: str) -> str:
    """The pattern of a date, a blank and a time of day; empty if that is ISO 8601."""
    combined = f"{date.pattern or _ISO} {pattern}"
    return "" if combined == f"{_ISO} HH:mm:ss" else combined


def _epoch(values: list[str], numbers: list[float]) -> TimeFormat | None:
    for unit, factor in _EPOCH_UNITS:
        count = sum(_EPOCH_MIN <= n / factor <= _EPOCH_MAX for n in numbers)
        if count * 2 > len(values):
            number = "try_cast({} AS BIGINT)"
            if any("." in v for v in values):
                number = "try_cast({} AS DOUBLE)" if unit == "seconds" else "try_cast(try_cast({} AS DOUBLE) AS BIGINT)"
            sql = f"timestamp_micros({number} div 1000)" if unit == "nanos" else f"timestamp_{unit}({number})"
            words = {"seconds": "seconds", "millis": "milliseconds", "micros": "microseconds", "nanos": "nanoseconds"}
            return TimeFormat(sql, "", count / len(values), "second", True, f"{words[unit]} since 1970")
    return None


def _digits(values: list[str]) -> TimeFormat | None:
    for length, pattern in (
        (14, "yyyyMMddHHmmss"),
        (17, "yyyyMMddHHmmssSSS"),
        (12, "yyyyMMddHHmm"),
        (10, "yyyyMMddHH"),
    ):
        day = r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])"
        count = sum(len(v) == length and bool(re.match(day, v)) for v in values)
        if count * 2 > len(values):
            resolution: Resolution = "hour" if length == 10 else "minute" if length == 12 else "second"
            return TimeFormat("{}", pattern, count / len(values), resolution, False, f"digits {pattern}")
    return None


def _text(kind: str, matches: list[re.Match[str]], total: int) -> TimeFormat | None:
    if kind == "year_last":
        return _year_last(matches, total)
    valid = [m for m in matches if (kind.endswith(("_name", "name_day")) or _is_month(m["a"])) and _is_day(m["b"])]
    if not valid:
        return None
    year = _most_common(valid, "y")
    fields = "b" if "name" in kind else "ab"
    padded = _is_padded(valid, fields, by_default=kind in ("year_first", "compact"))
    month = "MMM" if "name" in kind else "MM" if padded else "M"
    day, s1, s2 = "dd" if padded else "d", _most_common(valid, "s1"), _most_common(valid, "s2")
    year_letters = "y" * len(year)
    date = {
        "day_name": f"{day}{s1}{month}{s2}{year_letters}",
        "name_day": f"{month}{s1}{day}{s2}{year_letters}",
        "chinese": f"{year_letters}年{month}月{day}日",
    }.get(kind, f"{year_letters}{s1}{month}{s2}{day}")
    return _format(date, valid, total)


def _year_last(matches: list[re.Match[str]], total: int) -> TimeFormat | None:
    """Dates such as 31.12.2025 or 12/31/2025. A field above 12 is the day; else the order with fewer steps back."""
    day_first = [m for m in matches if _is_day(m["a"]) and _is_month(m["b"])]
    month_first = [m for m in matches if _is_month(m["a"]) and _is_day(m["b"])]
    both = len(day_first) == len(month_first)
    separator = _most_common(matches, "s1")
    if both:
        back = [_steps_back(matches, order) for order in ("yba", "yab")]
        is_day_first = back[0] < back[1] if back[0] != back[1] else separator != "/"
    else:
        is_day_first = len(day_first) > len(month_first)
    formats = {}
    for order, valid in ((True, day_first), (False, month_first)):
        if valid:
            width = 2 if _is_padded(valid, "ab", by_default=False) else 1
            first, second = ("d" * width, "M" * width) if order else ("M" * width, "d" * width)
            year = "y" * len(_most_common(valid, "y"))
            formats[order] = _format(f"{first}{separator}{second}{separator}{year}", valid, total)
    chosen = formats.get(is_day_first)
    if chosen is None or not both:
        return chosen
    return replace(chosen, other_order=formats.get(not is_day_first))


def _format(date: str, matches: list[re.Match[str]], total: int) -> TimeFormat:
    with_time = [m for m in matches if m["h"] is not None]
    if not with_time:
        pattern = "" if date == _ISO else date
        evidence = "dates without a time" if not pattern else f"dates {date} without a time"
        return TimeFormat("{}", pattern, len(matches) / total, "day", False, evidence)
    separator = _most_common(with_time, "ts")
    letters = f"'{separator}'" if separator.isalpha() else separator
    time = _time_pattern(with_time, _most_common(with_time, "ms"))
    zone = _zone(with_time)
    pattern = f"{date}[{letters}{time}{zone}]" if len(with_time) < len(matches) else f"{date}{letters}{time}{zone}"
    is_plain_iso = date == _ISO and separator in ("T", " ") and re.fullmatch(r"HH:mm:ss(\[?\.S+\]?)?", time)
    if is_plain_iso and len(with_time) == len(matches):
        pattern = ""
    midnight = all(float(m["h"]) == 0 and not float(m["mi"] or 0) and not float(m["s"] or 0) for m in with_time)
    resolution: Resolution = "day" if midnight and len(with_time) > 1 else "second"
    if resolution != "day" and "ss" not in time:
        resolution = "minute" if "mm" in time else "hour"
    evidence = f"times like {with_time[0].group()}"
    return TimeFormat("{}", pattern, len(matches) / total, resolution, bool(zone), evidence)


def _time_pattern(matches: list[re.Match[str]], separator: str) -> str:
    groups = matches[0].re.groupindex
    separator = separator if "ms" in groups else ":"
    letter = "h" if any(m["ap"] for m in matches) else "H"
    dates_are_padded = "a" in groups and _is_padded(matches, "ab", by_default=False)
    pattern = letter * 2 if _is_padded(matches, "h", by_default=dates_are_padded) else letter
    pattern += _optional(matches, "mi", f"{separator}mm")
    seconds = _optional(matches, "s", f"{separator}ss")
    fractions = [m["f"] for m in matches if m["f"]]
    if fractions:
        digits = f"{fractions[0][0]}{'S' * max(len(f) - 1 for f in fractions)}"
        fraction = digits if len(fractions) == len(matches) else f"[{digits}]"
        seconds = f"[{separator}ss{fraction}]" if seconds.startswith("[") else seconds + fraction
    pattern += seconds
    if any(m["ap"] for m in matches):
        pattern += " a" if any(re.search(r"\d [AP]M", m.group(), re.I) for m in matches) else "a"
    return pattern + (" 'Uhr'" if "uhr" in groups and matches[0]["uhr"] else "")


def _zone(matches: list[re.Match[str]]) -> str:
    """Pattern letters of the offset or zone; empty if the values have none."""
    zones = [m["z"] for m in matches if m["z"]]
    if not zones:
        return ""
    blank = " " if any(m["zs"] for m in matches) else ""
    numeric = [zone for zone in zones if zone[0] in "+-"]
    letters = "VV"
    if len(numeric) + zones.count("Z") == len(zones):
        letters = "XXX" if any(":" in z for z in numeric) else "XX" if any(len(z) == 5 for z in numeric) else "X"
    return f"{blank}{letters}" if len(zones) == len(matches) else f"[{blank}{letters}]"


def _optional(matches: list[re.Match[str]], group: str, pattern: str) -> str:
    count = sum(m[group] is not None for m in matches)
    return "" if not count else pattern if count == len(matches) else f"[{pattern}]"


def _is_padded(matches: list[re.Match[str]], groups: str, *, by_default: bool) -> bool:
    """Whether numbers below 10 have a leading zero; the default if the sample has no such number."""
    numbers = [m[group] for m in matches for group in groups]
    if any(len(number) == 1 for number in numbers):
        return False
    return by_default or any(number.startswith("0") for number in numbers)


def _most_common(matches: list[re.Match[str]], group: str) -> str:
    return Counter(m[group] or "" for m in matches).most_common(1)[0][0]


def _is_month(text: str) -> bool:
    return 1 <= int(text) <= 12


def _is_day(text: str) -> bool:
    return 1 <= int(text) <= 31


def _steps_back(matches: list[re.Match[str]], order: str) -> int:
    keys = [tuple(int(m[group]) for group in order) for m in matches]
    return sum(later < earlier for earlier, later in zip(keys, keys[1:], strict=False))
