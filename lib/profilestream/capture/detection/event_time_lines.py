"""The event time of a proposed mapping, its pattern, and what is known of its time zone."""

import re
from dataclasses import dataclass

from profilestream.capture.detection import column_names, time_formats
from profilestream.capture.detection.column_roles import Candidate
from profilestream.capture.detection.log_sample import LogSample, SampleColumn
from profilestream.capture.detection.mapping_lines import Confidence, Line, confidence_of
from profilestream.capture.detection.time_formats import TimeFormat

# Names of columns with a time of day, and of columns of a file without a header.
_TIME_OF_DAY_NAME = re.compile(
    r"(.*_)?(time|hour|hours|uhrzeit|zeit|hour_of_day|hod|stunde|hh|clock)|.*(时刻|小时|时间)|column_\d+"
)
# Values that are checked.
_CHECKED = 4000


@dataclass(frozen=True)
class EventTime:
    """The lines of the event time.

    Args:
        time: the expression.
        time_format: the pattern; null: ISO 8601, or the expression returns a timestamp.
        is_instant: the times have an offset or are epoch numbers.
    """

    time: Line
    time_format: Line | None
    is_instant: bool


def event_time(sample: LogSample, candidates: list[Candidate], others: list[SampleColumn]) -> EventTime:
    """The event time of the first candidate. A date is combined with a column with the time of day, if there is one.

    Args:
        others: columns that are used for something else.
    """
    column, detected = candidates[0].column, candidates[0].time
    assert detected is not None  # candidates for the time have a format
    evidence = candidates[0].evidence
    if detected.resolution == "day":
        combined = _date_and_time(sample, column, detected, others)
        if combined is not None:
            return combined
        evidence += "; the log has no time of day"
    pattern = Line(detected.pattern) if detected.pattern else None
    if pattern is not None and detected.other_order is not None:
        ambiguous = f"day and month are ambiguous in the sample; the other order is {detected.other_order.pattern}"
        pattern = Line(detected.pattern, "unsure", ambiguous)
    line = Line(_time_sql(column, detected), _time_confidence(candidates), evidence, (column,))
    return EventTime(line, pattern, detected.is_instant)


def timezone_line(is_instant: bool, timezone: str) -> Line:
    """The line of `timezone`; UTC for instants, the chosen zone for other times, or UTC as a guess."""
    if is_instant:
        return Line("UTC", "sure", "the times have an offset or are epoch numbers")
    if timezone:
        return Line(timezone, "sure", "as chosen")
    return Line("UTC", "unsure", "the times have no offset; write the zone of the clock, such as Europe/Berlin")


def _time_sql(column: SampleColumn, detected: TimeFormat) -> str:
    if column.kind == "bigint" and detected.sql.startswith("timestamp_"):
        return detected.sql.replace("try_cast({} AS BIGINT)", "{}").format(column.sql)
    is_text = column.kind == "text" or not detected.pattern
    return detected.sql.format(column.sql if is_text else f"CAST({column.sql} AS STRING)")


def _time_confidence(candidates: list[Candidate]) -> Confidence:
    best, detected = candidates[0], candidates[0].time
    rivals = [c for c in candidates[1:] if c.score > best.score - 0.1]
    if detected is None or detected.share < 0.95:
        return "unsure"
    if detected.share >= 0.99 and detected.resolution != "day" and not rivals:
        return "sure" if best.score >= 0.7 else "likely"
    return confidence_of(candidates)


def _date_and_time(
    sample: LogSample, date: SampleColumn, detected: TimeFormat, others: list[SampleColumn]
) -> EventTime | None:
    """The date and the first column with a time of day in at least 95 % of its records."""
    if "H" in detected.pattern or "h" in detected.pattern:
        return None
    for column in sample.columns:
        name = column_names.normalize(column.path[-1])
        if column in (date, *others) or not _TIME_OF_DAY_NAME.fullmatch(name):
            continue
        time = time_formats.time_of_day(column.present[:_CHECKED], is_hour=not name.startswith("column_"))
        if time is None or len(column.present) < 0.95 * len(date.present):
            continue
        sql, pattern = time
        is_longer = date.kind == "timestamp" or (not detected.pattern and len(date.present[0]) > len("2026-03-01"))
        day = f"left(CAST({date.sql} AS STRING), 10)" if is_longer else date.sql
        combined = time_formats.combine(detected, pattern)
        evidence = f"{date.name} and {column.name}: a date and a time of day in two columns"
        line = Line(f"concat({day}, ' ', {sql.format(column.sql)})", "likely", evidence, (date, column))
        return EventTime(line, Line(combined) if combined else None, detected.is_instant)
    return None
