"""Paths of input files: below the folder of their source, with the partition values that they contain."""

import re

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base import files

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


def _below(path: str, root: str) -> str:
    prefix, qualified = files.qualified(root).rstrip("/") + "/", files.qualified(path)
    return qualified.removeprefix(prefix) if qualified.startswith(prefix) else ""


def folder_names(relative: str) -> tuple[str, ...]:
    """Names of the partition values in a path relative to the folder of the source."""
    matches = [_PARTITION.match(part) for part in relative.split("/")[:-1]]
    return tuple(match[1] for match in matches if match)


def escape_glob(path: str) -> str:
    """The path with glob characters escaped: Spark reads `log[1].csv` as a pattern."""
    return re.sub(r"([][{}*?\\])", r"\\\1", path)
