"""Files and folders on any file system that Spark reads (local, HDFS, S3, ...)."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pyarrow as pa
from pyspark.sql import SparkSession

from profilestream.base.errors import BadSettings
from profilestream.base.jvm import java_class

_MAX_START_BYTES = 4 << 20
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def hadoop_path(spark: SparkSession, path: str) -> Any:
    """The path as a Hadoop `Path` object."""
    return java_class(spark, "org.apache.hadoop.fs.Path")(qualified(path))


def _path(spark: SparkSession, path: str) -> tuple[Any, Any]:
    target = hadoop_path(spark, path)
    return target.getFileSystem(spark._jsc.hadoopConfiguration()), target


@contextmanager
def _opened(spark: SparkSession, path: str) -> Iterator[Any]:
    """Hadoop's input stream of a file."""
    fs, target = _path(spark, path)
    stream = fs.open(target)
    try:
        yield stream
    finally:
        stream.close()


def local_path(uri: str) -> str | None:
    """The local path of a URI; null for a remote file system."""
    if uri.startswith("file:"):
        return "/" + uri.removeprefix("file:").lstrip("/")
    return None if "://" in uri else uri


def local_output(path: str, where: str) -> Path:
    """The local path of a file or folder that is written without Spark; `file:` URIs are local.

    Args:
        where: the flag or setting that names it.

    Raises:
        BadSettings: it is in a remote file system.
    """
    local = local_path(path)
    if local is None:
        do = "name a local path, and copy the result afterwards"
        raise BadSettings(f"{path} is not a path on this machine", where=where, do=do)
    return Path(local)


def qualified(path: str) -> str:
    """The path as an absolute URI; a local path in Hadoop's form, file:/x.

    The JVM keeps the working directory in which it was started, so every path that is passed to Spark is qualified.
    """
    local = local_path(path)
    return path if local is None else "file:" + os.path.abspath(local)


def metadata_path(path: str) -> str:
    """The path in the form of Spark's `_metadata.file_path`: a URI with special characters encoded."""
    return quote(qualified(path), safe="/:@!$&'()*+,;=~")


def exists(spark: SparkSession, path: str) -> bool:
    """Whether a file or folder exists."""
    fs, target = _path(spark, path)
    return bool(fs.exists(target))


def names(spark: SparkSession, folder: str) -> list[str]:
    """Names of the direct children of a folder, sorted; empty when there is no such folder."""
    fs, target = _path(spark, folder)
    if not fs.exists(target):
        return []
    return sorted(status.getPath().getName() for status in fs.listStatus(target))


def read_text(spark: SparkSession, path: str) -> str | None:
    """Content of a text file; null when it does not exist."""
    if (local := local_path(path)) is not None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return Path(local).read_bytes().decode()
        return None
    fs, target = _path(spark, path)
    if not fs.exists(target):
        return None
    with _opened(spark, path) as stream:
        return bytes(stream.readAllBytes()).decode()


def write_text(spark: SparkSession, path: str, text: str) -> None:
    """Write a file atomically, even under kill -9: write a temporary file, then rename it."""
    fs, target = _path(spark, path)
    temporary = hadoop_path(spark, f"{path}.{os.getpid()}.tmp")
    out = fs.create(temporary, True)
    try:
        out.write(bytearray(text.encode()))
    finally:
        out.close()
    if not fs.rename(temporary, target):
        fs.delete(target, False)
        fs.rename(temporary, target)


def delete(spark: SparkSession, path: str) -> None:
    """Remove a file or a folder with its content; nothing happens when it does not exist."""
    fs, target = _path(spark, path)
    fs.delete(target, True)


def listing(spark: SparkSession, folder: str) -> dict[str, tuple[int, int]]:
    """Every file below a folder, also hidden ones: path relative to it -> (size in bytes, modification time in ms)."""
    local = local_path(qualified(folder))
    if local is not None:
        return dict(_local_files(Path(local)))
    fs, root = _path(spark, folder)
    prefix, entries = f"{fs.makeQualified(root)}/", {}
    statuses = fs.listFiles(root, True)
    while statuses.hasNext():
        status = statuses.next()
        path = str(status.getPath()).removeprefix(prefix)
        entries[path] = int(status.getLen()), int(status.getModificationTime())
    return entries


