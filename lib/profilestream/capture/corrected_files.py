"""Files that are read again to reprocess their rejected lines, because the options of the text were corrected.

A rejected row contains the text of one line, as the options of that time split and decoded it. A corrected charset,
header, quote or number of skipped lines gives other lines or another text. So the file is read again, if it still is
the file that was captured. The positions of its lines are the same.
"""

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.errors import Refused
from profilestream.base.settings import Settings
from profilestream.capture import raw_records
from profilestream.capture.ingest import CaptureSource
from profilestream.capture.mapping import InputSpec, TextFormat
from profilestream.capture.sources import file_paths, text_files
from profilestream.capture.sources.file_source import FileSource

log = logging.getLogger(__name__)

TEXT_FORMATS = ("jsonl", "csv", "text")
_OPTIONS = {"format", *TextFormat.model_fields}


@dataclass(frozen=True)
class CorrectedFile:
    """A file that is read again.

    Args:
        path: of the file.
        name: its path below the folder of the source.
        modified: its modification time in milliseconds.
        is_complete: whether all its lines are read, because none of them became an event. Otherwise, only the lines at
            the positions of the rejected rows are read.
    """

    path: str
    name: str
    modified: int
    is_complete: bool


def earlier_options(checkpoints: Iterable[Checkpoint]) -> dict[str, InputSpec]:
    """The options by the fingerprint of the settings, from the stored plans of these queries."""
    specs: dict[str, InputSpec] = {}
    for checkpoint in checkpoints:
        for number in files.names(checkpoint.spark, f"{checkpoint.path}/plans"):
            plan = checkpoint.plan(int(number)) if number.isdigit() else None
            if plan is not None and plan.fingerprint not in specs:
                with suppress(ValueError, KeyError):  # an earlier version may have had other keys
                    settings = json.loads(plan.settings)
                    settings = json.loads(settings["source"]) if "source" in settings else settings
                    specs[plan.fingerprint] = InputSpec.model_validate(settings["mapping"]["input"])
    return specs


def are_equal(earlier: InputSpec, spec: InputSpec) -> bool:
    """Whether both read the same lines and texts."""
    return earlier.model_dump(include=_OPTIONS) == spec.model_dump(include=_OPTIONS)


def choose(
    spark: SparkSession, settings: Settings, source: CaptureSource, rows: DataFrame, other_rows: DataFrame,
    specs: dict[str, InputSpec],
) -> list[CorrectedFile]:  # fmt: skip
    """The files of rejected rows that are read again. Logs a warning about files that cannot be.

    Args:
        rows: rejected rows of one epoch with `source_file` and `fingerprint`.
        other_rows: rows that are rejected and not reprocessed now, with `source_file`.
        specs: as `earlier_options` returns them.
    """
    reader = source.reader
    if not isinstance(reader, FileSource) or reader.spec.format not in TEXT_FORMATS:
        return []
    equal = [name for name, spec in specs.items() if are_equal(spec, reader.spec)]
    corrected = (
        rows.where(~F.col("fingerprint").isin(equal) if equal else F.lit(True))
        .groupBy("source_file")
        .agg(F.min("fingerprint").alias("fingerprint"), F.unix_millis(F.min("ingest_time")).alias("captured"))
        .collect()
    )
    if not corrected:
        return []
    listed = files.file_stats(spark, reader.path).items()
    stored = {file_paths.name_below(path, reader.path): (path, modified) for path, (_, modified) in listed}
    used = _files_with_other_rows(spark, settings, source, other_rows)
    chosen, missing = [], []
    for row in corrected:
        name = row["source_file"]
        path, modified = stored.get(name, ("", 0))
        is_same = bool(path) and modified <= row["captured"]
        is_complete = name not in used
        if is_same and (is_complete or _has_same_lines(spark, path, specs.get(row["fingerprint"]), reader.spec)):
            chosen.append(CorrectedFile(path, name, modified, is_complete))
        else:
            missing.append(name)
    if missing:
        log.warning(
            "%s: %s files cannot be read again by the corrected [input] (removed, changed, or with events and other "
            "line ends), such as %s: their rejected lines are reprocessed as they are stored, so a correction of "
            "encoding or skip_lines has no effect on them", source.name, f"{len(missing):,}", min(missing),
        )  # fmt: skip
    return sorted(chosen, key=lambda file: file.name)


def check_unchanged(spark: SparkSession, corrected: list[CorrectedFile], *, where: str) -> None:
    """Refuse to finish a batch after one of its files changed.

    Raises:
        Refused: a file changed or is missing.
    """
    for file in corrected:
        if files.file_stats(spark, file.path).get(file.path, (0, None))[1] != file.modified:
            raise Refused(
                f"{file.path} changed after the batch was started, and the batch is not finished",
                where=where,
                do="restore the file and run once",
            )


def records(spark: SparkSession, source: CaptureSource, corrected: list[CorrectedFile]) -> DataFrame:
    """All records of the files; a line inside a quoted cell is rejected."""
    reader = source.reader
    assert isinstance(reader, FileSource)
    paths = [file.path for file in corrected]
    lines = reader.records(spark, paths)
    return raw_records.reject_lines(lines, reader.quoted_lines(spark, paths)) if reader.spec.format == "csv" else lines


def _files_with_other_rows(
    spark: SparkSession, settings: Settings, source: CaptureSource, other_rows: DataFrame
) -> set[str]:
    """Files of which a line is an event, or a rejected row that is not reprocessed now."""
    events = tables.EVENTS.read(spark, settings.paths).where(F.col("source") == source.name)
    names = events.select(file_of_position().alias("source_file")).unionByName(other_rows.select("source_file"))
    return {row["source_file"] for row in names.distinct().collect()}


def _has_same_lines(spark: SparkSession, path: str, earlier: InputSpec | None, spec: InputSpec) -> bool:
    """Whether the options split the file into the same lines."""
    if earlier is None or earlier.format not in TEXT_FORMATS:
        return False
    ends = {text_files.line_end_of(spark, path, options) for options in (earlier, spec)}
    return len(ends) == 1


def file_of_position() -> Column:
    """The file in the column `position`."""
    return F.regexp_extract("position", "^(.*):[^:]*$", 1)
