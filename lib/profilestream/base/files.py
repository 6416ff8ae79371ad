"""Small text files beside checkpoints, on any file system that Spark reaches (local, HDFS, S3, ...)."""

import os
from fnmatch import fnmatch
from typing import Any
from urllib.parse import quote

from pyspark.sql import SparkSession

from profilestream.base.jvm import java_class

_PLAIN = ("", ".csv", ".tsv", ".txt", ".log")  # endings of text that is not packed


def hadoop_path(spark: SparkSession, path: str) -> Any:
    """The path as the Java object that Hadoop and Delta take."""
    return java_class(spark, "org.apache.hadoop.fs.Path")(qualified(path))


def _path(spark: SparkSession, path: str) -> tuple[Any, Any]:
    found = hadoop_path(spark, path)
    return found.getFileSystem(spark._jsc.hadoopConfiguration()), found


def local_path(uri: str) -> str | None:
    """The path on this machine that a URI names, or null when it lies on a remote file system."""
    if uri.startswith("file:"):
        return "/" + uri.removeprefix("file:").lstrip("/")
    return None if "://" in uri else uri


def qualified(path: str) -> str:
    """The path as a URI that does not depend on the working folder, local ones as Hadoop writes them: file:/x.

    The JVM has a working folder of its own, the one it was started in, so every path that Spark gets goes through here.
    """
    local = local_path(path)
    return path if local is None else "file:" + os.path.abspath(local)


def as_metadata(path: str) -> str:
    """The path as Spark's `_metadata.file_path` spells it: a URI with odd characters encoded."""
    return quote(qualified(path), safe="/:@!$&'()*+,;=~")


def exists(spark: SparkSession, path: str) -> bool:
    """Whether a file or folder is there."""
    fs, target = _path(spark, path)
    return bool(fs.exists(target))


def names(spark: SparkSession, folder: str) -> list[str]:
    """Names of what lies directly in a folder, sorted; none when there is no such folder."""
    fs, target = _path(spark, folder)
    if not fs.exists(target):
        return []
    return sorted(status.getPath().getName() for status in fs.listStatus(target))


def read_text(spark: SparkSession, path: str) -> str | None:
    """The whole file as text, or null when there is none."""
    fs, target = _path(spark, path)
    if not fs.exists(target):
        return None
    stream = fs.open(target)
    try:
        return bytes(stream.readAllBytes()).decode()
    finally:
        stream.close()


def write_text(spark: SparkSession, path: str, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing, even after kill -9: write aside, then rename."""
    fs, target = _path(spark, path)
    aside = hadoop_path(spark, f"{path}.{os.getpid()}.tmp")
    out = fs.create(aside, True)
    try:
        out.write(bytearray(text.encode()))
    finally:
        out.close()
    if not fs.rename(aside, target):
        fs.delete(target, False)
        fs.rename(aside, target)


def delete(spark: SparkSession, path: str) -> None:
    """Remove a file or a whole folder; nothing happens when there is none."""
    fs, target = _path(spark, path)
    fs.delete(target, True)


def prune(spark: SparkSession, folder: str) -> None:
    """Remove a folder that holds nothing but hidden files and empty folders, what a killed writer leaves behind.

    A folder with anything else stays. Folders are removed one by one and only when empty, so that another process that
    writes into one at the same moment loses nothing it has finished.
    """
    fs, target = _path(spark, folder)
    if not fs.exists(target):
        return
    inside = list(fs.listStatus(target))
    if all(status.isDirectory() or status.getPath().getName().startswith(".") for status in inside):
        for status in inside:
            fs.delete(status.getPath(), False)
        fs.delete(target, False)


def first_line(spark: SparkSession, path: str, encoding: str) -> str:
    """The first line of a text file (unpacked by its ending: .gz, .bz2, ...), "" for an empty one."""
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
        unpacked = stream if codec is None else codec.createInputStream(stream)
        reader = java_class(spark, "java.io.InputStreamReader")(unpacked, encoding)
        line = java_class(spark, "java.io.BufferedReader")(reader).readLine()
        return "" if line is None else str(line).lstrip("\ufeff")
    finally:
        stream.close()


def sizes(spark: SparkSession, folder: str, glob: str = "") -> dict[str, tuple[int, int]]:
    """Each input file below a folder (or the file itself): path -> (bytes, modification time in ms).

    Files and folders whose names begin with `_` or `.` are passed over, as Spark does.

    Args:
        glob: only files whose names fit, such as `*.csv`; all when empty.
    """
    fs, root = _path(spark, folder)
    if not fs.exists(root):
        return {}
    found: dict[str, tuple[int, int]] = {}
    statuses = fs.listFiles(root, True)
    depth = len(str(fs.makeQualified(root)).rstrip("/").split("/"))
    while statuses.hasNext():
        status = statuses.next()
        path = str(status.getPath())
        below = path.split("/")[depth:]
        if not any(part.startswith(("_", ".")) for part in below) and fnmatch(path.split("/")[-1], glob or "*"):
            found[path] = (int(status.getLen()), int(status.getModificationTime()))
    return dict(sorted(found.items()))
