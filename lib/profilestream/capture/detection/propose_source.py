"""`capture_init`: proposes a mapping for an unknown log, tries it on a sample, and writes mapping and settings."""

import re
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pyspark.sql import SparkSession

from profilestream.base import files
from profilestream.base.errors import BadSettings, ProfilestreamError, SourceUnreadable
from profilestream.capture.detection import (
    column_roles,
    partition_length,
    proposal,
    questions,
    read_sample,
    sample_files,
    sample_preview,
    write_files,
)
from profilestream.capture.detection.column_roles import Candidate, Roles
from profilestream.capture.detection.log_sample import LogSample
from profilestream.capture.detection.proposal import Proposal
from profilestream.capture.detection.sample_files import FileGroup
from profilestream.capture.preview import PreviewCounts

# Groups of files of a folder whose columns are compared.
_MAX_GROUPS = 8
# A rule that rejects more of the sample than this leads to another candidate for its column.
_MAX_REJECTED_SHARE = 0.2
_MAX_ATTEMPTS = 3
_FIRST_ROWS = 3
# A larger share of equal records is reported.
_MAX_DUPLICATE_SHARE = 0.01
_TARGETS = {
    "event_time_unreadable": "event_time", "event_time_before_min_date": "event_time",
    "event_time_in_future": "event_time", "event_type_unknown": "event_type",
    "event_type_missing": "event_type", "user_id_placeholder": "user_id",
    "event_id_missing": "event_id", "id_reused": "event_id", "price_unreadable": "price", "price_negative": "price",
    "quantity_unreadable": "quantity", "quantity_negative": "quantity", "value_unreadable": "value",
    "rating_unreadable": "rating", "number_not_finite": "value",
}  # fmt: skip


@dataclass(frozen=True)
class Detected:
    """A sample of a log with the candidates for its columns.

    Args:
        others: other files in the folder, which are not part of the log.
    """

    sample: LogSample
    roles: Roles
    others: list[FileGroup]

    def source_path(self, path: str) -> str:
        """Path of the source: the folder of a single file, since a source is a folder."""
        folder = str(self.sample.group.root) if Path(path).is_file() else path
        return folder.rstrip("/") or "/"


def default_name(path: str) -> str:
    """A source name from a path: letters, digits and `_`."""
    local = Path(path)
    stem = local.name.split(".")[0] if local.is_file() else local.name
    return re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_").lower() or "shop"


def detect(path: str) -> Detected:
    """The sample of the log at a path. Of several kinds of files, those with the most columns of an event are the log.

    Raises:
        SourceMissing, SourceUnreadable: there is no file, or none can be read.
        BadSettings: no column contains times.
    """
    local = read_sample.check_local(path)
    if sample_files.is_delta(local):
        sample = read_sample.read_delta(local)
        return _checked(Detected(sample, column_roles.rank(sample), []), path)
    groups = sample_files.list_groups(local)
    candidates: list[Detected] = []
    errors: list[ProfilestreamError] = []
    for group in groups[:_MAX_GROUPS]:
        try:
            sample = read_sample.read(group)
        except SourceUnreadable as error:
            errors.append(error)
            continue
        others = [other for other in groups if other is not group]
        candidates.append(Detected(sample, column_roles.rank(sample), others))
    if not candidates:
        raise errors[0]
    return _checked(max(candidates, key=lambda d: (column_roles.coverage(d.roles), d.sample.group.size)), path)


def _checked(detected: Detected, path: str) -> Detected:
    if detected.roles.get("event_time"):
        return detected
    names = ", ".join(column.name or column.sql for column in detected.sample.columns)
    raise BadSettings(
        f"no column contains times; columns: {names}",
        where=path,
        do="write the mapping yourself (docs/mappings.md): event_time is required",
    )


def try_candidates(
    preview: Callable[[Proposal], PreviewCounts], propose: Callable[[Roles], Proposal], roles: Roles
) -> tuple[Proposal, PreviewCounts]:
    """The proposal whose preview captures most rows. If a column is rejected wholesale, its next candidate is tried.

    Args:
        preview: runs the preview of a proposal.
        propose: the proposal of candidates.
    """
    best = propose(roles)
    counts = preview(best)
    for _ in range(_MAX_ATTEMPTS):
        next_roles = _next_roles(roles, counts)
        if next_roles is None:
            break
        roles, other = next_roles, propose(next_roles)
        other_counts = preview(other)
        if other_counts.captured_share > counts.captured_share:
            best, counts = other, other_counts
    return best, counts


