"""The report of maintenance: rows, files and bytes of each table before and after, as text and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from profilestream.steward.needed_versions import NeededVersion


@dataclass(frozen=True)
class TableSize:
    """The size of a table.

    Args:
        rows, files, bytes: of the latest version.
        stored_files, stored_bytes: of everything in its folder, with earlier versions and the log.
    """

    rows: int
    files: int
    bytes: int
    stored_files: int
    stored_bytes: int


@dataclass(frozen=True)
class TableReport:
    """The maintenance of a table; of a dry run, what a run would do.

    Args:
        after: null in a dry run.
        combined_files: small files that were combined.
        cleared_payloads: payloads that became null.
        removed_files, removed_bytes: data that no reader needs, and the log before it.
        needed: the oldest version that a reader needs, and the reader.
        latest: the latest version.
        is_compacted: false if other commits changed the files during every attempt.
    """

    table: str
    before: TableSize
    after: TableSize | None
    combined_files: int
    cleared_payloads: int
    removed_files: int
    removed_bytes: int
    needed: NeededVersion
    latest: int
    is_compacted: bool = True


@dataclass(frozen=True)
class MaintenanceReport:
    """The maintenance of all tables.

    Args:
        temporary_files: of crashed writers, removed from the checkpoints.
        is_dry_run: whether nothing was changed.
    """

    tables: Sequence[TableReport]
    temporary_files: int
    is_dry_run: bool

    def as_json(self) -> str:
        """All values."""
        return json.dumps(asdict(self), indent=1)

    def as_text(self) -> str:
        """A table with one line per table, and notes."""
        names = ["table", "rows", "files", "MB", "files on disk", "MB on disk", "combined", "removed", "removed MB"]
        lines = [[*names, "oldest version needed"], *map(_cells, self.tables)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
        texts = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:-1], widths[1:]), line[-1]]) for line in lines
        ]
        last = "dry run: nothing was changed" if self.is_dry_run else f"all tables: {self.summary()}"
        return "\n".join([*texts, *self._notes(), last])

    def summary(self) -> str:
        """One line: files and bytes on disk before and after."""
        before, after = [one.before for one in self.tables], [one.after or one.before for one in self.tables]
        files = (f"{sum(size.stored_files for size in sizes):,}" for sizes in (before, after))
        megabytes = (_megabytes(sum(size.stored_bytes for size in sizes)) for sizes in (before, after))
        return f"{' -> '.join(files)} files, {' -> '.join(megabytes)} MB"

    def _notes(self) -> list[str]:
        notes = [f"{one.table}: compaction is left for the next run" for one in self.tables if not one.is_compacted]
        verbs = ("would become", "would be removed") if self.is_dry_run else ("became", "were removed")
        for one in self.tables:
            if one.cleared_payloads:
                notes.append(f"{one.table}: {one.cleared_payloads:,} payloads {verbs[0]} null")
        if self.temporary_files:
            notes.append(f"checkpoints: {self.temporary_files:,} temporary files {verbs[1]}")
        return notes


def _cells(report: TableReport) -> list[str]:
    before, after = report.before, report.after or report.before
    pairs = [
        (f"{before.rows:,}", f"{after.rows:,}"),
        (f"{before.files:,}", f"{after.files:,}"),
        (_megabytes(before.bytes), _megabytes(after.bytes)),
        (f"{before.stored_files:,}", f"{after.stored_files:,}"),
        (_megabytes(before.stored_bytes), _megabytes(after.stored_bytes)),
    ]
    sizes = [one if one == other else f"{one} -> {other}" for one, other in pairs]
    changes = [f"{report.combined_files:,}", f"{report.removed_files:,}", _megabytes(report.removed_bytes)]
    needed = f"{report.needed.version} of {report.latest}: {report.needed.reader}"
    return [report.table, *sizes, *changes, needed]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"
