"""The files of an audience: the complete list, and the lists of added and removed users next to it."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import files
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings

# OWASP, CSV injection. Where the decimal separator is a comma, a semicolon or line break in a text starts a cell too.
_FORMULA = re.compile('(?:^|[;\r\n])"?([=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])')
_LIST_SEPARATOR = "|"


def complete_list(settings: Settings, out: str, name: str) -> Path:
    """The path of the complete list; by default `audiences/<name>.csv` in the parent folder of the warehouse.

    Raises:
        BadSettings: it is not a path of a .csv or .parquet file on this machine.
    """
    path = files.local_path(out or settings.paths.output(f"audiences/{name}.csv"))
    if path is None or Path(path).suffix not in (".csv", ".parquet"):
        what = f"{out or 'the default path'} is not a .csv or .parquet file on this machine"
        raise BadSettings(what, where="--out", do="name one, such as --out audiences/buyers.csv")
    return Path(path)


def change_list(path: Path, change: str) -> Path:
    """The path of the list of `added` or `removed` users."""
    return path.with_name(f"{path.stem}.{change}{path.suffix}")


def write(lists: Mapping[Path, pa.Table]) -> None:
    """Write the lists as files; no file is replaced before all of them are complete.

    Raises:
        BadSettings: a file cannot be written.
    """
    temporaries = {path: path.with_name(f".{path.name}.tmp") for path in lists}
    try:
        for path, rows in lists.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_file(temporaries[path], rows, path.suffix)
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        what = f"cannot write {error.filename or [*lists][-1]}: {error.strerror}"
        raise BadSettings(what, where="--out", do="name a file in a folder that can be written") from None
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()


def _write_file(path: Path, rows: pa.Table, suffix: str) -> None:
    with open(path, "wb") as file:
        if suffix == ".csv":
            csv.write_csv(rows, file)
        else:
            parquet.write_table(rows, file)
        file.flush()
        os.fsync(file.fileno())  # a rename can reach the disk before the content


def cells(rows: DataFrame, path: Path) -> DataFrame:
    """The rows as the file can contain them: the texts of a list are joined in a CSV file."""
    if path.suffix != ".csv":
        return rows
    lists = [field.name for field in rows.schema if isinstance(field.dataType, T.ArrayType)]
    return rows.withColumns({name: F.array_join(name, _LIST_SEPARATOR) for name in lists})


def check_formulas(path: Path, rows: pa.Table) -> None:
    """Refuse texts that a spreadsheet would run as formulas, if the file is CSV.

    Raises:
        BadSettings: contains the number of texts and an example of the first character, by column; no text, because it
            may be personal data.
    """
    if path.suffix != ".csv":
        return
    formulas = []
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_string(column.type):
            texts = column.filter(pc.match_substring_regex(column, _FORMULA.pattern)).to_pylist()
            if texts and (example := _FORMULA.search(str(texts[0]))):
                formulas.append(f"{len(texts)} in {name}, such as one with {example[1]!r}")
    if formulas:
        raise BadSettings(
            f"texts that a spreadsheet would run as formulas: {'; '.join(formulas)}",
            where=str(path),
            do="export a .parquet file, or leave these columns out of serve.audience.columns",
        )