def _next_roles(roles: Roles, counts: PreviewCounts) -> Roles | None:
    """The candidates without the first one of the column that most rows are rejected by; null if there is none."""
    for rule, count in sorted(counts.rejected_by_rule.items(), key=lambda item: -item[1]):
        target = _TARGETS.get(rule, "")
        rest = _rest(roles.get(target, []))
        if count > _MAX_REJECTED_SHARE * counts.rows and target in roles and (rest or target != "event_time"):
            return {name: c for name, c in {**roles, target: rest}.items() if c}
    return None


def _rest(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates after the first; if the first is a date of ambiguous order, that column with the other order."""
    first = candidates[0] if candidates else None
    if first is not None and first.time is not None and first.time.other_order is not None:
        return [replace(first, time=first.time.other_order), *candidates[1:]]
    return candidates[1:]


def run(
    open_spark: Callable[[], SparkSession], path: str, *, name: str, out: str, timezone: str,
    print_line: Callable[[str], None],
) -> None:  # fmt: skip
    """Propose, preview, write and report; see the job."""
    name = name or default_name(path)
    if not re.fullmatch(r"\w+", name):
        raise BadSettings(f"{name!r} is not a source name", where="--name", do="use letters, digits and _ only")
    if timezone and timezone not in zoneinfo.available_timezones():
        raise BadSettings(
            f"no such time zone: {timezone!r}", where="--timezone", do="write a name such as Europe/Berlin"
        )
    folder = files.local_output(out or f"conf/{name}", "--out")
    write_files.check_absent(folder)
    detected = detect(path)
    roles, event_type = detected.roles, ""
    if questions.is_terminal():
        first = proposal.propose(detected.sample, roles, name, timezone=timezone)
        answers = questions.ask(first, roles, timezone)
        roles, timezone, event_type = answers.roles, answers.timezone, answers.event_type

    def propose(candidates: Roles) -> Proposal:
        return proposal.propose(detected.sample, candidates, name, timezone=timezone, event_type=event_type)

    source_path = detected.source_path(path)

    def preview(candidate: Proposal) -> PreviewCounts:
        write_files.write(candidate, folder, name=name, source_path=source_path)
        return sample_preview.run(spark, candidate.sample, folder / write_files.SETTINGS, name, _FIRST_ROWS)

    write_files.write(propose(roles), folder, name=name, source_path=source_path)
    spark = open_spark()
    best, counts = try_candidates(preview, propose, roles)
    partition = partition_length.partition_line(best.sample, counts.dates)
    capture_lines = {} if partition is None else {"partition_by": partition}
    write_files.write(best, folder, name=name, source_path=source_path, capture_lines=capture_lines)
    report(best, counts, detected.others, folder, print_line)


def report(
    best: Proposal, counts: PreviewCounts, others: list[FileGroup], folder: Path, print_line: Callable[[str], None]
) -> None:
    """Print the preview, used and unused columns, what is unsure, and the next commands."""
    mapping_file, settings_file = folder / write_files.MAPPING, folder / write_files.SETTINGS
    for text in counts.lines:
        if text != "nothing was written":
            print_line(text)
    print_line(f"{counts.captured_share:.1%} of the sampled records are captured (clean or duplicate)")
    print_line(f"columns in use: {', '.join(column.name for column in best.used)}")
    if best.unused:
        print_line(f"columns {write_files.unused_note(best)}: {', '.join(best.unused)}")
    if others:
        print_line(f"files that are not part of the log: {', '.join(g.paths[0].name for g in others)}")
    numbers = write_files.line_numbers(mapping_file.read_text(encoding="utf-8"))
    for key, line in best.unsure().items():
        print_line(f"unsure: {mapping_file}:{numbers.get(key, 1)}  {key.split('.')[-1]}: {line.evidence}")
    if counts.duplicate > _MAX_DUPLICATE_SHARE * counts.rows:
        share = counts.duplicate / counts.rows
        print_line(f"unsure: {share:.1%} of the records repeat an earlier one; a mapped event_id would separate them")
    print_line(f"wrote {mapping_file} and {settings_file}; next:")
    for job, flag in (("capture_events", " --check"), ("capture_events", ""), ("run_pipeline", "")):
        print_line(f"  .venv/bin/python jobs/{job}.py --config {settings_file}{flag}")
