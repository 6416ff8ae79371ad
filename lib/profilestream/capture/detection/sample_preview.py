"""The report of `capture_events --preview` on a sample, as text and as counts."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from profilestream.base.settings import Capture, Source
from profilestream.capture import mapping as mappings
from profilestream.capture import preview
from profilestream.capture.detection import write_files
from profilestream.capture.detection.log_sample import LogSample
from profilestream.capture.detection.proposal import Proposal
from profilestream.capture.ingest import CaptureSource

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


def run(spark: SparkSession, proposal: Proposal, name: str, first_rows: int) -> PreviewCounts:
    """The preview of the sample with the proposed mapping.

    Raises:
        BadSettings: Spark does not accept an expression.
    """
    with tempfile.TemporaryDirectory(prefix="capture_init_") as folder:
        log, mapping_file = Path(folder) / "log", Path(folder) / write_files.MAPPING
        write_sample(proposal.sample, log)
        mapping_file.write_text(write_files.mapping_text(proposal, "the sample"), encoding="utf-8")
        config = Source(path=str(log), mapping=str(mapping_file))
        source = CaptureSource(name, config, mappings.load(str(mapping_file)), Capture(sources={name: config}))
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
            _write_parquet(content, folder / name)


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path)


def _counts(lines: list[str]) -> PreviewCounts:
    rows = clean = duplicate = 0
    by_rule = {}
    for line in lines:
        if match := _TOTAL.match(line):
            rows, clean, _, duplicate = (int(n.replace(",", "")) for n in match.groups())
        elif match := _RULE.match(line):
            by_rule[match[2]] = int(match[1].replace(",", ""))
    return PreviewCounts(rows, clean, duplicate, by_rule, lines)
