"""Paths of input files: below the folder of their source, with the partition values that they contain."""

import re
from urllib.parse import unquote

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base import files

# Value of a folder of rows without a value.
NULL_VALUE = "__HIVE_DEFAULT_PARTITION__"
_PARTITION = re.compile(r"^([^=/]+)=([^/]*)$")


def relative_path(path: Column, root: str) -> Column:
    """The path of a file relative to the folder of the source; the file name if the source is one file.

    Args:
        path: as in Spark's `_metadata.file_path`: a URI with special characters encoded.
    """
    prefix = files.metadata_path(root).rstrip("/") + "/"
    below = F.substr(path, F.lit(len(prefix) + 1))
    relative = F.when(path.startswith(prefix), below).otherwise(F.substring_index(path, "/", -1))
    return F.when(relative.contains("%"), F.url_decode(F.replace(relative, F.lit("+"), F.lit("%2B")))).otherwise(
        relative
    )


def name_below(path: str, root: str) -> str:
    """As `relative_path`, of one path that is not encoded."""
    below = _below(path, root)
    return below or files.qualified(path).rsplit("/", 1)[-1]


def folder_columns(path: str, root: str) -> tuple[str, ...]:
    """Names of the partition values in a path below the root: `date` of `date=2026-03-01/part.csv`."""
    return folder_names(_below(path, root))


def folder_above_partitions(path: str) -> str:
    """The folder above the partition folders at the end of a path: `in` of `in/date=2026-03-01/hour=7/part.csv`."""
    parts = files.qualified(path).rstrip("/").split("/")
    end = len(parts) if _PARTITION.match(parts[-1]) else len(parts) - 1
    while _PARTITION.match(parts[end - 1]):
        end -= 1
    return "/".join(parts[:end])


def _below(path: str, root: str) -> str:
    prefix, qualified = files.qualified(root).rstrip("/") + "/", files.qualified(path)
    return qualified.removeprefix(prefix) if qualified.startswith(prefix) else ""


def folder_names(relative: str) -> tuple[str, ...]:
    """Names of the partition values in a path relative to the folder of the source."""
    return tuple(folder_values(relative))


def folder_values(relative: str) -> dict[str, str | None]:
    """The partition values in a path relative to the folder of the source; as `raw_records.folder_value` reads them."""
    matches = [_PARTITION.match(part) for part in relative.split("/")[:-1]]
    values: dict[str, str | None] = {}
    for match in filter(None, matches):
        values.setdefault(match[1], None if match[2] in ("", NULL_VALUE) else unquote(match[2]))
    return values


def escape_glob(path: str) -> str:
    """The path with glob characters escaped: Spark reads `log[1].csv` as a pattern."""
    return re.sub(r"([][{}*?\\])", r"\\\1", path)
