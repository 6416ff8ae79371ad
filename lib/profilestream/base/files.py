"""Files and folders on any file system that Spark reads (local, HDFS, S3, ...)."""

import os
from fnmatch import fnmatch
from typing import Any
from urllib.parse import quote

from pyspark.sql import SparkSession

from profilestream.base.jvm import java_class

_PLAIN = ("", ".csv", ".tsv", ".txt", ".log")  # extensions of uncompressed text


def hadoop_path(spark: SparkSession, path: str) -> Any:
    """The path as a Hadoop `Path` object."""
    return java_class(spark, "org.apache.hadoop.fs.Path")(qualified(path))


def _path(spark: SparkSession, path: str) -> tuple[Any, Any]:
    target = hadoop_path(spark, path)
    return target.getFileSystem(spark._jsc.hadoopConfiguration()), target


def local_path(uri: str) -> str | None:
    """The local path of a URI; null for a remote file system."""
    if uri.startswith("file:"):
        return "/" + uri.removeprefix("file:").lstrip("/")
    return None if "://" in uri else uri


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
    fs, target = _path(spark, path)
    if not fs.exists(target):
        return None
    stream = fs.open(target)
    try:
        return bytes(stream.readAllBytes()).decode()
    finally:
        stream.close()


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


def first_line(spark: SparkSession, path: str, encoding: str) -> str:
    """The first line of a text file, decompressed by its extension (.gz, .bz2, ...); "" for an empty file."""
    local = local_path(path)
    if local is not None and os.path.splitext(local)[1] in _PLAIN:
        with open(local, encoding=encoding, errors="replace") as file:
            return file.readline().rstrip("\n").lstrip("\ufeff")
    fs, target = _path(spark, path)
    if fs.getFileStatus(target).getLen() == 0:
        return ""
    codecs = java_class(spark, "org.apache.hadoop.io.compress.CompressionCodecFactory")
    stream = fs.open(target)
    try:
        codec = codecs(spark._jsc.hadoopConfiguration()).getCodec(target)
        decompressed = stream if codec is None else codec.createInputStream(stream)
        reader = java_class(spark, "java.io.InputStreamReader")(decompressed, encoding)
        line = java_class(spark, "java.io.BufferedReader")(reader).readLine()
        return "" if line is None else str(line).lstrip("\ufeff")
    finally:
        stream.close()


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
