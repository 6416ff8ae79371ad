"""Suppression lists: files with ids of users who must not be exported.

A list that is missing or damaged is an error. Messages contain line numbers, because ids are personal data.
"""

import io
import re
from collections.abc import Sequence

import pyarrow as pa
from pyarrow import csv, parquet
from pyspark.sql import SparkSession

from profilestream.base import files
from profilestream.base.errors import BadSettings, SourceMissing, SourceUnreadable

_WHERE = "serve.audience.suppression"
_ROW_LENGTH = re.compile(r"Row #\d+: Expected \d+ columns, got \d+")
_WITH_NAMESPACE = re.compile("[^:]+:.+")
_DO = "write a column user_id with ids as in users, such as my_shop:123, as .csv with a header or as .parquet"


def read(spark: SparkSession, paths: Sequence[str]) -> pa.Table:
    """The distinct ids of all files, as the column `user_id`.

    Raises:
        SourceMissing: a file does not exist.
        BadSettings, SourceUnreadable: a file has another format, no column `user_id`, or ids without a namespace.
    """
    ids = {user for path in paths for user in _ids(spark, path)}
    return pa.table({"user_id": pa.array(sorted(ids), pa.string())})


def _ids(spark: SparkSession, path: str) -> list[str]:
    if not path.endswith((".csv", ".parquet")):
        raise BadSettings(f"the suppression list {path} is neither .csv nor .parquet", where=_WHERE, do=_DO)
    if not files.exists(spark, path):
        do = "correct the path, which is relative to the folder of the settings"
        raise SourceMissing(f"there is no suppression list {path}", where=_WHERE, do=do)
    try:
        data = io.BytesIO(files.read_bytes(spark, path))
        values = _csv_ids(data) if path.endswith(".csv") else _parquet_ids(data)
    except KeyError:
        raise BadSettings(f"the suppression list {path} has no column user_id", where=_WHERE, do=_DO) from None
    except (pa.ArrowException, OSError) as error:
        row = _ROW_LENGTH.search(str(error))
        reason = row[0] if row else "it is damaged, or it is not a file of this format in UTF-8"
        raise SourceUnreadable(f"the suppression list {path} cannot be read: {reason}", where=_WHERE, do=_DO) from None
    ids = [(user or "").strip() for user in values]
    if invalid := [row for row, user in enumerate(ids, 1) if not _WITH_NAMESPACE.fullmatch(user)]:
        what = f"the suppression list {path} has {len(invalid)} id(s) without a namespace, the first one in row "
        raise BadSettings(f"{what}{invalid[0]}", where=_WHERE, do=_DO)
    return ids


def _csv_ids(data: io.BytesIO) -> list[str | None]:
    as_text = csv.ConvertOptions(include_columns=["user_id"], column_types={"user_id": pa.string()})
    # Row numbers are in the errors of one thread only.
    rows = csv.read_csv(data, csv.ReadOptions(use_threads=False), csv.ParseOptions(newlines_in_values=True), as_text)
    ids: list[str | None] = rows["user_id"].to_pylist()
    return ids


def _parquet_ids(data: io.BytesIO) -> list[str | None]:
    return parquet.read_table(data)["user_id"].cast(pa.string()).to_pylist()