def _local_files(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    for parent, _, children in os.walk(root):
        for path in (Path(parent, child) for child in children):
            with suppress(FileNotFoundError):  # it was removed since
                status = path.stat()
                yield path.relative_to(root).as_posix(), (status.st_size, status.st_mtime_ns // 1_000_000)


def prune(spark: SparkSession, folder: str) -> None:
    """Remove a folder if it contains only hidden files and empty folders, which a killed writer leaves.

    Nothing else is removed. A folder is removed only when it is empty, so no file is lost that another process
    finishes at the same time.
    """
    fs, target = _path(spark, folder)
    if not fs.exists(target):
        return
    children = list(fs.listStatus(target))
    if all(status.isDirectory() or status.getPath().getName().startswith(".") for status in children):
        for status in children:
            fs.delete(status.getPath(), False)
        fs.delete(target, False)


def first_lines(spark: SparkSession, path: str, encoding: str) -> Iterator[str]:
    """The lines of a text file, decompressed by its extension, without line ends and the mark of byte order.

    Bytes that are no text in this encoding are replaced. The file is read as far as lines are requested.

    Args:
        encoding: name of a charset that Java knows.
    """
    local = local_path(path)
    if local is not None and encoding == "UTF-8":
        with pa.input_stream(local) as stream, io.TextIOWrapper(cast(Any, stream), encoding, errors="replace") as text:
            for line in text:
                yield line.rstrip("\r\n").lstrip("\ufeff")
        return
    # Charsets of the same name differ between Python and Java, which reads the records.
    with _decompressed(spark, path) as stream:
        reader = java_class(spark, "java.io.InputStreamReader")(stream, encoding)
        lines = java_class(spark, "java.io.BufferedReader")(reader)
        while (line := lines.readLine()) is not None:
            yield str(line).lstrip("\ufeff")


@contextmanager
def _decompressed(spark: SparkSession, path: str) -> Iterator[Any]:
    """An input stream of Java over a file, decompressed by its extension; of a local .zst file, over its start."""
    local = local_path(path)
    if local is not None and local.endswith(".zst"):  # Hadoop has no zstd without a native library
        with pa.input_stream(local) as start:
            yield java_class(spark, "java.io.ByteArrayInputStream")(start.read(_MAX_START_BYTES))
        return
    codecs_of = java_class(spark, "org.apache.hadoop.io.compress.CompressionCodecFactory")
    fs, target = _path(spark, path)
    codec = codecs_of(spark._jsc.hadoopConfiguration()).getCodec(target)
    with _opened(spark, path) as stream:
        is_plain = codec is None or fs.getFileStatus(target).getLen() == 0
        yield stream if is_plain else codec.createInputStream(stream)


def first_bytes(spark: SparkSession, path: str, count: int) -> bytes:
    """The first bytes of a file, decompressed by its extension; fewer if the file is shorter."""
    with _decompressed(spark, path) as stream:
        return bytes(stream.readNBytes(count))


def read_bytes(spark: SparkSession, path: str) -> bytes:
    """Content of a small file, decompressed by its extension."""
    if (local := local_path(path)) is not None:
        data = Path(local).read_bytes()
    else:
        with _opened(spark, path) as stream:
            data = bytes(stream.readAllBytes())
    compression: Any = _COMPRESSIONS.get(os.path.splitext(path)[1])
    return data if compression is None else bytes(pa.input_stream(io.BytesIO(data), compression=compression).read())


def file_stats(spark: SparkSession, folder: str, glob: str = "") -> dict[str, tuple[int, int]]:
    """Every input file below a folder (or the file itself): path -> (size in bytes, modification time in ms).

    Files and folders whose names start with `_` or `.` are ignored, as in Spark.

    Args:
        glob: pattern of file names, such as `*.csv`; all when empty.
    """
    fs, root = _path(spark, folder)
    if not fs.exists(root):
        return {}
    entries: dict[str, tuple[int, int]] = {}
    statuses = fs.listFiles(root, True)
    depth = len(str(fs.makeQualified(root)).rstrip("/").split("/"))
    while statuses.hasNext():
        status = statuses.next()
        path = str(status.getPath())
        parts = path.split("/")[depth:]
        if not any(part.startswith(("_", ".")) for part in parts) and fnmatch(path.split("/")[-1], glob or "*"):
            entries[path] = (int(status.getLen()), int(status.getModificationTime()))
    return dict(sorted(entries.items()))
