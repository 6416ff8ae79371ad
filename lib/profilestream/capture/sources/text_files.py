"""Lines of text files as rows, with their places; one header, one charset and one set of partition values a frame."""

import functools
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.errors import SourceUnreadable
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
_MAX_LENGTH = 2**31 - 1
# Java's names of charsets that also write the mark of byte order.
_WITH_MARK = re.compile(r"^x-(UTF-(?:16|32)(?:LE|BE))-BOM$", re.IGNORECASE)
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
    name = str(_charset(spark, text_format.encoding).name())
    if name not in ("UTF-16", "UTF-32"):
        marked = _WITH_MARK.match(name)
        return marked[1].upper() if marked else name
    mark = files.first_bytes(spark, path, 4)
    is_little = mark.startswith(b"\xff\xfe")
    return f"{name}{'LE' if is_little else 'BE'}"


def line_end_of(spark: SparkSession, path: str, text_format: TextFormat) -> bytes:
    """The bytes of a line end in a file."""
    return _line_end(spark, charset_of(spark, path, text_format))


def read_text(spark: SparkSession, path: str, text_format: TextFormat) -> str:
    """The text of a small file, without the mark of byte order.

    Raises:
        SourceUnreadable: the file contains bytes that are no text in its charset.
    """
    charset, data = charset_of(spark, path, text_format), files.read_bytes(spark, path)
    buffer = java_class(spark, "java.nio.ByteBuffer").wrap(data)
    try:
        text = str(_charset(spark, charset).newDecoder().decode(buffer).toString())
    except Py4JJavaError:
        raise SourceUnreadable(
            f"the file contains bytes that are not {charset}", where=path, do="correct encoding, or the file"
        ) from None
    return text.lstrip("\ufeff")


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
        content = file.read()
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
    spark, value, charset = text.sparkSession, F.col("value"), layout.charset
    # Text functions would replace bytes that are not UTF-8.
    stored = value.cast("binary")
    is_first = (F.col("_start") == 0) & (F.col("_line") == 1)
    for mark in {_encoded(spark, "\ufeff", charset) or b"", "\ufeff".encode()} - {b""}:
        has_mark = is_first & stored.startswith(F.lit(mark))
        value = F.when(has_mark, F.substring(stored, len(mark) + 1, _MAX_LENGTH).cast("string")).otherwise(value)
    is_record = (F.octet_length(value) > _MAX_BLANK_LINE_BYTES) | ~_is_blank(spark, value, charset)
    if layout.header_line:
        is_record = is_record & ~((F.col("_start") == 0) & (F.col("_line") <= layout.header_line))
    comment = _encoded(spark, spec.comment, charset) if spec.format == "csv" and spec.comment else None
    if comment is not None:
        is_record = is_record & ~value.cast("binary").startswith(F.lit(comment))
    return text.where(is_record).withColumns(
        {
            "value": value,
            "position": F.concat_ws(":", "source_file", _place()),
            "payload_header": F.lit(layout.header).cast("string"),
        }
    )


def _is_blank(spark: SparkSession, value: Column, charset: str) -> Column:
    """Whether a line consists of spaces."""
    if _line_end(spark, charset) == b"\n":
        return F.trim(value) == ""
    # Such charsets have other bytes for a space, and a line contains the first character of its line end, \r\n.
    blanks = "|".join((_encoded(spark, blank, charset) or b"").hex().upper() for blank in " \r")
    return F.hex(value.cast("binary")).rlike(f"^(?:{blanks})*$")


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
    return _encoded(spark, "\n", charset) or b"\n"


@functools.cache
def _encoded(spark: SparkSession, text: str, charset: str) -> bytes | None:
    """The bytes of a text at the start of a line; null if the charset lacks a character, or Java cannot write it.

    Some charsets write a mark before the first character, so this is what the text adds to a line end.
    """
    java_charset = _charset(spark, charset)
    if not java_charset.canEncode() or not java_charset.newEncoder().canEncode(text):
        return None
    before, with_text = (java_charset.encode(line) for line in ("\n", f"\n{text}"))
    return bytes(with_text.array())[int(before.limit()) : int(with_text.limit())]


def _charset(spark: SparkSession, name: str) -> Any:
    return java_class(spark, "java.nio.charset.Charset").forName(name)


def _header_of(spark: SparkSession, path: str, charset: str, spec: InputSpec) -> tuple[int, str]:
    """Number and text of the first line that is neither skipped, blank nor a comment."""
    for number, line in enumerate(files.first_lines(spark, path, charset), 1):
        is_comment = bool(spec.comment) and line.startswith(spec.comment)
        if number > spec.skip_lines and line.strip() and not is_comment:
            return number, line
        if number > _HEADER_LINES:
            break
    return spec.skip_lines, ""
