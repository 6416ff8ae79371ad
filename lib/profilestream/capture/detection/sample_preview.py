"""The report of `capture_events --preview` on a sample, as text and as counts."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from profilestream.base import settings as settings_module
from profilestream.capture import ingest, preview
from profilestream.capture.detection.log_sample import LogSample

_TOTAL = re.compile(r"([\d,]+) rows = ([\d,]+) clean \+ ([\d,]+) rejected \+ ([\d,]+) duplicate")
_RULE = re.compile(r"  rejected ([\d,]+) by (\w+): ")


@dataclass(frozen=True)
class PreviewCounts:
    """Counts of a preview, and its lines."""

    rows: int
    clean: int
    duplicate: int
    rejected_by_rule: dict[str, int]
    lines: list[str]

    @property
    def captured_share(self) -> float:
        """Share of the rows that are clean or duplicates of clean rows."""
        return (self.clean + self.duplicate) / max(1, self.rows)


def run(spark: SparkSession, sample: LogSample, settings_file: Path, name: str, first_rows: int) -> PreviewCounts:
    """The preview of the sample with the mapping of a source in a settings file.

    Raises:
        BadSettings: the mapping has a key that capture does not have, or Spark does not accept an expression.
    """
    with tempfile.TemporaryDirectory(prefix="capture_init_") as folder:
        log = Path(folder) / "log"
        write_sample(sample, log)
        settings = settings_module.load(str(settings_file), [f"capture.sources.{name}.path={log}"])
        source = ingest.load_source(settings, name)
        lines: list[str] = []
        preview.show(spark, source, first_rows, str(log), lines.append)
    return _counts([line.replace(str(log), "the sample") for line in lines])


def write_sample(sample: LogSample, folder: Path) -> None:
    """Write the sampled files into a folder, at their relative paths."""
    for name, content in sample.files.items():
        if isinstance(content, bytes):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        elif sample.input["format"] == "delta":
            write_deltalake(str(folder), content)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(content, folder / name)


def _counts(lines: list[str]) -> PreviewCounts:
    rows = clean = duplicate = 0
    by_rule = {}
    for line in lines:
        if match := _TOTAL.match(line):
            rows, clean, _, duplicate = (int(n.replace(",", "")) for n in match.groups())
        elif match := _RULE.match(line):
            by_rule[match[2]] = int(match[1].replace(",", ""))
    return PreviewCounts(rows, clean, duplicate, by_rule, lines)
