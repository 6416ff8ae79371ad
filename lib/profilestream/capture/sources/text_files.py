"""Lines of text files as rows, with their places; one header, one charset and one set of partition values a frame."""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.jvm import java_class
from profilestream.capture import raw_records
from profilestream.capture.mapping import InputSpec, TextFormat
from profilestream.capture.sources.file_paths import escape_glob, folder_columns, name_below, relative_path

# Mask for the line number within a split: the upper bits of the id are the partition, and a partition is one split.
_ROW_IN_SPLIT = (1 << 33) - 1
# Longer lines are not checked for being blank; a blank line of that length is rejected as unparseable.
_MAX_BLANK_LINE_BYTES = 200
# Lines at the start of a file in which the header must be.
_HEADER_LINES = 1100
_COMPRESSED = (".gz", ".bz2", ".zst", ".deflate", ".lz4", ".snappy")
# Columns of a line that is read without Spark; bytes are in base64.
LINE_SCHEMA = "value STRING, source_file STRING, _line BIGINT, _ingest_micros BIGINT"


@dataclass(frozen=True)
class TextLayout:
    """What the text files of one frame have in common.

    Args:
        header: the CSV header line; null without.
        header_line: number of the header line in its file, or of the lines that are skipped.
        charset: the encoding; of UTF-16 with its byte order.
        folders: names of the partition values in the path.
    """

    header: str | None
    header_line: int
    charset: str
    folders: tuple[str, ...]


FewLines = dict[TextLayout, list[dict[str, Any]]]


def layout_of(spark: SparkSession, path: str, root: str, spec: InputSpec) -> TextLayout:
    """The layout of one file."""
    charset = charset_of(spark, path, spec)
    folders = folder_columns(path, root)
    if spec.format != "csv" or not spec.header:
        return TextLayout(None, spec.skip_lines, charset, folders)
    number, header = _header_of(spark, path, charset, spec)
    if not set(raw_records.split_header(header, spec)) & set(raw_records.column_names(spec)):
        number -= 1  # the line is a record too, which is rejected like the other lines
    return TextLayout(header, number, charset, folders)


def charset_of(spark: SparkSession, path: str, text_format: TextFormat) -> str:
    """The encoding of a file; of UTF-16 and UTF-32 with the byte order, from the first bytes of the file."""
    name = str(java_class(spark, "java.nio.charset.Charset").forName(text_format.encoding).name())
    if name not in ("UTF-16", "UTF-32"):
        return name
    mark = files.first_bytes(spark, path, 4)
    is_little = mark.startswith(b"\xff\xfe")
    return f"{name}{'LE' if is_little else 'BE'}"


def read_records(
    spark: SparkSession, paths: list[str], root: str, spec: InputSpec, layout: TextLayout, max_line_bytes: int,
    tasks: int,
) -> DataFrame:  # fmt: skip
    """The records of files with one layout, as `raw_records.COLUMNS`."""
    return _parse(read_lines(spark, paths, root, spec, layout).coalesce(tasks), spec, layout, max_line_bytes)


def _parse(lines: DataFrame, spec: InputSpec, layout: TextLayout, max_line_bytes: int) -> DataFrame:
    names = raw_records.column_names(spec)
    if layout.header is not None:
        names = raw_records.split_header(layout.header, spec)
    return raw_records.parse_lines(
        lines, spec, names, max_line_bytes=max_line_bytes, charset=layout.charset, folder_columns=layout.folders
    )


def few_lines(
    spark: SparkSession, path: str, root: str, spec: InputSpec, max_lines: int
) -> list[dict[str, Any]] | None:
    """The lines of a small file, as Spark reads them.

    Null for a compressed or remote file, for line ends of other charsets, and for more than `max_lines` line ends.
    """
    local = files.local_path(path)
    if local is None or local.endswith(_COMPRESSED) or _line_end(spark, charset_of(spark, path, spec)) != b"\n":
        return None
    with open(local, "rb") as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf")
    if max(content.count(b"\n"), content.count(b"\r")) > max_lines:
        return None
    lines = content.splitlines()
    name = name_below(path, root)
    return [{"value": b64encode(line).decode(), "source_file": name, "_line": n} for n, line in enumerate(lines, 1)]


def records_of_few_lines(lines: DataFrame, spec: InputSpec, layout: TextLayout, max_line_bytes: int) -> DataFrame:
    """The records of lines with the columns of LINE_SCHEMA, as `read_records` returns them, with `_ingest_time`."""
    text = lines.select(
        F.unbase64("value").cast("string").alias("value"),
        "source_file",
        F.lit(0).cast("bigint").alias("_start"),
        "_line",
        F.timestamp_micros("_ingest_micros").alias(raw_records.INGEST_TIME),
    )
    return _parse(_record_lines(text, spec, layout), spec, layout, max_line_bytes)


def read_lines(spark: SparkSession, paths: list[str], root: str, spec: InputSpec, layout: TextLayout) -> DataFrame:
    """The lines that are records: `value`, `position`, `source_file`, `payload_header`, and `_start`, `_line`."""
    text = _text_reader(spark, layout.charset, paths).select(
        "value",
        relative_path(F.col("_metadata.file_path"), root).alias("source_file"),
        F.col("_metadata.file_block_start").alias("_start"),
        (F.monotonically_increasing_id().bitwiseAND(F.lit(_ROW_IN_SPLIT)) + 1).alias("_line"),
    )
    return _record_lines(text, spec, layout)


def _record_lines(text: DataFrame, spec: InputSpec, layout: TextLayout) -> DataFrame:
    """The lines that are records, with `position` and `payload_header`."""
    value = F.col("value")
    is_first = (F.col("_start") == 0) & (F.col("_line") == 1)
    # A regular expression would replace bytes that are not UTF-8.
    value = F.when(is_first & value.startswith("\ufeff"), F.substr(value, F.lit(2))).otherwise(value)
    is_record = (F.octet_length(value) > _MAX_BLANK_LINE_BYTES) | (F.trim(value) != "")
    if layout.header_line:
        is_record = is_record & ~((F.col("_start") == 0) & (F.col("_line") <= layout.header_line))
    if spec.format == "csv" and spec.comment:
        is_record = is_record & ~value.startswith(spec.comment)
    return text.where(is_record).withColumns(
        {
            "value": value,
            "position": F.concat_ws(":", "source_file", _place()),
            "payload_header": F.lit(layout.header).cast("string"),
        }
    )


def _place() -> Column:
    line = F.col("_line").cast("string")
    return F.when(F.col("_start") == 0, line).otherwise(F.concat_ws("+", "_start", line))


def _text_reader(spark: SparkSession, charset: str, paths: list[str]) -> DataFrame:
    reader = spark.read
    if _line_end(spark, charset) != b"\n":
        reader = reader.option("encoding", charset).option("lineSep", "\n")
    return reader.text([escape_glob(path) for path in paths])


def _line_end(spark: SparkSession, charset: str) -> bytes:
    """The bytes of a line end; most charsets have the byte of ASCII."""
    buffer = java_class(spark, "java.nio.charset.Charset").forName(charset).encode("\n")
    return bytes(buffer.array())[: int(buffer.limit())]


def _header_of(spark: SparkSession, path: str, charset: str, spec: InputSpec) -> tuple[int, str]:
    """Number and text of the first line that is neither skipped, blank nor a comment."""
    for number, line in enumerate(files.first_lines(spark, path, charset), 1):
        is_comment = bool(spec.comment) and line.startswith(spec.comment)
        if number > spec.skip_lines and line.strip() and not is_comment:
            return number, line
        if number > _HEADER_LINES:
            break
    return spec.skip_lines, ""
