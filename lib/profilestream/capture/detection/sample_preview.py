"""The report of `capture_events --preview` on a sample, as text and as counts."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from profilestream.base import settings as settings_module
from profilestream.capture import ingest, preview
from profilestream.capture.detection.log_sample import LogSample
from profilestream.capture.preview import PreviewCounts


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
        counts = preview.show(spark, source, first_rows, str(log), lambda line: None)
    return replace(counts, lines=[line.replace(str(log), "the sample") for line in counts.lines])


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
